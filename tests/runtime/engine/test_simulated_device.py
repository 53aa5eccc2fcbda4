"""The simulated GPU itself: that it is late, that it is strict, and that it fails when told to."""

import ctypes
import threading
from collections.abc import Callable

import numpy as np
import pytest

from mrcnn.runtime.engine.device import Device, DeviceError
from tests.runtime.engine.simulated_device import SimulatedDevice, SimulatedMisuse


@pytest.fixture
def device() -> SimulatedDevice:
    made = SimulatedDevice()
    made.enter()
    return made


def filled(device: SimulatedDevice, value: int, size: int = 64) -> int:
    """Pinned memory full of a value."""
    address = device.allocate_pinned(size)
    device.view(address, (size,), np.uint8)[:] = value
    return address


def in_thread(function: Callable[[], object]) -> None:
    """Runs it in a new thread and raises what it raises."""
    errors: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_it_is_a_device(device: SimulatedDevice) -> None:
    needed = {name for name in vars(Device) if not name.startswith("_")} | set(Device.__annotations__)
    assert not {name for name in needed if not hasattr(device, name)}


@pytest.mark.parametrize("eager", [False, True])
def test_a_copy_waits_for_the_host_unless_it_is_eager(eager: bool) -> None:
    device = SimulatedDevice(eager=eager)
    device.enter()
    source, target, stream = filled(device, 7), device.allocate(64), device.create_stream()
    device.copy(target, source, 64, stream)
    assert (device.view(target, (64,), np.uint8) == (7 if eager else 0xFF)).all()
    assert device.pending(stream) == (0 if eager else 1)
    device.synchronize(stream)
    assert (device.view(target, (64,), np.uint8) == 7).all()
    assert target % 256 == source % 256 == 0


def test_a_source_that_changes_too_early_is_seen(device: SimulatedDevice) -> None:
    source, target, stream = filled(device, 7), device.allocate(64), device.create_stream()
    device.copy(target, source, 64, stream)
    device.view(source, (64,), np.uint8)[:] = 9
    device.synchronize(stream)
    assert (device.view(target, (64,), np.uint8) == 9).all()


def test_streams_are_independent_but_for_events(device: SimulatedDevice) -> None:
    first, second, third = (device.create_stream() for _ in range(3))
    event, done = device.create_event(), list[str]()
    device.run_on_stream(first, lambda: done.append("first"))
    device.record(event, first)
    device.run_on_stream(first, lambda: done.append("behind the event"))
    device.run_on_stream(third, lambda: done.append("third"))
    device.stream_wait(second, event)
    device.run_on_stream(second, lambda: done.append("second"))
    device.synchronize(second)
    assert done == ["first", "second"]
    device.wait(event)
    assert done == ["first", "second"]
    device.synchronize(first)
    assert done == ["first", "second", "behind the event"]


def test_an_event_is_what_was_recorded_last_and_nothing_before(device: SimulatedDevice) -> None:
    stream, event, done = device.create_stream(), device.create_event(), list[int]()
    device.run_on_stream(stream, lambda: done.append(1))
    device.wait(event)
    assert not done
    device.record(event, stream)
    device.run_on_stream(stream, lambda: done.append(2))
    device.record(event, stream)
    device.wait(event)
    assert done == [1, 2]


def test_the_default_streams_hold_the_work_of_others(device: SimulatedDevice) -> None:
    stream, event, done = device.create_stream(), device.create_event(), list[str]()
    device.run_on_stream(1, lambda: done.append("theirs"))
    device.record(event, 1)
    device.stream_wait(stream, event)
    device.run_on_stream(stream, lambda: done.append("ours"))
    device.synchronize(stream)
    assert done == ["theirs", "ours"]
    device.destroy_stream(stream)
    device.destroy_event(event)
    device.assert_nothing_left()


def test_a_graph_repeats_what_was_captured(device: SimulatedDevice) -> None:
    source, target, stream = filled(device, 1), device.allocate(64), device.create_stream()
    device.begin_capture(stream)
    device.copy(target, source, 64, stream)
    device.run_on_stream(stream, lambda: device.view(target, (64,), np.uint8).__iadd__(1))
    graph = device.end_capture(stream)
    device.synchronize(stream)
    assert (device.view(target, (64,), np.uint8) == 0xFF).all()
    for value in (1, 5):
        device.view(source, (64,), np.uint8)[:] = value
        device.launch(graph, stream)
        device.synchronize(stream)
        assert (device.view(target, (64,), np.uint8) == value + 1).all()


def test_waiting_during_a_capture_spoils_it_and_leaves_the_stream_usable(device: SimulatedDevice) -> None:
    stream, done = device.create_stream(), list[int]()
    device.begin_capture(stream)
    with pytest.raises(SimulatedMisuse, match="synchronize during a capture"):
        device.synchronize(stream)
    with pytest.raises(DeviceError, match="cudaErrorStreamCaptureInvalidated") as caught:
        device.end_capture(stream)
    assert caught.value.name == "cudaErrorStreamCaptureInvalidated"
    device.run_on_stream(stream, lambda: done.append(1))
    device.synchronize(stream)
    assert done == [1]


