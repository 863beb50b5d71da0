"""Items made ahead in a thread: their order, their number, errors, and the end of the thread under all circumstances."""

from __future__ import annotations

import gc
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator

import pytest

from seqstream.loading.prefetch import Prefetcher, StoppedError, StopSignal

NAME = "seqstream-test"


def num_threads() -> int:
    """Count the threads of these tests that are alive."""
    return sum(thread.name == NAME for thread in threading.enumerate())


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for something that another thread does, at most some seconds."""
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """After each test every thread must have ended."""
    yield
    gc.collect()
    wait_until(lambda: num_threads() == 0)


@pytest.fixture
def stop_signal() -> Iterator[StopSignal]:
    """A stop signal that is set in the end."""
    stop_signal = StopSignal()
    yield stop_signal
    stop_signal.stop()


def ahead(items: Iterator[object], depth: int, stop_signal: StopSignal) -> Prefetcher[object]:
    return Prefetcher(items, depth, stop_signal, NAME)


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_items_come_in_their_order(stop_signal: StopSignal, depth: int) -> None:
    """All of them, once, ``None`` and falsehoods included; then the end, as often as asked."""
    items: list[object] = [*range(200), None, 0, False]
    made = ahead(iter(items), depth, stop_signal)
    assert iter(made) is made
    assert list(made) == items
    assert list(made) == []
    with pytest.raises(StopIteration):
        next(made)


def test_a_thread_ends_with_its_items(stop_signal: StopSignal) -> None:
    """There is nothing to stop after the last."""
    assert list(ahead(iter([1, 2]), 3, stop_signal)) == [1, 2]
    wait_until(lambda: num_threads() == 0)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_is_made_than_the_depth(stop_signal: StopSignal, depth: int) -> None:
    """Ready or under way, there are never more items than the depth, and no fewer either."""
    begun = 0

    def items() -> Iterator[int]:
        nonlocal begun
        while True:
            begun += 1
            yield begun

    made = ahead(items(), depth, stop_signal)
    for taken in range(5):
        wait_until(lambda: begun == taken + depth)  # noqa: B023 - it is called at once
        time.sleep(0.01)
        assert begun == taken + depth
        assert next(made) == taken + 1


def test_items_are_made_while_the_consumer_is_busy(stop_signal: StopSignal) -> None:
    """Making and consuming overlap."""

    def items() -> Iterator[int]:
        for number in range(6):
            time.sleep(0.05)
            yield number

    begin = time.monotonic()
    for _ in ahead(items(), 1, stop_signal):
        time.sleep(0.05)
    assert time.monotonic() - begin < 0.5  # one after the other they take 0.6


class BrokenError(Exception):
    """What the items of these tests raise."""


def failing() -> Iterator[int]:
    yield 1
    yield 2
    raise BrokenError("by hand")


def test_an_error_is_raised_at_its_item(stop_signal: StopSignal) -> None:
    """Those before it come first; it is the very error, with the traceback of the thread; after it there is nothing."""
    made = ahead(failing(), 5, stop_signal)
    wait_until(lambda: num_threads() == 0)
    assert [next(made), next(made)] == [1, 2]
    with pytest.raises(BrokenError, match=r"^by hand$") as caught:
        next(made)
    assert "failing" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    with pytest.raises(StopIteration):
        next(made)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
def test_whatever_is_raised_reaches_the_consumer(stop_signal: StopSignal, error: type[BaseException]) -> None:
    """No kind of error ends the thread in silence."""

    def items() -> Iterator[int]:
        yield 1
        raise error

    made = ahead(items(), 2, stop_signal)
    assert next(made) == 1
    with pytest.raises(error):
        next(made)


def test_closing_ends_a_producer_that_is_ahead() -> None:
    """It waits for room that will never be there."""
    stop_signal = StopSignal()
    made = ahead(iter(range(100)), 2, stop_signal)
    assert next(made) == 0
    begin = time.monotonic()
    stop_signal.stop()
    assert time.monotonic() - begin < 1
    assert num_threads() == 0


def test_closing_ends_a_consumer_that_waits() -> None:
    """A consumer in another thread that waits for an item gets `StoppedError`."""
    stop_signal = StopSignal()
    goes_on = threading.Event()
    heard: list[BaseException] = []

    def items() -> Iterator[int]:
        goes_on.wait(5)
        yield 1

    made = ahead(items(), 2, stop_signal)

    def consume() -> None:
        try:
            next(made)
        except StoppedError as error:
            heard.append(error)

    consumer = threading.Thread(target=consume, name=NAME)
    consumer.start()
    time.sleep(0.02)
    stopper = threading.Thread(target=stop_signal.stop, name=NAME)
    stopper.start()
    consumer.join(2)
    assert [type(error) for error in heard] == [StoppedError]
    goes_on.set()
    stopper.join(2)
    assert num_threads() == 0


def test_a_chain_of_threads_ends_together(stop_signal: StopSignal) -> None:
    """One thread makes what another one works on: closing ends both, whichever waits for which."""
    first = ahead(iter(range(1000)), 1, stop_signal)
    second = ahead((("x", item) for item in first), 2, stop_signal)
    assert [next(second), next(second)] == [("x", 0), ("x", 1)]
    assert num_threads() == 2
    stop_signal.stop()
    assert num_threads() == 0


def test_an_error_passes_through_a_chain(stop_signal: StopSignal) -> None:
    """It is raised at its item, two threads away."""
    first = ahead(failing(), 1, stop_signal)
    second = ahead((("x", item) for item in first), 2, stop_signal)
    assert [next(second), next(second)] == [("x", 1), ("x", 2)]
    with pytest.raises(BrokenError, match="by hand"):
        next(second)


def test_what_is_off_stays_off() -> None:
    """No thread starts any more, `check` raises, and a second `stop` does nothing; items that were ready may still be taken."""
    stop_signal = StopSignal()
    made = ahead(iter([1, 2, 3]), 2, stop_signal)
    wait_until(lambda: made._ready.qsize() == 2)
    stop_signal.check()
    stop_signal.stop()
    stop_signal.stop()
    assert [next(made), next(made)] == [1, 2]
    calls: list[Callable[[], object]] = [stop_signal.check, lambda: next(made), lambda: ahead(iter([]), 1, stop_signal)]
    for call in calls:
        with pytest.raises(StoppedError):
            call()


class Owner:
    """Holds what is made ahead, as an iteration of a loader does."""

    def __init__(self, items: Iterator[object]) -> None:
        stop_signal = StopSignal()
        self.made = ahead(items, 2, stop_signal)
        self.finalizer = weakref.finalize(self, stop_signal.stop)


def test_garbage_collection_ends_threads() -> None:
    """An owner that is dropped, by itself or in a cycle, takes its thread along."""
    owner = Owner(iter(range(100)))
    assert next(owner.made) == 0
    assert num_threads() == 1
    del owner
    assert num_threads() == 0
    owner = Owner(iter(range(100)))
    owner.itself = owner  # type: ignore[attr-defined] # a cycle
    assert next(owner.made) == 0
    del owner
    gc.collect()
    assert num_threads() == 0


def test_garbage_may_be_collected_in_the_thread_itself() -> None:
    """A thread that turns its own switch off, while others of the switch run, neither hangs nor waits for itself."""
    stop_signal = StopSignal()
    other = ahead(iter(range(100)), 1, stop_signal)
    seconds: list[float] = []

    def items() -> Iterator[int]:
        yield 1
        begin = time.monotonic()
        stop_signal.stop()
        seconds.append(time.monotonic() - begin)
        yield 2

    assert next(other) == 0
    made = ahead(items(), 5, stop_signal)
    wait_until(lambda: bool(seconds))
    assert seconds[0] < 1
    assert next(made) == 1


def test_items_are_not_held_by_the_thread(stop_signal: StopSignal) -> None:
    """What was handed out is the consumer's alone, also while the thread makes the next."""
    goes_on = threading.Event()

    class Item:
        pass

    def items() -> Iterator[Item]:
        yield Item()
        goes_on.wait(9)
        yield Item()

    made = ahead(items(), 2, stop_signal)
    item = next(made)
    gone = weakref.ref(item)
    del item
    gc.collect()
    wait_until(lambda: gone() is None)
    goes_on.set()
    assert isinstance(next(made), Item)
