"""Predictions back in the order of the source."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor

from seqstream.batches.batch import Batch

Value = TypeVar("Value")


def restore_order(predictions: Iterable[tuple[Batch, Sequence[Value] | Tensor]]) -> Iterator[tuple[int, int, Value]]:
    """Yield the values of rows in source order, holding one window at a time.

    For a loader with ``shuffle=False``: its windows are in source order, and this function sorts the rows of each. Rows made up
    or repeated (weight 0) are left out.

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
        rows = [row for batch, values in window for row in real_rows(batch, values)]
        rows.sort(key=lambda row: row[:2])
        for row in rows:
            if row[:2] <= last:
                raise ValueError("batches must come in source order, window by window; make the loader with shuffle=False")
            last = row[:2]
            yield row


class BatchRows(NamedTuple):
    """The rows of a batch, without its columns.

    Attributes:
        row_ids: ``int64 (B,)``.
        pieces: ``int64 (B,)``.
        weights: ``float32 (B,)``.
    """

    row_ids: Tensor
    pieces: Tensor
    weights: Tensor


def real_rows(batch: Batch | BatchRows, values: Sequence[Value] | Tensor) -> list[tuple[int, int, Value]]:
    """Return row ids, pieces and values of the rows that weigh.

    Raises:
        ValueError: There is not one value a row.
    """
    num_rows = len(batch.row_ids)  # sequences in a batch of `Pack`
    if len(values) != num_rows:
        raise ValueError(f"predictions must have one value a row, got {len(values)} for {num_rows} rows")
    rows = zip(batch.row_ids.tolist(), batch.pieces.tolist(), values, strict=True)
    return [row for row, weight in zip(rows, batch.weights.tolist(), strict=True) if weight > 0]
