"""Rows of a window -> tensors of a batch: gathered, padded, masked, with no loop over rows.

Legend: ``B`` rows of the batch, ``L`` its padded length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from seqstream.batch import Batch
from seqstream.columns import Array, Column, Dense, Ragged
from seqstream.sources.protocol import Json
from seqstream.window import Window

LABEL_PADDING = -100
"""What losses of PyTorch and transformers ignore."""

Rows = npt.NDArray[np.int64]


def pad_rows(column: Ragged, rows: Rows, width: int, value: float, side: str = "right") -> torch.Tensor:
    """Gather rows and pad them to one width, element for element as `torch.nn.utils.rnn.pad_sequence` does.

    Every row is read as the same number of steps of the flat buffer, its own and then those of its neighbours, which are
    overwritten. So rows are copied whole, and only padding is touched twice.

    Args:
        column: Where the rows are.
        rows: ``int64 (B,)``, which rows, in the order they are wanted.
        width: Padded length ``L``, at least that of the longest row.
        value: What padding holds.
        side: Where padding goes, ``"right"`` or ``"left"``.

    Returns:
        ``(B, L, *shape of a step)``. Integers come as int64, bytes and booleans as they are if they can hold ``value``,
        float64 as torch's default.
    """
    lengths, starts = column.lengths[rows], column.starts[rows]
    longest = int(lengths.max(initial=0))
    if side == "left":
        starts = starts + lengths - longest
    read = _sliding(column.values, longest)[starts]
    out = read.astype(_batch_dtype(read.dtype, value), copy=False).reshape(len(rows), longest, *column.shape)
    if (shortest := int(lengths.min(initial=longest))) < longest:
        tail = slice(shortest, longest) if side == "right" else slice(0, longest - shortest)
        out[:, tail][~real_steps(lengths, longest, side)[:, tail]] = value
    if longest < width:
        wide = np.full((len(rows), width, *column.shape), value, dtype=out.dtype)
        wide[:, slice(0, longest) if side == "right" else slice(width - longest, width)] = out
        out = wide
    return torch.from_numpy(out)


def real_steps(lengths: Rows, width: int, side: str = "right") -> npt.NDArray[np.bool_]:
    """Return the mask of a padded batch, ``bool (B, L)``, true on real steps."""
    mask = np.ones((len(lengths), width), dtype=np.bool_)
    shortest = int(lengths.min(initial=width))
    if shortest < width:
        tail = np.arange(shortest, width) < lengths[:, None]
        if side == "right":
            mask[:, shortest:] = tail
        else:
            mask[:, : width - shortest] = tail[:, ::-1]
    return mask


def take_rows(column: Column, rows: Rows) -> torch.Tensor | list[Any]:
    """Take rows of a column that needs no padding: a tensor ``(B, ...)``, or a list where no tensor fits.

    Single integers come as int64 and single floats as torch's default, as labels are wanted; arrays keep their type.
    """
    if isinstance(column, Dense):
        taken = column.values[rows]
        return torch.from_numpy(taken if taken.ndim > 1 else taken.astype(_scalar_dtype(taken.dtype), copy=False))
    if isinstance(column, Ragged):
        raise TypeError("a ragged column must be padded, not taken")
    listed: list[Any] = column.values.take(pa.array(rows)).to_pylist()
    return listed


def _sliding(values: Array, width: int) -> Array:
    """View the flat buffer as overlapping rows of ``width`` steps, one from each step on; nothing is copied."""
    steps, size = values.shape
    strides = (values.strides[0], values.itemsize)
    return np.lib.stride_tricks.as_strided(values, (steps - width + 1, width * size), strides, writeable=False)


def _batch_dtype(kind: np.dtype[Any], padding: float) -> np.dtype[Any]:
    if kind.kind in "iu":
        fits = np.iinfo(kind).min <= padding <= np.iinfo(kind).max
        return kind if kind.itemsize == 1 and fits else np.dtype(np.int64)
    if kind.kind == "b":
        return kind if padding in (0, 1) else np.dtype(np.int64)
    return _default_float() if kind == np.float64 else kind


def _scalar_dtype(kind: np.dtype[Any]) -> np.dtype[Any]:
    if kind.kind in "iu":
        return np.dtype(np.int64)
    return _default_float() if kind.kind == "f" else kind


def _default_float() -> np.dtype[Any]:
    return np.dtype(np.float64 if torch.get_default_dtype() == torch.float64 else np.float32)


@dataclasses.dataclass(frozen=True)
class Padding:
    """What padding holds, and where it goes.

    Attributes:
        values: For each column; where one is missing, -100 for ``labels``, which losses ignore, and 0 for others.
        side: ``"right"`` or ``"left"``.
    """

    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    side: str = "right"

    def value(self, column: str) -> float:
        return self.values.get(column, LABEL_PADDING if column == "labels" else 0)


def collate(window: Window, turn: int, padding: Padding, state: dict[str, Json], seed: int) -> Batch:
    """Make the batch that is served ``turn``-th of its window.

    Args:
        window: Where the rows are.
        turn: Which batch, ``0 <= turn < len(window.plan)``.
        padding: What padding holds, and where it goes.
        state: What to resume from after this batch.
        seed: The batch's own seed.
    """
    rows, width = window.plan.rows(turn), window.plan.width(turn)
    lengths = window.lengths[rows]
    if window.sequence is not None:
        sequence = window.columns[window.sequence]
        if isinstance(sequence, Ragged) and not np.array_equal(own := sequence.lengths[rows], lengths):
            lengths, width = own, window.plan.rounded(own)
    cpu_lengths = torch.from_numpy(lengths)
    columns: dict[str, Any] = {}
    column_lengths: dict[str, torch.Tensor] = {}
    for name, column in window.columns.items():
        if not isinstance(column, Ragged):
            columns[name] = take_rows(column, rows)
            continue
        own = column.lengths[rows]
        aligned = np.array_equal(own, lengths)
        column_lengths[name] = cpu_lengths if aligned else torch.from_numpy(own)
        own_width = width if aligned else window.plan.rounded(own)
        columns[name] = pad_rows(column, rows, own_width, padding.value(name), padding.side)
    return Batch(
        columns=columns,
        lengths=cpu_lengths,
        device_lengths=cpu_lengths,
        mask=torch.from_numpy(real_steps(lengths, width, padding.side)),
        row_ids=torch.from_numpy(window.row_ids[rows]),
        pieces=torch.from_numpy(window.pieces[rows]),
        weights=torch.ones(len(rows)),
        column_lengths=column_lengths,
        padding_side=padding.side,
        num_tokens=int(lengths.sum()),
        seed=seed,
        window=window.number,
        state=state,
    )
