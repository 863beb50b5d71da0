"""Labels that models want, made ahead of the consumer: functions for ``Loader(on_batch=...)``."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from seqstream.arrays import Index
from seqstream.batches import layouts
from seqstream.batches.batch import Batch
from seqstream.options import column_name
from seqstream.records import IGNORE_INDEX
from seqstream.stages.row_labels import LabelRule


@dataclasses.dataclass(frozen=True)
class CausalLabels:
    """Add ``labels`` for next-token prediction: the ids themselves, -100 on padding and on the first token of each sequence.

    They are not shifted: models of transformers do that themselves, and compare position ``i`` of the logits with ``i + 1``
    here. So nothing predicts the first token, and where sequences lie one after the other, the end of the one before does not
    either: the labels are right padded, flat and packed. Rows of one token, of which nothing is predicted, are dropped, and
    counted as `Stats.rows_without_labels`.

    Args:
        column: The ids to predict.
    """

    column: str = "input_ids"

    def __post_init__(self) -> None:
        column_name("column", self.column)

    @property
    def label_rule(self) -> LabelRule:
        """Which steps of a window are labels, for the ranks that share it."""
        return LabelRule(self.column, is_shifted=True)

    def __call__(self, batch: Batch) -> Batch:
        labels, firsts = _labels_from(batch, self.column)
        labels.flatten().index_fill_(0, layouts.send(firsts, labels.device), IGNORE_INDEX)
        return put_beside(batch, self.column, labels=labels)


@dataclasses.dataclass(frozen=True)
class TeacherForcing:
    """Make of a source and a target what encoder-decoder models want: ``input_ids``, ``labels`` and ``decoder_input_ids``.

    The source becomes ``input_ids``, and ``lengths`` and ``mask`` are its own. ``labels`` are the target, -100 on padding and
    in rows made up. ``decoder_input_ids`` are the labels one step later, behind ``start_id``, and the padding value of the
    target where those are -100: what models of transformers make of labels themselves, but right for padding on the left too,
    where ``decoder_attention_mask`` is given as well.

    Args:
        start_id: What the decoder starts from; ``model.config.decoder_start_token_id``.
        source: The ids to read.
        target: The ids to predict.

    Raises:
        ValueError: The batch is one of `Pack`, or has another column named ``input_ids``.
    """

    start_id: int
    _: dataclasses.KW_ONLY
    source: str = "source_ids"
    target: str = "target_ids"

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            column_name(name, getattr(self, name))

    @property
    def label_rule(self) -> LabelRule:
        """Which steps of a window are labels, for the ranks that share it."""
        return LabelRule(self.target)

    def __call__(self, batch: Batch) -> Batch:
        if batch.packing is not None:
            raise ValueError("TeacherForcing cannot take a batch of Pack, whose rows hold several sequences; use Bucket")
        labels, firsts = _labels_from(batch, self.target)
        inputs = torch.nn.functional.pad(labels[..., :-1], (1, 0), value=IGNORE_INDEX)
        inputs.flatten().index_fill_(0, layouts.send(firsts, inputs.device), self.start_id)
        inputs.masked_fill_(inputs == IGNORE_INDEX, batch.pad_values[self.target])
        batch = put_beside(batch, self.target, labels=labels, decoder_input_ids=inputs)
        if batch.padding_side == "left":
            batch = batch.with_columns(self.target, decoder_attention_mask=batch.mask_of(self.target).long())
        batch = batch.with_lengths_of(self.source).without(self.target)
        return batch if self.source == "input_ids" else batch.renamed(**{self.source: "input_ids"})


def is_flat(batch: Batch, column: str) -> bool:
    """Tell whether a column is there flat alone, so that padding it would be work for nothing."""
    return column in batch.jagged and column not in batch.columns


def put_beside(batch: Batch, column: str, **columns: Tensor) -> Batch:
    """Return the batch with columns of the form and the rows of another."""
    if is_flat(batch, column):
        return batch.with_flat(column, **columns)
    return batch.with_columns(column if column in batch.column_lengths else None, **columns)


def _labels_from(batch: Batch, column: str) -> tuple[Tensor, Index]:
    """Return a copy of ids, -100 on padding and in rows of no weight, and the slots of the first of each row that has any."""
    if is_flat(batch, column):
        labels = batch.jagged[column].clone()
    else:
        try:
            ids = getattr(batch, column).contiguous()  # so that slots are a view of it
        except AttributeError as error:
            raise ValueError(f"column must be one of the batch: {error}") from None
        labels = torch.where(batch.mask_of(column), ids, IGNORE_INDEX)
    slots, starts, lengths = batch.find_rows(labels, column)
    if none := batch.num_made + batch.num_repeated:  # the last rows
        slots[starts[-none] :] = IGNORE_INDEX
    return labels, starts[np.flatnonzero(lengths)]