def test_a_library_may_spoil_a_capture(device: SimulatedDevice) -> None:
    stream = device.create_stream()
    device.begin_capture(stream)
    device.invalidate_capture(stream, "a layer that waits")
    with pytest.raises(DeviceError, match="a layer that waits"):
        device.end_capture(stream)
    device.synchronize(stream)


def test_memory_is_counted_and_ends() -> None:
    small = SimulatedDevice(total=1000)
    small.enter()
    address = small.allocate(600)
    assert small.memory() == (400, 1000)
    with pytest.raises(DeviceError) as caught:
        small.allocate(401)
    assert caught.value.out_of_memory
    small.free(address)
    small.free(small.allocate(1000))
    small.assert_nothing_left()


def freed(device: SimulatedDevice) -> int:
    address = device.allocate(64)
    device.free(address)
    return address


def destroyed(device: SimulatedDevice) -> int:
    stream = device.create_stream()
    device.destroy_stream(stream)
    return stream


def captured_twice(device: SimulatedDevice) -> None:
    stream = device.create_stream()
    device.begin_capture(stream)
    device.begin_capture(stream)


def freed_too_early(device: SimulatedDevice) -> None:
    target = device.allocate(64)
    device.copy(target, filled(device, 1), 64, device.create_stream())
    device.free(target)


def beside(device: SimulatedDevice) -> None:
    address = device.allocate(64)
    ctypes.memset(address, 0, 65)
    device.free(address)


def launched_after_free(device: SimulatedDevice) -> None:
    stream, target, source = device.create_stream(), device.allocate(64), filled(device, 1)
    device.begin_capture(stream)
    device.copy(target, source, 64, stream)
    graph = device.end_capture(stream)
    device.free(target)
    device.launch(graph, stream)


def run_after_free(device: SimulatedDevice) -> None:
    stream = device.create_stream()
    device.run_on_stream(stream, lambda: None, touches=[(freed(device), 64)])
    device.synchronize(stream)


MISUSES: list[tuple[str, Callable[[SimulatedDevice], object]]] = [
    ("is no address", lambda d: d.copy(4096, d.allocate(8), 8, d.create_stream())),
    ("past the end", lambda d: d.copy(d.allocate(8), filled(d, 1), 9, d.create_stream())),
    ("used after it was freed", lambda d: d.copy(freed(d), filled(d, 1), 8, d.create_stream())),
    ("used after it was freed", launched_after_free),
    ("used after it was freed", run_after_free),
    ("freed before the work", freed_too_early),
    ("freed twice", lambda d: d.free(freed(d))),
    ("never allocated", lambda d: d.free(d.allocate(512) + 256)),
    ("freed as memory", lambda d: d.free(d.allocate_pinned(8))),
    ("wrote beside", beside),
    ("onto itself", lambda d: d.copy((a := d.allocate(64)) + 8, a, 16, d.create_stream())),
    ("0 bytes", lambda d: d.allocate(0)),
    ("is no stream", lambda d: d.synchronize(destroyed(d))),
    ("default stream", lambda d: d.synchronize(0)),
    ("default stream is destroyed", lambda d: d.destroy_stream(1)),
    ("in a default stream", lambda d: d.begin_capture(1)),
    ("is no event", lambda d: d.record(d.create_stream(), d.create_stream())),
    ("is no graph", lambda d: d.destroy_graph(d.create_event())),
    ("being captured", captured_twice),
    ("never began", lambda d: d.end_capture(d.create_stream())),
    ("never called enter", lambda d: in_thread(lambda: d.allocate(8))),
]


@pytest.mark.parametrize(("message", "use"), MISUSES)
def test_misuse_is_refused_and_remembered(
    device: SimulatedDevice, message: str, use: Callable[[SimulatedDevice], object]
) -> None:
    with pytest.raises(SimulatedMisuse, match=message):
        use(device)
    with pytest.raises(SimulatedMisuse, match=f"left behind: misuse: .*{message}"):
        device.assert_nothing_left()


def test_a_write_after_free_is_found_at_the_end(device: SimulatedDevice) -> None:
    ctypes.memset(freed(device), 0, 1)
    with pytest.raises(SimulatedMisuse, match=r"wrote to memory of 64 bytes at .* after it was freed"):
        device.assert_nothing_left()


@pytest.mark.parametrize(
    ("make", "undo"),
    [
        (lambda d: d.allocate(8), SimulatedDevice.free),
        (lambda d: d.allocate_pinned(8), SimulatedDevice.free_pinned),
        (SimulatedDevice.create_stream, SimulatedDevice.destroy_stream),
        (SimulatedDevice.create_event, SimulatedDevice.destroy_event),
    ],
)
def test_what_is_not_undone_is_left(
    device: SimulatedDevice, make: Callable[..., int], undo: Callable[..., None]
) -> None:
    made = make(device)
    with pytest.raises(SimulatedMisuse, match="left behind"):
        device.assert_nothing_left()
    undo(device, made)
    device.assert_nothing_left()


