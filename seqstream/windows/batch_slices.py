"""The rows of a window in the order of its plan, computed at once, so that a batch is a slice of each array.

Legend: ``N`` rows in the order of the plan, ``K`` batches, ``B`` rows of one batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqstream.arrays import Index, Mask
from seqstream.planning.pack import PackedPlan
from seqstream.planning.plan import MADE_UP, Plan
from seqstream.records import ids_columns, lengths_column
from seqstream.windows.columns import Column, Dense, Ragged
from seqstream.windows.row_lengths import longest_texts


@dataclasses.dataclass(frozen=True)
class Spans:
    """Where the rows of a column lie in its flat buffer, in plan order.

    Attributes:
        starts: ``int64 (N,)``, first step of each row.
        lengths: ``int64 (N,)``, steps of each row; the same array as that of the sequence where the lengths are equal.
        batch_lengths: ``int64 (B,)`` for each of the ``K`` batches, lengths of its rows.
        longest: Steps of the longest row of each batch.
        shortest: Steps of the shortest row of each batch.
        totals: Steps of all rows of each batch.
    """

    starts: Index
    lengths: Index
    batch_lengths: Sequence[Tensor]
    longest: list[int]
    shortest: list[int]
    totals: list[int]

    @classmethod
    def of(cls, starts: Index, lengths: Index, cuts: Index) -> Spans:
        """Return the spans of rows that are cut into batches at ``cuts``, ``int64 (K + 1,)``."""
        if len(cuts) < 2:
            return cls(starts, lengths, [], [], [], [])
        reduced = (reduce.reduceat(lengths, cuts[:-1]).tolist() for reduce in (np.maximum, np.minimum, np.add))
        return cls(starts, lengths, _split(lengths, cuts), *reduced)


@dataclasses.dataclass(frozen=True)
class BatchSlices:
    """What the batches of a window take their slices from: one entry for each of the ``K`` batches, unless said otherwise.

    Attributes:
        cuts: ``K + 1`` numbers: batch ``k`` holds rows ``cuts[k]`` to ``cuts[k + 1]``.
        turns: The batches in the order in which they are served.
        row_ids: ``int64 (B,)``.
        pieces: ``int64 (B,)``, number of each row's piece.
        weights: ``float32 (B,)``.
        num_repeated: Rows that another rank has as well: none, or all that are not made up.
        sequence: Spans of the rows by whose lengths batches are padded and masked.
        spans: Spans of the rows of each ragged column, by its name.
        numbers: ``int64 (N,)`` of each column of one signed whole number a row, by its name.
        num_tokens: Real steps, of all sides that the budget counts.
        num_steps: Real and made-up steps, of all these sides.
        num_slots: All steps with padding, of all these sides.
    """

    cuts: list[int]
    turns: list[int]
    row_ids: Sequence[Tensor]
    pieces: Sequence[Tensor]
    weights: Sequence[Tensor]
    num_repeated: list[int]
    sequence: Spans
    spans: dict[str, Spans]
    numbers: dict[str, Index]
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
    is_repeated: Mask | None = None,
    sides: Sequence[str] | None = None,
) -> BatchSlices:
    """Put what batches need of each row into the order of the plan.

    Args:
        plan: The order of the window's ``n`` rows.
        columns: Columns of the window.
        sequence: The column whose lengths are those of the batch; where it is ``None``, every row has one step.
        row_ids: ``int64 (n,)``, in the order read.
        pieces: ``int64 (n,)``, in the order read.
        is_repeated: ``bool (n,)``, rows of weight 0; ``None`` for none.
        sides: The columns that the budget counts, the sequence first; ``None`` for the sequence alone.

    Raises:
        ValueError: A row of a column is longer than the fixed shape of its batch.
    """
    order, cuts = plan.order, plan.cuts
    is_made_up = order == MADE_UP if (order == MADE_UP).any() else None
    first, spans = _all_spans(plan, columns, sequence, is_made_up)
    names = ids_columns(sides) if sides else (sequence,)
    counted = [first, *(spans[name] for name in names[1:] if name)]
    batches = range(len(plan))
    num_steps = [sum(side.totals[batch] for side in counted) for batch in batches]
    padded = [
        _padded_widths(plan, columns.get(lengths_column(name or "")), side) for name, side in zip(names, counted, strict=True)
    ]
    widths = [sum(side[batch] for side in padded) for batch in batches]
    heights = np.diff(cuts).tolist()
    weights = np.ones(len(order), dtype=np.float32)
    num_repeated = np.zeros(len(plan), dtype=np.int64)
    if is_repeated is not None:
        weights[is_repeated[order] & (order != MADE_UP)] = 0
        num_repeated = np.add.reduceat(weights == 0, cuts[:-1]).astype(np.int64)
    own_pieces = pieces[order] + plan.pieces if isinstance(plan, PackedPlan) else pieces[order]
    return BatchSlices(
        cuts.tolist(),
        plan.turns.tolist(),
        row_ids=_split(_filled(row_ids[order], is_made_up, MADE_UP), cuts),
        pieces=_split(_filled(own_pieces, is_made_up, 0), cuts),
        weights=_split(_filled(weights, is_made_up, 0), cuts),
        num_repeated=num_repeated.tolist(),
        sequence=first,
        spans=spans,
        numbers={
            name: column.values[order].astype(np.int64, copy=False) for name, column in columns.items() if _is_number(column)
        },
        num_tokens=[
            0 if repeated else steps - made_up * len(counted)
            for steps, made_up, repeated in zip(num_steps, plan.num_made_up, num_repeated.tolist(), strict=True)
        ],
        num_steps=num_steps,
        num_slots=[height * width for height, width in zip(heights, widths, strict=True)],
    )


def _is_number(column: Column) -> TypeGuard[Dense]:
    """Return whether a column has one signed whole number a row."""
    return isinstance(column, Dense) and column.values.ndim == 1 and column.values.dtype.kind == "i"


def _padded_widths(plan: Plan, texts: Column | None, side: Spans) -> list[int]:
    """Return the slots of a row in one column in each batch: its padded length, or the most texts times that of a text.

    Args:
        plan: The plan.
        texts: The lengths of the texts of each row, where a row may have several.
        side: Spans of the column.
    """
    if not isinstance(texts, Ragged) or not len(plan):
        return [plan.width(batch, longest) for batch, longest in enumerate(side.longest)]
    counts = texts.lengths[plan.order]
    longest = longest_texts(texts.values[:, 0], texts.starts[plan.order], counts)
    most, longest = (np.maximum.reduceat(values, plan.cuts[:-1]) for values in (counts, longest))
    return [
        num * plan.width(batch, length) for batch, (num, length) in enumerate(zip(most.tolist(), longest.tolist(), strict=True))
    ]


def _all_spans(
    plan: Plan, columns: Mapping[str, Column], sequence: str | None, is_made_up: Mask | None
) -> tuple[Spans, dict[str, Spans]]:
    """Return the spans of the sequence, and those of each ragged column; equal lengths are one array."""
    of_sequence = columns.get(sequence or "")
    ones = np.ones(len(plan.order), dtype=np.int64)
    first = _spans(of_sequence, plan, is_made_up) if isinstance(of_sequence, Ragged) else Spans.of(ones, ones, plan.cuts)
    spans = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            own = first if column is of_sequence else _spans(column, plan, is_made_up)
            if own is not first and np.array_equal(own.lengths, first.lengths):
                own = dataclasses.replace(first, starts=own.starts)
            spans[name] = own
            _check_width(name, own, plan)
    return first, spans


def _check_width(name: str, spans: Spans, plan: Plan) -> None:
    """Raise if a column that the plan does not depend on has a row that is longer than the shape of its batch."""
    for longest, width in zip(spans.longest, () if plan.widths is None else plan.widths.tolist(), strict=False):
        if longest > width:
            raise ValueError(
                f"column {name!r} of {longest} steps cannot fit its batch, whose shape has a length of {width}; leave out "
                "Bucket(columns=...), to plan by it too, or shapes"
            )


def _spans(column: Ragged, plan: Plan, is_made_up: Mask | None) -> Spans:
    """Return where the rows of a column lie; rows made up have one step, before the first row."""
    starts, lengths = column.starts[plan.order], column.lengths[plan.order]
    if isinstance(plan, PackedPlan):
        starts, lengths = starts + plan.begins, np.minimum(lengths - plan.begins, plan.lengths)
    before = int(column.starts[0]) - 1 if is_made_up is not None else 0
    return Spans.of(_filled(starts, is_made_up, before), _filled(lengths, is_made_up, 1), plan.cuts)


def _filled(values: npt.NDArray[Any], is_made_up: Mask | None, value: int) -> npt.NDArray[Any]:
    """Set the values of rows made up, in place."""
    if is_made_up is not None:
        values[is_made_up] = value
    return values


def _split(values: npt.NDArray[Any], cuts: Index) -> Sequence[Tensor]:
    """Return the part of each batch; all at once is quicker than one by one."""
    parts: Sequence[Tensor] = torch.from_numpy(values).split(np.diff(cuts).tolist())  # type: ignore[no-untyped-call]
    return parts
