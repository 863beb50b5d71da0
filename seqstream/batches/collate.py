"""Rows of a window -> a batch of padded or flat tensors.

Legend: ``B`` rows, ``L`` padded length, ``T`` steps of all rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqstream.batches.batch import Batch
from seqstream.batches.batch_layout import BatchLayout
from seqstream.batches.padding import PaddedRegion, Padding, flat_rows, gather_rows, pad_rows, slice_numbers
from seqstream.records import Json
from seqstream.windows.batch_slices import Spans
from seqstream.windows.columns import Ragged
from seqstream.windows.window import Window


def collate(window: Window, turn: int, padding: Padding, state: dict[str, Json], seed: int, *, layout: str = "padded") -> Batch:
    """Return the batch that is served ``turn``-th of its window.

    Args:
        window: The window that holds the rows.
        turn: Which batch, ``0 <= turn < len(window.plan)``.
        padding: What padding holds, and where it goes.
        state: What to resume from after this batch.
        seed: The seed of the batch's own generator.
        layout: The form of columns of sequences: ``"padded"``, or ``"jagged"``, which is flat and padded when it is read.
    """
    slices = window.slices
    batch = slices.turns[turn]
    rows = slice(slices.cuts[batch], slices.cuts[batch + 1])
    is_padded = layout == "padded"
    region = _region(window, slices.sequence, batch, rows, padding.side)
    fields: dict[str, Any] = {
        "lengths": slices.sequence.batch_lengths[batch],
        "padding_side": padding.side,
        "num_slots": slices.num_slots[batch] if is_padded else slices.num_steps[batch],
        "state": state,
        "layout": _collate_columns(window, batch, rows, region, padding, is_padded=is_padded, seed=seed),
    }
    if is_padded:
        fields["mask"] = torch.from_numpy(region.mask())
    return assemble_batch(window, turn, fields)


def assemble_batch(window: Window, turn: int, fields: dict[str, Any]) -> Batch:
    """Return the batch of some fields and of those that follow from the window and the turn alone."""
    slices, totals, steps = window.slices, window.totals, window.step_totals
    batch = slices.turns[turn]
    num_tokens = slices.num_tokens[batch]
    fields |= {
        "row_ids": slices.row_ids[batch],
        "pieces": slices.pieces[batch],
        "weights": slices.weights[batch],
        "num_tokens": num_tokens,
        "global_num_tokens": num_tokens if totals is None else int(totals[turn, 0]),
        "_global_labels": None if totals is None else int(totals[turn, 1]),
        "step": window.step_numbers[turn],
        "is_step_end": window.step_ends[turn],
        "step_num_tokens": num_tokens if steps is None else int(steps[turn, 0]),
        "_step_labels": None if steps is None else int(steps[turn, 1]),
        "window": window.number,
    }
    return Batch.of(fields)


def _region(window: Window, spans: Spans, batch: int, rows: slice, side: str) -> PaddedRegion:
    """Return where the padding of the rows of a batch is, in columns of some spans."""
    longest = spans.longest[batch]
    return PaddedRegion.of(spans.lengths[rows], spans.shortest[batch], longest, window.plan.width(batch, longest), side)


def _collate_columns(
    window: Window, batch: int, rows: slice, region: PaddedRegion, padding: Padding, *, is_padded: bool, seed: int
) -> BatchLayout:
    """Return the columns of a batch, and what belongs to those of sequences.

    Args:
        window: The window that holds the rows.
        batch: Which batch of the plan.
        rows: Its rows, in plan order.
        region: Where the padding of the sequence is, as of all columns of the same lengths.
        padding: What padding holds, and where it goes.
        is_padded: Whether columns of sequences are padded; else they are flat.
        seed: The seed of the batch.
    """
    slices, plan = window.slices, window.plan
    num_made_up = plan.num_made_up[batch]
    columns: dict[str, Any] = {}
    jagged: dict[str, Tensor] = {}
    column_lengths: dict[str, Tensor] = {}
    widths: dict[str, int] = {}
    pad_values: dict[str, float] = {}
    for name, column in window.columns.items():
        if not isinstance(column, Ragged):
            value = padding.made_up_value(name)
            if name in slices.numbers:
                columns[name] = slice_numbers(slices.numbers[name][rows], num_made_up=num_made_up, made_up_value=value)
            else:
                columns[name] = gather_rows(column, plan.order[rows], num_made_up=num_made_up, made_up_value=value)
            continue
        spans, own = slices.spans[name], region
        if spans.lengths is not slices.sequence.lengths:
            own = _region(window, spans, batch, rows, padding.side)
        column_lengths[name] = spans.batch_lengths[batch]
        widths[name] = own.width
        pad_values[name] = value = padding.value(name)
        starts = spans.starts[rows]
        if is_padded:
            columns[name] = pad_rows(column, starts, own, value, num_made_up=num_made_up)
        else:
            jagged[name] = flat_rows(column, starts, own.lengths, value, num_made_up=num_made_up)
    return BatchLayout(
        columns=columns,
        jagged=jagged,
        device_lengths=slices.sequence.batch_lengths[batch],
        column_lengths=column_lengths,
        widths=widths,
        pad_values=pad_values,
        sequence=window.sequence,
        packing=None,
        num_made_up=num_made_up,
        num_repeated=slices.num_repeated[batch],
        seed=seed,
    )
