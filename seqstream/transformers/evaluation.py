"""Predictions of Trainer in the order of the source."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers.trainer_utils import EvalPrediction, PredictionOutput

from seqstream.arrays import Index
from seqstream.batches.batch import Batch


class Predictions(PredictionOutput):
    """What `StreamTrainer.predict` returns for a loader: ``predictions``, ``label_ids`` and ``metrics``, as Trainer has them.

    Attributes:
        row_ids: ``int64 (N,)``, the row id of each prediction, ascending: ``loader.source.locate(row_id)`` finds its record.
        pieces: ``int64 (N,)``, the number of the piece where a long record was split, else 0.
    """

    row_ids: Index
    pieces: Index

    @classmethod
    def of(cls, output: PredictionOutput, rows: EvaluatedRows) -> Predictions:
        """Return what Trainer returned, with the rows that it is of."""
        own = cls(*output)
        own.row_ids, own.pieces = rows.row_ids[rows.order], rows.pieces[rows.order]
        return own


class EvaluatedRows:
    """The rows of an evaluation in the order in which Trainer gathers their predictions from all ranks.

    Args:
        accelerator: Gathers from ranks.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._gathered: list[Tensor] = []

    def add(self, batch: Batch) -> None:
        """Add the rows of the batches that all ranks predict at once; those that weigh nothing get the id -1."""
        rows = torch.stack([batch.row_ids.masked_fill(batch.weights.cpu() == 0, -1), batch.pieces], dim=1)
        self._gathered.append(self._accelerator.gather(self.align(rows.to(self._accelerator.device), -1)).cpu())

    def align(self, values: Any, fill: int = -100) -> Any:
        """Return tensors, or tuples of them, with as many rows on every rank, since only such can be gathered."""
        return None if values is None else self._accelerator.pad_across_processes(values, dim=0, pad_index=fill)

    @property
    def row_ids(self) -> Index:
        """The row id of each predicted row."""
        return self._columns[:, 0]

    @property
    def pieces(self) -> Index:
        """The piece of each predicted row."""
        return self._columns[:, 1]

    @property
    def order(self) -> Index:
        """The real rows in the order of the source, as numbers of predicted rows."""
        order = np.lexsort((self.pieces, self.row_ids))
        return order[self.row_ids[order] >= 0]

    @property
    def _columns(self) -> Index:
        columns = torch.cat(self._gathered) if self._gathered else torch.zeros(0, 2, dtype=torch.int64)
        return columns.numpy()

    def sort(self, values: Any) -> Any:
        """Return predictions, or a tuple or a dict of them, of real rows in the order of the source."""
        if isinstance(values, np.ndarray):
            return values[self.order]
        if isinstance(values, dict):
            return {name: self.sort(value) for name, value in values.items()}
        return type(values)(map(self.sort, values)) if isinstance(values, tuple | list) else values

    def sort_for_metrics(self, prediction: EvalPrediction) -> EvalPrediction:
        """Return what ``compute_metrics`` takes, of real rows in the order of the source."""
        return EvalPrediction(
            self.sort(prediction.predictions), self.sort(prediction.label_ids), self.sort(prediction.inputs), prediction.losses
        )
