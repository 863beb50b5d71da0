"""Rows of a window -> tensors of a batch: gathered, padded, masked, with no loop over rows.

Legend: ``B`` rows of the batch, ``L`` its padded length.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from seqstream.arrow import to_arrow
from seqstream.records import IGNORE_INDEX, is_label
from seqstream.windows.columns import Array, Column, Dense, Ragged

Rows = npt.NDArray[np.int64]

_INT64 = np.dtype(np.int64)
_NUMPY_FLOATS: defaultdict[torch.dtype, np.dtype[Any]] = defaultdict(
    lambda: np.dtype(np.float32), {torch.float64: np.dtype(np.float64)}
)
"""The type in which numbers come that are to have torch's default type; float16 and bfloat16 are for modules, not for data."""


_NOWHERE = slice(0, 0)


class Gaps(NamedTuple):
    """Where the padding of a batch is, as far as its longest row goes: only steps beyond the shortest can be padding.

    Attributes:
        steps: The steps that may be padding.
        padding: ``bool (B, longest - shortest)``, true where they are; ``None`` where all rows are of one length.
        longest: Steps of the longest row.
        lengths: ``int64 (B,)``.
        side: Where padding goes.
    """

    steps: slice
    padding: npt.NDArray[np.bool_] | None
    longest: int
    lengths: Rows
    side: str

    @classmethod
    def of(cls, lengths: Rows, shortest: int, longest: int, side: str) -> Gaps:
        if shortest == longest:
            return cls(_NOWHERE, None, longest, lengths, side)
        if side == "right":
            return cls(slice(shortest, longest), np.arange(shortest, longest) >= lengths[:, None], longest, lengths, side)
        places = np.arange(longest - 1, shortest - 1, -1)
        return cls(slice(0, longest - shortest), places >= lengths[:, None], longest, lengths, side)

    def within(self, width: int) -> slice:
        """Return where the steps of the longest row lie in a batch of that width."""
        return slice(0, self.longest) if self.side == "right" else slice(width - self.longest, width)

    def mask(self, width: int) -> npt.NDArray[np.bool_]:
        mask = np.empty((len(self.lengths), self.longest), dtype=np.bool_)
        mask.fill(True)  # np.ones takes half a microsecond more
        if self.padding is not None:
            np.logical_not(self.padding, out=mask[:, self.steps])
        if self.longest < width:
            wide = np.zeros((len(self.lengths), width), dtype=np.bool_)
            wide[:, self.within(width)] = mask
            return wide
        return mask


def pad_rows(column: Ragged, starts: Rows, gaps: Gaps, width: int, value: float, *, num_made: int = 0) -> torch.Tensor:
    """Gather rows and pad them to one width, element for element as `torch.nn.utils.rnn.pad_sequence` does.

    Every row is read as the same number of steps of the flat buffer, its own and then those of its neighbours, which are
    overwritten. So rows are copied whole, and only padding is touched twice.

    Args:
        column: Where the rows are.
        starts: ``int64 (B,)``, where each row begins in the buffer.
        gaps: Where the padding is.
        width: Padded length ``L``, at least that of the longest row.
        value: What padding holds.
        num_made: How many of the last rows are made up: all of them is padding.

    Returns:
        ``(B, L, *shape of a step)``. Integers come as int64, bytes and booleans as they are if the padding value is one of
        theirs, float64 as torch's default.
    """
    longest, shape = gaps.longest, column.shape
    if gaps.side == "left":
        starts = starts + gaps.lengths - longest
    read = _sliding(column.values, longest)[starts]
    out = read
    if read.dtype != _INT64:  # as ids are
        out = read.astype(_batch_dtype(read.dtype, value, torch.get_default_dtype()), copy=False)
    if shape:
        out = out.reshape(len(starts), longest, *shape)
    if gaps.padding is not None:
        padding = gaps.padding.reshape(*gaps.padding.shape, *(1 for _ in shape)) if shape else gaps.padding
        np.copyto(out[:, gaps.steps], value, where=padding, casting="unsafe")
    if num_made:
        out[-num_made:] = value
    if longest < width:
        wide = np.full((len(starts), width, *shape), value, dtype=out.dtype)
        wide[:, gaps.within(width)] = out
        out = wide
    return torch.from_numpy(out)


