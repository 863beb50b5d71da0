"""A loader to evaluate on, and what was computed for its rows in the order of the source: what frameworks have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from seqstream.batches.batch import Batch
from seqstream.batches.restore_order import RowKeys, check_values
from seqstream.loading.loader import Loader

Predicted: TypeAlias = "tuple[int, int, Any]"
"""Row id, piece and value of a row."""


class EvaluationBatches:
    """The batches of a loader, the same at every evaluation.

    Args:
        loader: What is evaluated.

    Attributes:
        rows: The keys of the rows of each batch of the last evaluation, and how many rows it has with those made up.

    Raises:
        ValueError: The loader does not end after one epoch.
    """

    def __init__(self, loader: Loader) -> None:
        if loader.epochs != 1:
            raise ValueError(
                f"a loader to evaluate on must have epochs=1, got {loader.epochs}; make a Loader of its own for it"
            )
        self.loader = loader
        self.rows: list[tuple[RowKeys, int]] = []

    def __iter__(self) -> Iterator[Batch]:
        self.rows = []
        self.loader.set_epoch(0)
        for batch in self.loader:
            self.rows.append((RowKeys.of(batch), len(batch.row_ids)))
            yield batch

    def in_order(self, outputs: Iterable[Any], gather: Callable[[list[Predicted]], list[Predicted]]) -> list[Predicted]:
        """Return the value of each row, ascending by row id and piece.

        Args:
            outputs: For each batch of the last evaluation one value a row: a tensor ``(B, ...)`` or a sequence.
            gather: Returns the lists of all ranks as one.

        Raises:
            ValueError: There is not one value a row.
        """
        rows: list[Predicted] = []
        for (keys, num_rows), values in zip(self.rows, outputs, strict=True):
            rows += zip(keys.row_ids.tolist(), keys.pieces.tolist(), check_values(values, num_rows), strict=False)
        return sorted(gather(rows), key=lambda row: row[:2])
