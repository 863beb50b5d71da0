"""Iterating ahead of the consumer in a thread, and stopping it under all circumstances."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")

JOIN_SECONDS = 3.0
"""How long `StopSignal.turn_off` waits for its threads; only a user's function that blocks can take longer."""

Outcome: TypeAlias = "tuple[Item] | BaseException"
"""An item, or what ended the iterator instead of one."""


class StoppedError(Exception):
    """Raised in threads to end what they do; no user sees it."""


class StopSignal:
    """Turns off all threads of one iteration, from any of them, by garbage collection or at exit.

    It knows the threads but no thread's work knows its owner, so an iterator that is dropped can be collected while they run.
    """

    def __init__(self) -> None:
        self.is_off = False
        self._threads: list[threading.Thread] = []
        self._wakers: list[Callable[[], None]] = []

    def start(self, target: Callable[[], None], name: str, wake: Callable[[], None]) -> None:
        """Run a function in a daemon thread of this switch; ``wake`` ends its waiting, and that for it."""
        self.check()
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)  # before it runs: it may turn the switch off
        self._wakers.append(wake)
        try:
            thread.start()
        except BaseException:
            self._threads.remove(thread)
            raise

    def wakes(self, wake: Callable[[], None]) -> None:
        """Call a function when the switch is turned off, which ends some waiting."""
        self._wakers.append(wake)

    def check(self) -> None:
        """Raise `StoppedError` if the switch is off."""
        if self.is_off:
            raise StoppedError

    def turn_off(self) -> None:
        """End all threads and wait for them; in one of them, for none."""
        self.is_off = True
        wakers, self._wakers = self._wakers, []  # what they are about knows this switch, and is not to be kept alive by it
        for wake in wakers:
            wake()
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join(JOIN_SECONDS)


class Prefetcher(Generic[Item]):
    """An iterator whose items are made in a thread, up to ``depth`` of them before they are asked for.

    An error in the thread is raised here, by the call that would have returned the item. Both sides wait in queues written in
    C, each in its own: a batch takes as long as ten rounds of a `threading.Condition`.

    Args:
        items: Makes the items.
        depth: How many items are ready or under way at most.
        stop_signal: Ends the thread.
        name: Name of the thread.
        goes_on: Whether the thread goes on as soon as an item was taken; if not, when `go_on` is called.
    """

    def __init__(self, items: Iterator[Item], depth: int, stop_signal: StopSignal, name: str, *, goes_on: bool = True) -> None:
        self._items = items
        self._switch = stop_signal
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
        """Let the thread make one more item."""
        self._room.put(None)

    def _run(self) -> None:
        try:
            while True:
                self._room.get()
                self._switch.check()
                self._ready.put((next(self._items),))
        except StoppedError:
            self._ready.put(StoppedError())  # without the frames that it came through, which hold what is to be let go
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the consumer
            self._ready.put(error)
        finally:
            self._items = iter(())  # who is at an end keeps nothing alive: the switch knows this object, and it the switch

    def _wake(self) -> None:
        self._room.put(None)
        self._ready.put(StoppedError())
