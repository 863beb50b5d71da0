"""How many rows each source of a mixture gives to a window, so that its tokens stay within one row of its share.

The order in which the rows of all sources are taken is that of a fair queue (WF2Q: Bennett and Zhang, "WF2Q: Worst-case Fair
Weighted Fair Queueing", 1996). Think of all sources as flowing at once, each at its own rate; of the rows that would have begun
by now, the one that would end first is taken next. At every moment the tokens taken from a source then differ from its rate
times the tokens of all by less than the longest row.

Legend: ``S`` sources, ``N`` rows of all of them, one source after the other.

Three rows of source 0 and five of source 1, at equal rates, and the first 20 tokens of both:

>>> import numpy as np
>>> rows = SourceRows.of([np.array([8, 8, 8]), np.array([3, 3, 3, 3, 3])], np.array([0.5, 0.5]), np.zeros(2))
>>> rows.first_tokens(20).tolist()  # 8 and 9 tokens; with another row of either they would be 3 or 5 from 20
[1, 3]
>>> rows.first_rows(5).tolist()
[2, 3]
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Mask, flat_starts

Numbers = npt.NDArray[np.float64]

_TOLERANCE = 1e-9
"""Rounding errors of times, as a share of them."""

_ROUNDING = 1e-6
"""Tokens that are none."""


@dataclasses.dataclass(frozen=True)
class Shares:
    """The rates at which sources give tokens to a window.

    Attributes:
        rates: ``float64 (S,)``, tokens of each source for a token of all.
        quotas: ``float64 (S,)``, the share of each source that goes on in the tokens of those that go on; 0 for others.
        is_ending: ``bool (S,)``, sources that have nothing left after the window.
    """

    rates: Numbers
    quotas: Numbers
    is_ending: Mask


def share_window(weights: Numbers, surpluses: Numbers, left: Index, is_known: Mask, target: int) -> Shares:
    """Return the rates of sources for a window of some size: sources that end within it give all that is left.

    What a source lacks that ends is given by the others, in proportion to their weights.

    Args:
        weights: ``float64 (S,)``, at least 0.
        surpluses: ``float64 (S,)``, tokens that each source has given beyond its quota.
        left: ``int64 (S,)``, tokens of each that are known to be left.
        is_known: ``bool (S,)``, whether these are all that is left.
        target: Tokens of the window.
    """
    is_ending = is_known & (weights > 0) & (left == 0)
    quotas = weights
    while True:
        free = max(0.0, target - float(left[is_ending].sum()))
        going = np.where(is_ending, 0, weights)
        total = math.fsum(going.tolist())
        quotas = going / total if total else going
        ends = is_known & (going > 0) & (quotas * free - surpluses >= left)
        if not ends.any():
            break
        is_ending = is_ending | ends
    rates = np.where(is_ending, left + np.maximum(surpluses, 0), quotas * free) / max(target, 1)
    return Shares(rates, quotas, is_ending)


def epoch_end(weights: Numbers, left: Numbers, required: Numbers, limit: float, *, stops: bool) -> float:
    """Return after how many tokens of all an epoch ends: when all sources have given what is required, or when one has ended.

    All sources flow at once, in proportion to their weights; what one gives no more when it has ended, the others give.

    >>> three, no = np.array([0.5, 0.3, 0.2]), -np.inf
    >>> left, required = np.array([np.inf, 30, np.inf]), np.array([90.0, no, no])
    >>> epoch_end(three, left, required, 1000, stops=False)  # 50 and 30 and 20 of the first 100, then 40 and 16
    156.0
    >>> epoch_end(three, left, required, 1000, stops=True)
    100.0

    Args:
        weights: ``float64 (S,)``.
        left: ``float64 (S,)``, tokens that each source can give; ``inf`` if it does not end.
        required: ``float64 (S,)``, tokens that each must give; ``inf`` where that is not known, ``-inf`` for none.
        limit: Tokens from which on the answer does not matter; ``inf`` is returned then.
        stops: Whether the first source that ends, ends the epoch.
    """
    left, required = np.where(weights > 0, left, np.inf), required.copy()
    flows, total = weights > 0, 0.0
    while total <= limit:
        if not (required > 0).any():
            return round(total, 6)
        if not flows.any():
            return round(total, 6) if np.isfinite(required[required > 0]).all() or stops else math.inf
        rates = np.where(flows, weights, 0) / math.fsum(weights[flows].tolist())
        goals = np.where(flows, np.minimum(left, np.where(required > 0, required, np.inf)), np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(flows, np.maximum(goals, 0) / rates, np.inf)
        step = float(times.min())
        if not math.isfinite(step):
            return math.inf
        given = rates * step
        total, left, required = total + step, left - given, required - given
        reached = times <= step
        required[reached & (required <= _ROUNDING)] = -math.inf
        has_ended = flows & (left <= _ROUNDING)
        if stops and has_ended.any():
            return round(total, 6)
        flows &= ~has_ended
        required[has_ended] = -math.inf  # it has given all there is
    return math.inf


@dataclasses.dataclass(frozen=True)
class SourceRows:
    """The rows of all sources that a window may take, in the order of each source.

    Attributes:
        lengths: ``int64 (N,)``, tokens of each row.
        cuts: ``int64 (S + 1,)``, source ``s`` has rows ``cuts[s]`` to ``cuts[s + 1]``.
        begins: ``float64 (N,)``, tokens of all sources at which a row begins if all flow at their rates.
        ends: ``float64 (N,)``, tokens of all sources at which it ends.
    """

    lengths: Index
    cuts: Index
    begins: Numbers
    ends: Numbers

    @classmethod
    def of(cls, lengths: Sequence[Index], rates: Numbers, surpluses: Numbers) -> SourceRows:
        """Return the rows of sources.

        Args:
            lengths: ``int64 (n,)`` for each source, tokens of its rows.
            rates: ``float64 (S,)``, tokens of each source for a token of all; rows of a rate of 0 are never taken.
            surpluses: ``float64 (S,)``, tokens that each source has given beyond its quota.
        """
        sizes = np.array([len(each) for each in lengths], dtype=np.int64)
        flat = np.concatenate([*lengths, np.empty(0, dtype=np.int64)]).astype(np.int64)
        cuts = np.append(0, np.cumsum(sizes))
        total = np.append(0, np.cumsum(flat))
        given = total[1:] - np.repeat(total[flat_starts(sizes)], sizes)
        with np.errstate(divide="ignore"):
            times = 1 / np.repeat(rates, sizes)
        moved = given + np.repeat(surpluses, sizes)
        with np.errstate(invalid="ignore"):
            begins, ends = (np.where(np.isfinite(times), tokens * times, np.inf) for tokens in (moved - flat, moved))
        return cls(flat, cuts, begins, ends)

    def first_tokens(self, num: float) -> Index:
        """Return how many rows of each source are in the first ``num`` tokens of all, ``int64 (S,)``.

        Of the totals before and after the row in which that number is reached, the nearer is chosen.
        """
        queue = _FairQueue.at(self, num * (1 + _TOLERANCE))
        while queue.total < num:
            source = queue.next_source()
            if source is None or queue.length_of(source) + queue.total - num > num - queue.total:
                break
            queue.take(source)
        return np.array(queue.counts, dtype=np.int64)

    def first_rows(self, num: int) -> Index:
        """Return how many rows of each source are among the first ``num`` rows of all, ``int64 (S,)``."""
        before = len(self.cuts)
        while True:
            time = float(self._sorted_ends[num - before - 1]) if num > before else -np.inf
            queue = _FairQueue.at(self, time)
            while sum(queue.counts) < num and (source := queue.next_source()) is not None:
                queue.take(source)
            if num <= before or (sum(queue.counts) == num and queue.total >= time):
                return np.array(queue.counts, dtype=np.int64)
            before *= 4

    def tokens(self, counts: Index) -> Index:
        """Return the tokens of the first rows of each source, ``int64 (S,)``, given how many, ``int64 (S,)``."""
        total = np.append(0, np.cumsum(self.lengths))
        given: Index = total[self.cuts[:-1] + counts] - total[self.cuts[:-1]]
        return given

    @functools.cached_property
    def _sorted_ends(self) -> Numbers:
        return np.sort(self.ends)


@dataclasses.dataclass
class _FairQueue:
    """Takes rows one by one; it begins where all rows were taken that end by some time.

    Attributes:
        rows: All rows.
        counts: Rows taken of each source.
        total: Tokens taken of all.
        waiting: Times at which the next rows begin that have not begun, with their sources; a heap.
        begun: Times at which the next rows end that have begun, with their sources; a heap.
    """

    rows: SourceRows
    counts: list[int]
    total: int
    waiting: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    begun: list[tuple[float, int]] = dataclasses.field(default_factory=list)

    @classmethod
    def at(cls, rows: SourceRows, time: float) -> _FairQueue:
        """Return the queue after all rows that end by a time."""
        ended = np.append(0, np.cumsum(rows.ends <= time))
        counts = ended[rows.cuts[1:]] - ended[rows.cuts[:-1]]
        queue = cls(rows, counts.tolist(), int(rows.tokens(counts).sum()))
        at = rows.cuts[:-1] + counts
        sources = np.flatnonzero(at < rows.cuts[1:])
        begins = rows.begins[at[sources]]
        queue.waiting = [
            (begin, source) for begin, source in zip(begins.tolist(), sources.tolist(), strict=True) if begin < np.inf
        ]
        heapq.heapify(queue.waiting)
        return queue

    def next_source(self) -> int | None:
        """Return the source of the next row; ``None`` if no row is left."""
        while self.waiting and (self.waiting[0][0] <= self.total or not self.begun):
            _, source = heapq.heappop(self.waiting)
            heapq.heappush(self.begun, (float(self.rows.ends[self._at(source)]), source))
        return self.begun[0][1] if self.begun else None

    def length_of(self, source: int) -> int:
        """Return the tokens of the next row of a source."""
        return int(self.rows.lengths[self._at(source)])

    def take(self, source: int) -> None:
        """Take the next row of the source that `next_source` has returned."""
        heapq.heappop(self.begun)
        self.total += self.length_of(source)
        self.counts[source] += 1
        if (at := self._at(source)) < self.rows.cuts[source + 1]:
            heapq.heappush(self.waiting, (float(self.rows.begins[at]), source))

    def _at(self, source: int) -> int:
        return int(self.rows.cuts[source]) + self.counts[source]
