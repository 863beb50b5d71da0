"""Predictions back in the order of the source."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from seqstream.arrays import Index, positions
from seqstream.batches.batch import Batch

Value = TypeVar("Value")

_SORTED_AT_ONCE = 4_096
"""Rows whose keys are Python objects at the same time."""


class RowKeys(NamedTuple):
    """Keys of the first ``n`` rows of a batch, or sequences of a batch of `Pack`: all but those made up or repeated.

    Attributes:
        row_ids: ``int64 (n,)``.
        pieces: ``int64 (n,)``.
    """

    row_ids: Index
    pieces: Index

    @classmethod
    def of(cls, batch: Batch) -> RowKeys:
        """Return the keys of a batch, without waiting for a device, on which its weights may be."""
        num_rows = 0 if batch.layout.num_repeated else len(batch.row_ids) - batch.layout.num_made_up
        return cls(batch.row_ids[:num_rows].numpy(), batch.pieces[:num_rows].numpy())

    def has_after(self, row_id: int, piece: int) -> bool:
        """Return whether a row comes after another in the order of the source."""
        return bool(((self.row_ids > row_id) | ((self.row_ids == row_id) & (self.pieces > piece))).any())


def sorted_rows(batches: Sequence[RowKeys]) -> Iterator[tuple[int, int, int, int]]:
    """Yield row id, piece, number of the batch and number in the batch of all rows of some batches, ascending."""
    if not batches:
        return
    sizes = np.array([len(keys.row_ids) for keys in batches])
    row_ids, pieces = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    order = np.lexsort((pieces, row_ids))
    arrays = row_ids, pieces, np.repeat(np.arange(len(sizes)), sizes), positions(sizes)
    for start in range(0, len(order), _SORTED_AT_ONCE):
        part = order[start : start + _SORTED_AT_ONCE]
        yield from zip(*(array[part].tolist() for array in arrays), strict=True)


def restore_order(predictions: Iterable[tuple[Batch, Sequence[Value] | Tensor]]) -> Iterator[tuple[int, int, Value]]:
    """Yield the values of rows in source order, holding one window at a time.

    For a loader with ``shuffle=False``: its windows are in source order, and this function sorts the rows of each. Rows made up
    or repeated (weight 0) are left out. `predict` runs a model as well, and resumes.

    Args:
        predictions: Batches, each with one value a row: a sequence of B values, or a tensor ``(B, ...)``. For a batch of
            `Pack`, one value for each of its sequences.

    Yields:
        ``(row id, piece, value)``, ascending. ``source.locate(row_id)`` returns the location of the row's record.

    Raises:
        ValueError: There is not one value a row, a row occurs twice, or windows are not in source order.

    Example:
        >>> for row_id, piece, score in ss.restore_order((batch, model(batch)) for batch in loader):
        ...     print(source.locate(row_id), score.item())
    """
    last = (-1, -1)
    for _, window in itertools.groupby(predictions, key=lambda prediction: prediction[0].window):
        held = [(RowKeys.of(batch), check_values(values, len(batch.row_ids))) for batch, values in window]
        for row_id, piece, number, row in sorted_rows([keys for keys, _ in held]):
            if (row_id, piece) <= last:
                raise ValueError("batches must come in source order, window by window; make the loader with shuffle=False")
            last = (row_id, piece)
            yield row_id, piece, held[number][1][row]  # type: ignore[misc]  # a row of a tensor


def check_values(values: Sequence[Value] | Tensor, num_rows: int) -> Sequence[Value] | Tensor:
    """Return the values of a batch.

    Args:
        values: One value for each row.
        num_rows: Number of rows of the batch, or of sequences for a batch of `Pack`.

    Raises:
        ValueError: There is not one value a row.
    """
    if len(values) != num_rows:
        raise ValueError(f"predictions must have one value a row, got {len(values)} for {num_rows} rows")
    return values