def test_work_that_nobody_waited_for_is_left(device: SimulatedDevice) -> None:
    stream = device.create_stream()
    device.run_on_stream(stream, lambda: None)
    device.destroy_stream(stream)
    with pytest.raises(SimulatedMisuse, match="1 operations of destroyed streams"):
        device.assert_nothing_left()


def test_adopted_memory_is_known_and_not_ours(device: SimulatedDevice) -> None:
    array, target, stream = np.arange(64, dtype=np.uint8), device.allocate(64), device.create_stream()
    device.adopt(array.ctypes.data, 64)
    device.copy(target, array.ctypes.data, 64, stream)
    device.synchronize(stream)
    assert (device.view(target, (64,), np.uint8) == array).all()
    device.free(target)
    device.destroy_stream(stream)
    device.assert_nothing_left()
    device.forget(array.ctypes.data)
    with pytest.raises(SimulatedMisuse, match="is no address"):
        device.view(array.ctypes.data, (64,), np.uint8)


def test_it_fails_when_told_to(device: SimulatedDevice) -> None:
    device.create_event()
    device.fail_on("create_event", 2, DeviceError("no more events", name="cudaErrorUnknown"))
    device.create_event()
    with pytest.raises(DeviceError, match="no more events"):
        device.create_event()
    device.create_event()
    assert device.count("create_event") == 4
    with pytest.raises(AttributeError):
        device.fail_on("create_evnt")


def test_a_failed_wait_loses_the_work(device: SimulatedDevice) -> None:
    stream, done = device.create_stream(), list[int]()
    device.run_on_stream(stream, lambda: done.append(1))
    device.fail_on("synchronize")
    with pytest.raises(DeviceError, match="simulated failure"):
        device.synchronize(stream)
    device.synchronize(stream)
    assert not done
    device.destroy_stream(stream)
    device.assert_nothing_left()


def test_a_failed_destruction_destroys(device: SimulatedDevice) -> None:
    address = device.allocate(8)
    device.fail_on("free")
    with pytest.raises(DeviceError, match="simulated failure"):
        device.free(address)
    device.assert_nothing_left()


def test_an_error_of_work_reaches_all_who_wait_for_it(device: SimulatedDevice) -> None:
    first, second, event, done = device.create_stream(), device.create_stream(), device.create_event(), []

    def fail() -> None:
        raise DeviceError("a kernel failed")

    device.run_on_stream(first, fail)
    device.record(event, first)
    device.run_on_stream(first, lambda: done.append(1))
    device.stream_wait(second, event)
    device.run_on_stream(second, lambda: done.append(2))
    with pytest.raises(DeviceError, match="a kernel failed"):
        device.synchronize(second)
    with pytest.raises(DeviceError, match="a kernel failed"):
        device.wait(event)
    device.synchronize(first)
    assert not done


def test_after_a_sticky_error_all_fails_but_things_go_away(device: SimulatedDevice) -> None:
    stream, address = device.create_stream(), device.allocate(8)

    def fail() -> None:
        raise DeviceError("illegal address", name="cudaErrorIllegalAddress", sticky=True)

    device.run_on_stream(stream, fail)
    for use in (
        lambda: device.synchronize(stream),
        lambda: device.allocate(8),
        lambda: device.free(address),
        lambda: device.destroy_stream(stream),
    ):
        with pytest.raises(DeviceError, match="illegal address"):
            use()
    device.assert_nothing_left()


def test_one_thread_may_wait_while_another_works(device: SimulatedDevice) -> None:
    slow, fast = device.create_stream(), device.create_stream()
    started, finish, done = threading.Event(), threading.Event(), list[str]()

    def kernel() -> None:
        started.set()
        assert finish.wait(timeout=20)
        done.append("slow")

    def wait() -> None:
        device.enter()
        device.synchronize(slow)

    device.run_on_stream(slow, kernel)
    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert started.wait(timeout=20)
    device.run_on_stream(fast, lambda: done.append("fast"))
    device.synchronize(fast)
    finish.set()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert done == ["fast", "slow"]


def test_many_threads_with_streams_that_wait_for_each_other(device: SimulatedDevice) -> None:
    """No deadlock, and every operation once: each thread's stream waits for its neighbour's event."""
    count, rounds = 4, 50
    streams = [device.create_stream() for _ in range(count)]
    events = [device.create_event() for _ in range(count)]
    done: list[list[int]] = [[] for _ in range(count)]

    def work(index: int) -> None:
        device.enter()
        for number in range(rounds):
            device.run_on_stream(streams[index], lambda n=number: done[index].append(n))
            device.record(events[index], streams[index])
            device.stream_wait(streams[index], events[(index + 1) % count])
            if number % 7 == 0:
                device.synchronize(streams[index])
        device.synchronize(streams[index])

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert done == [list(range(rounds))] * count
