"""The plan of a window for all ranks: pure functions of the lengths of rows, with the same result on every rank.

A global batch is a run of rows of similar length. All ranks share a global batch, and each takes a part of its rows; or, in a
mixed plan, each global batch belongs to one rank, and at each turn the ranks take global batches of different lengths. An
optimiser step sums several global batches.

Rows have row numbers: their positions in the order by length, longest first, with rows of equal length in the order of the
data. So the number of each row follows from how many rows of each length every rank has; no list of all lengths is exchanged.

Legend: ``N`` rows, ``D`` distinct lengths, ``G`` global batches, ``R`` ranks, ``P`` places of one rank, ``K`` batches of one
rank.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol, Self

import numpy as np

from seqstream.arrays import Cuts, Index, Lengths, ranges
from seqstream.planning.plan import Plan, fill_up
from seqstream.records import Counts

_CHUNK = 1 << 15


class RowOrder(Protocol):
    """A permutation of the rows of a window: from places to row numbers and back."""

    def rows_at(self, places: Index) -> Index:
        """Return the row numbers at places, of the same shape."""

    def places_of(self, rows: Index) -> Index:
        """Return the places of row numbers, of the same shape."""


@dataclasses.dataclass(frozen=True)
class ListedOrder:
    """An order as a list: ``rows[place]``."""

    rows: Index

    def rows_at(self, places: Index) -> Index:
        return self.rows[places]

    def places_of(self, rows: Index) -> Index:
        places = np.empty_like(self.rows)
        places[self.rows] = np.arange(len(self.rows))
        return places[rows]


@dataclasses.dataclass(frozen=True)
class RoundRobinOrder:
    """An order that cuts each global batch of another order into parts, one a rank: rank ``r`` takes rows ``r, r + R, ...``.

    Attributes:
        order: The other order.
        cuts: ``int64 (G + 1,)``, cuts of its global batches.
        world_size: Number of ranks, ``R``.
    """

    order: RowOrder
    cuts: Cuts
    world_size: int

    @functools.cached_property
    def part_cuts(self) -> Cuts:
        """Cuts of the parts, ``int64 (G * R + 1,)``: those of the first global batch, rank by rank, then of the second."""
        sizes = (np.diff(self.cuts)[:, None] + np.arange(self.world_size)[::-1]) // self.world_size
        cuts: Cuts = np.append(0, np.cumsum(sizes))
        return cuts

    def rows_at(self, places: Index) -> Index:
        return in_chunks(self._rows_at, places)

    def places_of(self, rows: Index) -> Index:
        return in_chunks(self._places_of, rows)

    def _rows_at(self, places: Index) -> Index:
        part = np.searchsorted(self.part_cuts, places, side="right") - 1
        global_batch, rank = np.divmod(part, self.world_size)
        return self.order.rows_at(self.cuts[global_batch] + rank + (places - self.part_cuts[part]) * self.world_size)

    def _places_of(self, rows: Index) -> Index:
        places = self.order.places_of(rows)
        global_batch = np.searchsorted(self.cuts, places, side="right") - 1
        position, rank = np.divmod(places - self.cuts[global_batch], self.world_size)
        found: Index = self.part_cuts[global_batch * self.world_size + rank] + position
        return found


def in_chunks(function: Callable[[Index], Index], values: Index) -> Index:
    """Apply an elementwise function to a long array chunk by chunk, so that its temporary arrays stay small."""
    if len(values) <= _CHUNK:
        return function(values)
    found = np.empty_like(values)
    for first in range(0, len(values), _CHUNK):
        found[first : first + _CHUNK] = function(values[first : first + _CHUNK])
    return found


@dataclasses.dataclass(frozen=True)
class GlobalPlan:
    """The global batches of a window, and the order in which they are served.

    Attributes:
        order: From places to row numbers, ``N`` of both.
        cuts: ``int64 (G + 1,)``: global batch ``g`` holds places ``cuts[g]`` to ``cuts[g + 1]``.
        turns: ``int64 (G,)``, the global batches in the order in which they are served.
        max_rows: ``int64 (G,)``, most rows that a rank's batch may have of each global batch.
        multiples: ``int64 (G,)``: batches are filled up with made-up rows to a multiple of it.
        multiple_of: Padded lengths are rounded up to a multiple of it.
        widths: ``int64 (G,)``, padded length of all columns; ``None`` where each column is padded to its longest row.
        counts: Counts by outcome of the rows that are not in the plan unchanged.
        batches_per_step: Number of global batches in an optimiser step.
        is_mixed: Whether each global batch belongs to one rank.
    """

    order: RowOrder
    cuts: Cuts
    turns: Index
    max_rows: Index
    multiples: Index
    multiple_of: int = 1
    widths: Lengths | None = None
    counts: Counts = dataclasses.field(default_factory=dict)
    batches_per_step: int = 1
    is_mixed: bool = False

    def __len__(self) -> int:
        return len(self.turns)

    @property
    def num_steps(self) -> int:
        """Number of optimiser steps of the window."""
        return -(-len(self) // self.batches_per_step)

    def listed(self) -> Self:
        """Return the plan with its order as a list, for a rank that has all rows: each is computed once."""
        return dataclasses.replace(self, order=ListedOrder(in_chunks(self.order.rows_at, np.arange(self.cuts[-1]))))

    def row_numbers(self, places: Index) -> Index:
        """Return the row numbers at places, ``int64 (P,)``; of a packed plan those of all items at the places."""
        return self.order.rows_at(places)

    def places_of(self, numbers: Index) -> tuple[Index, Index]:
        """Return the places of rows.

        Args:
            numbers: ``int64 (n,)``, row numbers, ascending.

        Returns:
            Which of the rows lies at a place, and the place, ``int64 (m,)`` each; a row in several pieces has several places,
            a dropped row has none.
        """
        return np.arange(len(numbers)), self.order.places_of(numbers)

    def own_items(self, numbers: Index, places: Index) -> tuple[Index, Index, Index]:
        """Return what lies of some rows at some places.

        Args:
            numbers: ``int64 (n,)``, row numbers, ascending.
            places: ``int64 (P,)``.

        Returns:
            Which of the rows each item is from, its first token in the row, and its greatest number of tokens, ``int64 (m,)``
            each.
        """
        which = np.flatnonzero(np.isin(self.places_of(numbers)[1], places))
        return which, np.zeros_like(which), np.full_like(which, np.iinfo(np.int64).max)

    def begun_places(self, served: int) -> Index:
        """Return the places of an unfinished optimiser step that are served, after ``served`` places of the window are."""
        sizes = np.diff(self.cuts)[self.turns]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, served, side="right"))
        start = first // self.batches_per_step * self.batches_per_step
        turns = slice(start, min(first + 1, len(sizes)))
        left = served - (int(ends[start - 1]) if start else 0)
        return ranges(self.cuts[self.turns[turns]], sizes[turns])[:left]

    def num_items(self, places: Index) -> Index:
        """Return the number of items at each place, ``int64 (P,)``: 1 unless rows are packed."""
        return np.ones_like(places)

    def lay_out(self, rows: Index, places: Index, cuts: Cuts, global_batches: Index, turns: Index) -> Plan:
        """Return the plan of the batches of one rank.

        Args:
            rows: The rows of `row_numbers`, as indices of the rank's table.
            places: ``int64 (P,)``, batch after batch.
            cuts: ``int64 (K + 1,)``, cuts of the places into batches.
            global_batches: ``int64 (K,)``, the global batch of each batch.
            turns: ``int64 (K,)``, the batches in the order in which they are served.
        """
        heights, multiples = np.diff(cuts), self.multiples[global_batches]
        order, cuts = fill_up(rows, cuts, -(-heights // multiples) * multiples)
        widths = None if self.widths is None else self.widths[global_batches]
        return Plan(order, cuts, turns, self.multiple_of, widths, self.counts)


def split_to_multiple(cuts: Cuts, multiple: int) -> Cuts:
    """Split global batches in halves until their number is a multiple of ``multiple``, or all that are left have one row.

    Args:
        cuts: ``int64 (G + 1,)``.
        multiple: At least 1.

    Returns:
        The old cuts and the added ones, ascending.
    """
    while (missing := -(len(cuts) - 1) % multiple) and len(able := np.flatnonzero(np.diff(cuts) > 1)):
        chosen = able[np.arange(min(missing, len(able))) * len(able) // min(missing, len(able))]
        cuts = np.insert(cuts, chosen + 1, (cuts[chosen] + cuts[chosen + 1] + 1) // 2)
    return cuts
