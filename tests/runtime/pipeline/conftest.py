"""The virtual clock as a fixture."""

import pytest

from mrcnn.runtime import pipeline as module
from tests.runtime.pipeline.virtual_time import VirtualCondition, VirtualQueue, VirtualTime


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    """For one pipeline and one thread that uses it."""
    clock = VirtualTime(threads=4)
    monkeypatch.setattr(module, "Condition", lambda: VirtualCondition(clock))
    monkeypatch.setattr(module, "SimpleQueue", lambda: VirtualQueue(clock))
    monkeypatch.setattr(module, "Queue", lambda size: VirtualQueue(clock, size))
    return clock
