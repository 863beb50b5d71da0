"""Threads that prepare items ahead of the consumer, and the signal that ends them under all circumstances."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")

JOIN_SECONDS = 3.0
"""How long `StopSignal.stop` waits for each thread; only a function of the user that blocks can take longer."""

Outcome: TypeAlias = "tuple[Item] | BaseException"
"""An item, or the error that ended the iterator."""


class StoppedError(Exception):
    """Raised in threads to end their work; it never reaches the user."""


class StopSignal:
    """Ends all threads of one iteration: called by any of them, by garbage collection, or at exit.

    It refers to the threads, but no thread refers to the iterator of the user, so that one that is dropped can be collected
    while they run.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._threads: list[threading.Thread] = []
        self._wakers: list[Callable[[], None]] = []

    def start(self, target: Callable[[], None], name: str, wake: Callable[[], None]) -> None:
        """Run a function in a daemon thread; ``wake`` ends what it waits for, and any wait for it."""
        self.check()
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)  # before it runs: it may set the signal
        self._wakers.append(wake)
        try:
            thread.start()
        except BaseException:
            self._threads.remove(thread)
            raise

    def call_on_stop(self, wake: Callable[[], None]) -> None:
        """Call a function when the signal is set, to end some wait."""
        self._wakers.append(wake)

    def check(self) -> None:
        """Raise `StoppedError` if the signal is set."""
        if self.is_set:
            raise StoppedError

    def stop(self) -> None:
        """End all threads, and wait for them unless one of them calls this."""
        self.is_set = True
        wakers, self._wakers = self._wakers, []  # they refer to objects that refer to this one
        for wake in wakers:
            wake()
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join(JOIN_SECONDS)


class Prefetcher(Generic[Item]):
    """An iterator whose items a thread prepares, up to ``depth`` of them before they are asked for.

    An error in the thread is raised by the call that would have returned the item. Each side waits in a queue of its own,
    written in C: a wake-up of `threading.Condition` takes a tenth of the time of a batch.

    Args:
        items: Gives the items; only the thread uses it.
        depth: Number of items that are ready or under way at most.
        stop_signal: Ends the thread.
        name: Name of the thread.
        goes_on: Whether the thread prepares the next item as soon as one was taken; if not, when `go_on` is called.
    """

    def __init__(self, items: Iterator[Item], depth: int, stop_signal: StopSignal, name: str, *, goes_on: bool = True) -> None:
        self._items = items
        self._stop_signal = stop_signal
        self._goes_on = goes_on
        self._ready: SimpleQueue[Outcome[Item]] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        self._end: BaseException | None = None
        for _ in range(depth):
            self._room.put(None)
        stop_signal.start(self._run, name, self._wake)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._end is not None:
            raise StopIteration
        outcome = self._ready.get()
        if isinstance(outcome, BaseException):
            self._end = outcome
            raise outcome
        if self._goes_on:
            self.go_on()
        return outcome[0]

    def go_on(self) -> None:
        """Let the thread prepare one more item."""
        self._room.put(None)

    def _run(self) -> None:
        try:
            while True:
                self._room.get()
                self._stop_signal.check()
                self._ready.put((next(self._items),))
        except StoppedError:
            self._ready.put(StoppedError())  # a new one, whose traceback keeps no frames alive
        except BaseException as error:  # noqa: BLE001 - the consumer raises it, whatever it is
            self._ready.put(error)
        finally:
            self._items = iter(())  # drop the iterator: this object and the stop signal refer to each other

    def _wake(self) -> None:
        self._room.put(None)
        self._ready.put(StoppedError())
