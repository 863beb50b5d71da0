"""Which rows of a window all ranks take at a step, and which of them each rank does: pure functions, the same on every rank.

Rows are numbered as sorted: longest first, those of one length in the order read. So whoever knows how many rows of each length
every rank has knows the number of each row, and needs no list of lengths.

Legend: ``N`` rows, ``D`` different lengths, ``G`` groups, ``T`` steps, ``P`` rows of one rank.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.planning.batches import Cuts, Lengths
from seqstream.planning.plan import Index, Plan, fill_up
from seqstream.stages import Counts

Uneven: TypeAlias = Literal["repeat", "drop"]

UNEVEN = ("repeat", "drop")


class Order(Protocol):
    """A permutation of the rows of a window, from places to numbers and back."""

    def rows_at(self, places: Index) -> Index:
        """Return the numbers of the rows at places, of the same shape."""

    def places_of(self, rows: Index) -> Index:
        """Return the places of rows by their numbers, of the same shape."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """An order as a list: ``rows[place]``."""

    rows: Index

    def rows_at(self, places: Index) -> Index:
        return self.rows[places]

    def places_of(self, rows: Index) -> Index:
        places = np.empty_like(self.rows)
        places[self.rows] = np.arange(len(self.rows))
        return places[rows]


@dataclasses.dataclass(frozen=True)
class Grouping:
    """Groups of neighbours: the batches that all ranks take at a step.

    Attributes:
        order: From places to rows, ``N`` of both.
        cuts: ``int64 (G + 1,)``: group ``g`` holds places ``cuts[g]`` to ``cuts[g + 1]``.
        turns: ``int64 (G,)``, the order in which groups are served.
        rooms: ``int64 (G,)``, how many rows one batch of the group may have.
        multiples: ``int64 (G,)``: rows are made up to a multiple of it.
        multiple_of: Padded lengths are rounded up to a multiple of it.
        widths: ``int64 (G,)``, padded length of all columns; ``None`` where each column is as wide as its longest row.
        counts: What became of rows that are not in it as they were.
    """

    order: Order
    cuts: Cuts
    turns: Index
    rooms: Index
    multiples: Index
    multiple_of: int = 1
    widths: Lengths | None = None
    counts: Counts = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.turns)

    def wanted(self, places: Index) -> Index:
        """Return the rows that lie at places, by number; ``int64`` of any shape for which `lay_out` has a row."""
        return self.order.rows_at(places)

    def places_of(self, numbers: Index) -> tuple[Index, Index]:
        """Return where rows go: for each place that takes one, which of the rows given it takes, and the place."""
        return np.arange(len(numbers)), self.order.places_of(numbers)

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


@dataclasses.dataclass(frozen=True)
class Steps:
    """What is left of a window, cut into steps; the same on every rank.

    Attributes:
        groups: ``int64 (T,)``, the group of each.
        begins: ``int64 (T,)``, its first place.
        sizes: ``int64 (T,)``, its rows, of all ranks together.
        after: ``int64 (T,)``, rows of the window that are served after it.
        num_dropped: Rows left out, because there were fewer of them than ranks; for `Pack` sequences of which nothing is left.
        num_truncated: Sequences of which some pieces are left out, and some are not.
    """

    groups: Index
    begins: Index
    sizes: Index
    after: Index
    num_dropped: int = 0
    num_truncated: int = 0

    def __len__(self) -> int:
        return len(self.groups)


def cut_steps(grouping: Grouping, served: int, world_size: int, uneven: Uneven = "repeat") -> Steps:
    """Cut what is left of a window into steps, no batch of which is over its room.

    A group that was made for as many ranks is one step. Where there are fewer ranks now it is several, as even as can be. A
    step never reaches over the end of a group, so its lengths are alike, and its shape is one.

    Args:
        grouping: The window as it was planned, by whatever number of ranks.
        served: How many of its rows were served, a prefix of its groups in their turns.
        world_size: How many ranks there are now.
        uneven: What becomes of a step with fewer rows than ranks: ``"repeat"`` keeps it, ``"drop"`` does not.
    """
    sizes = np.diff(grouping.cuts)[grouping.turns]
    ends = np.cumsum(sizes)
    first = int(np.searchsorted(ends, served, side="right"))
    groups, sizes = grouping.turns[first:], sizes[first:].copy()
    begins = grouping.cuts[groups].copy()
    if len(groups):
        begun = served - (int(ends[first]) - int(sizes[0]))
        sizes[0] -= begun
        begins[0] += begun
    parts = -(-sizes // (world_size * grouping.rooms[groups]))
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    least, longer = np.repeat(sizes // parts, parts), np.repeat(sizes % parts, parts)
    taken = least + (number < longer)
    starts = np.repeat(begins, parts) + number * least + np.minimum(number, longer)
    steps = Steps(np.repeat(groups, parts), starts, taken, served + np.cumsum(taken))
    if uneven == "repeat" or world_size == 1:
        return steps
    kept = steps.sizes >= world_size
    dropped, truncated = _count_left_out(grouping, steps.begins[~kept], steps.sizes[~kept])
    return Steps(steps.groups[kept], steps.begins[kept], steps.sizes[kept], steps.after[kept], dropped, truncated)


def _count_left_out(grouping: Grouping, begins: Index, sizes: Index) -> tuple[int, int]:
    """Count rows that are wanted at some places and nowhere else, and those that are wanted elsewhere too: in pieces."""
    is_inside = np.zeros(int(grouping.cuts[-1]), dtype=np.bool_)
    for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
        is_inside[begin : begin + size] = True
    inside, outside = (grouping.wanted(np.flatnonzero(where)) for where in (is_inside, ~is_inside))
    found = np.zeros(1 + max(inside.max(initial=-1), outside.max(initial=-1)), dtype=np.bool_)
    found[inside] = True
    num_wanted = int(found.sum())
    found[outside] = False
    num_dropped = int(found.sum())
    return num_dropped, num_wanted - num_dropped


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows of one rank, step after step.

    Attributes:
        places: ``int64 (P,)``, in a batch longest first.
        cuts: ``int64 (T + 1,)``: step ``t`` holds ``places[cuts[t]:cuts[t + 1]]``.
        repeated: ``bool (P,)``, rows that another rank has as well, because there are fewer rows than ranks.
    """

    places: Index
    cuts: Cuts
    repeated: npt.NDArray[np.bool_]


