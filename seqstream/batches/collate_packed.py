"""Sequences of a window -> rows packed with them: gathered, numbered and labelled with no loop over rows.

Legend: ``R`` rows of the batch, ``L`` slots of a row, ``S`` sequences, ``P`` runs: sequences, and padding at the end of rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from seqstream.arrays import positions
from seqstream.batches.batch import Batch
from seqstream.batches.collate import of_step
from seqstream.batches.padding import Padding, Rows, gather_steps, take_rows
from seqstream.batches.varlen import Packing
from seqstream.planning.pack import RowPlan
from seqstream.records import IGNORE_INDEX, Json
from seqstream.windows.columns import MADE_BY_PACKING, Array, Ragged
from seqstream.windows.window import Window

_MADE_HERE = (*MADE_BY_PACKING, "labels")


@dataclasses.dataclass(frozen=True)
class _Runs:
    """How the slots of a batch are divided: every slot belongs to one run.

    Attributes:
        lengths: ``int64 (P,)``.
        starts: ``int64 (P,)``, first slot of each.
        is_real: ``bool (P,)``, false for padding.
        numbers: ``int64 (P,)``, number of the sequence in its row, -1 for padding.
    """

    lengths: Rows
    starts: Rows
    is_real: Array
    numbers: Rows

    @classmethod
    def of(cls, slots: Rows, lengths: Rows, row_length: int, num_rows: int) -> _Runs:
        """Find the runs of padding between sequences that begin at ``slots``, in ascending order."""
        ends = slots + lengths
        free = np.append(slots[1:], num_rows * row_length) - ends
        after = np.flatnonzero(free)
        places = after + 1
        run_lengths = np.insert(lengths, places, free[after])
        is_real = np.insert(np.ones(len(slots), dtype=np.bool_), places, False)
        rows = slots // row_length
        first = np.searchsorted(rows, rows)
        numbers = np.insert(np.arange(len(slots)) - first, places, -1)
        return cls(run_lengths, np.cumsum(run_lengths) - run_lengths, is_real, numbers)

    def packing(self) -> Packing:
        """Return what a batch says of its sequences, and of the runs that they are among."""
        ends = np.append(self.starts, self.starts[-1] + self.lengths[-1])
        return Packing(
            starts=torch.from_numpy(self.starts[self.is_real]),
            lengths=torch.from_numpy(self.lengths[self.is_real]),
            cu_seqlens=torch.from_numpy(ends.astype(np.int32)),
            max_seqlen=int(self.lengths.max()),
        )


def collate_packed(window: Window, turn: int, padding: Padding, state: dict[str, Json], seed: int, *, causal: bool) -> Batch:
    """Make the batch of packed rows that is served ``turn``-th of its window.

    Args:
        window: Where the sequences are; its plan is a `RowPlan`.
        turn: Which batch, ``0 <= turn < len(window.plan)``.
        padding: What padding holds.
        state: What to resume from after this batch.
        seed: The batch's own seed.
        causal: Whether labels are those of next-token prediction.
    """
    planned, plan = window.planned, window.plan
    if not isinstance(plan, RowPlan):
        raise TypeError(f"plan must be a RowPlan, got {type(plan).__name__}")
    batch = planned.turns[turn]
    rows = slice(planned.cuts[batch], planned.cuts[batch + 1])
    slots, made = plan.slots[rows], plan.num_made[batch]
    runs = _Runs.of(slots, plan.lengths[rows], plan.row_length, plan.num_rows)
    mask = np.repeat(runs.is_real, runs.lengths).reshape(plan.num_rows, plan.row_length)
    columns = _packed_columns(window, rows, runs, mask, padding=padding, made=made)
    if causal and "input_ids" in columns:
        columns["labels"] = _causal_labels(columns, mask, slots)
        if planned.num_repeated[batch]:  # of all rows, which are for another rank to learn
            columns["labels"].fill_(IGNORE_INDEX)
    row_lengths = torch.from_numpy(mask.sum(1))
    packed = [name for name in columns if name in planned.spans or name in _MADE_HERE]
    return Batch.of(
        {
            "columns": columns,
            "jagged": {},
            "lengths": row_lengths,
            "device_lengths": row_lengths,
            "mask": torch.from_numpy(mask),
            "row_ids": planned.row_ids[batch],
            "pieces": planned.pieces[batch],
            "weights": planned.weights[batch],
            "column_lengths": dict.fromkeys(packed, row_lengths),
            "widths": dict.fromkeys(packed, plan.row_length),
            "pad_values": {name: padding.value(name) for name in packed},
            "sequence": window.sequence,
            "padding_side": "right",
            "num_made": made,
            **of_step(window, turn, batch),
            "num_tokens": planned.num_tokens[batch],
            "num_slots": mask.size,
            "packing": runs.packing(),
            "seed": seed,
            "window": window.number,
            "state": state,
        }
    )


def _packed_columns(window: Window, rows: slice, runs: _Runs, mask: Array, *, padding: Padding, made: int) -> dict[str, Any]:
    """Return all columns: those of sequences packed, with where each slot is in its sequence and in its row."""
    order = window.plan.order[rows]
    columns: dict[str, Any] = {}
    for name, column in window.columns.items():
        if not isinstance(column, Ragged):
            columns[name] = take_rows(column, order, made, padding.made_up(name))
            continue
        value = padding.value(name)
        steps = gather_steps(column, _sources(window.planned.spans[name].starts[rows], runs), runs.lengths, value)
        steps[~mask.ravel()] = value
        if made:
            steps[runs.starts[runs.is_real][-made:]] = value
        columns[name] = torch.from_numpy(steps.reshape(*mask.shape, *column.shape))
    columns["position_ids"] = torch.from_numpy(positions(runs.lengths).reshape(mask.shape))
    columns["sequence_ids"] = torch.from_numpy(np.repeat(runs.numbers, runs.lengths).reshape(mask.shape))
    return columns


def _sources(starts: Rows, runs: _Runs) -> Rows:
    """Return where each run is read from; runs of padding anywhere, to be overwritten."""
    sources = np.zeros(len(runs.lengths), dtype=np.int64)
    sources[runs.is_real] = starts
    return sources


def _causal_labels(columns: dict[str, Any], mask: Array, slots: Rows) -> torch.Tensor:
    """Return labels of next-token prediction: -100 on padding and on the first of every sequence, which nothing predicts."""
    labels: torch.Tensor = columns.get("labels", columns["input_ids"]).clone()
    flat = labels.view(-1)
    flat[torch.from_numpy(~mask.ravel())] = IGNORE_INDEX
    flat[torch.from_numpy(slots)] = IGNORE_INDEX
    return labels
