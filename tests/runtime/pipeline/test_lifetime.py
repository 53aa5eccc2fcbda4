"""What a pipeline keeps in memory, when its threads begin and end, and random use of it."""

import gc
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime import pipeline as module
from tests.runtime.pipeline.tools import LIMIT, Thing, eventually, held, limited, make, threads_of

# --- What stays in memory


@pytest.mark.parametrize("ending", ["result", "prepare", "start", "finish", "cancelled"])
@limited
def test_an_idle_pipeline_keeps_nothing(ending: str) -> None:
    things: list[weakref.ref[Thing]] = []

    def thing() -> Thing:
        made = Thing()
        things.append(weakref.ref(made))
        return made

    def stage(name: str) -> Callable[[Thing], Thing]:
        def work(_: Thing) -> Thing:
            held(go)
            if name == ending:
                raise ValueError
            return thing()

        return work

    go = threading.Event()
    pipeline = make(**{name: stage(name) for name in ("prepare", "start", "finish")})
    gc.disable()  # what only the collector finds stays for long
    try:
        first = pipeline.submit(thing())
        eventually(first.running)
        future = pipeline.submit(thing())
        if ending == "cancelled":
            assert future.cancel()
        go.set()
        wait([first, future], timeout=LIMIT)
        assert future.done()
        assert len(things) == {"result": 8, "prepare": 2, "start": 4, "finish": 6, "cancelled": 5}[ending]
        del first, future
        eventually(lambda: all(thing() is None for thing in things))
    finally:
        gc.enable()
    pipeline.close()


@limited
def test_a_closed_pipeline_has_dropped_the_stages() -> None:
    def stage(item: int) -> int:
        return item

    gone = weakref.ref(stage)
    pipeline = make(prepare=stage, start=stage, finish=stage)
    pipeline.submit(1)
    del stage
    pipeline.close()
    eventually(lambda: gone() is None)


# --- Threads


@limited
def test_threads_start_with_the_first_item_and_end_with_close() -> None:
    pipeline = make(name="one")
    assert threads_of("one") == []
    pipeline.submit(1)
    assert threads_of("one") == ["one-finish", "one-prepare", "one-start"]
    pipeline.close()
    assert threads_of("one") == []
    assert pipeline._line not in module._LINES


@limited
def test_a_forgotten_pipeline_ends_after_its_items() -> None:
    go = threading.Event()
    pipeline = make(prepare=lambda item: held(go, item), name="forgotten")
    futures = [pipeline.submit(i) for i in range(5)]
    gone = weakref.ref(pipeline)
    del pipeline
    assert gone() is None
    assert len(threads_of("forgotten")) == 3
    go.set()
    assert [future.result(LIMIT) for future in futures] == list(range(5))
    eventually(lambda: threads_of("forgotten") == [])


