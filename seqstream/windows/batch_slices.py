"""Rows of a window in the order of its plan: computed once, so that a batch is a slice of each array.

Legend: ``N`` rows, ``K`` batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqstream.arrays import Index
from seqstream.planning.pack import RowPlan
from seqstream.planning.plan import MADE_UP, Plan
from seqstream.windows.columns import Column, Ragged


@dataclasses.dataclass(frozen=True)
class Spans:
    """Where the rows of a column lie in its flat buffer, in plan order.

    Attributes:
        starts: ``int64 (N,)``.
        lengths: ``int64 (N,)``; the very array of the sequence where the lengths are the same.
        batch_lengths: The lengths of each of the K batches, ``int64 (B,)``.
        longest: The longest row of each batch, in steps, as are the others.
        shortest: The shortest row of each.
        totals: All rows of each together.
    """

    starts: Index
    lengths: Index
    batch_lengths: Sequence[Tensor]
    longest: list[int]
    shortest: list[int]
    totals: list[int]

    @classmethod
    def of(cls, starts: Index, lengths: Index, cuts: Index) -> Spans:
        if len(cuts) < 2:
            return cls(starts, lengths, [], [], [], [])
        reduced = (how.reduceat(lengths, cuts[:-1]).tolist() for how in (np.maximum, np.minimum, np.add))
        return cls(starts, lengths, _split(lengths, cuts), *reduced)


@dataclasses.dataclass(frozen=True)
class BatchSlices:
    """What a batch takes its slices from.

    Attributes:
        cuts: Batch ``k`` holds rows ``cuts[k]`` to ``cuts[k + 1]``.
        turns: Which batch is served when.
        row_ids: Those of each batch, ``int64 (B,)``.
        pieces: Those of each, ``int64 (B,)``.
        weights: Those of each, ``float32 (B,)``.
        num_repeated: How many rows of each another rank has as well: none, or all that are not made up.
        sequence: The rows by whose lengths a batch is padded and masked.
        spans: Those of each ragged column.
        num_tokens: Real steps of each batch, in all sides that the budget counts.
        num_steps: The same with those of rows made up.
        num_slots: The same with padding.
    """

    cuts: list[int]
    turns: list[int]
    row_ids: Sequence[Tensor]
    pieces: Sequence[Tensor]
    weights: Sequence[Tensor]
    num_repeated: list[int]
    sequence: Spans
    spans: dict[str, Spans]
    num_tokens: list[int]
    num_steps: list[int]
    num_slots: list[int]


def slice_plan(
    plan: Plan,
    columns: Mapping[str, Column],
    sequence: str | None,
    row_ids: Index,
    pieces: Index,
    *,
    is_repeated: npt.NDArray[np.bool_] | None = None,
    sides: Sequence[str] | None = None,
) -> BatchSlices:
    """Put what a batch needs of each row into plan order.

    Args:
        plan: The order.
        columns: Columns of the window.
        sequence: The column whose lengths are those of the batch; where it is ``None``, every row has one step.
        row_ids: ``int64 (N,)``, in the order read.
        pieces: ``int64 (N,)``, in the order read.
        is_repeated: ``bool (N,)``, rows of weight 0; ``None`` for none.
        sides: The columns that the budget counts, the sequence first; ``None`` for the sequence alone.
    """
    order, cuts = plan.order, plan.cuts
    made = order == MADE_UP
    if not made.any():
        made = None
    own = columns.get(sequence or "")
    ones = np.ones(len(order), dtype=np.int64)
    first = _spans(own, plan, made) if isinstance(own, Ragged) else Spans.of(ones, ones, cuts)
    spans = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            found = first if column is own else _spans(column, plan, made)
            if found is not first and np.array_equal(found.lengths, first.lengths):
                found = dataclasses.replace(first, starts=found.starts)
            spans[name] = found
            _check_width(name, found, plan)
    counted = [first, *(spans[name] for name in (sides or ())[1:])]
    batches = range(len(plan))
    num_steps = [sum(side.totals[batch] for side in counted) for batch in batches]
    widths = [sum(plan.width(batch, side.longest[batch]) for side in counted) for batch in batches]
    heights = np.diff(cuts).tolist()
    weights = np.ones(len(order), dtype=np.float32)
    num_repeated = np.zeros(len(plan), dtype=np.int64)
    if is_repeated is not None:
        weights[is_repeated[order] & (order != MADE_UP)] = 0
        num_repeated = np.add.reduceat(weights == 0, cuts[:-1]).astype(np.int64)
    own_pieces = pieces[order] + plan.pieces if isinstance(plan, RowPlan) else pieces[order]
    return BatchSlices(
        cuts.tolist(),
        plan.turns.tolist(),
        row_ids=_split(_where(made, MADE_UP, row_ids[order]), cuts),
        pieces=_split(_where(made, 0, own_pieces), cuts),
        weights=_split(_where(made, 0, weights), cuts),
        num_repeated=num_repeated.tolist(),
        sequence=first,
        spans=spans,
        num_tokens=[
            0 if repeated else steps - made * len(counted)
            for steps, made, repeated in zip(num_steps, plan.num_made, num_repeated.tolist(), strict=True)
        ],
        num_steps=num_steps,
        num_slots=[height * width for height, width in zip(heights, widths, strict=True)],
    )


def _check_width(name: str, found: Spans, plan: Plan) -> None:
    """Refuse a column that was not planned by and is longer than the shape of its batch."""
    for longest, width in zip(found.longest, () if plan.widths is None else plan.widths.tolist(), strict=False):
        if longest > width:
            raise ValueError(
                f"column {name!r} of {longest} steps cannot fit its batch, whose shape has a length of {width}; leave out "
                "Bucket(columns=...), to plan by it too, or shapes"
            )


def _spans(column: Ragged, plan: Plan, made: npt.NDArray[np.bool_] | None) -> Spans:
    """Return where the rows of a column lie; those made up have one step, before the first row."""
    starts, lengths = column.starts[plan.order], column.lengths[plan.order]
    if isinstance(plan, RowPlan):
        starts, lengths = starts + plan.begins, np.minimum(lengths - plan.begins, plan.lengths)
    before = int(column.starts[0]) - 1 if made is not None else 0
    return Spans.of(_where(made, before, starts), _where(made, 1, lengths), plan.cuts)


def _where(made: npt.NDArray[np.bool_] | None, value: int, otherwise: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if made is not None:
        otherwise[made] = value
    return otherwise


def _split(values: npt.NDArray[Any], cuts: Index) -> Sequence[Tensor]:
    """Return the part of each batch, all made at once, which is quicker than one by one."""
    parts: Sequence[Tensor] = torch.from_numpy(values).split(np.diff(cuts).tolist())  # type: ignore[no-untyped-call]
    return parts
