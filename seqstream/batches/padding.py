"""Rows of a window -> tensors: gathered, padded and masked without a loop over rows.

Legend: ``B`` rows of the batch, ``L`` its padded length, ``T`` steps of all rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from seqstream.arrays import Index, Mask, ranges
from seqstream.arrow import to_arrow
from seqstream.records import IGNORE_INDEX, is_label
from seqstream.windows.columns import Array, Column, Dense, Ragged

_INT64 = np.dtype(np.int64)
_NUMPY_FLOATS: defaultdict[torch.dtype, np.dtype[Any]] = defaultdict(
    lambda: np.dtype(np.float32), {torch.float64: np.dtype(np.float64)}
)
"""The NumPy type for torch's default type; float16 and bfloat16 are for modules, so data is float32 there."""

_NO_STEPS = slice(0, 0)


@dataclasses.dataclass(frozen=True)
class Padding:
    """What padding holds, and where it goes.

    Attributes:
        values: The padding value by column; a column that is missing has -100 for labels, which losses ignore, else 0.
        side: ``"right"`` or ``"left"``.
    """

    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    side: str = "right"

    def value(self, column: str) -> float:
        """Return what padding holds in a column."""
        return self.values.get(column, IGNORE_INDEX if is_label(column) else 0)

    def made_up_value(self, column: str) -> float:
        """Return what a column of one whole number a row holds where a row is made up."""
        return IGNORE_INDEX if is_label(column) or self.values.get(column) == IGNORE_INDEX else 0


class PaddedRegion(NamedTuple):
    """Where the padding of a batch is: within the longest row it can only be at steps that the shortest row lacks.

    Attributes:
        steps: Those steps, in rows of ``longest`` steps.
        is_padding: ``bool (B, longest - shortest)``, true on padding; ``None`` where all rows have one length.
        lengths: ``int64 (B,)``.
        longest: Steps of the longest row.
        width: Padded length ``L``, at least ``longest``.
        side: Where padding goes, ``"right"`` or ``"left"``.
    """

    steps: slice
    is_padding: Mask | None
    lengths: Index
    longest: int
    width: int
    side: str

    @classmethod
    def of(cls, lengths: Index, shortest: int, longest: int, width: int, side: str) -> PaddedRegion:
        """Return the region of rows whose shortest and longest lengths are known."""
        if shortest == longest:
            return cls(_NO_STEPS, None, lengths, longest, width, side)
        if side == "right":
            steps, distances = slice(shortest, longest), np.arange(shortest, longest)  # from the first step of a row
        else:
            steps, distances = slice(0, longest - shortest), np.arange(longest - 1, shortest - 1, -1)  # from its last
        return cls(steps, distances >= lengths[:, None], lengths, longest, width, side)

    def longest_row(self) -> slice:
        """Return which of ``width`` steps are those of the longest row."""
        return slice(0, self.longest) if self.side == "right" else slice(self.width - self.longest, self.width)

    def mask(self) -> Mask:
        """Return ``bool (B, L)``, true on real steps."""
        mask = np.empty((len(self.lengths), self.longest), dtype=np.bool_)
        mask.fill(True)  # np.ones takes half a microsecond more
        if self.is_padding is not None:
            np.logical_not(self.is_padding, out=mask[:, self.steps])
        if self.longest < self.width:
            wide = np.zeros((len(self.lengths), self.width), dtype=np.bool_)
            wide[:, self.longest_row()] = mask
            return wide
        return mask


def pad_rows(column: Ragged, starts: Index, region: PaddedRegion, value: float, *, num_made_up: int = 0) -> torch.Tensor:
    """Gather rows and pad them to one width, element for element as `torch.nn.utils.rnn.pad_sequence` does.

    Every row is read as the same number of steps of the flat buffer: its own, and then those of its neighbours, which are
    overwritten. So rows are copied whole, and only padding is written twice.

    Args:
        column: The column of a window.
        starts: ``int64 (B,)``, where each row begins in the buffer.
        region: Where the padding is.
        value: What padding holds.
        num_made_up: How many of the last rows are made up, and are padding as a whole.

    Returns:
        ``(B, L, *shape of a step)``. Integers become int64; bytes and booleans keep their type if it has the padding value;
        float64 becomes torch's default type.
    """
    longest, shape = region.longest, column.shape
    if region.side == "left":
        starts = starts + region.lengths - longest
    rows = _slices(column.values, starts, longest)
    if rows.dtype != _INT64:
        rows = rows.astype(_batch_dtype(rows.dtype, value, torch.get_default_dtype()), copy=False)
    if shape:
        rows = rows.reshape(len(starts), longest, *shape)
    if (is_padding := region.is_padding) is not None:
        if shape:
            is_padding = is_padding.reshape(*is_padding.shape, *(1 for _ in shape))
        np.copyto(rows[:, region.steps], value, where=is_padding, casting="unsafe")
    if num_made_up:
        rows[-num_made_up:] = value
    if longest < region.width:
        wide = np.full((len(starts), region.width, *shape), value, dtype=rows.dtype)
        wide[:, region.longest_row()] = rows
        rows = wide
    return torch.from_numpy(rows)


