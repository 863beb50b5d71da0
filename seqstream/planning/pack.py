"""Whole sequences packed into rows of one length."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Cuts, Index, Lengths, positions, ranges
from seqstream.options import yes_or_no
from seqstream.planning.batch_spec import Decided, WindowSize, set_positive, show, turns_of, without_default
from seqstream.planning.best_fit import pack_rows
from seqstream.planning.equal_cost import deal_equally, row_costs
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.plan import MADE_UP, Plan, fill_up
from seqstream.planning.planned_search import FillingSearch, PlannedRows, PlannedSearch
from seqstream.planning.tie_order import SpreadTies, longest_first
from seqstream.records import Counts, Json

_ATTEMPTS = 12
"""How often it is tried to plan fewer sequences, so that they fill whole batches; four times as often with ``drop_last``."""

_OVERFLOWS = ("error", "truncate", "split", "drop")


@dataclasses.dataclass(frozen=True)
class RowPlan(Plan):
    """Which sequences of a window go together, and where in their batch they lie.

    ``order`` has a place for each sequence, or for each piece of one that was split, in the order in which they lie in the
    batch, row after row.

    Attributes:
        row_length: Slots of a row.
        num_rows: Rows of a batch.
        begins: ``int64 (N,)``, first step that is taken of each sequence.
        lengths: ``int64 (N,)``, steps that are taken of it.
        slots: ``int64 (N,)``, where it begins in its batch, rows lying one after the other.
        pieces: ``int64 (N,)``, number of the piece where a sequence was split, else 0.
    """

    _: dataclasses.KW_ONLY
    row_length: int
    num_rows: int
    begins: Index
    lengths: Lengths
    slots: Index
    pieces: Index


@dataclasses.dataclass(frozen=True)
class PackedGlobalPlan(GlobalPlan):
    """Rows of several sequences; a place is one of them.

    Attributes:
        row_length: Slots of a row.
        row_cuts: ``int64 (N + 1,)``: the row at place ``n`` holds items ``row_cuts[n]`` to ``row_cuts[n + 1]``, in this order.
        sequences: ``int64 (I,)``, the number of the sequence of which each item is all, or a piece.
        begins: ``int64 (I,)``, its first step there.
        lengths: ``int64 (I,)``, its steps.
        pieces: ``int64 (I,)``, its number there.
    """

    _: dataclasses.KW_ONLY
    row_length: int
    row_cuts: Index
    sequences: Index
    begins: Index
    lengths: Lengths
    pieces: Index

    def wanted(self, places: Index) -> Index:
        return self.sequences[self._items(places)]

    def places_of(self, numbers: Index) -> tuple[Index, Index]:
        which, items = self._own(numbers)
        return which, np.searchsorted(self.row_cuts, items, side="right") - 1

    def _own(self, numbers: Index) -> tuple[Index, Index]:
        """Return the items that are of some sequences: of which of them each is, and the item."""
        which = np.searchsorted(numbers, self.sequences)
        own = which < len(numbers)
        own[own] = numbers[which[own]] == self.sequences[own]
        items = np.flatnonzero(own)
        return which[items], items

    def own_items(self, numbers: Index, places: Index) -> tuple[Index, Index, Index]:
        which, items = self._own(numbers)
        there = np.isin(np.searchsorted(self.row_cuts, items, side="right") - 1, places)
        which, items = which[there], items[there]
        return which, self.begins[items], self.lengths[items]

    def heights(self, places: Index) -> Index:
        counts: Index = np.diff(self.row_cuts)[places]
        return counts

    def lay_out(self, rows: Index, places: Index, cuts: Cuts, groups: Index, turns: Index) -> RowPlan:
        multiples = self.multiples[groups]
        places, cuts = fill_up(places, cuts, -(-np.diff(cuts) // multiples) * multiples)
        made = places == MADE_UP
        items = np.where(made, 1, np.diff(self.row_cuts)[places]) if len(self.row_cuts) > 1 else np.ones_like(places)
        item_cuts = np.append(0, np.cumsum(items))
        is_made = np.repeat(made, items)
        taken = self._items(places[~made])
        lengths = _spread(self.lengths[taken], is_made, 1)
        heights = np.diff(cuts)
        in_batch = positions(heights)
        return RowPlan(
            order=_spread(rows, is_made, MADE_UP),
            cuts=item_cuts[cuts],
            turns=turns,
            counts=self.counts,
            row_length=self.row_length,
            num_rows=int(self.multiples[0]) if len(self.multiples) else 0,
            begins=_spread(self.begins[taken], is_made, 0),
            lengths=lengths,
            slots=np.repeat(in_batch, items) * self.row_length + _since(np.cumsum(lengths) - lengths, item_cuts),
            pieces=_spread(self.pieces[taken], is_made, 0),
        )

    def _items(self, places: Index) -> Index:
        """Return the items of rows, one after the other."""
        counts = self.row_cuts[places + 1] - self.row_cuts[places]
        return ranges(self.row_cuts[places], counts)


@dataclasses.dataclass(frozen=True, repr=False)
class Pack(Decided):
    """Batches of rows of exactly one length, each packed with whole sequences: no padding to speak of, and one shape.

    Sequences are packed by best fit decreasing over a window, and rows dealt so that all ranks have as much attention to
    compute at a step: a long document costs more than the short ones that fill as many slots. A batch has ``position_ids`` that
    restart in every sequence, ``sequence_ids``, and ``labels``. What does not fill a batch begins the next window; at the end
    of an epoch, or where it would be kept from packing well, rows are left empty but for one made-up token of weight 0.

    Args:
        row_length: Slots of a row.
        rows: Rows of a batch.
        window_batches: Least batches that are packed together, of each rank.
        window_bytes: Least bytes of ids that are packed together, four each, of all ranks; see `Bucket`.
        overflow: What becomes of sequences longer than a row: ``"error"`` raises; ``"truncate"`` drops the end; ``"split"``
            makes pieces of it, each in any row, numbered in `Batch.pieces`; ``"drop"`` drops the sequence.
        causal: Whether ``labels`` are for next-token prediction: the ids themselves where the source has no labels, and -100 on
            the first of every sequence, which nothing before it should predict. Without it labels stay as they are. Sequences
            without any label, as those of one token, are dropped, and so are pieces without one.
        drop_last: Leave out the sequences that fill no whole optimiser step, of all ranks and with ``accumulate``, at the end
            of an epoch, instead of empty rows. They are counted as dropped.

    Raises:
        ValueError: A number is not positive, or ``overflow`` is none of these.
    """

    row_length: int
    _: dataclasses.KW_ONLY
    rows: int
    window_batches: int | None = None
    window_bytes: int | None = None
    overflow: Literal["error", "truncate", "split", "drop"] = "error"
    causal: bool = True
    drop_last: bool = False

    def __post_init__(self) -> None:
        set_positive(self, ("row_length", "rows", "window_batches", "window_bytes"), limits=("row_length", "rows"))
        for name in ("causal", "drop_last"):
            object.__setattr__(self, name, yes_or_no(name, getattr(self, name)))
        if not isinstance(self.overflow, str) or self.overflow not in _OVERFLOWS:
            raise ValueError(f"overflow must be one of {', '.join(map(repr, _OVERFLOWS))}, got {self.overflow!r}")

    def __repr__(self) -> str:
        return show(self)

    def window_size(self, *, shuffle: bool) -> WindowSize:
        return WindowSize.of(self.window_batches, self.window_bytes)

    @property
    def num_slots(self) -> int:
        """Slots of a batch."""
        return self.rows * self.row_length

    def fills(self, runs: LengthCounts, multiple: int) -> bool:
        return int((self._taken(runs.lengths) * runs.counts).sum()) >= self.num_slots * multiple

    def search_planned(self, runs: LengthCounts, *, last: bool, multiple: int) -> PlannedSearch:
        """Return how many sequences fill whole steps, or the search for that number; 0 if they do not fill one."""
        if last and not self.drop_last:
            return PlannedRows(runs.num_rows)
        if not self.fills(runs, multiple):
            return PlannedRows(0)
        size, filled = self.rows * multiple, self._num_rows(runs)
        wanted = filled // size * size
        if filled == wanted:
            return PlannedRows(runs.num_rows)
        may_lack, attempts = (0, 4 * _ATTEMPTS) if self.drop_last else (self.rows - 1, _ATTEMPTS)
        return FillingSearch(self._num_rows, wanted, may_lack, attempts, more=(runs.num_rows, filled))

    def plan_global(
        self, runs: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> PackedGlobalPlan:
        self._check_fit(runs.lengths)
        sequences, begins, sizes, pieces = self._items(runs.every(1))
        by_length = longest_first(sizes, key)
        packed, row_cuts = pack_rows(sizes[by_length], self.row_length)
        packed = by_length[packed]
        if key is not None:
            costs = row_costs(sizes[packed], row_cuts)
            order = deal_equally(costs, rows=self.rows, world_size=world_size, key=key)
            packed, row_cuts = _in_order(order, packed, row_cuts)
        num_rows, size = len(row_cuts) - 1, self.rows * world_size
        groups = np.full(-(-num_rows // size), self.rows)
        return PackedGlobalPlan(
            order=SpreadTies.of(np.array([num_rows]), None),
            cuts=np.append(np.arange(0, num_rows, size), num_rows),
            turns=turns_of(len(groups), key),
            rooms=groups,
            multiples=groups,
            counts=self._counts(runs),
            batches_per_step=accumulate,
            row_length=self.row_length,
            row_cuts=row_cuts,
            sequences=sequences[packed],
            begins=begins[packed],
            lengths=sizes[packed],
            pieces=pieces[packed],
        )

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        return num_tokens / self.num_slots

    def largest(self, max_length: int | None) -> tuple[int, int]:
        return self.rows, self.row_length

    def fingerprint(self) -> Json:
        return {"kind": "Pack", **without_default(dataclasses.asdict(self), drop_last=False)}

    def _num_rows(self, runs: LengthCounts) -> int:
        """Return how many rows sequences fill."""
        sizes = self._items(runs.every(1))[2]
        return len(pack_rows(-np.sort(-sizes), self.row_length)[1]) - 1

    def _taken(self, lengths: Lengths) -> Lengths:
        """Return how many steps of each sequence are taken, in all its pieces."""
        over = lengths > self.row_length
        if self.overflow == "drop":
            return np.where(over, 0, lengths)
        return lengths if self.overflow == "split" else np.minimum(lengths, self.row_length)

    def _items(self, lengths: Lengths) -> tuple[Index, Index, Lengths, Index]:
        """Return what is packed: of which sequence each is, its first step there, its steps, and its number there."""
        taken = self._taken(lengths)
        counts = -(-taken // self.row_length)
        sequences = np.repeat(np.arange(len(lengths)), counts)
        pieces = positions(counts)
        begins = pieces * self.row_length
        return sequences, begins, np.minimum(taken[sequences] - begins, self.row_length), pieces

    def _check_fit(self, lengths: Lengths) -> None:
        longest = int(lengths.max(initial=0))
        if self.overflow == "error" and longest > self.row_length:
            raise ValueError(
                f"sequence of {longest:,} tokens cannot fit row_length={self.row_length}; raise row_length, set "
                "Tokenize(max_length=...) or Pack(overflow='truncate'), 'split' or 'drop'"
            )

    def _counts(self, runs: LengthCounts) -> Counts:
        name = {"truncate": "truncated", "split": "split", "drop": "dropped"}.get(self.overflow)
        over = int(runs.counts[runs.lengths > self.row_length].sum())
        return {name: over} if name and over else {}


def _in_order(rows: Index, items: Index, cuts: Cuts) -> tuple[Index, Cuts]:
    """Put rows in an order, each with its items."""
    counts = np.diff(cuts)[rows]
    return items[ranges(cuts[rows], counts)], np.append(0, np.cumsum(counts))


def _since(starts: Index, cuts: Index) -> Index:
    """Return how far each start is from the first of its row."""
    return starts - np.repeat(starts[cuts[:-1]], np.diff(cuts)) if len(starts) else starts


def _spread(values: Index, is_made: npt.NDArray[np.bool_], made: int) -> Index:
    """Put values where nothing is made up."""
    spread = np.full(len(is_made), made, dtype=np.int64)
    spread[~is_made] = values
    return spread
