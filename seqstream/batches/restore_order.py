"""Predictions back in the order of the source."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from seqstream.batches.batch import Batch

Value = TypeVar("Value")


def restore_order(predictions: Iterable[tuple[Batch, Sequence[Value] | Tensor]]) -> Iterator[tuple[int, int, Value]]:
    """Yield what was computed for each row, in source order, holding one window at a time.

    For a loader with ``shuffle=False``: its windows come in source order, and this sorts the rows of each. Rows made up or
    repeated (weight 0) are left out.

    Args:
        predictions: For each batch, the batch and one value a row: a sequence of B, or a tensor ``(B, ...)``. For a batch of
            `Pack`, one value for each sequence in it.

    Yields:
        ``(row id, piece, value)``, ascending. ``source.locate(row_id)`` says where the row came from.

    Raises:
        ValueError: There is not one value a row, a row comes twice, or a window after one that follows it in the source.

    Example:
        >>> for row_id, piece, score in ss.restore_order((batch, model(batch)) for batch in loader):
        ...     print(source.locate(row_id), score.item())
    """
    last = (-1, -1)
    for _, window in itertools.groupby(predictions, key=lambda prediction: prediction[0].window):
        held = [row for batch, values in window for row in _real_rows(batch, values)]
        held.sort(key=lambda row: row[:2])
        for row in held:
            if row[:2] <= last:
                raise ValueError("batches must come in source order, window by window; make the loader with shuffle=False")
            last = row[:2]
            yield row


def _real_rows(batch: Batch, values: Sequence[Value] | Tensor) -> list[tuple[int, int, Value]]:
    num_rows = len(batch.row_ids)  # of a batch of `Pack` its sequences
    if len(values) != num_rows:
        raise ValueError(f"predictions must have one value a row, got {len(values)} for {num_rows} rows")
    rows = zip(batch.row_ids.tolist(), batch.pieces.tolist(), values, strict=True)
    return [row for row, weight in zip(rows, batch.weights.tolist(), strict=True) if weight > 0]
