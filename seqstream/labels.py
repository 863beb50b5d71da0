"""Labels that models want, made ahead of the consumer: functions for ``Loader(on_batch=...)``."""

from __future__ import annotations

import dataclasses

from seqstream.batch import Batch
from seqstream.collating import LABEL_PADDING


@dataclasses.dataclass(frozen=True)
class CausalLabels:
    """Add ``labels`` for next-token prediction: the ids themselves, -100 on padding.

    They are not shifted: models of transformers do that themselves, and compare position ``i`` of the logits with ``i + 1`` here.

    Args:
        column: The ids to predict.
    """

    column: str = "input_ids"

    def __call__(self, batch: Batch) -> Batch:
        return batch.with_columns(labels=batch[self.column].masked_fill(~batch.mask, LABEL_PADDING))
