"""Arguments of a loader as attributes that can be read and not set."""

from __future__ import annotations

from typing import Any, Generic, Never, TypeVar

Value = TypeVar("Value")


class Option(Generic[Value]):
    """An argument of a loader: setting it would change the states that are saved, and not the batches, so it raises.

    Raises:
        AttributeError: The option is set or deleted.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, loader: Any, owner: type) -> Value:
        if loader is None:
            return self  # type: ignore[return-value]  # for help() and inspect, which ask the class
        value: Value = getattr(loader._arguments, self._name)
        return value

    def __set__(self, loader: Any, value: Never) -> None:
        raise AttributeError(f"{self._name} of a Loader cannot be changed; make a new Loader({self._name}=...)")

    def __delete__(self, loader: Any) -> None:
        raise AttributeError(f"{self._name} of a Loader cannot be deleted; make a new Loader({self._name}=...)")
