"""Batches of packed rows: whole sequences in rows of one length."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from seqstream.arrays import Cuts, Index, Lengths, Mask, flat_starts, positions, ranges
from seqstream.options import one_of, yes_or_no
from seqstream.planning.batch_spec import PlannerBase, WindowSize, set_positive, show, turns_of, without_default
from seqstream.planning.best_fit import pack_rows
from seqstream.planning.equal_cost import equal_cost_order, row_costs
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.plan import MADE_UP, Plan, fill_up
from seqstream.planning.planned_search import FillingSearch, PlannedRows, PlannedSearch
from seqstream.planning.tie_order import SpreadTies, longest_first
from seqstream.records import Counts, Json

_ATTEMPTS = 12
"""Most attempts to plan fewer sequences, so that they fill whole batches; four times as many with ``drop_last``."""

_OVERFLOWS = ("error", "truncate", "split", "drop")


@dataclasses.dataclass(frozen=True)
class PackedPlan(Plan):
    """The batches of one rank, and the slots of each item in its batch: ``N`` items, sequences or pieces of them.

    ``order`` has the row of the window of each item, in the order in which items lie in a batch, packed row after packed row.

    Attributes:
        row_length: Slots of a packed row.
        num_rows: Packed rows of a batch.
        begins: ``int64 (N,)``, first token of the sequence that each item has.
        lengths: ``int64 (N,)``, number of its tokens.
        slots: ``int64 (N,)``, its first slot in the batch, counted packed row after packed row.
        pieces: ``int64 (N,)``, its number among the pieces of a split sequence, else 0.
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
    """A global plan whose places are packed rows of ``I`` items: sequences or pieces of them.

    Attributes:
        row_length: Slots of a packed row.
        row_cuts: ``int64 (N + 1,)``: place ``n`` holds items ``row_cuts[n]`` to ``row_cuts[n + 1]``, in this order.
        sequences: ``int64 (I,)``, row number of the sequence of each item.
        begins: ``int64 (I,)``, first token of the sequence that the item has.
        lengths: ``int64 (I,)``, number of its tokens.
        pieces: ``int64 (I,)``, its number among the pieces of the sequence.
    """

    _: dataclasses.KW_ONLY
    row_length: int
    row_cuts: Cuts
    sequences: Index
    begins: Index
    lengths: Lengths
    pieces: Index

    def row_numbers(self, places: Index) -> Index:
        return self.sequences[self._items_at(places)]

    def places_of(self, numbers: Index) -> tuple[Index, Index]:
        which, items = self._items_of(numbers)
        return which, self._places_of_items(items)

    def own_items(self, numbers: Index, places: Index) -> tuple[Index, Index, Index]:
        which, items = self._items_of(numbers)
        is_there = np.isin(self._places_of_items(items), places)
        which, items = which[is_there], items[is_there]
        return which, self.begins[items], self.lengths[items]

    def num_items(self, places: Index) -> Index:
        counts: Index = np.diff(self.row_cuts)[places]
        return counts

    def lay_out(self, rows: Index, places: Index, cuts: Cuts, global_batches: Index, turns: Index) -> PackedPlan:
        multiples = self.multiples[global_batches]
        places, cuts = fill_up(places, cuts, -(-np.diff(cuts) // multiples) * multiples)
        is_row_made_up = places == MADE_UP
        num_items = np.ones_like(places)
        num_items[~is_row_made_up] = self.num_items(places[~is_row_made_up])
        item_cuts = np.append(0, np.cumsum(num_items))
        is_made_up = np.repeat(is_row_made_up, num_items)
        items = self._items_at(places[~is_row_made_up])
        lengths = _with_made_up(self.lengths[items], is_made_up, 1)
        first_slots = np.repeat(positions(np.diff(cuts)), num_items) * self.row_length  # of the packed row in its batch
        return PackedPlan(
            order=_with_made_up(rows, is_made_up, MADE_UP),
            cuts=item_cuts[cuts],
            turns=turns,
            counts=self.counts,
            row_length=self.row_length,
            num_rows=int(self.multiples[0]) if len(self.multiples) else 0,
            begins=_with_made_up(self.begins[items], is_made_up, 0),
            lengths=lengths,
            slots=first_slots + _starts_in_rows(lengths, item_cuts),
            pieces=_with_made_up(self.pieces[items], is_made_up, 0),
        )

    def _items_at(self, places: Index) -> Index:
        """Return the items at places, place after place."""
        return ranges(self.row_cuts[places], self.row_cuts[places + 1] - self.row_cuts[places])

    def _items_of(self, numbers: Index) -> tuple[Index, Index]:
        """Return the items of some sequences: which of the row numbers each item has, and the item."""
        which = np.searchsorted(numbers, self.sequences)
        is_own = which < len(numbers)
        is_own[is_own] = numbers[which[is_own]] == self.sequences[is_own]
        items = np.flatnonzero(is_own)
        return which[items], items

    def _places_of_items(self, items: Index) -> Index:
        return np.searchsorted(self.row_cuts, items, side="right") - 1


@dataclasses.dataclass(frozen=True, repr=False)
class Pack(PlannerBase):
    """Batches of packed rows of exactly one length, filled with whole sequences: hardly any padding, and one shape.

    Sequences of a window are packed by best fit decreasing. Packed rows are then distributed so that all ranks have the same
    attention to compute at a turn, as a long document costs more than short ones in as many slots. A batch has
    ``position_ids`` that restart in every sequence, ``sequence_ids``, and ``labels``. Sequences that do not fill a batch begin
    the next window. At the end of an epoch, or where too few rows remain to pack well, some packed rows are empty except for
    one made-up token of weight 0.

    Args:
        row_length: Slots of a packed row.
        rows: Packed rows of a batch.
        window_batches: Least number of batches, of each rank, that are packed together.
        window_bytes: Least bytes of ids, of all ranks, that are packed together, four an id; see `Bucket`.
        overflow: What becomes of sequences longer than a row: ``"error"`` raises; ``"truncate"`` drops the end; ``"split"``
            makes pieces, each in any packed row, numbered in `Batch.pieces`; ``"drop"`` drops the sequence.
        causal: Whether ``labels`` are for next-token prediction: the ids themselves where the source has no labels, and -100 on
            the first token of every sequence, which no token before it should predict. If false, labels stay as they are.
            Sequences without any label, such as those of one token, are dropped, and so are pieces without a label.
        drop_last: At the end of an epoch, leave out the sequences that do not fill a whole optimiser step, of all ranks and
            with ``accumulate``, instead of leaving packed rows empty. They are counted as dropped.

    Raises:
        ValueError: A number is not positive, or ``overflow`` is not one of these.
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
        one_of("overflow", self.overflow, _OVERFLOWS)

    def __repr__(self) -> str:
        return show(self)

    def window_size(self, *, shuffle: bool) -> WindowSize:
        return WindowSize.of(self.window_batches, self.window_bytes)

    @property
    def num_slots(self) -> int:
        """Number of slots of a batch."""
        return self.rows * self.row_length

    def fills(self, length_counts: LengthCounts, multiple: int) -> bool:
        return int((self.count_tokens(length_counts.lengths) * length_counts.counts).sum()) >= self.num_slots * multiple

    def search_planned(self, length_counts: LengthCounts, *, last: bool, multiple: int) -> PlannedSearch:
        """Return how many sequences fill whole steps, or the search for that number; 0 if they do not fill one."""
        if last and not self.drop_last:
            return PlannedRows(length_counts.num_rows)
        if not self.fills(length_counts, multiple):
            return PlannedRows(0)
        size, filled = self.rows * multiple, self._num_rows(length_counts)
        wanted = filled // size * size
        if filled == wanted:
            return PlannedRows(length_counts.num_rows)
        may_lack, attempts = (0, 4 * _ATTEMPTS) if self.drop_last else (self.rows - 1, _ATTEMPTS)
        return FillingSearch(self._num_rows, wanted, may_lack, attempts, more=(length_counts.num_rows, filled))

    def plan_global(
        self, length_counts: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> PackedGlobalPlan:
        self._check_fit(length_counts.lengths)
        sequences, begins, lengths, pieces = self._cut_items(length_counts.every(1))
        by_length = longest_first(lengths, key)
        packed, row_cuts = pack_rows(lengths[by_length], self.row_length)
        items = by_length[packed]
        if key is not None:
            costs = row_costs(lengths[items], row_cuts)
            rows = equal_cost_order(costs, rows=self.rows, world_size=world_size, key=key)
            items, row_cuts = _reordered(rows, items, row_cuts)
        num_rows, size = len(row_cuts) - 1, self.rows * world_size
        batch_rows = np.full(-(-num_rows // size), self.rows)
        return PackedGlobalPlan(
            order=SpreadTies.of(np.array([num_rows]), None),
            cuts=np.append(np.arange(0, num_rows, size), num_rows),
            turns=turns_of(len(batch_rows), key),
            max_rows=batch_rows,
            multiples=batch_rows,
            counts=self._counts(length_counts),
            batches_per_step=accumulate,
            row_length=self.row_length,
            row_cuts=row_cuts,
            sequences=sequences[items],
            begins=begins[items],
            lengths=lengths[items],
            pieces=pieces[items],
        )

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        return num_tokens / self.num_slots

    def largest(self, max_length: int | None) -> tuple[int, int]:
        return self.rows, self.row_length

    def fingerprint(self) -> Json:
        return {"kind": "Pack", **without_default(dataclasses.asdict(self), drop_last=False)}

    def _num_rows(self, length_counts: LengthCounts) -> int:
        """Return the number of packed rows that sequences fill."""
        lengths = self._cut_items(length_counts.every(1))[2]
        return len(pack_rows(-np.sort(-lengths), self.row_length)[1]) - 1

    def count_tokens(self, lengths: Lengths) -> Lengths:
        """Return the number of tokens that are packed of each sequence, in all its pieces."""
        if self.overflow == "drop":
            return np.where(lengths > self.row_length, 0, lengths)
        return lengths if self.overflow == "split" else np.minimum(lengths, self.row_length)

    def _cut_items(self, lengths: Lengths) -> tuple[Index, Index, Lengths, Index]:
        """Return the items of sequences: the sequence, first token, length and piece of each, ``int64 (I,)``."""
        packed = self.count_tokens(lengths)
        counts = -(-packed // self.row_length)
        sequences = np.repeat(np.arange(len(lengths)), counts)
        pieces = positions(counts)
        begins = pieces * self.row_length
        return sequences, begins, np.minimum(packed[sequences] - begins, self.row_length), pieces

    def _check_fit(self, lengths: Lengths) -> None:
        longest = int(lengths.max(initial=0))
        if self.overflow == "error" and longest > self.row_length:
            raise ValueError(
                f"sequence of {longest:,} tokens cannot fit row_length={self.row_length}; raise row_length, set "
                "Tokenize(max_length=...) or Pack(overflow='truncate'), 'split' or 'drop'"
            )

    def _counts(self, length_counts: LengthCounts) -> Counts:
        outcome = {"truncate": "truncated", "split": "split", "drop": "dropped"}.get(self.overflow)
        num_long = int(length_counts.counts[length_counts.lengths > self.row_length].sum())
        return {outcome: num_long} if outcome and num_long else {}


def _reordered(rows: Index, items: Index, row_cuts: Cuts) -> tuple[Index, Cuts]:
    """Return the items and the cuts of packed rows in another order."""
    counts = np.diff(row_cuts)[rows]
    return items[ranges(row_cuts[rows], counts)], np.append(0, np.cumsum(counts))


def _starts_in_rows(lengths: Lengths, row_cuts: Cuts) -> Index:
    """Return the first slot of each item in its packed row, ``int64 (I,)``."""
    starts = flat_starts(lengths)
    return starts - np.repeat(starts[row_cuts[:-1]], np.diff(row_cuts)) if len(starts) else starts


def _with_made_up(values: Index, is_made_up: Mask, made_up: int) -> Index:
    """Return the values of all items, from those of the items that are not made up."""
    found = np.full(len(is_made_up), made_up, dtype=np.int64)
    found[~is_made_up] = values
    return found
