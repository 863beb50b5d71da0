"""How many rows each source of a mixture gives to a window, so that its tokens stay within one row of its share.

The order in which the rows of all sources are taken is that of a fair queue (WF2Q: Bennett and Zhang, "WF2Q: Worst-case Fair
Weighted Fair Queueing", 1996). Think of all sources as flowing at once, each at its own rate. Among rows whose start has been
reached, the one with the earliest end is taken next. At every moment the tokens taken from a source then differ from its rate
times the tokens of all by less than the longest row.

Legend: ``S`` sources, ``N`` rows of all of them, one source after the other.

Three rows of source 0 and five of source 1, at equal rates, and the first 20 tokens of both:

>>> import numpy as np
>>> flow = Flow.of(np.array([0.5, 0.5]), np.array([np.inf, np.inf]), 40)
>>> rows = SourceRows.of([np.array([8, 8, 8]), np.array([3, 3, 3, 3, 3])], flow, np.zeros(2))
>>> rows.first_tokens(20).tolist()  # 8 and 9 tokens; with another row of either they would be 3 or 5 from 20
[1, 3]
>>> rows.first_rows(5).tolist()
[2, 3]
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Mask

Numbers = npt.NDArray[np.float64]

_TOLERANCE = 1e-9
"""Rounding errors, as a share of times and in tokens."""

_HALVINGS = 48
"""Halvings of a time until no row ends between its bounds; rows that end at the same time are left to the queue."""


@dataclasses.dataclass(frozen=True)
class Flow:
    """How many tokens each source has given once all together have given a number of tokens, if they all flow at once.

    Sources flow in proportion to their weights. When one has nothing left, the others flow faster.

    Attributes:
        times: ``float64 (K + 1,)``, tokens of all at the start, at the end of each source that ends, and at the limit.
        given: ``float64 (K + 1, S)``, tokens of each source by then.
        ends: ``float64 (S,)``, tokens of all at which each source ends; ``inf`` if it does not.
    """

    times: Numbers
    given: Numbers
    ends: Numbers

    @classmethod
    def of(cls, weights: Numbers, left: Numbers, limit: float) -> Flow:
        """Return the flow of sources.

        >>> flow = Flow.of(np.array([0.5, 0.3, 0.2]), np.array([np.inf, 30, np.inf]), 170)
        >>> flow.times.tolist()  # the second source ends after 100 tokens of all
        [0.0, 100.0, 170.0]
        >>> flow.given.tolist()
        [[0.0, 0.0, 0.0], [50.0, 30.0, 20.0], [100.0, 30.0, 40.0]]

        Args:
            weights: ``float64 (S,)``, at least 0.
            left: ``float64 (S,)``, tokens that each source can give; ``inf`` if it does not end.
            limit: Total tokens up to which the flow is computed; it ends before if all sources do.
        """
        flows = (weights > 0) & (left > 0)
        time, given = 0.0, np.zeros(len(weights))
        times, totals, ends = [time], [given], np.where(weights > 0, np.where(flows, np.inf, 0.0), np.inf)
        while flows.any() and time < limit:
            rates = np.where(flows, weights, 0) / math.fsum(weights[flows].tolist())
            with np.errstate(divide="ignore", invalid="ignore"):
                lasts = np.where(flows, (left - given) / rates, np.inf)
            step = min(float(lasts.min()), limit - time)
            is_ended = lasts <= step
            given = np.where(is_ended, left, given + rates * step)
            time += step
            ends[is_ended] = time
            flows = flows & ~is_ended
            times.append(time)
            totals.append(given)
        return cls(np.array(times), np.array(totals), ends)

    @property
    def end(self) -> float:
        """Tokens of all at which the flow ends."""
        return float(self.times[-1])

    def at(self, time: float) -> Numbers:
        """Return the tokens of each source at some total, ``float64 (S,)``; beyond the end the last rates continue."""
        found: Numbers = self.given[0]
        if len(self.times) == 1:
            return found
        number = min(max(int(np.searchsorted(self.times, time)) - 1, 0), len(self.times) - 2)
        rates = (self.given[number + 1] - self.given[number]) / (self.times[number + 1] - self.times[number])
        found = self.given[number] + rates * (min(time, self.end) - self.times[number])
        goes_on = self.ends > self.end
        if time > self.end and rates[goes_on].any():
            found = found + np.where(goes_on, rates, 0) * ((time - self.end) / math.fsum(rates[goes_on].tolist()))
        return found

    def time_of(self, source: int, tokens: float) -> float:
        """Return how many tokens all have given when a source has given some; ``inf`` for never.

        Args:
            source: The source.
            tokens: Its tokens; extrapolated below 0 and beyond the end.
        """
        time = math.inf if tokens > 0 or not self.gives[source] else 0.0
        for (begin, before), (stop, after) in itertools.pairwise(self._points[source]):
            if after <= before or (tokens <= before and begin):
                break
            time = begin + (tokens - before) * (stop - begin) / (after - before)
        return time

    @functools.cached_property
    def gives(self) -> Mask:
        """Whether each source gives anything, or would if it had something left, ``bool (S,)``; not without a weight."""
        gives: Mask = (self.given[-1] > 0) | (self.ends == 0)
        return gives

    @functools.cached_property
    def _points(self) -> list[list[tuple[float, float]]]:
        """The times, and what each source has given then."""
        times = self.times.tolist()
        return [list(zip(times, given, strict=True)) for given in self.given.T.tolist()]


@dataclasses.dataclass(frozen=True)
class SourceRows:
    """The rows of all sources that a window may take, in the order of each source.

    Attributes:
        totals: ``int64 (N + 1,)``, tokens of all rows before each, and of all of them.
        cuts: ``int64 (S + 1,)``, source ``s`` has rows ``cuts[s]`` to ``cuts[s + 1]``.
        flow: The flow of the sources.
        surpluses: ``float64 (S,)``, tokens that each has given beyond its quota.
    """

    totals: Index
    cuts: Index
    flow: Flow
    surpluses: Numbers

    @classmethod
    def of(cls, lengths: Sequence[Index], flow: Flow, surpluses: Numbers) -> SourceRows:
        """Return the rows of sources.

        Args:
            lengths: ``int64 (n,)`` for each source, tokens of its rows.
            flow: The flow of the sources.
            surpluses: ``float64 (S,)``, tokens that each has given beyond its quota.
        """
        totals = np.concatenate([np.zeros(1, dtype=np.int64), *lengths]).cumsum()
        cuts = np.append(0, np.cumsum([len(each) for each in lengths])).astype(np.int64)
        return cls(totals, cuts, flow, surpluses)

    def first_tokens(self, num: float) -> Index:
        """Return how many rows of each source are in the first ``num`` tokens of all, ``int64 (S,)``.

        Of the totals before and after the row in which that number is reached, the nearer is chosen.
        """
        queue = _FairQueue.at(self, num)
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
            time = self._time_of(num - before)
            queue = _FairQueue.at(self, time)
            for _ in range(num - sum(queue.counts)):
                source = queue.next_source()
                if source is None:
                    break
                queue.take(source)
            if num <= before or (sum(queue.counts) == num and queue.total >= time):
                return np.array(queue.counts, dtype=np.int64)
            before *= 4

    def ended(self, time: float) -> Index:
        """Return how many rows of each source end by some tokens of all, ``int64 (S,)``."""
        given = (self.flow.at(time) - self.surpluses) * (1 + _TOLERANCE) + _TOLERANCE
        last = np.searchsorted(self.totals, self.totals[self.cuts[:-1]] + np.maximum(given, -1), side="right") - 1
        counts: Index = np.where(self.flow.gives, np.clip(last, self.cuts[:-1], self.cuts[1:]) - self.cuts[:-1], 0)
        return counts

    def tokens(self, counts: Index) -> Index:
        """Return the tokens of the first rows of each source, ``int64 (S,)``, given how many, ``int64 (S,)``."""
        given: Index = self.totals[self.cuts[:-1] + counts] - self.totals[self.cuts[:-1]]
        return given

    def end_of(self, source: int, count: int) -> float:
        """Return the tokens of all at which the first ``count`` rows of a source end."""
        first = self.cuts[source]
        given = float(self.totals[first + count] - self.totals[first]) + float(self.surpluses[source])
        return self.flow.time_of(source, given)

    def _time_of(self, num: int) -> float:
        """Return some tokens of all by which at most ``num`` rows end, about as many; ``-inf`` for none."""
        low, high = -math.inf, self.flow.end
        if num <= 0:
            return low
        if self.ended(high).sum() <= num:
            return high
        low = 0.0
        if self.ended(low).sum() > num:
            return -math.inf
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.ended(middle).sum() <= num else (low, middle)
        return low


@dataclasses.dataclass
class _FairQueue:
    """Takes rows one by one; it starts after all rows that end by a given time.

    Attributes:
        rows: All rows.
        counts: Rows taken of each source.
        total: Tokens taken of all.
        waiting: Heap of (begin, source) of the next rows that are not yet eligible.
        begun: Heap of (end, source) of the next rows that are eligible.
    """

    rows: SourceRows
    counts: list[int]
    total: int
    waiting: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    begun: list[tuple[float, int]] = dataclasses.field(default_factory=list)

    @classmethod
    def at(cls, rows: SourceRows, time: float) -> _FairQueue:
        """Return the queue after all rows that end by a time."""
        counts = rows.ended(time) if time > -math.inf else np.zeros(len(rows.cuts) - 1, dtype=np.int64)
        queue = cls(rows, counts.tolist(), int(rows.tokens(counts).sum()))
        for source in np.flatnonzero(counts < np.diff(rows.cuts)).tolist():
            begin = rows.end_of(source, queue.counts[source])  # where the row before ends
            if begin < math.inf:
                queue.waiting.append((begin, source))
        heapq.heapify(queue.waiting)
        return queue

    def next_source(self) -> int | None:
        """Return the source of the next row; ``None`` if no row is left."""
        while self.waiting and (self.waiting[0][0] <= self.total or not self.begun):
            _, source = heapq.heappop(self.waiting)
            heapq.heappush(self.begun, (self.rows.end_of(source, self.counts[source] + 1), source))
        return self.begun[0][1] if self.begun else None

    def length_of(self, source: int) -> int:
        """Return the tokens of the next row of a source."""
        at = int(self.rows.cuts[source]) + self.counts[source]
        return int(self.rows.totals[at + 1] - self.rows.totals[at])

    def take(self, source: int) -> None:
        """Take the next row of the source that `next_source` has returned."""
        end, _ = heapq.heappop(self.begun)
        self.total += self.length_of(source)
        self.counts[source] += 1
        if self.counts[source] < self.rows.cuts[source + 1] - self.rows.cuts[source]:
            heapq.heappush(self.waiting, (end, source))
