"""Which rows of a global plan each rank takes at each step: pure functions, the same on every rank.

Legend: ``T`` batches of each rank, ``E`` parts, ``P`` rows of one rank.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Cuts, Index, positions, ranges
from seqstream.planning.global_plan import GlobalPlan, piecewise

Uneven: TypeAlias = Literal["repeat", "drop"]
UNEVEN = ("repeat", "drop")


@dataclasses.dataclass(frozen=True)
class Steps:
    """What is left of a window, cut into what all ranks take at once; the same on every rank.

    Attributes:
        groups: ``int64 (E,)``, the group of each part; ``E = T * width``.
        begins: ``int64 (E,)``, its first place.
        sizes: ``int64 (E,)``, its rows.
        after: ``int64 (T,)``, rows of the window that are served after each ``width`` parts.
        numbers: ``int64 (T,)``, to which optimiser step of the window they belong.
        width: 1 where all ranks share a part, else the number of ranks, each of which takes one.
        is_repeated: ``bool (E,)``, parts that another rank has as well; ``None`` for none.
        num_dropped: Rows left out, because there were fewer of them than ranks; for `Pack` sequences of which nothing is left.
        num_truncated: Sequences of which some pieces are left out, and some are not.
    """

    groups: Index
    begins: Index
    sizes: Index
    after: Index
    numbers: Index
    width: int = 1
    is_repeated: npt.NDArray[np.bool_] | None = None
    num_dropped: int = 0
    num_truncated: int = 0

    @classmethod
    def of(cls, left: _Left, served: int, width: int) -> Steps:
        """Make steps of parts, as many at once as given."""
        after = served + np.cumsum(left.sizes.reshape(-1, width).sum(axis=1))
        return cls(left.groups, left.begins, left.sizes, after, left.numbers[::width], width)

    def __len__(self) -> int:
        return len(self.after)

    @property
    def totals(self) -> Index:
        """Rows of each step, ``int64 (T,)``."""
        totals: Index = self.sizes.reshape(-1, self.width).sum(axis=1)
        return totals

    @property
    def ends(self) -> npt.NDArray[np.bool_]:
        """Whether an optimiser step ends, ``bool (T,)``."""
        ends: npt.NDArray[np.bool_] = np.diff(self.numbers, append=-1) != 0
        return ends


@dataclasses.dataclass(frozen=True)
class _Left:
    """Groups that are left of a window, or parts of them, in their turns: ``int64 (n,)`` each.

    Attributes:
        groups: Their numbers.
        begins: Their first places.
        sizes: Their rows.
        numbers: The optimiser steps that they belong to.
    """

    groups: Index
    begins: Index
    sizes: Index
    numbers: Index

    @classmethod
    def of(cls, global_plan: GlobalPlan, served: int) -> _Left:
        sizes = np.diff(global_plan.cuts)[global_plan.turns]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, served, side="right"))
        groups, sizes = global_plan.turns[first:], sizes[first:].copy()
        begins = global_plan.cuts[groups].copy()
        if len(groups):
            begun = served - (int(ends[first]) - int(sizes[0]))
            sizes[0] -= begun
            begins[0] += begun
        return cls(groups, begins, sizes, np.arange(first, len(global_plan)) // global_plan.batches_per_step)

    def split(self, parts: Index) -> _Left:
        """Cut each into so many parts, as even as can be; some are empty where there are fewer rows."""
        if int(parts.sum()) == len(parts):
            return self
        number = positions(parts)
        least, longer = np.repeat(self.sizes // parts, parts), np.repeat(self.sizes % parts, parts)
        begins = np.repeat(self.begins, parts) + number * least + np.minimum(number, longer)
        return _Left(np.repeat(self.groups, parts), begins, least + (number < longer), np.repeat(self.numbers, parts))

    def __len__(self) -> int:
        return len(self.groups)


def cut_steps(global_plan: GlobalPlan, served: int, world_size: int, uneven: Uneven = "repeat") -> Steps:
    """Cut what is left of a window into what all ranks take at once, no batch of which is over its room.

    A group that was made for as many ranks is one such part. Where there are fewer ranks now it is several, as even as can be.
    A part never reaches over the end of a group, so its lengths are alike, and its shape is one. Where each rank takes groups
    of its own, those of an optimiser step are dealt to the ranks that there are now; the last of them are split, so that each
    rank has one.

    Args:
        global_plan: The window as it was planned, by whatever number of ranks.
        served: How many of its rows were served, a prefix of its groups in their turns.
        world_size: How many ranks there are now.
        uneven: What becomes of fewer rows than ranks: ``"repeat"`` keeps them, ``"drop"`` does not. Where that would be as many
            rows as ranks or more, as it can be in a window planned for another number of ranks, the batches of a step are
            taken from groups that follow each other, each rank with its own; so no more is left out than the last few.
    """
    steps = _cut_groups(global_plan, served, world_size)
    is_short = steps.totals < world_size
    if world_size == 1 or uneven == "repeat":
        return _repeat(steps) if is_short.any() and world_size > 1 else steps
    whole = steps if not served else _cut_groups(global_plan, 0, world_size)  # as whoever began the window with these ranks
    if whole.totals[whole.totals < world_size].sum() >= world_size:
        steps = _cut_across(global_plan, served, world_size)
        is_short = steps.totals < world_size
    return _drop(steps, global_plan, is_short) if is_short.any() else steps


def _cut_groups(global_plan: GlobalPlan, served: int, world_size: int) -> Steps:
    """Cut what is left of a window into steps, some of which may have fewer rows than there are ranks."""
    left = _Left.of(global_plan, served)
    if global_plan.is_mixed:
        left, width = left.split(_parts_of_own(left, world_size)), world_size
    else:
        left, width = left.split(-(-left.sizes // (world_size * global_plan.rooms[left.groups]))), 1
    return Steps.of(left, served, width)


def _cut_across(global_plan: GlobalPlan, served: int, world_size: int) -> Steps:
    """Cut what is left into batches of one group each, and take one for each rank, in their turns; only the last are split."""
    left = _Left.of(global_plan, served)
    pieces = left.split(-(-left.sizes // global_plan.rooms[left.groups]))
    at_once = dataclasses.replace(pieces, numbers=np.arange(len(pieces)) // world_size)
    return Steps.of(pieces.split(_parts_of_own(at_once, world_size)), served, world_size)


def _parts_of_own(left: _Left, world_size: int) -> Index:
    """Return in how many parts each group is dealt, so that the parts of each optimiser step are a multiple of the ranks.

    Only groups that would be the last of their step are split, the one with the most rows a part first.
    """
    parts = np.ones(len(left), dtype=np.int64)
    _, firsts, counts = np.unique(left.numbers, return_index=True, return_counts=True)
    short = counts % world_size > 0
    for first, count in zip(firsts[short].tolist(), counts[short].tolist(), strict=True):
        last = slice(first + count // world_size * world_size, first + count)
        for _ in range(-count % world_size):
            parts[last.start + int(np.argmax(left.sizes[last] / parts[last]))] += 1
    return parts


def _repeat(steps: Steps) -> Steps:
    """Give ranks without rows a part that another has."""
    if steps.width == 1:
        return steps  # `deal` does
    empty = np.flatnonzero(steps.sizes == 0)
    groups, begins, sizes = steps.groups.copy(), steps.begins.copy(), steps.sizes.copy()
    for number, part in enumerate(empty.tolist()):
        first = part // steps.width * steps.width
        others = first + np.flatnonzero(steps.sizes[first : first + steps.width])
        other = others[number % len(others)]
        groups[part], begins[part], sizes[part] = groups[other], begins[other], sizes[other]
    is_repeated = np.isin(np.arange(len(groups)), empty)
    return dataclasses.replace(steps, groups=groups, begins=begins, sizes=sizes, is_repeated=is_repeated)


def _drop(steps: Steps, global_plan: GlobalPlan, is_short: npt.NDArray[np.bool_]) -> Steps:
    """Leave out what has fewer rows than there are ranks."""
    out = np.repeat(is_short, steps.width)
    dropped, truncated = _count_left_out(global_plan, steps.begins[out], steps.sizes[out])
    return Steps(
        steps.groups[~out],
        steps.begins[~out],
        steps.sizes[~out],
        steps.after[~is_short],
        steps.numbers[~is_short],
        steps.width,
        num_dropped=dropped,
        num_truncated=truncated,
    )


def _count_left_out(global_plan: GlobalPlan, begins: Index, sizes: Index) -> tuple[int, int]:
    """Count rows that are wanted at some places and nowhere else, and those that are wanted elsewhere too: in pieces."""
    is_inside = np.zeros(int(global_plan.cuts[-1]), dtype=np.bool_)
    for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
        is_inside[begin : begin + size] = True
    inside, outside = (global_plan.wanted(np.flatnonzero(where)) for where in (is_inside, ~is_inside))
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
        groups: ``int64 (T,)``, the group of each.
        repeated: ``bool (P,)``, rows that another rank has as well, because there are fewer rows than ranks.
    """

    places: Index
    cuts: Cuts
    groups: Index
    repeated: npt.NDArray[np.bool_]


