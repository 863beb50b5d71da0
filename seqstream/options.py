"""Options of a loader, checked when it is made: whole numbers, of whatever library they are, become ``int``."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

NO_LIMIT = 2**31
"""A limit from here on is none: all rows of a column have fewer ids. A transformers tokenizer that knows no limit has
``model_max_length=int(1e30)``, ``VERY_LARGE_INTEGER`` there; transformers does not truncate above 1e20."""


def whole_number(
    name: str, value: Any, *, least: int | None = None, most: int | None = None, rule: str = "a whole number"
) -> int:
    """Return an option as an ``int``, such as goes into a state.

    Args:
        name: The option, as the user wrote it.
        value: An ``int`` or what can stand for one, such as ``np.int64``; no float, no bool, no text.
        least: The least it may be; ``None`` for no limit.
        most: The most it may be; ``None`` for no limit.
        rule: What it must be, for the message.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is less or more than it may be.
    """
    try:
        if isinstance(value, bool | np.bool_ | torch.Tensor):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {rule}, got {value!r:.80}") from None
    if least is not None and found < least:
        raise ValueError(f"{name} must be {rule}, got {found}")
    if most is not None and found > most:
        raise ValueError(f"{name} must be at most {most:,}, got {found}")
    return found


def num_bytes(name: str, value: Any) -> int:
    """Return a number of bytes that are read at once as an ``int``.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is less than 1.
    """
    found = whole_number(name, value, rule="a whole number of bytes")
    if found < 1:
        raise ValueError(f"{name} must be at least 1, got {found}")
    return found


def names(name: str, value: Any) -> list[str] | None:
    """Return the names of columns as a list; ``None`` for ``None``.

    Raises:
        TypeError: It is no list of strings.
    """
    if value is None:
        return None
    try:
        found = None if isinstance(value, str | bytes | Mapping) else list(value)
    except (TypeError, RuntimeError):
        found = None
    if found is None or not all(isinstance(each, str) for each in found):
        raise TypeError(f"{name} must be a list of names, got {value!r:.80}")
    return found


def column_name(name: str, value: Any) -> None:
    """Raise unless an option is the name of a column.

    Raises:
        TypeError: It is no string.
        ValueError: It has half of a surrogate pair, which no column has.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be the name of a column, got {value!r:.80}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} must be the name of a column, which is UTF-8, got {value!r:.80}")


def yes_or_no(name: str, value: Any) -> bool:
    """Return an option as a ``bool``.

    Raises:
        TypeError: It is neither true nor false.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r:.80}")
    return bool(value)


def one_of(name: str, value: Any, choices: tuple[str | None, ...]) -> None:
    """Raise unless an option is one of some.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, str | None) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r:.80}")


def function_or_none(name: str, value: Any) -> None:
    """Raise unless an option is a function, or ``None``.

    Raises:
        TypeError: It is not.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r:.80}")


def padding_values(value: Any) -> dict[str, float]:
    """Return what padding holds, by column.

    Raises:
        TypeError: It is no mapping of names to numbers.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"pad_values must be a dict such as {{'input_ids': 0}}, got {value!r:.80}")
    for name, number in value.items():
        is_number = isinstance(number, int | float | np.number) and not isinstance(number, bool)
        if not isinstance(name, str) or not is_number:
            raise TypeError(f"pad_values must be numbers by the names of columns, got {name!r}: {number!r:.80}")
    return dict(value)


def device_of(value: Any) -> torch.device | None:
    """Return where the tensors of a batch go; ``None`` where they stay.

    Raises:
        ValueError: There is no such device.
    """
    try:
        return None if value is None else torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"device must be a torch.device or its name, such as 'cuda:0', got {value!r:.80}: {error}") from None


def read_limit(name: str, value: object) -> int | None:
    """Return a limit as ``int``; ``None`` for ``None`` and for a number so large that no row is as long.

    Raises:
        TypeError: It is no whole number.
    """
    if value is None or is_no_limit(value):
        return None
    if not is_whole(value):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return operator.index(value)  # type: ignore[arg-type]  # is_whole


def is_no_limit(value: object) -> bool:
    """Return whether a value is a number, such as ``1e30`` or infinity, too large to limit anything."""
    if isinstance(value, float):
        return not math.isnan(value) and value >= NO_LIMIT
    return is_whole(value) and operator.index(value) >= NO_LIMIT  # type: ignore[arg-type]  # is_whole


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number of Python, NumPy or another library; classes and arrays only look like one."""
    try:
        operator.index(value)  # type: ignore[arg-type]  # that is what is asked
    except TypeError:
        return False
    return not isinstance(value, bool)


def function_name(fn: Callable[..., Any]) -> str:
    """Return the module and name of a function, the same in every process."""
    if isinstance(fn, functools.partial):
        return function_name(fn.func)
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{named.__module__}.{named.__qualname__}"
