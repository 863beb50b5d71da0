"""Labels for causal and encoder-decoder models, computed ahead of the consumer: functions for ``Loader(on_batch=...)``."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from seqstream.arrays import Index
from seqstream.batches import ragged_tensors
from seqstream.batches.batch import Batch
from seqstream.options import column_name
from seqstream.records import IGNORE_INDEX
from seqstream.stages.label_filter import LabelRule


@dataclasses.dataclass(frozen=True)
class CausalLabels:
    """Add ``labels`` for next-token prediction: the ids themselves, -100 on padding and on the first token of each sequence.

    The labels are not shifted: models of transformers compare position ``i`` of the logits with label ``i + 1``. So nothing
    predicts the first token of a sequence, also where sequences lie one after the other: the labels are right in padded, flat
    and packed form. Rows of one token, of which nothing is predicted, are dropped, and counted as `Stats.rows_without_labels`.

    A loader drops such rows, and counts the labels of all ranks and of later batches of a step, by the attribute
    ``label_rule``. A function around this one, also a lambda, has to pass it on before it is given to a loader:

        causal = ss.CausalLabels()
        on_batch = lambda batch: add_features(causal(batch))
        on_batch.label_rule = causal.label_rule

    Without it `Batch.global_num_label_tokens` and `Batch.step_num_label_tokens` raise an error; see `LabelRule`.

    Args:
        column: The ids to predict.
    """

    column: str = "input_ids"

    def __post_init__(self) -> None:
        column_name("column", self.column)

    @property
    def label_rule(self) -> LabelRule:
        """Which steps of a row become labels: all but the first."""
        return LabelRule(self.column, is_shifted=True)

    def __call__(self, batch: Batch) -> Batch:
        labels, firsts = _labels_from(batch, self.column)
        labels.flatten().index_fill_(0, ragged_tensors.to_device(firsts, labels.device), IGNORE_INDEX)
        return with_like(batch, self.column, labels=labels)


@dataclasses.dataclass(frozen=True)
class TeacherForcing:
    """Turn a source and a target into what encoder-decoder models take: ``input_ids``, ``labels`` and ``decoder_input_ids``.

    The source becomes ``input_ids``, and ``lengths`` and ``mask`` are its own. ``labels`` are the target, -100 on padding and
    in rows made up. ``decoder_input_ids`` are the labels one step later, behind ``start_id``, and the padding value of the
    target where those are -100. Models of transformers derive the same from the labels, but only for padding on the right;
    for padding on the left there is ``decoder_attention_mask`` as well.

    A function around it has to pass on its ``label_rule``, by which a loader counts labels: see `CausalLabels`.

    Args:
        start_id: The first token of the decoder's input: ``model.config.decoder_start_token_id``.
        source: The column of ids to read.
        target: The column of ids to predict.

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
        """Which steps of a row become labels: all of the target."""
        return LabelRule(self.target)

    def __call__(self, batch: Batch) -> Batch:
        if batch.layout.packing is not None:
            raise ValueError("TeacherForcing cannot take a batch of Pack, whose rows hold several sequences; use Bucket")
        labels, firsts = _labels_from(batch, self.target)
        inputs = torch.nn.functional.pad(labels[..., :-1], (1, 0), value=IGNORE_INDEX)
        inputs.flatten().index_fill_(0, ragged_tensors.to_device(firsts, inputs.device), self.start_id)
        inputs.masked_fill_(inputs == IGNORE_INDEX, batch.layout.pad_values[self.target])
        batch = with_like(batch, self.target, labels=labels, decoder_input_ids=inputs)
        if batch.padding_side == "left":
            batch = batch.with_columns(self.target, decoder_attention_mask=batch.mask_of(self.target).long())
        batch = batch.with_lengths_of(self.source).without(self.target)
        return batch if self.source == "input_ids" else batch.renamed(**{self.source: "input_ids"})


def is_flat_only(batch: Batch, column: str) -> bool:
    """Return whether a column is flat and was never padded, so that padding it would be unneeded work."""
    return column in batch.layout.jagged and column not in batch.layout.columns


def read_ids(batch: Batch, column: str) -> Tensor:
    """Return a column of ids, flat where it is only that, else padded and contiguous, so that its slots are a view of it.

    Raises:
        ValueError: The batch has no such column.
    """
    if column not in batch.layout:
        raise ValueError(f"column must be one of the batch ({', '.join(batch.layout.names)}), got {column!r}")
    if is_flat_only(batch, column):
        return batch.layout.jagged[column]
    ids: Tensor = batch[column].contiguous()
    return ids


def clear_unweighted(batch: Batch, column: str, values: Tensor, value: float) -> None:
    """Overwrite rows made up or repeated, which nothing is learned from, in values of the form of a column."""
    if num_rows := batch.layout.num_made_up + batch.layout.num_repeated:  # the last rows
        slots, starts, _ = batch.find_rows(values, column)
        slots[starts[-num_rows] :] = value


def with_like(batch: Batch, like: str, **columns: Tensor) -> Batch:
    """Return the batch with columns added or replaced that have the form and the rows of another."""
    if is_flat_only(batch, like):
        return batch.with_flat(like, **columns)
    return batch.with_columns(like if like in batch.layout.column_lengths else None, **columns)


def _labels_from(batch: Batch, column: str) -> tuple[Tensor, Index]:
    """Return labels from ids: a copy, -100 on padding and in rows of weight 0, and the first slot of each row that has ids."""
    ids = read_ids(batch, column)
    labels = ids.clone() if is_flat_only(batch, column) else torch.where(batch.mask_of(column), ids, IGNORE_INDEX)
    clear_unweighted(batch, column, labels, IGNORE_INDEX)
    _, starts, lengths = batch.find_rows(labels, column)
    return labels, starts[np.flatnonzero(lengths)]
