"""The blocks of a window of a mixture: as many rows of each source as its quota of tokens asks.

Where a window ends follows from the lengths of all rows, which ranks gather: not from blocks, of which more may have been
processed than the window needs. So neither the number of ranks nor a resume changes what a source gives.

Legend: ``S`` sources of the mixture.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index, Mask
from seqstream.planning.token_quotas import Shares, SourceRows, share_window
from seqstream.records import Counts
from seqstream.sources.mixture import Mixture
from seqstream.windows.block_states import CountedBlocks, TakenBlocks, count_rows, share_out
from seqstream.windows.collecting import (
    LAST,
    CollectedBlocks,
    gather_lengths,
    is_short,
    next_size,
    process_blocks,
    row_ranges,
    start_after,
)
from seqstream.windows.columns import lengths_of, total_lengths
from seqstream.windows.mixture_columns import MixtureColumns
from seqstream.windows.settings import MixtureStart, SourceStart, WindowSettings, WindowStart
from seqstream.windows.source_stream import OpenSource, SourceBlock, SourceStream

_CUT_SHARE = 0.25
"""A window ends where weights change, unless less than this share of it lies before."""

Numbers = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class CollectedMixture(CollectedBlocks):
    """The blocks of a window of a mixture, source after source.

    Attributes:
        names: Names of the sources.
        sources: The blocks of each.
        starts: Where each begins.
        rows: The rows that each could give; ``None`` where a state says how many they give.
        num_rows_of: ``int64 (S,)``, how many each gives if all are planned.
        tokens_of: The tokens of each of the rows that a source could give, ``int64 (n,)`` a source.
        shares: The quotas; ``None`` where ``starts`` have the surpluses after the window.
        columns: The columns of each source.
        column: Name of the column with the number of the source.
    """

    names: Sequence[str]
    sources: Sequence[Sequence[CountedBlocks]]
    starts: Sequence[SourceStart]
    rows: SourceRows | None
    num_rows_of: Index
    tokens_of: Sequence[Index]
    shares: Shares | None
    columns: MixtureColumns

    @property
    def num_rows(self) -> int:
        return int(self.num_rows_of.sum())

    @property
    def num_planned(self) -> int | None:
        return self.num_rows if self.rows is None else None

    @property
    def read_bytes(self) -> int:
        """0: a window is as large as its tokens say, whatever else was read."""
        return 0

    def counts_of(self, num_rows: int) -> Index:
        """Return how many of the first rows of the window each source gives, ``int64 (S,)``."""
        if num_rows == self.num_rows or self.rows is None:
            return self.num_rows_of
        return self.rows.first_rows(num_rows)

    def ranges(self, num_rows: int) -> list[slice]:
        counts = self.counts_of(num_rows).tolist()
        return ranges_of(self.sources, self.starts, counts)

    def own_tables(self, num_rows: int) -> list[pa.Table]:
        numbers = [number for number, blocks in enumerate(self.sources) for _ in blocks]
        return [
            self.columns.complete(each.rows.table.slice(rows.start, rows.stop - rows.start), number)
            for each, rows, number in zip(self.blocks, self.ranges(num_rows), numbers, strict=True)
            if each.rows is not None and rows.stop > rows.start
        ]

    def begun(self, num_rows: int, world_size: int) -> WindowStart:
        mixture = self.start.mixture or MixtureStart()
        if self.rows is not None:
            counts = self.counts_of(num_rows)
            own = {
                name: dataclasses.replace(start, surplus=surplus, rows=count)
                for name, start, surplus, count in zip(
                    self.names, self.starts, self._surpluses(counts).tolist(), counts.tolist(), strict=True
                )
            }
            mixture = dataclasses.replace(mixture, sources={**mixture.sources, **own}, is_last=self.is_last)
        return dataclasses.replace(self.start, planned_world_size=world_size, mixture=mixture)

    def follow(self, num_rows: int, share: float) -> tuple[list[CountedBlocks], WindowStart | None]:
        mixture = self.start.mixture or MixtureStart()
        if self.is_last and not mixture.goes_on:
            return [], None
        counts = self.counts_of(num_rows)
        surpluses = self._surpluses(counts).tolist()
        all_left: list[CountedBlocks] = []
        following = dict(mixture.sources)
        parts = zip(self.names, self.sources, self.starts, counts.tolist(), surpluses, strict=True)
        for name, blocks, start, count, surplus in parts:
            cursor, skip = start.cursor, start.skip
            if blocks:
                left, after = start_after(blocks, count_rows(blocks) - start.skip - count, 0)
                all_left += left
                cursor, skip = after.cursor, after.skip
            following[name] = SourceStart(cursor, skip, surplus)
        tokens = int(self._tokens(counts).sum())
        size = next_size(tokens, share, self.settings.growth)
        mixture = MixtureStart(following, mixture.tokens + tokens)
        return all_left, WindowStart(blocks=size, mixture=mixture)

    def _tokens(self, counts: Index) -> Index:
        """Return the tokens of the first rows of each source, ``int64 (S,)``."""
        pairs = zip(self.tokens_of, counts.tolist(), strict=True)
        return np.array([int(lengths[:count].sum()) for lengths, count in pairs], dtype=np.int64)

    def _surpluses(self, counts: Index) -> Numbers:
        """Return the tokens that each source has given beyond its quota, after the window, ``float64 (S,)``."""
        before = np.array([start.surplus for start in self.starts])
        if self.shares is None:
            return before
        tokens, is_ending = self._tokens(counts), self.shares.is_ending
        after = before + tokens - self.shares.quotas * float(tokens[~is_ending].sum())
        return np.round(np.where(is_ending, 0, after), 3)


def ranges_of(
    sources: Sequence[Sequence[CountedBlocks]], starts: Sequence[SourceStart], counts: Sequence[int]
) -> list[slice]:
    """Return which rows of each block are among the first rows of its source, given how many of each source."""
    parts = zip(sources, starts, counts, strict=True)
    return [rows for blocks, start, count in parts for rows in row_ranges(blocks, start.skip, count)]


class MixtureCollector:
    """Takes the blocks of the windows of a mixture.

    Args:
        mixture: The sources and their shares.
        open_sources: Opens each source.
        start: Where the first window begins; ``None`` at the beginning of an epoch.
        first_size: Tokens of a window that begins an epoch.
    """

    def __init__(
        self, mixture: Mixture, open_sources: Sequence[OpenSource], start: MixtureStart | None, first_size: int
    ) -> None:
        self._mixture = mixture
        self._first_size = first_size
        begin = start or MixtureStart()
        self._streams = [
            SourceStream(open_source, begin.sources.get(name, SourceStart()))
            for name, open_source in zip(mixture.names, open_sources, strict=True)
        ]
        self._columns = MixtureColumns(mixture.names, mixture.fill, mixture.column)
        self._passes = np.array([member.passes for member in mixture.members])

    def collect(self, start: WindowStart, settings: WindowSettings) -> CollectedMixture | None:
        """Return the blocks of a window; ``None`` at the end of the epoch."""
        if start.cursor.position:
            return None
        part = _Window(self._mixture, self._streams, self._passes, self._columns, start, settings)
        if start.served:
            return part.collect_again()
        return part.collect(start.blocks or self._first_size)

    def give_back(self, blocks: Sequence[CountedBlocks]) -> None:
        """Keep the blocks of which rows are left for the next window."""
        kept = {id(block) for block in blocks}
        for stream in self._streams:
            stream.blocks = [block for block in stream.blocks if id(block.counted) in kept]


class _Window:
    """One window of a mixture while its blocks are collected."""

    def __init__(
        self,
        mixture: Mixture,
        streams: list[SourceStream],
        passes: Numbers,
        columns: MixtureColumns,
        start: WindowStart,
        settings: WindowSettings,
    ) -> None:
        self._mixture = mixture
        self._streams = streams
        self._passes = passes
        self._columns = columns
        self._settings = settings
        self._start = start
        self._begin = start.mixture or MixtureStart()
        self._starts = [self._begin.sources.get(name, SourceStart()) for name in mixture.names]
        self._surpluses = np.array([each.surplus for each in self._starts])
        self._counts = Counter[str]()

    def collect_again(self) -> CollectedMixture:
        """Return the blocks of a window of which a part was served, with as many rows of each source as it had.

        Raises:
            ValueError: A source has fewer rows.
        """
        wanted = np.array([each.rows for each in self._starts])
        while lacking := [number for number in np.flatnonzero(self._num_left() < wanted) if not self._streams[number].is_over]:
            self._read({number: self._lacking_tokens(number, int(wanted[number])) for number in lacking}, {})
        if (short := np.flatnonzero(self._num_left() < wanted)).size:
            name, has = self._mixture.names[short[0]], int(self._num_left()[short[0]])
            raise ValueError(
                f"source {name!r} must still have the {wanted[short[0]]:,} rows of the window under way, got {has:,}; the data "
                "has changed"
            )
        return self._collected(wanted, None, None, is_last=self._begin.is_last)

    def collect(self, size: int) -> CollectedMixture | None:
        """Return the blocks of a window of about a number of tokens; ``None`` if the epoch has ended."""
        while True:
            found = self._choose(size)
            if found is None:
                return None
            if found.is_last or (found.num_rows and not is_short(found.length_counts, self._start, self._settings)):
                return found
            size *= 2

    def _choose(self, size: int) -> CollectedMixture | None:
        """Return the blocks of a window of a size, or a larger one if the epoch ends then; ``None`` if nothing is left."""
        target, is_last = self._cut(size)
        if target <= 0:
            return None
        weights = self._mixture.schedule.mean(self._begin.tokens, self._begin.tokens + target)
        target, is_last = self._end(weights, target, is_last=is_last)
        while True:
            left, shares = self._left(), self._share(weights, target)
            if not (shares.quotas > 0).any() and left[shares.is_ending].sum() <= target:  # nothing goes on
                target, is_last = int(left[shares.is_ending].sum()), True
                shares = self._share(weights, target)
                break
            needs = np.where(shares.is_ending, 0, shares.rates * target - self._surpluses)
            if not self._fill({number: float(need) for number, need in enumerate(needs) if weights[number] > 0}, {}):
                break
        if target <= 0:
            return None
        rows = SourceRows.of([self._lengths(number) for number in range(len(self._streams))], shares.rates, self._surpluses)
        counts = rows.first_tokens(target)
        if is_last and self._mixture.tokens is None:
            counts = np.maximum(counts, self._required_rows(weights))
        return self._collected(counts, rows, shares, is_last=is_last)

    def _cut(self, size: int) -> tuple[int, bool]:
        """Return a size that ends where the weights change or the tokens of the epoch end, and whether these end."""
        limit, tokens = int(LAST * size), self._begin.tokens
        if self._mixture.tokens is not None and self._mixture.tokens - tokens <= limit:
            return self._mixture.tokens - tokens, True
        point = self._mixture.schedule.next_point(tokens)
        if point is not None and _CUT_SHARE * size <= point - tokens <= limit:
            return point - tokens, False
        return size, False

    def _end(self, weights: Numbers, target: int, *, is_last: bool) -> tuple[int, bool]:
        """Return the size of the window, and whether the epoch ends with it.

        The sources that decide this are read as far as a window needs that is a quarter larger, which is taken instead if the
        epoch ends there.
        """
        limit = target if is_last else int(LAST * target)
        pending = self._pending() if self._mixture.tokens is None else []
        watched = {number: 1.0 for number in pending}
        watched |= dict.fromkeys(np.flatnonzero(np.isfinite(self._passes)).tolist(), math.inf)
        while True:
            shares = self._share(weights, limit)
            needs = shares.rates * limit - self._surpluses
            if not self._fill({number: float(needs[number]) for number in watched if weights[number] > 0}, watched):
                break
        end = self._first_end(weights, pending, shares)
        for _ in range(len(self._streams)):  # fewer sources may end in a shorter window, which leaves more to them
            if end > limit or (nearer := self._first_end(weights, pending, self._share(weights, math.ceil(end)))) == end:
                break
            end = nearer
        return (math.ceil(end), True) if end <= limit else (target, is_last)

    def _first_end(self, weights: Numbers, pending: Sequence[int], shares: Shares) -> float:
        """Return after how many tokens of all the epoch ends, given the shares until then; ``inf`` where that is not near."""
        ends = [math.inf]
        if self._mixture.exhausted == "stop":
            capped = np.flatnonzero(np.isfinite(self._passes) & (weights > 0)).tolist()
            ends += [self._end_of(number, weights, shares, math.inf) for number in capped]
        if self._mixture.tokens is None:
            ends.append(max((self._end_of(number, weights, shares, 1.0) for number in pending), default=0.0))
        return min(ends)

    def _end_of(self, number: int, weights: Numbers, shares: Shares, before_epoch: float) -> float:
        """Return after how many tokens of all a source ends, or its passes before some; ``inf`` where that is not near."""
        stream = self._streams[number]
        if stream.epoch() < before_epoch or not weights[number]:
            return math.inf
        lengths = self._lengths(number)
        if before_epoch < math.inf:
            lengths = lengths[: stream.num_rows_before(int(before_epoch), self._starts[number].skip)]
        if not len(lengths):
            return 0.0
        others = shares.is_ending & (np.arange(len(weights)) != number)
        share = weights[number] / weights[~others].sum()
        return (float(lengths.sum()) + self._surpluses[number]) / share + float(self._left()[others].sum())

    def _share(self, weights: Numbers, target: int) -> Shares:
        return share_window(weights, self._surpluses, self._left(), self._is_known(), target)

    def _pending(self) -> list[int]:
        """Return the sources that must be read once before the epoch ends, and were not."""
        final = self._mixture.schedule.points[-1][1]
        parts = enumerate(zip(self._starts, self._streams, final, strict=True))
        return [number for number, (start, stream, weight) in parts if weight > 0 and start.cursor.epoch < 1 and self._has_more(number)]

    def _has_more(self, number: int) -> bool:
        """Return whether rows of the first pass over a source are left."""
        stream = self._streams[number]
        return stream.epoch() < 1 or stream.num_rows_before(1, self._starts[number].skip) > 0

    def _required_rows(self, weights: Numbers) -> Index:
        """Return the rows of the first pass of each source that are left where all of them end the epoch, ``int64 (S,)``."""
        counts = np.zeros(len(self._streams), dtype=np.int64)
        for number in self._pending():
            if weights[number] > 0 and self._streams[number].epoch() >= 1:
                counts[number] = self._streams[number].num_rows_before(1, self._starts[number].skip)
        return counts

    def _fill(self, needs: dict[int, float], before_epochs: dict[int, float]) -> bool:
        """Read until sources have more tokens than they need, or end; return whether anything was read."""
        has_read = False
        while True:
            left = self._left()
            lacking = {
                number: need - float(left[number]) + 1
                for number, need in needs.items()
                if left[number] <= need and self._streams[number].epoch() < before_epochs.get(number, math.inf)
            }
            if not lacking or not self._read(lacking, before_epochs):
                return has_read
            has_read = True

    def _read(self, num_tokens: dict[int, float], before_epochs: dict[int, float]) -> bool:
        """Read about some tokens more of sources, and process them; return whether anything was read."""
        new = [
            (number, block)
            for number, tokens in sorted(num_tokens.items())
            for block in self._streams[number].read(tokens, before_epochs.get(number, math.inf))
        ]
        if not new:
            return False
        collectives = self._settings.collectives
        blocks: list[TakenBlocks] = [*share_out([block for _, block in new], collectives.rank, collectives.world_size)]
        self._counts.update(process_blocks(blocks, self._start, self._settings))
        counted = [each for each in blocks if isinstance(each, CountedBlocks)]
        numbers = [number for number, _ in new]
        for number, each, lengths in zip(numbers, counted, self._gather(numbers, counted), strict=True):
            self._streams[number].add(SourceBlock(each, lengths))
        return True

    def _gather(self, numbers: Sequence[int], blocks: Sequence[CountedBlocks]) -> list[Index]:
        """Return the tokens of each row of blocks; all ranks call it together.

        Raises:
            ValueError: A source lacks a column that another has; the same on all ranks.
        """
        own = [
            self._settings.spec.count_tokens(total_lengths(lengths_of(each.rows.table, self._settings.spec.columns)))
            for each in blocks
            if each.rows is not None
        ]
        tables = {number: each.rows.table for number, each in zip(numbers, blocks, strict=True) if each.rows is not None and len(each.rows.table)}
        columns = self._columns.describe_new(tables)
        flat = np.concatenate([*own, np.empty(0, dtype=np.int64)])
        received = self._settings.collectives.gather_row_lengths(flat, columns)
        self._columns.learn([columns for _, columns in received])
        by_rank = [lengths for lengths, _ in received]
        found = []
        for each in blocks:
            num = int(each.num_rows.sum())
            found.append(by_rank[each.owner][:num])
            by_rank[each.owner] = by_rank[each.owner][num:]
        return found

    def _collected(
        self, counts: Index, rows: SourceRows | None, shares: Shares | None, *, is_last: bool
    ) -> CollectedMixture:
        """Return the blocks of the window; all ranks call it together."""
        sources = [[block.counted for block in stream.blocks] for stream in self._streams]
        blocks = [block for own in sources for block in own]
        global_order = gather_lengths(blocks, ranges_of(sources, self._starts, counts.tolist()), self._settings)
        counted, self._counts = dict(self._counts), Counter()
        tokens = self._start.blocks or 1
        if rows is not None:
            tokens = max(1, int(rows.tokens(counts).sum()))
        return CollectedMixture(
            settings=self._settings,
            start=dataclasses.replace(self._start, blocks=tokens),
            blocks=blocks,
            is_last=is_last,
            global_order=global_order,
            counts=counted,
            names=self._mixture.names,
            sources=sources,
            starts=self._starts,
            rows=rows,
            num_rows_of=counts,
            tokens_of=[self._lengths(number) for number in range(len(self._streams))],
            shares=shares,
            columns=self._columns,
        )

    def _lengths(self, number: int) -> Index:
        return self._streams[number].lengths(self._starts[number].skip)

    def _left(self) -> Index:
        """Return the tokens of each source that were processed and are left, ``int64 (S,)``."""
        return np.array([int(self._lengths(number).sum()) for number in range(len(self._streams))], dtype=np.int64)

    def _num_left(self) -> Index:
        """Return the rows of each source that were processed and are left, ``int64 (S,)``."""
        return np.array([len(self._lengths(number)) for number in range(len(self._streams))], dtype=np.int64)

    def _lacking_tokens(self, number: int, wanted: int) -> float:
        """Return about how many tokens of a source are lacking to have a number of rows."""
        lengths = self._lengths(number)
        mean = float(lengths.mean()) if len(lengths) else 1.0
        return max(1.0, (wanted - len(lengths)) * mean)

    def _is_known(self) -> Mask:
        """Return of which sources all that is left was processed, ``bool (S,)``."""
        return np.array([stream.is_over for stream in self._streams])