def gather_steps(column: Ragged, starts: Index, lengths: Index, value: float) -> Array:
    """Gather rows one after the other, flat, ``(T, *shape of a step)``, in the type that they have when padded.

    Args:
        column: The column of a window.
        starts: ``int64 (B,)``, where each row begins in the buffer; a step beyond the end of the buffer is read as its last.
        lengths: ``int64 (B,)``.
        value: What padding would hold.
    """
    steps = column.values.take(ranges(starts, lengths), axis=0, mode="clip")
    if steps.dtype != _INT64:
        steps = steps.astype(_batch_dtype(steps.dtype, value, torch.get_default_dtype()), copy=False)
    return steps.reshape(-1, *column.shape)


def flat_rows(column: Ragged, starts: Index, lengths: Index, value: float, *, num_made_up: int = 0) -> torch.Tensor:
    """Gather rows one after the other as `gather_steps` does; the last ``num_made_up`` rows are one padding value each."""
    steps = gather_steps(column, starts, lengths, value)
    if num_made_up:
        steps[-num_made_up:] = value
    return torch.from_numpy(steps)


def gather_rows(column: Column, rows: Index, *, num_made_up: int = 0, made_up_value: float = 0) -> torch.Tensor | list[Any]:
    """Take rows of a column that needs no padding: a tensor ``(B, ...)``, or a list where no tensor fits.

    Single integers become int64 and single floats torch's default type, as losses want labels; arrays keep their type.

    Args:
        column: The column of a window.
        rows: ``int64 (B,)``.
        num_made_up: How many of the last rows are made up: ``None`` in a list, 0 in a tensor of other than signed integers.
        made_up_value: What they hold in a tensor of signed integers.

    Raises:
        TypeError: The column is ragged.
    """
    if isinstance(column, Dense):
        taken = column.values[rows]
        if num_made_up:
            taken[-num_made_up:] = made_up_value if taken.dtype.kind == "i" else 0
        return torch.from_numpy(taken if taken.ndim > 1 else taken.astype(_scalar_dtype(taken.dtype), copy=False))
    if isinstance(column, Ragged):
        raise TypeError("a ragged column must be padded, not taken")
    objects: list[Any] = column.values.take(to_arrow(rows[: len(rows) - num_made_up])).to_pylist()
    return [*objects, *[None] * num_made_up]


def slice_numbers(numbers: Index, *, num_made_up: int, made_up_value: float) -> torch.Tensor:
    """Return a slice of a column of whole numbers as `gather_rows` returns its rows; it shares memory with the column."""
    if num_made_up:
        numbers = numbers.copy()
        numbers[-num_made_up:] = made_up_value
    return torch.from_numpy(numbers)


def _slices(values: Array, starts: Index, width: int) -> Array:
    """Return ``width`` steps of the flat buffer from each start on, ``(B, width * D)``.

    Each is copied as one item of a view of overlapping items, which takes half the time of copying it as a row of numbers.
    """
    steps, size = values.shape
    num_bytes = size * values.itemsize
    if not width * num_bytes:
        return np.empty((len(starts), 0), dtype=values.dtype)
    items = np.ndarray(steps - width + 1, np.dtype((np.void, width * num_bytes)), values, strides=num_bytes)
    return items[starts].view(values.dtype).reshape(len(starts), width * size)


@functools.cache
def _batch_dtype(kind: np.dtype[Any], padding: float, default_float: torch.dtype) -> np.dtype[Any]:
    """Return the type of a column of sequences in a batch; it must have the padding value."""
    if kind.kind in "iu":
        fits = np.iinfo(kind).min <= padding <= np.iinfo(kind).max
        return kind if kind.itemsize == 1 and fits else _INT64
    if kind.kind == "b":
        return kind if padding in (0, 1) else _INT64
    return _NUMPY_FLOATS[default_float] if kind == np.float64 else kind


def _scalar_dtype(kind: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of a column of single numbers in a batch."""
    if kind.kind in "iu":
        return _INT64
    return _NUMPY_FLOATS[torch.get_default_dtype()] if kind.kind == "f" else kind
