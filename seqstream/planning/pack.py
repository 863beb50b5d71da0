"""Whole sequences packed into rows of one length."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from seqstream.order import shuffled
from seqstream.planning.batches import Lengths
from seqstream.planning.order import longest_first
from seqstream.planning.rows import pack_rows
from seqstream.planning.specs import MADE_UP, Index, Plan, check_positive, show, turns_of
from seqstream.sources.protocol import Json
from seqstream.stages import Counts

_ATTEMPTS = 4
"""How often it is tried to plan a few rows less, so that they fill whole batches."""

_BADLY = 1.05
"""Sequences that take so many times the rows that their tokens would fill cannot be packed well."""

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


@dataclasses.dataclass(frozen=True, repr=False)
class Pack:
    """Batches of rows of exactly one length, each packed with whole sequences: no padding to speak of, and one shape.

    Sequences are packed by best fit decreasing over a window. A batch has ``position_ids`` that restart in every sequence,
    ``sequence_ids``, and ``labels``. What does not fill a batch begins the next window; at the end of an epoch, or where it
    would be kept from packing well, rows are left empty but for one made-up token of weight 0.

    Args:
        row_length: Slots of a row.
        rows: Rows of a batch.
        window_batches: How many batches are packed together.
        overflow: What becomes of sequences longer than a row: ``"error"`` raises; ``"truncate"`` drops the end; ``"split"``
            makes pieces of it, each in any row, numbered in `Batch.pieces`; ``"drop"`` drops the sequence.
        causal: Whether ``labels`` are for next-token prediction: the ids themselves where the source has no labels, and -100 on
            the first of every sequence, which nothing before it should predict. Without it labels stay as they are.

    Raises:
        ValueError: A number is not positive, or ``overflow`` is none of these.
    """

    row_length: int
    _: dataclasses.KW_ONLY
    rows: int
    window_batches: int = 256
    overflow: Literal["error", "truncate", "split", "drop"] = "error"
    causal: bool = True

    def __post_init__(self) -> None:
        for name in ("row_length", "rows", "window_batches"):
            check_positive(name, getattr(self, name))
        if self.overflow not in _OVERFLOWS:
            raise ValueError(f"overflow must be one of {', '.join(map(repr, _OVERFLOWS))}, got {self.overflow!r}")

    def __repr__(self) -> str:
        return show(self)

    @property
    def columns(self) -> None:
        return None

    @property
    def sample_batches(self) -> float:
        return 0

    @property
    def num_slots(self) -> int:
        """Slots of a batch."""
        return self.rows * self.row_length

    def fitted(self, lengths: Lengths, max_length: int | None) -> Pack:
        return self

    def fills_batch(self, lengths: Lengths) -> bool:
        return int(self._taken(lengths).sum()) >= self.num_slots

    def num_planned(self, lengths: Lengths, *, last: bool) -> int:
        """Return how many sequences fill whole batches; 0 if they do not fill one."""
        if last:
            return len(lengths)
        if not self.fills_batch(lengths):
            return 0
        totals = np.cumsum(self._taken(lengths))
        wanted = int(totals[-1]) // self.num_slots * self.rows
        num = int(np.searchsorted(totals, wanted * self.row_length, side="right"))
        for attempt in range(1, _ATTEMPTS + 1):
            filled = self._num_rows(lengths[:num])
            if filled > _BADLY * wanted:  # whatever is left out: fill as many batches as there are
                wanted = filled // self.rows * self.rows
            if filled <= wanted:
                break
            tokens_per_row = totals[num - 1] / filled
            num = int(np.searchsorted(totals, totals[num - 1] - attempt * (filled - wanted) * tokens_per_row, side="right"))
        return max(num, 1)

    def plan(self, lengths: Lengths, *, key: tuple[object, ...] | None) -> RowPlan:
        self._check_fit(lengths)
        sequences, begins, sizes, pieces = self._items(lengths)
        by_length = longest_first(sizes, key)
        packed, cuts = pack_rows(sizes[by_length], self.row_length)
        packed, cuts = _in_random_rows(by_length[packed], cuts, key)
        packed, cuts = _filled_rows(packed, cuts, self.rows)
        made = packed == MADE_UP
        taken = np.where(made, 1, sizes[packed]) if len(sizes) else np.ones(len(packed), dtype=np.int64)
        in_row = _since(np.cumsum(taken) - taken, cuts)
        rows = np.repeat(np.arange(len(cuts) - 1) % self.rows, np.diff(cuts))
        return RowPlan(
            order=_picked(sequences, packed),
            cuts=cuts[:: self.rows],
            turns=turns_of((len(cuts) - 1) // self.rows, key),
            counts=self._counts(lengths),
            row_length=self.row_length,
            num_rows=self.rows,
            begins=np.maximum(_picked(begins, packed), 0),
            lengths=taken,
            slots=rows * self.row_length + in_row,
            pieces=np.maximum(_picked(pieces, packed), 0),
        )

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        return num_tokens / self.num_slots

    def largest(self, max_length: int | None) -> tuple[int, int]:
        return self.rows, self.row_length

    def fingerprint(self) -> Json:
        return {"kind": "Pack", **dataclasses.asdict(self)}

    def _num_rows(self, lengths: Lengths) -> int:
        """Return how many rows sequences fill."""
        sizes = self._items(lengths)[2]
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
        pieces = np.arange(len(sequences)) - np.repeat(np.cumsum(counts) - counts, counts)
        begins = pieces * self.row_length
        return sequences, begins, np.minimum(taken[sequences] - begins, self.row_length), pieces

    def _check_fit(self, lengths: Lengths) -> None:
        longest = int(lengths.max(initial=0))
        if self.overflow == "error" and longest > self.row_length:
            raise ValueError(
                f"sequence of {longest:,} tokens cannot fit row_length={self.row_length}; raise row_length, set "
                "Tokenize(max_length=...) or Pack(overflow='truncate'), 'split' or 'drop'"
            )

    def _counts(self, lengths: Lengths) -> Counts:
        name = {"truncate": "truncated", "split": "split", "drop": "dropped"}.get(self.overflow)
        over = int(np.count_nonzero(lengths > self.row_length))
        return {name: over} if name and over else {}


def _in_random_rows(order: Index, cuts: Index, key: tuple[object, ...] | None) -> tuple[Index, Index]:
    """Put rows in a random order, so that a batch has rows of every kind; with ``key=None`` they stay."""
    if key is None or len(cuts) < 2:
        return order, cuts
    rows = shuffled(len(cuts) - 1, *key, "rows")
    sizes = np.diff(cuts)[rows]
    ends = np.append(0, np.cumsum(sizes))
    return order[np.arange(ends[-1]) + np.repeat(cuts[rows] - ends[:-1], sizes)], ends


def _filled_rows(order: Index, cuts: Index, num_rows: int) -> tuple[Index, Index]:
    """Add rows of one made-up sequence each, up to a multiple of ``num_rows``."""
    missing = -(len(cuts) - 1) % num_rows
    return np.append(order, np.full(missing, MADE_UP)), np.append(cuts, cuts[-1] + 1 + np.arange(missing))


def _since(starts: Index, cuts: Index) -> Index:
    """Return how far each start is from the first of its row."""
    return starts - np.repeat(starts[cuts[:-1]], np.diff(cuts)) if len(starts) else starts


def _picked(values: npt.NDArray[np.int64], packed: Index) -> Index:
    """Return the value of each that was packed, `MADE_UP` where it was made up."""
    return np.append(values, MADE_UP)[packed]
