"""A kind of input: how to make and to damage it, and how to read it, with seqstream and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple


class Input(NamedTuple):
    """The input of a case.

    Attributes:
        data: Bytes of a file, or an object.
        name: Name of the file, which errors must contain; ``""`` if there is none.
        options: Options for reading it.
    """

    data: Any
    name: str
    options: dict[str, Any]


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
        make: Makes a valid input.
        damage: Changes an input a little.
        read: ``(input, its file)`` -> the result with seqstream; or it raises an error, which must be clear.
        reference: ``input`` -> the right result without seqstream, or any error if there is none; ``None`` if every result is
            right.
        is_same: ``(result, right result)`` -> whether they agree.
    """

    make: Callable[[Random], Input]
    damage: Callable[[Random, Input], Input]
    read: Callable[[Input, Path], Any]
    reference: Callable[[Input], Any] | None
    is_same: Callable[[Any, Any], bool] = lambda got, expected: bool(got == expected)
