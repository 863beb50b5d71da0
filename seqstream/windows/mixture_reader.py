"""Reads the sources of a mixture as far as a window needs them, and counts their rows on all ranks.

Legend: ``S`` sources of the mixture.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from seqstream.arrays import Index, Mask
from seqstream.records import Counts
from seqstream.sources.mixture import Mixture
from seqstream.windows.block_reader import ReadBlock
from seqstream.windows.block_states import CountedBlocks, TakenBlocks, share_out
from seqstream.windows.counting import process_blocks
from seqstream.windows.mixture_columns import MixtureColumns
from seqstream.windows.settings import SourceStart, WindowSettings, WindowStart
from seqstream.windows.source_stream import SourceBlock, SourceStream

_SPARE = 1.02
"""2 % more tokens are read than a window needs, as the tokens of blocks are estimates."""

_MORE = 1.5
"""Where those were too few, half as many more are read than are lacking; what a window does not need the next one has."""


@dataclasses.dataclass(frozen=True)
class MixtureSources:
    """The sources of a mixture while the windows of an epoch are built.

    Attributes:
        mixture: The mixture.
        streams: The unread part of each source, and what was processed and is left.
        columns: The columns of each.
        num_shards: Number of shards of each, as it is read.
    """

    mixture: Mixture
    streams: Sequence[SourceStream]
    columns: MixtureColumns
    num_shards: Sequence[int]

    def __len__(self) -> int:
        return len(self.streams)


class MixtureReader:
    """Reads for one window.

    Args:
        sources: The sources.
        start: Where the window begins.
        settings: How blocks become a window.

    Attributes:
        starts: Where each source begins.
        tokens_left: ``int64 (S,)``, tokens of each source that were processed and are not yet in a window.
        rows_left: ``int64 (S,)``, rows of each source that were processed and are not yet in a window.
    """

    def __init__(self, sources: MixtureSources, start: WindowStart, settings: WindowSettings) -> None:
        self.sources = sources
        self.settings = settings
        known = start.mixture.sources if start.mixture is not None else {}
        self.starts = [known.get(name, SourceStart()) for name in sources.mixture.names]
        left = [self.lengths(number) for number in range(len(sources))]
        self.tokens_left = np.array([int(lengths.sum()) for lengths in left], dtype=np.int64)
        self.rows_left = np.array([len(lengths) for lengths in left], dtype=np.int64)
        self._start = start
        self._num_processed = [stream.num_rows for stream in sources.streams]
        self._counts = Counter[str]()

    def lengths(self, number: int) -> Index:
        """Return the tokens of the rows of a source that were processed and are not yet in a window, ``int64 (n,)``."""
        return self.sources.streams[number].lengths(self.starts[number].skip)

    def is_over(self) -> Mask:
        """Return for each source whether everything left was processed, ``bool (S,)``."""
        return np.array([stream.is_over for stream in self.sources.streams])

    def epoch(self, number: int) -> float:
        """Return the number of the pass of the next block of a source; ``inf`` where none follows."""
        return self.sources.streams[number].epoch()

    def rows_before(self, number: int, epoch: int) -> int:
        """Return how many of the rows of a source that are left belong to passes before ``epoch``."""
        return self.sources.streams[number].num_rows_before(epoch, self.starts[number].skip)

    def take_counts(self) -> Counts:
        """Return what the stages have counted since the last call."""
        counts, self._counts = dict(self._counts), Counter()
        return counts

    def read_tokens(self, needs: Mapping[int, float], before_epochs: Mapping[int, float] | None = None) -> bool:
        """Read until sources have more tokens than they need, or have ended; return whether anything was read.

        All ranks call it together.

        Args:
            needs: Tokens that each source needs.
            before_epochs: Passes at which sources count as ended.
        """
        ends = before_epochs or {}
        has_read = False
        while True:
            spare = _MORE if has_read else _SPARE
            lacking = {
                number: spare * (need - float(self.tokens_left[number]) + 1)
                for number, need in needs.items()
                if self.tokens_left[number] <= need and self.epoch(number) < ends.get(number, math.inf)
            }
            if not lacking or not self._read(lacking, ends):
                return has_read
            has_read = True

    def read_rows(self, wanted: Index) -> None:
        """Read until each source has a number of rows, ``int64 (S,)``, or ends; all ranks call it together."""
        while True:
            lacking = {
                number: self._lacking_tokens(number, int(wanted[number]))
                for number in np.flatnonzero(self.rows_left < wanted).tolist()
                if self.epoch(number) < math.inf
            }
            if not lacking or not self._read(lacking, {}):
                return

    def _lacking_tokens(self, number: int, wanted: int) -> float:
        """Return about how many tokens of a source are lacking to have a number of rows."""
        lengths = self.lengths(number)
        mean = float(lengths.mean()) if len(lengths) else 1.0
        return max(1.0, (wanted - len(lengths)) * mean)

    def _read(self, num_tokens: Mapping[int, float], before_epochs: Mapping[int, float]) -> bool:
        """Read about this many more tokens of sources, and process them; return whether anything was read."""
        numbers: list[int] = []
        upcoming: list[ReadBlock] = []
        for number, tokens in sorted(num_tokens.items()):
            upcoming += self.sources.streams[number].read(tokens, before_epochs.get(number, math.inf))
            numbers += [number] * (len(upcoming) - len(numbers))
        if not upcoming:
            return False
        ranks = self.settings.collectives
        blocks: list[TakenBlocks] = [*share_out(upcoming, ranks.rank, ranks.world_size)]
        del upcoming  # so that only `blocks` holds records, each until it is processed
        self._counts.update(process_blocks(blocks, self._start, self.settings))
        counted = [each for each in blocks if isinstance(each, CountedBlocks)]
        for number, block in zip(numbers, self._gather(numbers, counted), strict=True):
            self.sources.streams[number].add(block)
            num, to_skip = len(block.lengths), self.starts[number].skip - self._num_processed[number]
            skipped = min(num, max(0, to_skip))
            self._num_processed[number] += num
            self.rows_left[number] += num - skipped
            self.tokens_left[number] += block.num_tokens - (int(block.lengths[:skipped].sum()) if skipped else 0)
        return True

    def _gather(self, numbers: Sequence[int], blocks: Sequence[CountedBlocks]) -> list[SourceBlock]:
        """Return blocks with the tokens of each row, given the number of the source of each; all ranks call it together.

        Raises:
            ValueError: A source lacks a column that another has; the same on all ranks.
        """
        columns = self.sources.columns
        own = [(number, each.rows) for number, each in zip(numbers, blocks, strict=True) if each.rows is not None]
        lengths = np.concatenate([*(rows.lengths for _, rows in own), np.empty(0, dtype=np.int64)])
        described = columns.describe_new({number: rows.table for number, rows in own if len(rows.table)})
        received = self.settings.collectives.gather_row_lengths(self.settings.spec.count_tokens(lengths), described)
        columns.learn([new for _, new in received])
        by_rank = [lengths for lengths, _ in received]
        found = []
        for each in blocks:
            lengths = by_rank[each.owner][: each.total_rows]
            by_rank[each.owner] = by_rank[each.owner][each.total_rows :]
            found.append(SourceBlock(each, lengths, int(lengths.sum())))
        return found
