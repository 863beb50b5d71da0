"""Checks of the options of sources, stages and loaders. Errors name the option; whole numbers of any library become ``int``."""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

NO_LIMIT = 2**31
"""A limit of this size or more is no limit: all rows of a column together have fewer ids.

A transformers tokenizer without a limit has ``model_max_length=int(1e30)``, which transformers calls ``VERY_LARGE_INTEGER``.
"""


def whole_number(
    name: str, value: Any, *, least: int | None = None, most: int | None = None, rule: str = "a whole number"
) -> int:
    """Return an option as an ``int``, which JSON can store in a state.

    Args:
        name: The option, as the user wrote it.
        value: An ``int`` or a whole number of another library, such as ``np.int64``; no float, bool, text or tensor.
        least: The smallest value allowed; ``None`` for no limit.
        most: The largest value allowed; ``None`` for no limit.
        rule: What the message says that the value must be.

    Raises:
        TypeError: The value is not a whole number.
        ValueError: The value is below ``least`` or above ``most``.
    """
    found = None if isinstance(value, torch.Tensor) else as_int(value)
    if found is None:
        raise TypeError(f"{name} must be {rule}, got {value!r:.80}")
    if least is not None and found < least:
        raise ValueError(f"{name} must be {rule}, got {found}")
    if most is not None and found > most:
        raise ValueError(f"{name} must be at most {most:,}, got {found}")
    return found


def check_positive(name: str, value: object) -> None:
    """Raise unless an option is ``None`` or a positive whole number.

    Raises:
        ValueError: The value is neither.
    """
    if value is not None and (as_int(value) or 0) < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")


def num_bytes(name: str, value: Any) -> int:
    """Return an option that is a positive number of bytes as an ``int``.

    Raises:
        TypeError: The value is not a whole number.
        ValueError: The value is less than 1.
    """
    found = whole_number(name, value, rule="a whole number of bytes")
    if found < 1:
        raise ValueError(f"{name} must be at least 1, got {found}")
    return found


def names(name: str, value: Any) -> list[str] | None:
    """Return an option that is a list of column names as a ``list``; ``None`` stays ``None``.

    Raises:
        TypeError: The value is not a list of strings.
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
        TypeError: The value is not a string.
        ValueError: The value holds half of a surrogate pair, which cannot be written as UTF-8.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be the name of a column, got {value!r:.80}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} must be the name of a column, which is UTF-8, got {value!r:.80}")


def yes_or_no(name: str, value: Any) -> bool:
    """Return an option as a ``bool``.

    Raises:
        TypeError: The value is not a bool of Python or NumPy.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r:.80}")
    return bool(value)


def one_of(name: str, value: Any, choices: tuple[str | None, ...]) -> None:
    """Raise unless an option is one of ``choices``.

    Raises:
        ValueError: The value is not.
    """
    if not isinstance(value, str | None) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r:.80}")


def function_or_none(name: str, value: Any) -> None:
    """Raise unless an option is a function, or ``None``.

    Raises:
        TypeError: The value is neither.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r:.80}")


def padding_values(value: Any) -> dict[str, float]:
    """Return the option ``pad_values``, the padding value of each column, as a dict; empty for ``None``.

    Raises:
        TypeError: The value is not a mapping of column names to numbers.
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
    """Return the option ``device`` as a ``torch.device``; ``None`` stays ``None``.

    Raises:
        ValueError: Torch knows no such device.
    """
    try:
        return None if value is None else torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"device must be a torch.device or its name, such as 'cuda:0', got {value!r:.80}: {error}") from None


def read_limit(name: str, value: object) -> int | None:
    """Return a limit of a row's length as an ``int``; ``None`` for ``None`` and for a number from `NO_LIMIT` on.

    Raises:
        TypeError: The value is not a whole number.
    """
    return None if value is None or is_no_limit(value) else whole_number(name, value)


def is_no_limit(value: object) -> bool:
    """Return whether a value is a number from `NO_LIMIT` on, such as ``int(1e30)``; floats count as well."""
    if isinstance(value, float):
        return not math.isnan(value) and value >= NO_LIMIT
    return (as_int(value) or 0) >= NO_LIMIT


def as_int(value: object) -> int | None:
    """Return a whole number of Python, NumPy or another library as an ``int``; ``None`` for a bool and any other value."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # raises for other types
    except TypeError:
        return None


def function_name(fn: Callable[..., Any]) -> str:
    """Return the module and the name of a function, which are the same in every process."""
    named = _named(fn)
    return f"{named.__module__}.{named.__qualname__}"


def bare_name(value: object) -> str:
    """Return the name, without its module, of a function or of a value's type; the same in every process."""
    return str(_named(value).__qualname__)


def _named(value: Any) -> Any:
    """Return the function that a partial function calls, or the type of a value without a name."""
    while isinstance(value, functools.partial):
        value = value.func
    return value if hasattr(value, "__qualname__") else type(value)


def require(*requirements: str) -> None:
    """Raise unless optional libraries are installed, and new enough.

    Args:
        requirements: Libraries and their lower bounds, such as ``"lightning>=2.5.3"``. The extra of seqstream, and its module,
            are called after the first.

    Raises:
        ImportError: One is missing or too old; the message names the extra that brings it.
    """
    extra = requirements[0].split(">=")[0]
    remedy = f'pip install "seqstream[{extra}]"'
    for requirement in requirements:
        name, oldest = requirement.split(">=")
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"seqstream.{extra} needs {name}, which is not installed; {remedy}", name=name)
        version = import_module(name).__version__
        if _numbers(version) < _numbers(oldest):
            raise ImportError(f"seqstream.{extra} needs {requirement}, got {version}; {remedy}", name=name)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
