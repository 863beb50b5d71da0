"""How large a window of a mixture is, and how many rows each source gives to it.

Where a window ends follows from the lengths of all rows, which ranks gather: not from blocks, of which more may have been
processed than the window needs. So neither the number of ranks nor a resume changes what a source gives.

Legend: ``S`` sources of the mixture.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index
from seqstream.planning.token_quotas import Shares, SourceRows, epoch_end, share_window
from seqstream.sources.mixture import Mixture
from seqstream.windows.block_states import CountedBlocks
from seqstream.windows.collected_mixture import CollectedMixture, ranges_of
from seqstream.windows.collecting import LAST, is_short
from seqstream.windows.counting import gather_lengths
from seqstream.windows.mixture_columns import MixtureColumns
from seqstream.windows.mixture_reader import MixtureReader, MixtureSources
from seqstream.windows.settings import MixtureStart, SourceStart, WindowSettings, WindowStart
from seqstream.windows.source_stream import OpenSource, SourceStream

_CUT_SHARE = 0.25
"""A window ends where weights change, unless less than this share of it lies before."""

Numbers = npt.NDArray[np.float64]


class MixtureCollector:
    """Takes the blocks of the windows of a mixture.

    Args:
        mixture: The sources and their shares.
        open_sources: Opens each source.
        num_shards: Number of shards of each source, as it is read.
        start: Where the first window begins; ``None`` at the beginning of an epoch.
        first_size: Tokens of a window that begins an epoch.
    """

    def __init__(
        self,
        mixture: Mixture,
        open_sources: Sequence[OpenSource],
        num_shards: Sequence[int],
        *,
        start: MixtureStart | None,
        first_size: int,
    ) -> None:
        self._first_size = first_size
        known = {} if start is None else start.sources
        opened = zip(mixture.names, open_sources, strict=True)
        streams = [SourceStream(open_source, known.get(name, SourceStart())) for name, open_source in opened]
        columns = MixtureColumns(mixture.names, mixture.fill, mixture.column)
        self._sources = MixtureSources(mixture, streams, columns, num_shards)

    def collect(self, start: WindowStart, settings: WindowSettings) -> CollectedMixture | None:
        """Return the blocks of a window; ``None`` at the end of the epoch."""
        if start.cursor.position:
            return None
        choice = _WindowChoice(self._sources, start, settings)
        return choice.collect_again() if start.served else choice.collect(start.blocks or self._first_size)

    def give_back(self, blocks: Sequence[CountedBlocks]) -> None:
        """Keep the blocks of which rows are left for the next window."""
        kept = {id(block) for block in blocks}
        for stream in self._sources.streams:
            stream.blocks = [block for block in stream.blocks if id(block.counted) in kept]


class _WindowChoice:
    """Chooses the rows of one window."""

    def __init__(self, sources: MixtureSources, start: WindowStart, settings: WindowSettings) -> None:
        self._mixture = sources.mixture
        self._sources = sources
        self._start = start
        self._begin = start.mixture or MixtureStart()
        self._reader = MixtureReader(sources, start, settings)
        self._surpluses = np.array([each.surplus for each in self._reader.starts])
        self._passes = np.array([member.passes for member in sources.mixture.members])

    def collect_again(self) -> CollectedMixture:
        """Return the blocks of a window of which a part was served, with as many rows of each source as it had.

        Raises:
            ValueError: A source has fewer rows.
        """
        reader = self._reader
        wanted = np.array([each.rows for each in reader.starts])
        reader.read_rows(wanted)
        for number in np.flatnonzero(reader.rows_left < wanted).tolist():
            raise ValueError(
                f"source {self._mixture.names[number]!r} must still have the {wanted[number]:,} rows of the window under way, "
                f"got {reader.rows_left[number]:,}; the data has changed"
            )
        return self._collected(wanted, None, None, is_last=self._begin.is_last)

    def collect(self, size: int) -> CollectedMixture | None:
        """Return the blocks of a window of about a number of tokens; ``None`` if the epoch has ended."""
        while True:
            found = self._choose(size)
            if found is None:
                return None
            if found.is_last or (found.num_rows and not is_short(found.length_counts, self._start, self._reader.settings)):
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
            shares = self._share(weights, target)
            rest = int(self._reader.tokens_left[shares.is_ending].sum())
            if not (shares.quotas > 0).any() and rest <= target:
                target, is_last = rest, True  # no source goes on
                break
            needs = np.where(shares.is_ending, 0, shares.rates * target - self._surpluses)
            if not self._reader.read_tokens({number: float(needs[number]) for number in np.flatnonzero(weights > 0).tolist()}):
                break
        if target <= 0 and not any(stream.blocks for stream in self._sources.streams):
            return None
        shares = self._share(weights, target)
        lengths = [self._reader.lengths(number) for number in range(len(self._sources))]
        rows = SourceRows.of(lengths, shares.rates, self._surpluses)
        counts = rows.first_tokens(target)
        if is_last and self._mixture.tokens is None and self._mixture.exhausted != "stop":
            counts = np.maximum(counts, self._required_rows(weights))
        return self._collected(counts, rows, shares, is_last=is_last)

    def _share(self, weights: Numbers, target: int) -> Shares:
        return share_window(weights, self._surpluses, self._reader.tokens_left, self._reader.is_over(), target)

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
        watched = dict.fromkeys(pending, 1.0) | dict.fromkeys(np.flatnonzero(np.isfinite(self._passes)).tolist(), math.inf)
        while True:
            shares = self._share(weights, limit)
            needs = shares.rates * limit - self._surpluses
            if not self._reader.read_tokens({each: float(needs[each]) for each in watched if weights[each] > 0}, watched):
                break
        end = self._first_end(weights, pending, limit)
        return (math.ceil(end), True) if end <= limit else (target, is_last)

    def _first_end(self, weights: Numbers, pending: Sequence[int], limit: int) -> float:
        """Return after how many tokens of all the epoch ends; ``inf`` where that is not within a limit."""
        reader = self._reader
        required = np.full(len(weights), -math.inf)
        for number in pending:
            lengths = reader.lengths(number)[: reader.rows_before(number, 1)]
            required[number] = math.inf if reader.epoch(number) < 1 else lengths.sum() + self._surpluses[number]
        if self._mixture.tokens is not None:
            required[:] = math.inf  # the epoch ends by these tokens instead
        left = np.where(reader.is_over(), reader.tokens_left + self._surpluses, math.inf)
        return epoch_end(weights, left, required, limit, stops=self._mixture.exhausted == "stop")

    def _pending(self) -> list[int]:
        """Return the sources that must be read once before the epoch ends, and were not."""
        final = self._mixture.schedule.points[-1][1]
        return [
            number
            for number, (start, weight) in enumerate(zip(self._reader.starts, final, strict=True))
            if weight > 0 and start.cursor.epoch < 1 and (self._reader.epoch(number) < 1 or self._reader.rows_before(number, 1))
        ]

    def _required_rows(self, weights: Numbers) -> Index:
        """Return the rows of the first pass of each source that are left where all of them end the epoch, ``int64 (S,)``."""
        counts = np.zeros(len(self._sources), dtype=np.int64)
        for number in self._pending():
            if weights[number] > 0 and self._reader.epoch(number) >= 1:
                counts[number] = self._reader.rows_before(number, 1)
        return counts

    def _collected(self, counts: Index, rows: SourceRows | None, shares: Shares | None, *, is_last: bool) -> CollectedMixture:
        """Return the blocks of the window; all ranks call it together."""
        reader = self._reader
        blocks_of = [[block.counted for block in stream.blocks] for stream in self._sources.streams]
        blocks = [block for own in blocks_of for block in own]
        global_order = gather_lengths(blocks, ranges_of(blocks_of, reader.starts, counts.tolist()), reader.settings)
        size = (self._start.blocks or 1) if rows is None else max(1, int(rows.tokens(counts).sum()))
        return CollectedMixture(
            settings=reader.settings,
            start=dataclasses.replace(self._start, blocks=size),
            blocks=blocks,
            is_last=is_last,
            global_order=global_order,
            counts=reader.take_counts(),
            names=self._mixture.names,
            blocks_of=blocks_of,
            starts=reader.starts,
            rows=rows,
            num_rows_of=counts,
            tokens_of=[reader.lengths(number) for number in range(len(self._sources))],
            shares=shares,
            columns=self._sources.columns,
            num_shards=self._sources.num_shards,
            limits=self._passes.tolist(),
        )
