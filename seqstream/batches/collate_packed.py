"""Sequences of a window -> a batch of packed rows: gathered, numbered and labelled without a loop over sequences.

Legend: ``R`` rows of the batch, ``L`` slots of a row, ``S`` sequences, ``P`` runs: sequences, and padding at the end of rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from seqstream.arrays import Index, Mask, flat_starts, positions
from seqstream.batches.batch import Batch
from seqstream.batches.batch_layout import BatchLayout
from seqstream.batches.collate import assemble_batch
from seqstream.batches.padding import Padding, gather_rows, gather_steps
from seqstream.batches.varlen import Packing
from seqstream.planning.pack import PackedPlan
from seqstream.records import IGNORE_INDEX, Json
from seqstream.windows.columns import MADE_BY_PACKING, Ragged
from seqstream.windows.window import Window

_OF_EACH_SLOT = (*MADE_BY_PACKING, "labels")


@dataclasses.dataclass(frozen=True)
class _Runs:
    """How the slots of a batch are divided: every slot belongs to one run.

    Attributes:
        lengths: ``int64 (P,)``.
        starts: ``int64 (P,)``, first slot of each.
        is_real: ``bool (P,)``, false for padding.
        numbers: ``int64 (P,)``, number of the sequence in its row, -1 for padding.
    """

    lengths: Index
    starts: Index
    is_real: Mask
    numbers: Index

    @classmethod
    def of(cls, slots: Index, lengths: Index, row_length: int, num_rows: int) -> _Runs:
        """Return sequences, and the runs of padding between them.

        Args:
            slots: ``int64 (S,)``, first slot of each sequence in the flattened batch, ascending.
            lengths: ``int64 (S,)``.
            row_length: ``L``.
            num_rows: ``R``.
        """
        free = np.append(slots[1:], num_rows * row_length) - (slots + lengths)
        before_padding = np.flatnonzero(free)
        inserted = before_padding + 1
        run_lengths = np.insert(lengths, inserted, free[before_padding])
        is_real = np.insert(np.ones(len(slots), dtype=np.bool_), inserted, False)
        rows = slots // row_length
        first_of_row = np.searchsorted(rows, rows)
        numbers = np.insert(np.arange(len(slots)) - first_of_row, inserted, -1)
        return cls(run_lengths, flat_starts(run_lengths), is_real, numbers)

    def packing(self) -> Packing:
        """Return where the sequences lie, and the bounds of all runs."""
        ends = np.append(self.starts, self.starts[-1] + self.lengths[-1])
        return Packing(
            starts=torch.from_numpy(self.starts[self.is_real]),
            lengths=torch.from_numpy(self.lengths[self.is_real]),
            cu_seqlens=torch.from_numpy(ends.astype(np.int32)),
            max_seqlen=int(self.lengths.max()),
        )


def collate_packed(window: Window, turn: int, padding: Padding, state: dict[str, Json], seed: int, *, causal: bool) -> Batch:
    """Return the batch of packed rows that is served ``turn``-th of its window.

    Args:
        window: The window that holds the sequences; its plan is a `PackedPlan`.
        turn: Which batch, ``0 <= turn < len(window.plan)``.
        padding: What padding holds.
        state: What to resume from after this batch.
        seed: The seed of the batch's own generator.
        causal: Whether labels are those of next-token prediction.

    Raises:
        TypeError: The plan is not of packed rows.
    """
    slices, plan = window.slices, window.plan
    if not isinstance(plan, PackedPlan):
        raise TypeError(f"plan must be a RowPlan, got {type(plan).__name__}")
    batch = slices.turns[turn]
    rows = slice(slices.cuts[batch], slices.cuts[batch + 1])
    runs = _Runs.of(plan.slots[rows], plan.lengths[rows], plan.row_length, plan.num_rows)
    mask = np.repeat(runs.is_real, runs.lengths).reshape(plan.num_rows, plan.row_length)
    columns = _packed_columns(window, rows, runs, mask, padding=padding, num_made_up=plan.num_made_up[batch])
    if causal and "input_ids" in columns:
        columns["labels"] = _causal_labels(columns, mask, plan.slots[rows])
        if slices.num_repeated[batch]:  # of all rows, which another rank learns from
            columns["labels"].fill_(IGNORE_INDEX)
    lengths = torch.from_numpy(mask.sum(1))
    packed = [name for name in columns if name in slices.spans or name in _OF_EACH_SLOT]
    layout = BatchLayout(
        columns=columns,
        jagged={},
        device_lengths=lengths,
        column_lengths=dict.fromkeys(packed, lengths),
        widths=dict.fromkeys(packed, plan.row_length),
        pad_values={name: padding.value(name) for name in packed},
        sequence=window.sequence,
        packing=runs.packing(),
        num_made_up=plan.num_made_up[batch],
        num_repeated=slices.num_repeated[batch],
        seed=seed,
    )
    fields = {"lengths": lengths, "mask": torch.from_numpy(mask), "padding_side": "right", "num_slots": mask.size}
    return assemble_batch(window, turn, {**fields, "state": state, "layout": layout})


def _packed_columns(
    window: Window, rows: slice, runs: _Runs, mask: Mask, *, padding: Padding, num_made_up: int
) -> dict[str, Any]:
    """Return all columns: those of sequences packed, the position of each slot in its sequence, and the sequence's number.

    Args:
        window: The window that holds the sequences.
        rows: The sequences of the batch, in plan order.
        runs: How the slots are divided.
        mask: ``bool (R, L)``, true on real steps.
        padding: What padding holds.
        num_made_up: How many of the last sequences are made up.
    """
    order = window.plan.order[rows]
    columns: dict[str, Any] = {}
    for name, column in window.columns.items():
        if not isinstance(column, Ragged):
            value = padding.made_up_value(name)
            columns[name] = gather_rows(column, order, num_made_up=num_made_up, made_up_value=value)
            continue
        value = padding.value(name)
        starts = np.zeros(len(runs.lengths), dtype=np.int64)  # padding is read from anywhere, and overwritten
        starts[runs.is_real] = window.slices.spans[name].starts[rows]
        slots = gather_steps(column, starts, runs.lengths, value)
        slots[~mask.ravel()] = value
        if num_made_up:
            slots[runs.starts[runs.is_real][-num_made_up:]] = value
        columns[name] = torch.from_numpy(slots.reshape(*mask.shape, *column.shape))
    columns["position_ids"] = torch.from_numpy(positions(runs.lengths).reshape(mask.shape))
    columns["sequence_ids"] = torch.from_numpy(np.repeat(runs.numbers, runs.lengths).reshape(mask.shape))
    return columns


def _causal_labels(columns: dict[str, Any], mask: Mask, slots: Index) -> torch.Tensor:
    """Return labels of next-token prediction, ``int64 (R, L)``: -100 on padding and on the first step of every sequence.

    Args:
        columns: Columns of the batch; the labels are those of the data, else the ids.
        mask: ``bool (R, L)``, true on real steps.
        slots: ``int64 (S,)``, first slot of each sequence in the flattened batch.
    """
    labels: torch.Tensor = columns.get("labels", columns["input_ids"]).clone()
    flat = labels.view(-1)
    flat[torch.from_numpy(~mask.ravel())] = IGNORE_INDEX
    flat[torch.from_numpy(slots)] = IGNORE_INDEX
    return labels
