"""The forms in which models take the rows of a batch: flat, step by step, nested, one after the other, with a mask.

Legend: ``B`` rows, ``L`` padded length, ``T`` steps of all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqstream.arrays import Index, flat_starts, ranges
from seqstream.batches import layouts
from seqstream.batches.document_mask import document_mask
from seqstream.batches.varlen import Packing, Varlen
from seqstream.records import IGNORE_INDEX

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

RENAMED = {"label": "labels"}
"""Columns that models know by another name."""


class Views:
    """What a `Batch` can be asked for besides its columns; its docstring says what the attributes are."""

    columns: dict[str, Any]
    jagged: dict[str, Tensor]
    lengths: Tensor
    device_lengths: Tensor
    mask: Tensor
    column_lengths: dict[str, Tensor]
    padding_side: str
    widths: dict[str, int]
    pad_values: dict[str, float]
    sequence: str | None
    packing: Packing | None

    @property
    def num_label_tokens(self) -> int:
        """How many labels are not -100, by which the sum of losses is divided; 0 without labels.

        Counted before the labels leave the CPU; only labels that were made on a device must be waited for.
        """
        known = self.__dict__.get("_num_label_tokens")
        if known is None:
            name = self._known_as("labels")
            labels = self.jagged.get(name, self.columns.get(name))  # jagged first, which has no padding to look at
            known = int((labels != IGNORE_INDEX).count_nonzero()) if isinstance(labels, Tensor) else 0
            self.__dict__["_num_label_tokens"] = known
        return int(known)

    @property
    def global_num_label_tokens(self) -> int:
        """How many labels the batches have that all ranks take at this step: what the sum of their losses is divided by.

        ``num_label_tokens`` in one process. With ranks it follows from the plan, for labels that the data has, and for those of
        `Pack`, `CausalLabels` and `TeacherForcing`.

        Raises:
            RuntimeError: Labels are made by another ``on_batch``, so no rank knows those of the others.
        """
        return self._known_labels("_global_labels", "global_num_label_tokens")

    @property
    def step_num_label_tokens(self) -> int:
        """Labels of all batches of the optimiser step, of all ranks, known from its first batch on.

        What the sum of the losses of each batch is divided by, so that those of the step add up to the mean over its labels.

        Raises:
            RuntimeError: Labels are made by another ``on_batch`` than ours, so those of later batches are not known.
        """
        return self._known_labels("_step_labels", "step_num_label_tokens")

    def _known_labels(self, field: str, name: str) -> int:
        known = self.__dict__.get(field)
        if known is None:
            return self.num_label_tokens
        if known < 0:
            raise RuntimeError(
                f"{name} cannot be known for labels that a function on_batch makes; add up batch.num_label_tokens of all "
                "ranks with torch.distributed.all_reduce, and of all batches of a step"
            )
        return int(known)

    def flat(self, name: str | None = None) -> Tensor:
        """Return a column without padding: rows one after the other, ``(T, ...)``.

        Of a batch of `Pack` it is all slots of the column, padding included, as ``cu_seqlens`` counts them; nothing is copied.

        Args:
            name: A column of sequences; by default the one of which ``lengths`` are the lengths.

        Raises:
            AttributeError: There is no such column.
            ValueError: The column has no value for each step.
        """
        name = self._sequence(name)
        if name in self.jagged:
            return self.jagged[name]
        slots, starts, lengths = self.find_rows(self._padded(name), name)
        if self.packing is None:
            slots = slots.index_select(0, layouts.send(ranges(starts, lengths), slots.device))
            self.jagged[name] = slots
        return slots

    def packed_sequence(self, values: str | Tensor | None = None, *, like: str | None = None) -> PackedSequence:
        """Return rows as RNNs take them: what `torch.nn.utils.rnn.pack_sequence` gives for a list of them.

        Args:
            values: A column, or a tensor computed from one, such as embeddings: padded ``(B, L, ...)``, or flat ``(T, ...)``.
                By default the column of which ``lengths`` are the lengths.
            like: The column that the tensor was computed from, where it is not that one.

        Returns:
            As with ``enforce_sorted=True`` where rows are longest first, and as with ``False`` where they are not: the
            outputs come in the order of the batch. For a batch of `Pack` its rows are the sequences.

        Raises:
            ValueError: A row has no step, or the tensor has another shape.
        """
        name = self._sequence(values if isinstance(values, str) else like)
        if not isinstance(values, Tensor):
            values = self.jagged[name] if name in self.jagged else self._padded(name)
        return layouts.pack(*self.find_rows(values, name))

    def nested(self, name: str | None = None) -> Tensor:
        """Return a column as a nested tensor of jagged layout, ``(B, *, ...)``, on the memory of `flat`.

        A batch of `Pack` has gaps, which such tensors do not take well: its sequences are copied together.

        Args:
            name: A column of sequences; by default the one of which ``lengths`` are the lengths.
        """
        name = self._sequence(name)
        flat, starts, lengths = self.find_rows(self.flat(name), name)
        if self.packing is not None:
            flat = flat.index_select(0, layouts.send(ranges(starts, lengths), flat.device))
        offsets = layouts.bounds(self._device_lengths(name))
        shortest, longest = int(lengths.min()), int(lengths.max())
        return torch.nested.nested_tensor_from_jagged(flat, offsets, min_seqlen=shortest, max_seqlen=longest)

    def varlen(self, causal: bool = True) -> Varlen:
        """Return rows one after the other with what FlashAttention's varlen functions want to know of them.

        For a batch of `Pack` it is the flattened batch; padding at the end of a row counts as a sequence.

        Args:
            causal: Whether the first label of each row becomes -100: a model that shifts labels would compare the end of
                the row before with it. Labels of tokens, which nothing shifts, want ``False``.
        """
        name = self._sequence(None)
        ids = self.flat(name)
        if self.packing is not None:
            cu_seqlens, longest = self.packing.cu_seqlens, self.packing.max_seqlen
            positions = self.flat("position_ids")
            rows = (positions == 0).cumsum(0) - 1
        else:
            cu_seqlens = layouts.bounds(self.device_lengths).to(torch.int32)
            longest = int(self.lengths.max())
            positions, rows = layouts.count_steps(self.device_lengths, len(ids))
        labels = self.flat("labels") if self._has_steps_of("labels", name) else None
        if labels is not None and causal:
            labels = labels.masked_fill(positions == 0, IGNORE_INDEX)
        return Varlen(ids, cu_seqlens, longest, positions, rows, labels)

    def document_mask(self, causal: bool = True) -> BlockMask:
        """Return the mask with which FlexAttention keeps sequences, and padding, apart; over ``(B, L)``.

        Padding sees padding, so that no slot sees nothing, which would give NaN.

        Args:
            causal: Whether a slot sees only itself and those before it.
        """
        return document_mask(self.mask if self.packing is None else self.columns["sequence_ids"], causal=causal)

    def mask_of(self, name: str) -> Tensor:
        """Return ``bool (B, L)``, true on real steps of a column, which may have other lengths than ``mask`` tells of."""
        width = self.widths.get(name)
        if self.packing is not None or name == self.sequence or width is None:
            return self.mask
        return layouts.step_mask(self._device_lengths(name), width, self.padding_side)

    def find_rows(self, values: Any, name: str) -> tuple[Tensor, Index, Index]:
        """Find the rows of a column, or of what was computed from it, padded or flat.

        Args:
            values: ``(B, L, ...)``, or ``(T, ...)`` as `flat` gives it.
            name: The column.

        Returns:
            The values as slots, ``(B * L, ...)`` or ``(T, ...)``; then of each row, or of each sequence of a batch of `Pack`,
            the first slot and the number of steps, ``int64 (B,)``.

        Raises:
            ValueError: The values have neither the one shape nor the other.
        """
        lengths = self.column_lengths.get(name, self.lengths).numpy()
        width = self.widths[name] if name in self.widths else self.mask.shape[1]
        shape = values.shape if isinstance(values, Tensor) else ()
        is_padded = shape[:2] == (len(lengths), width)
        total = len(lengths) * width if self.packing is not None else int(lengths.sum())
        if not is_padded and shape[:1] != (total,):
            got = tuple(shape) if isinstance(values, Tensor) else type(values).__name__
            rule = f"be padded ({len(lengths)}, {width}) or flat ({total},) in its first dimensions"
            raise ValueError(f"{name} must {rule}, got {got}")
        slots = values.flatten(0, 1) if is_padded else values
        if self.packing is not None:
            return slots, self.packing.starts.numpy(), self.packing.lengths.numpy()
        if is_padded:
            return slots, layouts.row_starts(lengths, width, self.padding_side), lengths
        return slots, flat_starts(lengths), lengths

    def _names(self) -> list[str]:
        known = self.__dict__  # without columns while unpickling
        return list({**known.get("columns", {}), **known.get("jagged", {})})

    def _is_tensor(self, name: str) -> bool:
        return name in self.jagged or isinstance(self.columns[name], Tensor)

    def _unknown(self, name: str) -> AttributeError:
        return AttributeError(f"batch has no column {name!r}; it has {', '.join(self._names())}", name=name, obj=self)

    def _known_as(self, name: str) -> str:
        """Return the name that a column has here which models call ``name``."""
        known = {**self.columns, **self.jagged}
        return next((column for column, as_ in RENAMED.items() if as_ == name and column in known and name not in known), name)

    def _padded(self, name: str) -> Any:
        """Return a column as ``columns`` has it, or has it from now on."""
        if name not in self.columns and name in self.jagged:
            lengths, width = self._device_lengths(name), self.widths[name]
            self.columns[name] = layouts.pad(self.jagged[name], lengths, width, self.pad_values[name], self.padding_side)
        return self.columns[name]

    def _make_mask(self) -> Tensor:
        width = self.widths.get(self.sequence or "", 1)
        self.__dict__["mask"] = mask = layouts.step_mask(self.device_lengths, width, self.padding_side)
        return mask

    def _sequence(self, name: str | None) -> str:
        """Return the column of sequences that is meant.

        Raises:
            AttributeError: There is no such column.
        """
        name = name or self.sequence or "input_ids"
        if name not in self.columns and name not in self.jagged:
            raise self._unknown(name)
        return name

    def _device_lengths(self, name: str) -> Tensor:
        """Return the lengths of a column on the device, those of sequences for a batch of `Pack`."""
        lengths = self.column_lengths.get(name, self.lengths) if self.packing is None else self.packing.lengths
        if lengths is self.lengths or torch.equal(lengths, self.lengths):
            return self.device_lengths
        return layouts.send(lengths.numpy(), self.device_lengths.device)

    def _has_steps_of(self, name: str, like: str) -> bool:
        if name in self.column_lengths:
            return torch.equal(self.column_lengths[name], self.column_lengths.get(like, self.lengths))
        values = self.columns.get(name)
        return isinstance(values, Tensor) and values.shape[:2] == self.mask.shape
