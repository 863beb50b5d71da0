"""How large a window of a mixture is, and how many rows each source gives to it.

Where a window ends follows from the lengths of all rows, which ranks gather. It does not depend on blocks, because more of them
may have been processed than the window needs. So neither the number of ranks nor a resume changes what a source gives.

Legend: ``S`` sources of the mixture.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index
from seqstream.planning.token_quotas import Flow, SourceRows
from seqstream.sources.mixture import Mixture
from seqstream.windows.block_states import CountedBlocks
from seqstream.windows.collected_mixture import CollectedMixture, by_name, ranges_of
from seqstream.windows.collecting import LAST, is_short
from seqstream.windows.counting import gather_lengths
from seqstream.windows.mixture_columns import MixtureColumns
from seqstream.windows.mixture_reader import MixtureReader, MixtureSources
from seqstream.windows.settings import MixtureStart, SourceStart, WindowSettings, WindowStart
from seqstream.windows.source_stream import OpenSource, SourceStream

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

    def densities(self) -> tuple[Numbers, Numbers]:
        """Return the tokens of a byte of records as read, and of a row, of each source as far as read, ``float64 (S,)``."""
        streams = self._sources.streams
        return np.array([each.tokens_per_byte for each in streams]), np.array([each.tokens_per_row for each in streams])

    def give_back(self, blocks: Sequence[CountedBlocks]) -> None:
        """Keep the blocks of which rows are left for the next window."""
        kept = {id(block) for block in blocks}
        for stream in self._sources.streams:
            stream.keep(kept)


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
        """Return the blocks of a window of which a part was served, with the same number of rows of each source.

        Raises:
            ValueError: A source no longer has these rows.
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
        can_cut = True
        while True:
            found = self._choose(size, can_cut=can_cut)
            if found is None:
                return None
            if found.is_last or (found.num_rows and not is_short(found.length_counts, self._start, self._reader.settings)):
                return found
            size, can_cut = size if can_cut else 2 * size, False

    def _choose(self, size: int, *, can_cut: bool) -> CollectedMixture | None:
        """Return the blocks of a window of a size, or a larger one if the epoch ends then; ``None`` if nothing is left."""
        target, is_last = self._cut(size, can_cut=can_cut)
        if target <= 0:
            return None
        weights = self._mixture.schedule.mean(self._begin.tokens, self._begin.tokens + target)
        target, is_last = self._end(weights, target, is_last=is_last)
        while True:
            flow = self._flow(weights, target)
            needs = flow.at(target) - self._surpluses
            if not self._reader.read_tokens({number: float(needs[number]) for number in np.flatnonzero(weights > 0).tolist()}):
                break
        if not any(stream.blocks for stream in self._sources.streams):
            return None
        lengths = [self._reader.lengths(number) for number in range(len(self._sources))]
        rows = SourceRows.of(lengths, flow, self._surpluses)
        if not np.isinf(flow.ends[weights > 0]).any():  # all that is left
            return self._collected(np.where(weights > 0, self._reader.rows_left, 0), rows, flow, is_last=True)
        counts = rows.first_tokens(target)
        if is_last and self._mixture.tokens is None and self._mixture.exhausted != "stop":
            counts = np.maximum(counts, self._required_rows(weights))
        return self._collected(counts, rows, flow, is_last=is_last)

    def _flow(self, weights: Numbers, limit: int) -> Flow:
        """Return the flow of the sources; one whose end is not yet read counts as endless."""
        left = np.where(self._reader.is_over(), self._reader.tokens_left + self._surpluses, math.inf)
        return Flow.of(weights, left, limit)

    def _cut(self, size: int, *, can_cut: bool) -> tuple[int, bool]:
        """Return a size that ends where the weights change or the tokens of the epoch end, and whether these end.

        Too few tokens before the weights change to fill a step have the mean weights of a window across that point.
        """
        limit, left = int(LAST * size), math.inf
        if self._mixture.tokens is not None:
            left = self._mixture.tokens - self._begin.tokens
        point = self._mixture.schedule.next_point(self._begin.tokens)
        if can_cut and point is not None and point - self._begin.tokens < min(limit, left):
            return point - self._begin.tokens, False
        return (int(left), True) if left <= limit else (size, False)

    def _end(self, weights: Numbers, target: int, *, is_last: bool) -> tuple[int, bool]:
        """Return the size of the window, and whether the epoch ends with it.

        The sources that decide this are read for a window a quarter larger; if the epoch ends within it, that window is used.
        """
        limit = target if is_last else int(LAST * target)
        pending = self._pending() if self._mixture.tokens is None else []
        watched = dict.fromkeys(pending, 1.0) | dict.fromkeys(np.flatnonzero(np.isfinite(self._passes)).tolist(), math.inf)
        while True:
            flow = self._flow(weights, limit)
            needs = flow.at(limit) - self._surpluses
            if not self._reader.read_tokens({each: float(needs[each]) for each in watched if weights[each] > 0}, watched):
                break
        ends = [math.inf]
        if self._mixture.exhausted == "stop":
            ends += flow.ends[np.isfinite(self._passes) & (weights > 0)].tolist()
        if self._mixture.tokens is None:
            ends.append(max((self._end_of_pass(number, flow) for number in pending), default=0.0))
        return (math.ceil(min(ends)), True) if min(ends) <= limit else (target, is_last)

    def _end_of_pass(self, number: int, flow: Flow) -> float:
        """Return how many tokens all sources have given at the end of the first pass over one; ``inf`` if it is not near."""
        if self._reader.epoch(number) < 1:
            return math.inf
        tokens = int(self._reader.lengths(number)[: self._reader.rows_before(number, 1)].sum())
        return flow.time_of(number, tokens + float(self._surpluses[number]))

    def _pending(self) -> list[int]:
        """Return the sources that must be read once before the epoch ends, and were not."""
        final = self._mixture.schedule.points[-1][1]
        return [
            number
            for number, (start, weight) in enumerate(zip(self._reader.starts, final, strict=True))
            if weight > 0 and start.cursor.epoch < 1 and (self._reader.epoch(number) < 1 or self._reader.rows_before(number, 1))
        ]

    def _required_rows(self, weights: Numbers) -> Index:
        """Return how many rows complete the first pass of each pending source, ``int64 (S,)``."""
        counts = np.zeros(len(self._sources), dtype=np.int64)
        for number in self._pending():
            if weights[number] > 0 and self._reader.epoch(number) >= 1:
                counts[number] = self._reader.rows_before(number, 1)
        return counts

    def _collected(self, counts: Index, rows: SourceRows | None, flow: Flow | None, *, is_last: bool) -> CollectedMixture:
        """Return the blocks of the window; all ranks call it together."""
        reader = self._reader
        blocks_of = [[block.counted for block in stream.blocks] for stream in self._sources.streams]
        names = self._mixture.names
        blocks = [block for number in by_name(names) for block in blocks_of[number]]
        ranges = ranges_of(names, blocks_of, reader.starts, counts.tolist())
        global_order = gather_lengths(blocks, ranges, reader.settings)
        size = (self._start.blocks or 1) if rows is None else max(1, int(rows.tokens(counts).sum()))
        return CollectedMixture(
            settings=reader.settings,
            start=dataclasses.replace(self._start, blocks=size),
            blocks=blocks,
            is_last=is_last,
            global_order=global_order,
            counts=reader.take_counts(),
            names=names,
            blocks_of=blocks_of,
            starts=reader.starts,
            rows=rows,
            num_rows_of=counts,
            tokens_of=[reader.lengths(number) for number in range(len(self._sources))],
            flow=flow,
            columns=self._sources.columns,
            num_shards=self._sources.num_shards,
            limits=self._passes.tolist(),
        )
