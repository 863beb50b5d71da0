"""What a kind of input is: how a valid one is made and damaged, and how it is read, by seqstream and without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple


class Input(NamedTuple):
    """What a case is about."""

    data: Any
    """Bytes of a file, or an object."""
    name: str
    """Of the file, which errors must have; ``""`` where there is none."""
    options: dict[str, Any]
    """How it is to be read."""


class Kind(NamedTuple):
    """A kind of input."""

    make: Callable[[Random], Input]
    damage: Callable[[Random, Input], Input]
    read: Callable[[Input, Path], Any]
    """``(input, its file)`` -> a result, or an error that must be clear."""
    reference: Callable[[Input], Any] | None
    """``input`` -> the right result, or any error where there is none; ``None`` where every result is right."""
    is_same: Callable[[Any, Any], bool] = lambda got, expected: bool(got == expected)
    """``(result, right result)`` -> whether they agree."""
