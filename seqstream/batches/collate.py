"""Rows of a window -> the padded tensors of a batch."""

from __future__ import annotations

from typing import Any

import torch

from seqstream.batches.batch import Batch
from seqstream.batches.padding import Gaps, Padding, _flat, pad_rows, take_rows
from seqstream.records import Json
from seqstream.windows.columns import Ragged
from seqstream.windows.window import Window


def collate(window: Window, turn: int, padding: Padding, state: dict[str, Json], seed: int, *, layout: str = "padded") -> Batch:
    """Make the batch that is served ``turn``-th of its window.

    Args:
        window: Where the rows are.
        turn: Which batch, ``0 <= turn < len(window.plan)``.
        padding: What padding holds, and where it goes.
        state: What to resume from after this batch.
        seed: The batch's own seed.
        layout: Whether ragged columns are made ``"padded"``, or ``"jagged"``: flat, and padded when asked for.
    """
    planned, plan = window.planned, window.plan
    batch = planned.turns[turn]
    rows = slice(planned.cuts[batch], planned.cuts[batch + 1])
    sequence = planned.sequence
    gaps = Gaps.of(sequence.lengths[rows], sequence.shortest[batch], sequence.longest[batch], padding.side)
    cpu_lengths = sequence.batch_lengths[batch]
    fields = {
        "columns": {},
        "jagged": {},
        "lengths": cpu_lengths,
        "device_lengths": cpu_lengths,
        "row_ids": planned.row_ids[batch],
        "pieces": planned.pieces[batch],
        "weights": planned.weights[batch],
        "column_lengths": {},
        "widths": {},
        "pad_values": {},
        "sequence": window.sequence,
        "padding_side": padding.side,
        "num_made": plan.num_made[batch],
        **of_step(window, turn, batch),
        "num_tokens": planned.num_tokens[batch],
        "num_slots": planned.num_slots[batch] if layout == "padded" else planned.num_steps[batch],
        "packing": None,
        "seed": seed,
        "window": window.number,
        "state": state,
    }
    if layout == "padded":
        fields["mask"] = torch.from_numpy(gaps.mask(plan.width(batch, gaps.longest)))
    _put_columns(fields, window, batch, gaps, padding=padding, layout=layout)
    return Batch.of(fields)


def of_step(window: Window, turn: int, batch: int) -> dict[str, Any]:
    """Return what a batch says of the batches that other ranks take at once, and of its optimiser step."""
    own, totals, steps = window.planned.num_tokens[batch], window.totals, window.step_totals
    return {
        "num_repeated": window.planned.num_repeated[batch],
        "global_num_tokens": own if totals is None else int(totals[turn, 0]),
        "_global_labels": None if totals is None else int(totals[turn, 1]),
        "step": window.step_numbers[turn],
        "is_step_end": window.step_ends[turn],
        "step_num_tokens": own if steps is None else int(steps[turn, 0]),
        "_step_labels": None if steps is None else int(steps[turn, 1]),
    }


def _put_columns(fields: dict[str, Any], window: Window, batch: int, gaps: Gaps, *, padding: Padding, layout: str) -> None:
    """Put the columns of a batch among its fields, and what belongs to those of sequences."""
    planned, plan = window.planned, window.plan
    rows, made = slice(planned.cuts[batch], planned.cuts[batch + 1]), fields["num_made"]
    for name, column in window.columns.items():
        if not isinstance(column, Ragged):
            fields["columns"][name] = take_rows(column, plan.order[rows], made, padding.made_up(name))
            continue
        own, own_gaps = planned.spans[name], gaps
        if own.lengths is not planned.sequence.lengths:
            own_gaps = Gaps.of(own.lengths[rows], own.shortest[batch], own.longest[batch], padding.side)
        fields["column_lengths"][name] = own.batch_lengths[batch]
        fields["widths"][name] = width = plan.width(batch, own_gaps.longest)
        fields["pad_values"][name] = value = padding.value(name)
        if layout == "jagged":
            fields["jagged"][name] = _flat(column, own.starts[rows], own_gaps.lengths, value, made)
        else:
            fields["columns"][name] = pad_rows(column, own.starts[rows], own_gaps, width, value, num_made=made)
