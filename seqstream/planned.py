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

from seqstream.columns import Column, Ragged
from seqstream.planning.specs import Plan

Index = npt.NDArray[np.int64]


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
class Planned:
    """What a batch takes its slices from.

    Attributes:
        cuts: Batch ``k`` holds rows ``cuts[k]`` to ``cuts[k + 1]``.
        turns: Which batch is served when.
        row_ids: Those of each batch, ``int64 (B,)``.
        pieces: Those of each, ``int64 (B,)``.
        weights: Those of each, ``float32 (B,)``.
        sequence: The rows by whose lengths a batch is padded and masked.
        spans: Those of each ragged column.
    """

    cuts: list[int]
    turns: list[int]
    row_ids: Sequence[Tensor]
    pieces: Sequence[Tensor]
    weights: Sequence[Tensor]
    sequence: Spans
    spans: dict[str, Spans]


def put_in_order(plan: Plan, columns: Mapping[str, Column], sequence: str | None, row_ids: Index, pieces: Index) -> Planned:
    """Put what a batch needs of each row into plan order.

    Args:
        plan: The order.
        columns: Columns of the window.
        sequence: The column whose lengths are those of the batch; where it is ``None``, every row has one step.
        row_ids: ``int64 (N,)``, in the order read.
        pieces: ``int64 (N,)``, in the order read.
    """
    order, cuts = plan.order, plan.cuts
    own = columns.get(sequence or "")
    ones = np.ones(len(order), dtype=np.int64)
    first = Spans.of(own.starts[order], own.lengths[order], cuts) if isinstance(own, Ragged) else Spans.of(ones, ones, cuts)
    spans = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            lengths = column.lengths[order]
            if np.array_equal(lengths, first.lengths):
                spans[name] = dataclasses.replace(first, starts=column.starts[order])
            else:
                spans[name] = Spans.of(column.starts[order], lengths, cuts)
    return Planned(
        cuts.tolist(),
        plan.turns.tolist(),
        row_ids=_split(row_ids[order], cuts),
        pieces=_split(pieces[order], cuts),
        weights=_split(np.ones(len(order), dtype=np.float32), cuts),
        sequence=first,
        spans=spans,
    )


def _split(values: npt.NDArray[Any], cuts: Index) -> Sequence[Tensor]:
    """Return the part of each batch, all made at once, which is quicker than one by one."""
    parts: Sequence[Tensor] = torch.from_numpy(values).split(np.diff(cuts).tolist())  # type: ignore[no-untyped-call]
    return parts
