"""Iterating ahead of the consumer in a thread, and stopping it under all circumstances."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

JOIN_SECONDS = 3.0
"""How long `Switch.turn_off` waits for its threads; only a user's function that blocks can take longer."""


class SwitchedOffError(Exception):
    """Raised in threads to end what they do; no user sees it."""


class Switch:
    """Turns off all threads of one iteration, from any of them, by garbage collection or at exit.

    It knows the threads but no thread's work knows its owner, so an iterator that is dropped can be collected while they run.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.is_off = False
        self._threads: list[threading.Thread] = []

    def start(self, target: Callable[[], None], name: str) -> None:
        """Run a function in a daemon thread of this switch."""
        thread = threading.Thread(target=target, name=name, daemon=True)
        with self.changed:
            self.check()
            thread.start()
            self._threads.append(thread)

    def check(self) -> None:
        """Raise `SwitchedOffError` if the switch is off."""
        if self.is_off:
            raise SwitchedOffError

    def turn_off(self) -> None:
        """End all threads and wait for them, unless called in one of them, where garbage collection may come at any time."""
        with self.changed:
            self.is_off = True
            self.changed.notify_all()
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join(JOIN_SECONDS)


class Ahead(Generic[Item]):
    """An iterator whose items are made in a thread, up to ``depth`` of them before they are asked for.

    An error in the thread is raised here, by the call that would have returned the item.

    Args:
        items: Makes the items.
        depth: How many items are ready or under way at most.
        switch: Ends the thread.
        name: Name of the thread.
    """

    def __init__(self, items: Iterator[Item], depth: int, switch: Switch, name: str) -> None:
        self._items = items
        self._depth = depth
        self._switch = switch
        self._ready: deque[Item] = deque()
        self._end: BaseException | None = None
        switch.start(self._run, name)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._switch.changed:
            self._switch.changed.wait_for(lambda: self._ready or self._end or self._switch.is_off)
            if self._ready:
                item = self._ready.popleft()
                self._switch.changed.notify_all()
                return item
            self._switch.check()
            error, self._end = self._end, StopIteration()
        raise error if error is not None else StopIteration

    def _run(self) -> None:
        end: BaseException
        try:
            while self._has_room():
                item = next(self._items)
                with self._switch.changed:
                    self._ready.append(item)
                    self._switch.changed.notify_all()
                del item
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the consumer
            end = error
        with self._switch.changed:
            self._end = end
            self._switch.changed.notify_all()

    def _has_room(self) -> bool:
        with self._switch.changed:
            self._switch.changed.wait_for(lambda: len(self._ready) < self._depth or self._switch.is_off)
            return not self._switch.is_off