def deal(steps: Steps, rank: int, world_size: int) -> Share:
    """Deal the rows of each step to the ranks in turn, as cards are: rank ``r`` gets rows ``r``, ``r + world_size`` and so on.

    So the batches of a step have the same rows, give or take one, and about the same lengths. Where there are fewer rows than
    ranks, the ranks left over get one that another has, from the first on.
    """
    counts = -((rank - steps.sizes) // world_size)
    lacking = counts <= 0
    counts = np.maximum(counts, 1)
    cuts = np.append(0, np.cumsum(counts))
    number = np.arange(cuts[-1]) - np.repeat(cuts[:-1], counts)
    first = np.where(lacking, rank % np.maximum(steps.sizes, 1), rank)
    places = np.repeat(steps.begins + first, counts) + number * world_size
    return Share(places, cuts, np.repeat(lacking, counts))


def owners(steps: Steps, places: Index, world_size: int) -> tuple[Index, Index]:
    """Return who takes the row at each place at which step: what `deal` gives, the other way round.

    Args:
        steps: The steps.
        places: ``int64 (N,)``.
        world_size: Number of ranks.

    Returns:
        Rank and step of each, ``int64 (N,)``; -1 where no step takes the row. Repeated rows count for the first who has them.
    """
    if not len(steps):
        nowhere = np.full(len(places), -1)
        return nowhere, nowhere
    by_place = np.argsort(steps.begins)
    begins = steps.begins[by_place]
    at = np.searchsorted(begins, places, side="right") - 1
    since = places - begins[at]
    taken = (at >= 0) & (since < steps.sizes[by_place][at])
    return np.where(taken, since % world_size, -1), np.where(taken, by_place[at], -1)
