"""Labels that models want, made ahead of the consumer: functions for ``Loader(on_batch=...)``."""

from __future__ import annotations

import dataclasses

import torch

from seqstream.batch import Batch
from seqstream.collating import LABEL_PADDING, real_steps


@dataclasses.dataclass(frozen=True)
class CausalLabels:
    """Add ``labels`` for next-token prediction: the ids themselves, -100 on padding.

    They are not shifted: models of transformers do that themselves, and compare position ``i`` of the logits with ``i + 1``
    here.

    Args:
        column: The ids to predict.
    """

    column: str = "input_ids"

    def __call__(self, batch: Batch) -> Batch:
        ids = getattr(batch, self.column)
        mask = batch.mask
        own = batch.column_lengths.get(self.column, batch.lengths)
        if not torch.equal(own, batch.lengths):
            mask = torch.from_numpy(real_steps(own.numpy(), ids.shape[1], batch.padding_side)).to(ids.device)
        return batch.with_columns(labels=ids.masked_fill(~mask, LABEL_PADDING))
