"""The forms in which models take the rows of a batch: flat, packed, nested, of variable length, with a mask.

Legend: ``B`` rows, ``L`` padded length, ``T`` steps of all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqstream.arrays import Index, flat_starts, ranges
from seqstream.batches import ragged_tensors
from seqstream.batches.batch_layout import BatchLayout
from seqstream.batches.document_mask import document_mask
from seqstream.batches.varlen import Varlen
from seqstream.records import IGNORE_INDEX

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class Views:
    """What a `Batch` computes from its columns; the attributes are described there."""

    lengths: Tensor
    mask: Tensor
    row_ids: Tensor
    weights: Tensor
    padding_side: str
    num_tokens: int
    num_slots: int
    step_num_tokens: int
    layout: BatchLayout

    @property
    def num_label_tokens(self) -> int:
        """Number of labels other than -100, by which the sum of losses is divided; 0 without labels.

        Counted before the labels leave the CPU. Only the count of labels that were computed on a device waits for that device.
        """
        known = self.__dict__.get("_num_label_tokens")
        if known is None:
            layout = self.layout
            name = layout.column_of("labels") or ""
            labels = layout.jagged.get(name, layout.columns.get(name))  # flat first, which has no padding to compare
            known = int((labels != IGNORE_INDEX).count_nonzero()) if isinstance(labels, Tensor) else 0
            self.__dict__["_num_label_tokens"] = known
        return int(known)

    @property
    def global_num_label_tokens(self) -> int:
        """Number of labels in the batches that all ranks take at once: what the sum of their losses is divided by.

        ``num_label_tokens`` in one process. On several ranks it is known for labels that the data has, for those of `Pack`, and
        for those of a function ``on_batch`` that has a ``label_rule``, as `CausalLabels` and `TeacherForcing` have.

        Raises:
            RuntimeError: ``on_batch`` has no ``label_rule``, or draws labels at random, so no rank knows those of the others.
        """
        return self._known_labels("_global_labels", "global_num_label_tokens")

    @property
    def step_num_label_tokens(self) -> int:
        """Number of labels in all batches of the optimiser step, of all ranks, known from its first batch on.

        What the sum of the losses of each batch is divided by, so that those of the step add up to the mean over its labels.

        Raises:
            RuntimeError: ``on_batch`` has no ``label_rule``, or draws labels at random, so later batches cannot be counted.
        """
        return self._known_labels("_step_labels", "step_num_label_tokens")

    @property
    def step_share(self) -> float:
        """Share of this batch in the labels of its step, of all ranks, 0 to 1; in its tokens where there are no labels.

        Mean losses of batches, each times its share, add up to the mean over all labels of the step. On several ranks multiply
        by their number too, as DistributedDataParallel takes the mean of gradients. Labels that ``on_batch`` draws at random
        are not known for later batches: of such steps it is the share in the tokens.
        """
        total, own = self.__dict__.get("_step_labels"), self.num_label_tokens
        if total is None:  # a step of one batch of one rank
            return 1.0
        return own / total if total > 0 else self.num_tokens / max(self.step_num_tokens, 1)

    def stats(self) -> dict[str, float]:
        """Return numbers of this batch for a logger, by name.

        Whole numbers: ``rows``, of which ``made_up_rows`` and ``repeated_rows`` weigh nothing; ``tokens`` without padding,
        ``slots`` with it, ``labels`` other than -100; ``shortest`` and ``longest`` row, in tokens. ``padding`` is the share of
        the slots, 0 to 1. The rows of a batch of `Pack` are counted as sequences, apart from ``shortest`` and ``longest``.
        """
        layout, lengths = self.layout, self.lengths
        return {
            "rows": len(self.row_ids),
            "made_up_rows": layout.num_made_up,
            "repeated_rows": layout.num_repeated,
            "tokens": self.num_tokens,
            "slots": self.num_slots,
            "padding": 1 - self.num_tokens / max(self.num_slots, 1),
            "labels": self.num_label_tokens,
            "shortest": int(lengths.min()),
            "longest": int(lengths.max()),
        }

    def _known_labels(self, field: str, name: str) -> int:
        """Return a number of labels that was counted with the window, or of this batch where it is alone.

        Raises:
            RuntimeError: They could not be counted, and stand as -1.
        """
        known = self.__dict__.get(field)
        if known is None:
            return self.num_label_tokens
        if known < 0:
            raise RuntimeError(
                f"{name} cannot be known for labels that on_batch adds without a label_rule, or draws at random; for a "
                "function fn that calls ss.CausalLabels() set fn.label_rule = ss.CausalLabels().label_rule, for others add up "
                "batch.num_label_tokens of all ranks with torch.distributed.all_reduce, and of all batches of a step"
            )
        return int(known)

    def flat(self, name: str | None = None) -> Tensor:
        """Return a column without padding: rows one after the other, ``(T, ...)``.

        For a batch of `Pack` the result is all slots of the column, padding included, as ``cu_seqlens`` counts them, and shares
        its memory.

        Args:
            name: A column of sequences; by default the one whose lengths are ``lengths``.

        Raises:
            AttributeError: There is no such column.
            ValueError: The column has no value for each step.
        """
        layout, name = self.layout, self._sequence(name)
        if name in layout.jagged:
            return layout.jagged[name]
        slots, starts, lengths = self.find_rows(self._padded(name), name)
        if layout.packing is None:
            slots = slots.index_select(0, ragged_tensors.to_device(ranges(starts, lengths), slots.device))
            layout.jagged[name] = slots
        return slots

    def packed_sequence(self, values: str | Tensor | None = None, *, like: str | None = None) -> PackedSequence:
        """Return rows as RNNs take them: what `torch.nn.utils.rnn.pack_sequence` returns for a list of them.

        Args:
            values: A column, or a tensor computed from one, such as embeddings: padded ``(B, L, ...)``, or flat ``(T, ...)``.
                By default the column whose lengths are ``lengths``.
            like: The column that the tensor was computed from; by default the one whose lengths are ``lengths``.

        Returns:
            As with ``enforce_sorted=True`` where rows are longest first, and as with ``False`` where they are not: outputs are
            in the order of the batch. For a batch of `Pack` its rows are the sequences.

        Raises:
            AttributeError: There is no such column.
            ValueError: A row has no step, or the tensor has another shape.
        """
        name = self._sequence(values if isinstance(values, str) else like)
        if not isinstance(values, Tensor):
            jagged = self.layout.jagged
            values = jagged[name] if name in jagged else self._padded(name)
        return ragged_tensors.pack_rows(*self.find_rows(values, name))

    def nested(self, name: str | None = None) -> Tensor:
        """Return a column as a nested tensor of jagged layout, ``(B, *, ...)``, on the memory of `flat`.

        A batch of `Pack` has padding between sequences, which such tensors do not support well: its sequences are copied.

        Args:
            name: A column of sequences; by default the one whose lengths are ``lengths``.

        Raises:
            AttributeError: There is no such column.
        """
        name = self._sequence(name)
        flat, starts, lengths = self.find_rows(self.flat(name), name)
        if self.layout.packing is not None:
            flat = flat.index_select(0, ragged_tensors.to_device(ranges(starts, lengths), flat.device))
        offsets = ragged_tensors.row_bounds(self.device_lengths_of(name))
        shortest, longest = int(lengths.min()), int(lengths.max())
        return torch.nested.nested_tensor_from_jagged(flat, offsets, min_seqlen=shortest, max_seqlen=longest)

    def varlen(self, causal: bool = True) -> Varlen:
        """Return rows one after the other, with the bounds that FlashAttention's varlen functions take.

        For a batch of `Pack` it is the flattened batch; padding at the end of a row counts as a sequence.

        Args:
            causal: Whether the first label of each row becomes -100: a model that shifts labels would compare the end of
                the row before with it. Labels of tokens, which no model shifts, need ``False``.
        """
        layout, name = self.layout, self._sequence(None)
        ids = self.flat(name)
        if layout.packing is not None:
            cu_seqlens, longest = layout.packing.cu_seqlens, layout.packing.max_seqlen
            positions = self.flat("position_ids")
            rows = (positions == 0).cumsum(0) - 1
        else:
            cu_seqlens = ragged_tensors.row_bounds(layout.device_lengths).to(torch.int32)
            longest = int(self.lengths.max())
            positions, rows = ragged_tensors.count_steps(layout.device_lengths, len(ids))
        labels = self.flat("labels") if self._has_steps_of("labels", name) else None
        if labels is not None and causal:
            labels = labels.masked_fill(positions == 0, IGNORE_INDEX)
        return Varlen(ids, cu_seqlens, longest, positions, rows, labels)

    def document_mask(self, causal: bool = True) -> BlockMask:
        """Return the mask over ``(B, L)`` with which FlexAttention keeps sequences, and padding, apart.

        Padding attends to padding: the result of a slot that attends to nothing is NaN.

        Args:
            causal: Whether a slot attends only to itself and to slots before it.
        """
        documents = self.mask if self.layout.packing is None else self.layout.columns["sequence_ids"]
        return document_mask(documents, causal=causal)

    def mask_of(self, name: str) -> Tensor:
        """Return ``bool (B, L)``, true on real steps of a column, whose lengths may differ from ``lengths``."""
        layout = self.layout
        width = layout.widths.get(name)
        if layout.packing is not None or name == layout.sequence or width is None:
            return self.mask
        return ragged_tensors.step_mask(self.device_lengths_of(name), width, self.padding_side)

    def find_rows(self, values: Any, name: str) -> tuple[Tensor, Index, Index]:
        """Find the rows of a column, or of a tensor computed from it, padded or flat.

        Args:
            values: ``(B, L, ...)``, or ``(T, ...)`` in the form of `flat`.
            name: The column.

        Returns:
            The values as slots, ``(B * L, ...)`` or ``(T, ...)``; then the first slot and the number of steps of each row, or
            of each sequence of a batch of `Pack`, ``int64 (B,)``.

        Raises:
            ValueError: The values have neither shape.
        """
        layout = self.layout
        lengths = layout.column_lengths.get(name, self.lengths).numpy()
        width = layout.widths[name] if name in layout.widths else self.mask.shape[1]
        shape = values.shape if isinstance(values, Tensor) else ()
        is_padded = shape[:2] == (len(lengths), width)
        total = len(lengths) * width if layout.packing is not None else int(lengths.sum())
        if not is_padded and shape[:1] != (total,):
            got = tuple(shape) if isinstance(values, Tensor) else type(values).__name__
            rule = f"be padded ({len(lengths)}, {width}) or flat ({total},) in its first dimensions"
            raise ValueError(f"{name} must {rule}, got {got}")
        slots = values.flatten(0, 1) if is_padded else values
        if layout.packing is not None:
            return slots, layout.packing.starts.numpy(), layout.packing.lengths.numpy()
        if is_padded:
            return slots, ragged_tensors.row_starts(lengths, width, self.padding_side), lengths
        return slots, flat_starts(lengths), lengths

    def _padded(self, name: str) -> Any:
        """Return a column in its padded form, which is kept."""
        layout = self.layout
        if name not in layout.columns:
            flat, lengths = layout.jagged[name], self.device_lengths_of(name)
            width, value = layout.widths[name], layout.pad_values[name]
            layout.columns[name] = ragged_tensors.pad_flat(flat, lengths, width, value, self.padding_side)
        return layout.columns[name]

    def _make_mask(self) -> Tensor:
        """Return the mask, which is kept."""
        width = self.layout.widths.get(self.layout.sequence or "", 1)
        mask = ragged_tensors.step_mask(self.layout.device_lengths, width, self.padding_side)
        self.__dict__["mask"] = mask
        return mask

    def _sequence(self, name: str | None) -> str:
        """Return the column that an argument means; ``None`` means the one whose lengths are ``lengths``.

        Raises:
            AttributeError: There is no such column.
        """
        name = name or self.layout.sequence or "input_ids"
        if name not in self.layout:
            columns = ", ".join(self.layout.names) or "(none)"
            raise AttributeError(f"batch has no column {name!r}; it has {columns}", name=name, obj=self)
        return name

    def device_lengths_of(self, name: str) -> Tensor:
        """Return the lengths of a column on the device, those of sequences for a batch of `Pack`."""
        layout = self.layout
        lengths = layout.column_lengths.get(name, self.lengths) if layout.packing is None else layout.packing.lengths
        if lengths is self.lengths or torch.equal(lengths, self.lengths):
            return layout.device_lengths
        return ragged_tensors.to_device(lengths.numpy(), layout.device_lengths.device)

    def _has_steps_of(self, name: str, like: str) -> bool:
        """Return whether there is a column with a value for each step of another."""
        layout = self.layout
        if name in layout.column_lengths:
            return torch.equal(layout.column_lengths[name], layout.column_lengths.get(like, self.lengths))
        values = layout.columns.get(name)
        return isinstance(values, Tensor) and values.shape[:2] == self.mask.shape