@pytest.mark.parametrize("startable", [0, 1, 2])
@limited
def test_threads_that_cannot_be_started(startable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call tries again; close does not wait for them."""
    for closes in (True, False):
        left = [startable]

        class Scarce(threading.Thread):
            def start(self, left: list[int] = left) -> None:
                if left[0] == 0:
                    raise RuntimeError("can't start new thread")
                left[0] -= 1
                super().start()

        monkeypatch.setattr(module, "Thread", Scarce)
        pipeline = make(name="scarce")
        with pytest.raises(RuntimeError):
            pipeline.submit(1)
        if not closes:
            left[0] = 3
            assert pipeline.submit(2).result(LIMIT) == 2
        pipeline.close()
        assert threads_of("scarce") == []


PROGRAM = """
import itertools, sys, threading, time
from mrcnn.errors import MrcnnError
from mrcnn.runtime.pipeline import Pipeline, in_order

def work(item):
    time.sleep(0.003)
    return item

def say(future):
    print(future.result())

def make(**options):
    return Pipeline(prepare=work, start=work, finish=work, **options)
"""


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("pipeline = make()", ""),
        ("pipeline = make()\nsay(pipeline.submit(1))", "1\n"),
        (
            "pipeline = make()\nfor i in range(6): pipeline.submit(i).add_done_callback(say)",
            "0\n1\n2\n3\n4\n5\n",
        ),
        ("make().submit(1).add_done_callback(say)", "1\n"),
        ("results = in_order(make().submit, itertools.count(), ahead=5)\nprint(next(results))", "0\n"),
        (
            "class Owner:\n"
            "    def __init__(self): self.pipeline = Pipeline(prepare=self.work, start=work, finish=work)\n"
            "    def work(self, item): return item\n"
            "owner = Owner()\nowner.pipeline.submit(1).add_done_callback(say)",
            "1\n",
        ),
        (
            "pipeline = make(waiting=1)\n"
            "def forever():\n"
            "    try:\n"
            "        while True: pipeline.submit(1)\n"
            "    except MrcnnError: pass\n"
            "threading.Thread(target=forever, daemon=True).start()\ntime.sleep(0.05)",
            "",
        ),
        (
            "pipeline = make()\n"
            "def again(future):\n"
            "    try: pipeline.submit(1).add_done_callback(again)\n"
            "    except MrcnnError: print('end')\n"
            "pipeline.submit(1).add_done_callback(again)\ntime.sleep(0.05)",
            "end\n",
        ),
        (
            "import atexit\npipeline = make()\npipeline.submit(1)\n"
            "@atexit.register\ndef late():\n    say(pipeline.submit(2)); pipeline.close()",
            "2\n",
        ),
    ],
    ids=[
        "never used",
        "idle",
        "at work",
        "collected",
        "a stream left open",
        "held by its stages",
        "with a thread that submits",
        "with a callback that submits",
        "used at exit",
    ],
)
def test_a_program_ends_without_close(code: str, output: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM + code], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, output, "")


def test_a_program_that_fails_shows_its_own_traceback_alone() -> None:
    code = PROGRAM + "pipeline = make()\nfor i in range(6): pipeline.submit(i)\nraise ValueError('mine')"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert run.returncode == 1
    assert run.stderr.count("Traceback") == 1
    assert run.stderr.endswith("ValueError: mine\n")


# --- Everything at once


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Python changes threads often, so that more of the possible orders happen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.usefixtures("eager_switching")
@limited
def test_random_use_from_several_threads(seed: int) -> None:
    generator = random.Random(seed)
    pauses = [generator.choice((0, 0, generator.random() / 1000)) for _ in range(101)]
    slots = threading.BoundedSemaphore(2)
    calls: dict[str, list[tuple[int, int]]] = {"prepare": [], "start": [], "finish": []}
    fates = {
        (who, number): generator.choice((None,) * 6 + ("prepare", "start", "finish"))
        for who in range(4)
        for number in range(25)
    }

    def stage(name: str) -> Callable[[tuple[int, int]], tuple[int, int]]:
        def work(item: tuple[int, int]) -> tuple[int, int]:
            calls[name].append(item)
            if name == "start" and fates[item] != "start":
                assert slots.acquire(timeout=LIMIT)
            time.sleep(pauses[hash((name, item)) % len(pauses)])
            if name == "finish":
                slots.release()
            if fates[item] == name:
                raise RuntimeError(name, item)
            return item

        return work

    pipeline = make(**{name: stage(name) for name in calls}, waiting=generator.randint(1, 4))
    accepted: dict[tuple[int, int], Future] = {}
    refused: list[tuple[int, int]] = []
    rests = [generator.choice((0, generator.random() / 2000)) for _ in range(25)]
    cancels = generator.random() < 0.5

    def submit(who: int) -> None:
        for number in range(25):
            try:
                accepted[who, number] = pipeline.submit((who, number))
            except MrcnnError:
                refused.append((who, number))
            if cancels and number % 5 == 4:
                accepted.get((who, number - 1), Future()).cancel()
            time.sleep(rests[number])

    def close(after: float) -> None:
        time.sleep(after)
        pipeline.close()

    threads = [
        *(threading.Thread(target=submit, args=[who], daemon=True) for who in range(generator.randint(1, 4))),
        *(
            threading.Thread(target=close, args=[generator.random() / 20], daemon=True)
            for _ in range(generator.randint(1, 2))
        ),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    pipeline.close()

    assert len(accepted) + len(refused) == 25 * len({who for who, _ in [*accepted, *refused]})
    for item, future in accepted.items():
        assert future.done()
        if future.cancelled():
            assert item not in calls["prepare"]
        elif fates[item] is None:
            assert future.result(0) == item
        else:
            assert future.exception(0).args == (fates[item], item)
    # Each stage saw those that came so far, in one order, in which those of one thread have kept theirs.
    ran = calls["prepare"]
    assert sorted(ran) == sorted(item for item, future in accepted.items() if not future.cancelled())
    assert calls["start"] == [item for item in ran if fates[item] != "prepare"]
    assert calls["finish"] == [item for item in ran if fates[item] not in ("prepare", "start")]
    for who in range(4):
        own = [number for thread, number in ran if thread == who]
        assert own == sorted(own)
    assert slots.acquire(timeout=0)  # every place was given back
    assert slots.acquire(timeout=0)