def gather_steps(column: Ragged, starts: Rows, lengths: Rows, value: float) -> Array:
    """Gather rows one after the other, flat, ``(T, *shape of a step)``, in the type in which they are padded.

    Args:
        column: Where the rows are.
        starts: ``int64 (B,)``, where each row begins in the buffer; what lies beyond its end is any of its steps.
        lengths: ``int64 (B,)``.
        value: What padding would hold.
    """
    ends = np.cumsum(lengths)
    steps = np.repeat(starts - ends + lengths, lengths)
    steps += np.arange(len(steps))
    read = column.values.take(steps, axis=0, mode="clip")
    if read.dtype != _INT64:
        read = read.astype(_batch_dtype(read.dtype, value, torch.get_default_dtype()), copy=False)
    return read.reshape(-1, *column.shape)


def _flat(column: Ragged, starts: Rows, lengths: Rows, value: float, num_made: int) -> torch.Tensor:
    steps = gather_steps(column, starts, lengths, value)
    if num_made:
        steps[-num_made:] = value
    return torch.from_numpy(steps)


def take_rows(column: Column, rows: Rows, num_made: int = 0, fill: float = 0) -> torch.Tensor | list[Any]:
    """Take rows of a column that needs no padding: a tensor ``(B, ...)``, or a list where no tensor fits.

    Single integers come as int64 and single floats as torch's default, as labels are wanted; arrays keep their type. The last
    ``num_made`` rows are made up, of ``fill`` or ``None``.
    """
    if isinstance(column, Dense):
        taken = column.values[rows]
        if num_made:
            taken[-num_made:] = fill if taken.dtype.kind == "i" else 0
        return torch.from_numpy(taken if taken.ndim > 1 else taken.astype(_scalar_dtype(taken.dtype), copy=False))
    if isinstance(column, Ragged):
        raise TypeError("a ragged column must be padded, not taken")
    listed: list[Any] = column.values.take(to_arrow(rows[: len(rows) - num_made])).to_pylist()
    return [*listed, *[None] * num_made]


def _sliding(values: Array, width: int) -> Array:
    """View the flat buffer as overlapping rows of ``width`` steps, one from each step on; nothing is copied."""
    steps, size = values.shape
    strides = (values.strides[0], values.itemsize)
    return np.ndarray((steps - width + 1, width * size), values.dtype, values, strides=strides)


@functools.cache
def _batch_dtype(kind: np.dtype[Any], padding: float, default_float: torch.dtype) -> np.dtype[Any]:
    if kind.kind in "iu":
        fits = np.iinfo(kind).min <= padding <= np.iinfo(kind).max
        return kind if kind.itemsize == 1 and fits else np.dtype(np.int64)
    if kind.kind == "b":
        return kind if padding in (0, 1) else np.dtype(np.int64)
    return _NUMPY_FLOATS[default_float] if kind == np.float64 else kind


def _scalar_dtype(kind: np.dtype[Any]) -> np.dtype[Any]:
    if kind.kind in "iu":
        return np.dtype(np.int64)
    return _NUMPY_FLOATS[torch.get_default_dtype()] if kind.kind == "f" else kind


@dataclasses.dataclass(frozen=True)
class Padding:
    """What padding holds, and where it goes.

    Attributes:
        values: For each column; where one is missing, -100 for labels, which losses ignore, and 0 for others.
        side: ``"right"`` or ``"left"``.
    """

    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    side: str = "right"

    def value(self, column: str) -> float:
        return self.values.get(column, IGNORE_INDEX if is_label(column) else 0)

    def made_up(self, column: str) -> float:
        """Return what a column of one whole number a row holds where a row is made up."""
        return IGNORE_INDEX if is_label(column) or self.values.get(column) == IGNORE_INDEX else 0