def deal(steps: Steps, rank: int, world_size: int) -> Share:
    """Deal the rows of each step to the ranks: parts of their own, or those of a shared part in turn, as cards are.

    Of a shared part rank ``r`` gets rows ``r``, ``r + world_size`` and so on. So the batches of a step have the same rows, give
    or take one, and about the same lengths. Where there are fewer rows than ranks, the ranks left over get one that another
    has, from the first on.
    """
    if steps.width > 1:
        return _own_parts(steps, rank)
    counts = -((rank - steps.sizes) // world_size)
    lacking = counts <= 0
    counts = np.maximum(counts, 1)
    cuts = np.append(0, np.cumsum(counts))
    number = positions(counts)
    first = np.where(lacking, rank % np.maximum(steps.sizes, 1), rank)
    places = np.repeat(steps.begins + first, counts) + number * world_size
    return Share(places, cuts, steps.groups, np.repeat(lacking, counts))


def _own_parts(steps: Steps, rank: int) -> Share:
    own = slice(rank, None, steps.width)
    sizes = steps.sizes[own]
    cuts = np.append(0, np.cumsum(sizes))
    repeated = np.zeros(len(sizes), dtype=np.bool_) if steps.is_repeated is None else steps.is_repeated[own]
    return Share(ranges(steps.begins[own], sizes), cuts, steps.groups[own], np.repeat(repeated, sizes))


def owners(steps: Steps, places: Index, world_size: int) -> tuple[Index, Index]:
    """Return who takes the row at each place as a row of which part: what `deal` gives, the other way round.

    Args:
        steps: The steps.
        places: ``int64 (N,)``.
        world_size: Number of ranks.

    Returns:
        Rank and part of each, ``int64 (N,)``; -1 where nobody takes the row. Repeated rows count for the first who has them.
    """
    first_parts = np.flatnonzero(steps.sizes if steps.is_repeated is None else ~steps.is_repeated)
    if not len(first_parts):
        nowhere = np.full(len(places), -1)
        return nowhere, nowhere
    by_place = first_parts[np.argsort(steps.begins[first_parts], kind="stable")]
    begins = steps.begins[by_place]

    def part_of(places: Index) -> Index:
        at = np.searchsorted(begins, places, side="right") - 1
        part = by_place[at]
        return np.where((at >= 0) & (places - begins[at] < steps.sizes[part]), part, -1)

    part = piecewise(part_of, places)
    rank = (places - steps.begins[part]) % world_size if steps.width == 1 else part % steps.width
    return np.where(part < 0, -1, rank), part
