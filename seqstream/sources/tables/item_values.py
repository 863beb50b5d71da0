"""What one item holds in one column: text, an array of its own, or text of JSON; and how messages describe it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from seqstream.sources.tables.rounding import MAX_EXACT

Array: TypeAlias = npt.NDArray[Any]
Value: TypeAlias = str | Array | list[Any] | None

NUMBER_RANKS = {"b": 0, "i": 1, "u": 1, "f": 2}
"""NumPy kinds of numbers; each may stand where one of a higher rank is wanted."""


class UnfitError(Exception):
    """Describes what an item has where it must have something else."""


def to_value(given: Any) -> str | Array:
    """Return a ``str`` as it is, anything else as a new array: a generator may fill the same buffer again.

    Raises:
        UnfitError: It is neither text nor numbers, or NumPy rounds a whole number in it.
    """
    if isinstance(given, str):
        return str(given)
    try:
        array = _copy_to_array(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnfitError(f"{describe(given)}: {error}") from error
    if array.dtype.kind not in NUMBER_RANKS:
        raise UnfitError(describe(given))
    if array.dtype.kind == "f" and isinstance(given, list | tuple) and np.abs(array).max(initial=0) >= MAX_EXACT:
        _check_exact(given)
    return array


def to_json(given: Any) -> str:
    """Return a value as text of JSON; a ``str`` as it is.

    Raises:
        UnfitError: JSON cannot hold it.
    """
    if isinstance(given, str):
        return given
    try:
        return json.dumps(given, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UnfitError(f"{describe(given)}: {error}") from error


def is_open(given: Any) -> bool:
    """Return whether a value leaves the type of its column open: it is ``None`` or an empty list."""
    return given is None or (isinstance(given, list | tuple) and not given)


def is_unicode(value: Any) -> bool:
    """Return whether UTF-8 can hold all text in a value."""
    if isinstance(value, Mapping):
        return all(map(is_unicode, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_unicode, value))
    return not isinstance(value, str) or value.encode("utf-8", "replace").decode() == value


def size_of(values: list[Value]) -> int:
    """Return about how many bytes an item's values take."""
    size = 0
    for value in values:
        if isinstance(value, str):
            size += len(value)
        elif value is None:
            size += 1
        elif isinstance(value, list):
            size += sum(sum(map(len, part.values())) if isinstance(part, Mapping) else len(part) for part in value)
        else:
            size += value.nbytes
    return size


def narrow(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return numbers as ``dtype``.

    Raises:
        OverflowError: A whole number does not fit.
    """
    if out_of_range(values, dtype):
        raise OverflowError
    return values.astype(dtype, copy=False)


def out_of_range(values: Array, dtype: np.dtype[Any]) -> list[int]:
    """Return the smallest and the largest whole number if they do not fit ``dtype``; a float must hold them exactly."""
    if values.dtype.kind not in "iu" or not values.size or values.dtype == dtype:
        return []
    limit = 1 << (np.finfo(dtype).nmant + 1) if dtype.kind == "f" else np.iinfo(dtype).max
    least = -limit if dtype.kind == "f" else np.iinfo(dtype).min
    if least <= np.iinfo(values.dtype).min and np.iinfo(values.dtype).max <= limit:
        return []
    return [value for value in (int(values.min()), int(values.max())) if not least <= value <= limit]


def describe_value(value: str | Array) -> str:
    """Return what `to_value` made of a value, for a message."""
    return "a str" if isinstance(value, str) else f"{value.dtype} of shape {value.shape}"


def describe(given: Any) -> str:
    """Return what an item or a value of it is, for a message."""
    if isinstance(given, Mapping):
        return f"a dict with {', '.join(map(repr, given))}"
    if isinstance(given, int) and not isinstance(given, bool):
        return f"{given}, beyond 64 bits"
    if isinstance(given, list | tuple) and given:
        return f"a {type(given).__name__} of {', '.join(sorted({type(part).__name__ for part in given}))}"
    return "None" if given is None else f"{type(given).__name__}"


def _copy_to_array(given: Any) -> Array:
    if isinstance(given, list | tuple):
        if not given:
            return np.empty(0, np.int32)
        if isinstance(given[0], torch.Tensor):
            given = torch.stack(tuple(given))
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
    return np.array(given)


def _check_exact(given: Any) -> None:
    """Raise if NumPy rounds a whole number: it stands among floats, or beside one that does not fit int64."""
    for number in np.array(given, object).ravel().tolist():
        if isinstance(number, int | np.integer) and abs(int(number)) > MAX_EXACT:
            raise UnfitError(f"{number} in a list whose numbers only floats hold, which round it")
