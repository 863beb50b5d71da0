"""Limits of tokens that a user gives, and the numbers that say that there is none."""

from __future__ import annotations

import math
import operator

NO_LIMIT = 2**31
"""A limit from here on is none: all rows of a column have fewer ids. A transformers tokenizer that knows no limit has
``model_max_length=int(1e30)``, ``VERY_LARGE_INTEGER`` there; transformers does not truncate above 1e20."""


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
