"""Items that are no dicts but have named parts: named tuples, dataclasses, and pairs of a sequence and its label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

Unpack: TypeAlias = Callable[[Any], Any]
"""Makes a dict of named fields of an item; returns an item of another kind as it is."""

_TEXT, _LABEL = "text", "label"


def unpacking(item: Any) -> Unpack | None:
    """Return the function that makes dicts of items like this one, ``None`` for items that stay as they are.

    A pair of a text or a sequence and a single number, as ``TensorDataset`` and the data sets of torchvision yield, becomes the
    sequence, under the name that it has as an item of its own, and its ``label``.

    Raises:
        ValueError: The item is a tuple of sequences: they have no names.
    """
    kind = type(item)
    if isinstance(item, tuple) and hasattr(item, "_asdict"):
        return lambda given: given._asdict() if type(given) is kind else given
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return lambda given: {name: getattr(given, name) for name in names} if type(given) is kind else given
    if _is_pair(item):
        name = _name_of(item[0])
        return lambda given: {name: given[0], _LABEL: given[1]} if _is_pair(given) else given
    if isinstance(item, tuple) and any(map(_is_sequence, item)):
        shown = ", ".join(type(part).__name__ for part in item)
        raise ValueError(
            f"cannot be a tuple of {shown}, whose parts have no names; give a dict such as {{'input_ids': ..., 'labels': ...}}"
        )
    return None


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and _is_sequence(item[0]) and _is_number(item[1])


def _is_sequence(part: Any) -> bool:
    return isinstance(part, str | list | tuple) or (isinstance(part, np.ndarray | torch.Tensor) and part.ndim > 0)


def _is_number(part: Any) -> bool:
    if isinstance(part, np.ndarray | torch.Tensor):
        return part.ndim == 0
    return isinstance(part, bool | int | float | np.number | np.bool_)


def _name_of(part: Any) -> str:
    """Return the name of the column that a sequence has as an item of its own."""
    if isinstance(part, str):
        return _TEXT
    array = part.detach().cpu() if isinstance(part, torch.Tensor) else np.asarray(part)
    is_whole = not array.dtype.is_floating_point if isinstance(array, torch.Tensor) else array.dtype.kind in "iu"
    return "input_ids" if array.ndim == 1 and (is_whole or not len(array)) else "features"
