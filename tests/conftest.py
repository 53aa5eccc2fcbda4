"""What every test shares: a fixed seed, the photographs of coco-mini where they are, and markers."""

import random
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
COCO_MINI = REPOSITORY.parent / "shared" / "data" / "coco-mini"


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds the global generators before each test, so that no result depends on the order of the tests."""
    value = 20240229
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 - libraries under test may use the global generator
    try:
        import torch
    except ModuleNotFoundError:
        return value
    torch.manual_seed(value)
    return value


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """The folder with `images/` (100 photographs) and `instances.json` in COCO format."""
    if not (COCO_MINI / "instances.json").is_file():
        pytest.skip(f"the photographs are not here: {COCO_MINI}")
    return COCO_MINI


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY
