"""Which rows of a window all ranks take at once, and which of them each rank does: pure functions, the same on every rank.

A group is a run of neighbours by length. All ranks share a group, each with its part of the rows; or each takes one of its own,
so that what they take at once is of different lengths. An optimiser step sums several groups, one after the other.

Rows are numbered as sorted: longest first, those of one length in the order read. So whoever knows how many rows of each length
every rank has knows the number of each row, and needs no list of lengths.

Legend: ``N`` rows, ``D`` different lengths, ``G`` groups, ``T`` batches of each rank, ``E`` parts, ``P`` rows of one rank.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np

from seqstream.arrays import Cuts, Index, Lengths, ranges
from seqstream.planning.plan import Plan, fill_up
from seqstream.records import Counts

_PIECE = 1 << 15


class RowOrder(Protocol):
    """A permutation of the rows of a window, from places to numbers and back."""

    def rows_at(self, places: Index) -> Index:
        """Return the numbers of the rows at places, of the same shape."""

    def places_of(self, rows: Index) -> Index:
        """Return the places of rows by their numbers, of the same shape."""


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
class DealtOrder:
    """An order in which each group of another is cut into parts, one a rank: its rows dealt like cards.

    Attributes:
        order: The other order.
        cuts: ``int64 (G + 1,)``, its groups.
        world_size: Number of ranks, ``R``.
    """

    order: RowOrder
    cuts: Cuts
    world_size: int

    @functools.cached_property
    def part_cuts(self) -> Cuts:
        """Where parts begin and the last one ends, ``int64 (G * R + 1,)``: of the first group, rank by rank, and so on."""
        sizes = (np.diff(self.cuts)[:, None] + np.arange(self.world_size)[::-1]) // self.world_size
        cuts: Cuts = np.append(0, np.cumsum(sizes))
        return cuts

    def rows_at(self, places: Index) -> Index:
        return piecewise(self._rows_at, places)

    def places_of(self, rows: Index) -> Index:
        return piecewise(self._places_of, rows)

    def _rows_at(self, places: Index) -> Index:
        part = np.searchsorted(self.part_cuts, places, side="right") - 1
        group, rank = np.divmod(part, self.world_size)
        return self.order.rows_at(self.cuts[group] + rank + (places - self.part_cuts[part]) * self.world_size)

    def _places_of(self, rows: Index) -> Index:
        places = self.order.places_of(rows)
        group = np.searchsorted(self.cuts, places, side="right") - 1
        number, rank = np.divmod(places - self.cuts[group], self.world_size)
        found: Index = self.part_cuts[group * self.world_size + rank] + number
        return found


def piecewise(function: Callable[[Index], Index], values: Index) -> Index:
    """Apply a function to many values piece by piece, so that what it needs on the way is small."""
    if len(values) <= _PIECE:
        return function(values)
    found = np.empty_like(values)
    for first in range(0, len(values), _PIECE):
        found[first : first + _PIECE] = function(values[first : first + _PIECE])
    return found


@dataclasses.dataclass(frozen=True)
class GlobalPlan:
    """Groups of neighbours: the batches that all ranks take at once, or each of them one.

    Attributes:
        order: From places to rows, ``N`` of both.
        cuts: ``int64 (G + 1,)``: group ``g`` holds places ``cuts[g]`` to ``cuts[g + 1]``.
        turns: ``int64 (G,)``, the order in which groups are served.
        rooms: ``int64 (G,)``, how many rows one batch of the group may have.
        multiples: ``int64 (G,)``: rows are made up to a multiple of it.
        multiple_of: Padded lengths are rounded up to a multiple of it.
        widths: ``int64 (G,)``, padded length of all columns; ``None`` where each column is as wide as its longest row.
        counts: What became of rows that are not in it as they were.
        batches_per_step: How many groups, in their turns, an optimiser step sums.
        is_mixed: Whether each rank takes groups of its own.
    """

    order: RowOrder
    cuts: Cuts
    turns: Index
    rooms: Index
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
        """Optimiser steps of the window."""
        return -(-len(self) // self.batches_per_step)

    def wanted(self, places: Index) -> Index:
        """Return the rows that lie at places, by number; ``int64`` of any shape for which `lay_out` has a row."""
        return self.order.rows_at(places)

    def places_of(self, numbers: Index) -> tuple[Index, Index]:
        """Return where rows go: for each place that takes one, which of the rows given it takes, and the place."""
        return np.arange(len(numbers)), self.order.places_of(numbers)

    def own_items(self, numbers: Index, places: Index) -> tuple[Index, Index, Index]:
        """Return what of some rows lies at places, ``int64 (n,)`` each: which of the rows, its first step, and its most steps.

        Args:
            numbers: ``int64 (N,)``, the rows by number, ascending.
            places: ``int64 (P,)``.
        """
        which = np.flatnonzero(np.isin(self.order.places_of(numbers), places))
        return which, np.zeros_like(which), np.full_like(which, np.iinfo(np.int64).max)

    def begun_places(self, served: int) -> Index:
        """Return the places of the optimiser step under way that were served, as rows of the window were."""
        sizes = np.diff(self.cuts)[self.turns]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, served, side="right"))
        start = first // self.batches_per_step * self.batches_per_step
        turns = slice(start, min(first + 1, len(sizes)))
        left = served - (int(ends[start - 1]) if start else 0)
        return ranges(self.cuts[self.turns[turns]], sizes[turns])[:left]

    def heights(self, places: Index) -> Index:
        """Return how many rows each place takes."""
        return np.ones_like(places)

    def lay_out(self, rows: Index, places: Index, cuts: Cuts, groups: Index, turns: Index) -> Plan:
        """Return the plan of some batches.

        Args:
            rows: What `wanted` returned, by number in the table of the batches' rows.
            places: ``int64 (P,)``, batch after batch.
            cuts: ``int64 (K + 1,)``, places of each batch.
            groups: ``int64 (K,)``, to which group each belongs.
            turns: ``int64 (K,)``, which is served when.
        """
        heights, multiples = np.diff(cuts), self.multiples[groups]
        order, cuts = fill_up(rows, cuts, -(-heights // multiples) * multiples)
        widths = None if self.widths is None else self.widths[groups]
        return Plan(order, cuts, turns, self.multiple_of, widths, self.counts)


def split_groups(cuts: Cuts, multiple: int) -> Cuts:
    """Split groups in halves until their number is a multiple; a group of one row stays.

    Args:
        cuts: ``int64 (G + 1,)``.
        multiple: What the number of groups is to be a multiple of.
    """
    while (missing := -(len(cuts) - 1) % multiple) and len(able := np.flatnonzero(np.diff(cuts) > 1)):
        chosen = able[np.arange(min(missing, len(able))) * len(able) // min(missing, len(able))]
        cuts = np.insert(cuts, chosen + 1, (cuts[chosen] + cuts[chosen + 1] + 1) // 2)
    return cuts
