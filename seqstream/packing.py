"""Sequences of a window -> rows packed with them: gathered, numbered and labelled with no loop over rows.

Legend: ``R`` rows of the batch, ``L`` slots of a row, ``S`` sequences, ``P`` runs: sequences, and padding at the end of rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from seqstream.batch import Batch
from seqstream.collating import LABEL_PADDING, Padding, Rows, gather_steps, take_rows
from seqstream.columns import Array, Ragged
from seqstream.planning.pack import RowPlan
from seqstream.sources.protocol import Json
from seqstream.varlen import Packing
from seqstream.window import Window


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
    made = plan.num_made[batch]
    slots, lengths = plan.slots[rows], plan.lengths[rows]
    runs = _Runs.of(slots, lengths, plan.row_length, plan.num_rows)
    shape = (plan.num_rows, plan.row_length)
    mask = np.repeat(runs.is_real, runs.lengths)
    columns: dict[str, Any] = {}
    pad_values = {}
    for name, column in window.columns.items():
        if isinstance(column, Ragged):
            pad_values[name] = value = padding.value(name)
            steps = gather_steps(column, _sources(planned.spans[name].starts[rows], runs), runs.lengths, value)
            steps[~mask] = value
            if made:
                steps[slots[-made:]] = value
            columns[name] = torch.from_numpy(steps.reshape(*shape, *column.shape))
        else:
            columns[name] = take_rows(column, plan.order[rows], made, padding.made_up(name))
    positions = np.arange(len(mask)) - np.repeat(runs.starts, runs.lengths)
    columns["position_ids"] = torch.from_numpy(positions.reshape(shape))
    columns["sequence_ids"] = torch.from_numpy(np.repeat(runs.numbers, runs.lengths).reshape(shape))
    if causal and "input_ids" in columns:
        columns["labels"] = _causal_labels(columns, mask, slots)
        pad_values["labels"] = LABEL_PADDING
    ends = np.append(runs.starts, len(mask)).astype(np.int32)
    row_lengths = torch.from_numpy(mask.reshape(shape).sum(1))
    return Batch.of(
        {
            "columns": columns,
            "jagged": {},
            "lengths": row_lengths,
            "device_lengths": row_lengths,
            "mask": torch.from_numpy(mask.reshape(shape)),
            "row_ids": planned.row_ids[batch],
            "pieces": planned.pieces[batch],
            "weights": planned.weights[batch],
            "column_lengths": dict.fromkeys(pad_values, row_lengths),
            "widths": dict.fromkeys(pad_values, plan.row_length),
            "pad_values": pad_values,
            "sequence": window.sequence,
            "padding_side": "right",
            "num_made": made,
            "num_tokens": planned.num_tokens[batch],
            "num_slots": len(mask),
            "packing": Packing(
                starts=torch.from_numpy(slots),
                lengths=torch.from_numpy(lengths),
                cu_seqlens=torch.from_numpy(ends),
                max_seqlen=int(runs.lengths.max()),
            ),
            "seed": seed,
            "window": window.number,
            "state": state,
        }
    )


def _sources(starts: Rows, runs: _Runs) -> Rows:
    """Return where each run is read from; runs of padding anywhere, to be overwritten."""
    sources = np.zeros(len(runs.lengths), dtype=np.int64)
    sources[runs.is_real] = starts
    return sources


def _causal_labels(columns: dict[str, Any], mask: Array, slots: Rows) -> torch.Tensor:
    """Return labels of next-token prediction: -100 on padding and on the first of every sequence, which nothing predicts."""
    labels: torch.Tensor = columns.get("labels", columns["input_ids"]).clone()
    flat = labels.view(-1)
    flat[torch.from_numpy(~mask)] = LABEL_PADDING
    flat[torch.from_numpy(slots)] = LABEL_PADDING
    return labels
