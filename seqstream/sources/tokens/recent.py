"""Values that were used last, such as open files: up to a total size of all of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Keeps the values that were used last. Threads may share it.

    Args:
        most: Largest total size of the values; the one used last is kept even if it is larger.
        size_of: Returns the size of a value; each is 1 by default, so that ``most`` is a number of values.
    """

    def __init__(self, most: int, size_of: Callable[[Value], int] = lambda _: 1) -> None:
        self._most = most
        self._size_of = size_of
        self._lock = threading.RLock()
        self._values: OrderedDict[int, Value] = OrderedDict()
        self._size = 0

    def get(self, key: int, make: Callable[[int], Value]) -> Value:
        """Return the value of a key, which ``make(key)`` returns if it is not kept."""
        with self._lock:
            if key not in self._values:
                self._values[key] = value = make(key)
                self._size += self._size_of(value)
                while self._size > self._most and len(self._values) > 1:
                    self._size -= self._size_of(self._values.popitem(last=False)[1])
            self._values.move_to_end(key)
            return self._values[key]
