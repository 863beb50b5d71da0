"""The schedule of a window: which part of a global plan each rank takes at each turn. Pure functions, the same on every rank.

Legend: ``T`` turns, ``E`` parts, ``R`` ranks, ``P`` places of one rank.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

import numpy as np

from seqstream.arrays import Cuts, Index, Mask, positions, ranges
from seqstream.planning.global_plan import GlobalPlan, in_chunks

Uneven: TypeAlias = Literal["repeat", "drop"]
UNEVEN = ("repeat", "drop")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The unserved rest of a window, cut into turns; at each turn every rank takes one batch. The same on every rank.

    A part is a range of places within one global batch. All ranks share the part of a turn, or each rank has its own.

    Attributes:
        global_batches: ``int64 (E,)``, the global batch of each part; ``E = T * parts_per_turn``.
        first_places: ``int64 (E,)``, the first place of each part.
        sizes: ``int64 (E,)``, the number of places of each part.
        served_after: ``int64 (T,)``, number of places of the window that are served after each turn.
        step_numbers: ``int64 (T,)``, the optimiser step of each turn, counted from the beginning of the window.
        parts_per_turn: 1 where all ranks share a part, else ``R``.
        is_repeated: ``bool (E,)``, whether a part repeats that of another rank; ``None`` where none does.
        num_dropped: Number of rows that are left out, as a turn would have fewer places than ranks; of packed rows only
            sequences of which no piece is left.
        num_truncated: Number of sequences of which some pieces are left out, and some are not.
    """

    global_batches: Index
    first_places: Index
    sizes: Index
    served_after: Index
    step_numbers: Index
    parts_per_turn: int = 1
    is_repeated: Mask | None = None
    num_dropped: int = 0
    num_truncated: int = 0

    @classmethod
    def of(cls, parts: _Parts, served: int, parts_per_turn: int) -> Schedule:
        """Return the schedule that takes ``parts_per_turn`` parts at each turn."""
        after = served + np.cumsum(parts.sizes.reshape(-1, parts_per_turn).sum(axis=1))
        steps = parts.steps[::parts_per_turn]
        return cls(parts.global_batches, parts.first_places, parts.sizes, after, steps, parts_per_turn)

    def __len__(self) -> int:
        return len(self.served_after)

    @property
    def rows_per_turn(self) -> Index:
        """Number of places of each turn, ``int64 (T,)``."""
        rows_per_turn: Index = self.sizes.reshape(-1, self.parts_per_turn).sum(axis=1)
        return rows_per_turn

    @property
    def ends_step(self) -> Mask:
        """Whether each turn is the last of its optimiser step, ``bool (T,)``."""
        ends_step: Mask = np.diff(self.step_numbers, append=-1) != 0
        return ends_step


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Unserved global batches, or parts of them, in the order in which they are served: ``int64 (E,)`` each.

    Attributes:
        global_batches: Their global batches.
        first_places: Their first places.
        sizes: Their numbers of places.
        steps: Their optimiser steps.
    """

    global_batches: Index
    first_places: Index
    sizes: Index
    steps: Index

    @classmethod
    def unserved(cls, global_plan: GlobalPlan, served: int) -> _Parts:
        """Return the global batches after the first ``served`` places; of one that is begun, the rest."""
        sizes = np.diff(global_plan.cuts)[global_plan.turns]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, served, side="right"))
        global_batches, sizes = global_plan.turns[first:], sizes[first:].copy()
        first_places = global_plan.cuts[global_batches].copy()
        if len(global_batches):
            begun = served - (int(ends[first]) - int(sizes[0]))
            sizes[0] -= begun
            first_places[0] += begun
        return cls(global_batches, first_places, sizes, np.arange(first, len(global_plan)) // global_plan.batches_per_step)

    def split(self, counts: Index) -> _Parts:
        """Split each part into ``counts`` parts whose sizes differ by at most one; some are empty where places are too few."""
        if int(counts.sum()) == len(counts):
            return self
        position = positions(counts)
        least, longer = np.repeat(self.sizes // counts, counts), np.repeat(self.sizes % counts, counts)
        first_places = np.repeat(self.first_places, counts) + position * least + np.minimum(position, longer)
        global_batches, steps = np.repeat(self.global_batches, counts), np.repeat(self.steps, counts)
        return _Parts(global_batches, first_places, least + (position < longer), steps)

    def __len__(self) -> int:
        return len(self.global_batches)


def schedule_turns(global_plan: GlobalPlan, served: int, world_size: int, uneven: Uneven = "repeat") -> Schedule:
    """Cut the unserved rest of a window into turns, with no batch of more rows than its global batch allows.

    Where all ranks share global batches, each is one part, or several even parts where fewer ranks than planned would exceed
    the most rows of a batch. A part never reaches beyond its global batch, so its rows are of similar length and of one shape.
    In a mixed plan, the ranks take the global batches of each optimiser step in turn, and the last are split so that each rank
    has one.

    Args:
        global_plan: The plan of the window, for any number of ranks.
        served: Number of places that are served: the first ones, in the order of the turns.
        world_size: Number of ranks now.
        uneven: What becomes of turns with fewer places than ranks: ``"repeat"`` repeats rows, ``"drop"`` leaves the turn out.
            Where ``"drop"`` would leave out as many rows as there are ranks, as it may in a window that was planned for another
            number of ranks, each rank takes a batch of the next global batch instead; then only the last few rows are left out.
    """
    schedule = _cut_global_batches(global_plan, served, world_size)
    is_short = schedule.rows_per_turn < world_size
    if world_size == 1 or uneven == "repeat":
        return _repeat(schedule) if is_short.any() and world_size > 1 else schedule
    whole = schedule if not served else _cut_global_batches(global_plan, 0, world_size)  # so a resumed window is cut alike
    if whole.rows_per_turn[whole.rows_per_turn < world_size].sum() >= world_size:
        schedule = _cut_across(global_plan, served, world_size)
        is_short = schedule.rows_per_turn < world_size
    return _drop(schedule, global_plan, is_short) if is_short.any() else schedule


def _cut_global_batches(global_plan: GlobalPlan, served: int, world_size: int) -> Schedule:
    """Cut the rest of a window into turns, some of which may have fewer places than there are ranks."""
    parts = _Parts.unserved(global_plan, served)
    if global_plan.is_mixed:
        return Schedule.of(parts.split(_num_splits(parts, world_size)), served, world_size)
    return Schedule.of(parts.split(-(-parts.sizes // (world_size * global_plan.max_rows[parts.global_batches]))), served, 1)


def _cut_across(global_plan: GlobalPlan, served: int, world_size: int) -> Schedule:
    """Cut the rest of a window into batches of one global batch each, one for each rank a turn; only the last are split."""
    parts = _Parts.unserved(global_plan, served)
    batches = parts.split(-(-parts.sizes // global_plan.max_rows[parts.global_batches]))
    by_turn = dataclasses.replace(batches, steps=np.arange(len(batches)) // world_size)
    return Schedule.of(batches.split(_num_splits(by_turn, world_size)), served, world_size)


def _num_splits(parts: _Parts, world_size: int) -> Index:
    """Return into how many parts to split each part, so that each optimiser step has a multiple of the ranks.

    Only the last parts of a step are split, the one with the most places a split first.
    """
    counts = np.ones(len(parts), dtype=np.int64)
    _, firsts, sizes = np.unique(parts.steps, return_index=True, return_counts=True)
    short = sizes % world_size > 0
    for first, size in zip(firsts[short].tolist(), sizes[short].tolist(), strict=True):
        last = slice(first + size // world_size * world_size, first + size)
        for _ in range(-size % world_size):
            counts[last.start + int(np.argmax(parts.sizes[last] / counts[last]))] += 1
    return counts


def _repeat(schedule: Schedule) -> Schedule:
    """Give each rank without rows at a turn the part of another rank."""
    if schedule.parts_per_turn == 1:
        return schedule  # `share_of_rank` repeats rows
    empty = np.flatnonzero(schedule.sizes == 0)
    source = np.arange(len(schedule.sizes))
    for number, part in enumerate(empty.tolist()):
        first = part // schedule.parts_per_turn * schedule.parts_per_turn
        others = first + np.flatnonzero(schedule.sizes[first : first + schedule.parts_per_turn])
        source[part] = others[number % len(others)]
    return dataclasses.replace(
        schedule,
        global_batches=schedule.global_batches[source],
        first_places=schedule.first_places[source],
        sizes=schedule.sizes[source],
        is_repeated=schedule.sizes == 0,
    )


def _drop(schedule: Schedule, global_plan: GlobalPlan, is_short: Mask) -> Schedule:
    """Leave out the turns that have fewer places than there are ranks."""
    out = np.repeat(is_short, schedule.parts_per_turn)
    num_dropped, num_truncated = _count_left_out(global_plan, ranges(schedule.first_places[out], schedule.sizes[out]))
    return Schedule(
        schedule.global_batches[~out],
        schedule.first_places[~out],
        schedule.sizes[~out],
        schedule.served_after[~is_short],
        schedule.step_numbers[~is_short],
        schedule.parts_per_turn,
        num_dropped=num_dropped,
        num_truncated=num_truncated,
    )


def _count_left_out(global_plan: GlobalPlan, places: Index) -> tuple[int, int]:
    """Count the rows at some places that lie at no other place, and those that do, as they are in pieces."""
    is_inside = np.zeros(int(global_plan.cuts[-1]), dtype=np.bool_)
    is_inside[places] = True
    inside, outside = (global_plan.row_numbers(np.flatnonzero(where)) for where in (is_inside, ~is_inside))
    is_left_out = np.zeros(1 + max(inside.max(initial=-1), outside.max(initial=-1)), dtype=np.bool_)
    is_left_out[inside] = True
    num_inside = int(is_left_out.sum())
    is_left_out[outside] = False
    num_dropped = int(is_left_out.sum())
    return num_dropped, num_inside - num_dropped


@dataclasses.dataclass(frozen=True)
class RankShare:
    """The places of one rank, turn after turn.

    Attributes:
        places: ``int64 (P,)``, longest row first within a turn.
        cuts: ``int64 (T + 1,)``: at turn ``t`` the rank takes ``places[cuts[t]:cuts[t + 1]]``.
        global_batches: ``int64 (T,)``, the global batch of each turn.
        is_repeated: ``bool (P,)``, whether another rank has the row too, as there are fewer rows than ranks.
    """

    places: Index
    cuts: Cuts
    global_batches: Index
    is_repeated: Mask


def share_of_rank(schedule: Schedule, rank: int, world_size: int) -> RankShare:
    """Return the places that a rank takes at each turn: its own part, or every ``world_size``-th place of a shared part.

    Of a shared part rank ``r`` takes places ``r``, ``r + world_size`` and so on. So at a turn the batches of all ranks have the
    same number of rows, plus or minus one, and about the same lengths. Where there are fewer places than ranks, the remaining
    ranks repeat places of other ranks, from the first on.
    """
    if schedule.parts_per_turn > 1:
        return _own_parts(schedule, rank)
    counts = -((rank - schedule.sizes) // world_size)
    is_lacking = counts <= 0
    counts = np.maximum(counts, 1)
    first = np.where(is_lacking, rank % np.maximum(schedule.sizes, 1), rank)
    places = positions(counts)
    places *= world_size
    places += np.repeat(schedule.first_places + first, counts)
    return RankShare(places, np.append(0, np.cumsum(counts)), schedule.global_batches, np.repeat(is_lacking, counts))


def _own_parts(schedule: Schedule, rank: int) -> RankShare:
    own = slice(rank, None, schedule.parts_per_turn)
    sizes = schedule.sizes[own]
    is_repeated = np.zeros(len(sizes), dtype=np.bool_) if schedule.is_repeated is None else schedule.is_repeated[own]
    return RankShare(
        ranges(schedule.first_places[own], sizes),
        np.append(0, np.cumsum(sizes)),
        schedule.global_batches[own],
        np.repeat(is_repeated, sizes),
    )


def owners_of(schedule: Schedule, places: Index, world_size: int) -> tuple[Index, Index]:
    """Return which rank takes each place, and as a place of which part: the inverse of `share_of_rank`.

    Args:
        schedule: The turns.
        places: ``int64 (n,)``.
        world_size: Number of ranks.

    Returns:
        Rank and part of each place, ``int64 (n,)``; -1 where no rank takes it. Of a repeated place this is the first rank.
    """
    first_parts = np.flatnonzero(schedule.sizes if schedule.is_repeated is None else ~schedule.is_repeated)
    if not len(first_parts):
        nowhere = np.full(len(places), -1)
        return nowhere, nowhere
    by_place = first_parts[np.argsort(schedule.first_places[first_parts], kind="stable")]
    begins = schedule.first_places[by_place]

    def part_of(places: Index) -> Index:
        at = np.searchsorted(begins, places, side="right") - 1
        part = by_place[at]
        return np.where((at >= 0) & (places - begins[at] < schedule.sizes[part]), part, -1)

    part = in_chunks(part_of, places)
    rank = (
        (places - schedule.first_places[part]) % world_size if schedule.parts_per_turn == 1 else part % schedule.parts_per_turn
    )
    return np.where(part < 0, -1, rank), part
