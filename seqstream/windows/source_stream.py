"""The blocks of one source of a mixture: read as far as a window needs them, pass after pass."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Set

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.windows.block_reader import Cursor, ReadBlock
from seqstream.windows.block_states import CountedBlocks
from seqstream.windows.settings import SourceStart

OpenSource = Callable[[Cursor], Iterator[ReadBlock]]
"""Yields the blocks of a source from a cursor on, over all its passes."""

_PARTS = 64
"""A block is read in parts of this many to the whole when a window needs less than the whole of one."""

_PART_BYTES = 4_096
"""Bytes that such a part has at least: less takes as long to read."""

_BYTES_PER_TOKEN = 4
"""Bytes of records as read for a token: an estimate used until a block was processed."""


@dataclasses.dataclass(frozen=True)
class SourceBlock:
    """A block whose rows all ranks know.

    Attributes:
        counted: The block; its rows are on the rank that has processed it.
        lengths: ``int64 (n,)``, tokens of each of its rows.
        num_tokens: Their sum.
    """

    counted: CountedBlocks
    lengths: Index
    num_tokens: int


class SourceStream:
    """A source of a mixture while windows are built: what follows in it, and what was processed and is left.

    Args:
        open_source: Opens the source.
        start: Where the first window begins.

    Attributes:
        blocks: Blocks that were processed, from the first of which rows are left; `add` and `keep` change them.
        is_over: Whether no block follows: the allowed passes are used up, or the source has no rows.
    """

    def __init__(self, open_source: OpenSource, start: SourceStart) -> None:
        self.blocks: list[SourceBlock] = []
        self.is_over = False
        self._lengths: Index | None = None
        self._ahead = open_source(start.cursor)
        self._block: ReadBlock | None = None
        self._fraction = start.cursor.fraction
        self._num_tokens = self._num_bytes = self._num_rows = self._num_in_work = 0
        self._pass = start.cursor.epoch
        self._pass_rows = 0
        self._pass_is_whole = start.cursor == Cursor(epoch=start.cursor.epoch)

    def epoch(self) -> float:
        """Return the number of the pass of the next block; ``inf`` where none follows."""
        block = self._next_block()
        return math.inf if block is None else block.before.epoch

    def read(self, num_tokens: float, before_epoch: float = math.inf) -> list[ReadBlock]:
        """Return the next blocks, or parts of them, that hold about as many tokens; none at the end.

        Args:
            num_tokens: Number of tokens.
            before_epoch: Stop before the first block of this pass.
        """
        found: list[ReadBlock] = []
        if not self._num_tokens:  # it may have no rows at all, in any pass
            before_epoch = min(before_epoch, self.epoch() + 1)
        wanted = num_tokens * self._bytes_per_token
        while wanted > 0 and self.epoch() < before_epoch and (block := self._block) is not None:
            size = max(block.num_bytes, 1)
            parts = math.ceil(_PARTS * max(wanted, _PART_BYTES) / size)
            stop = 1.0 if found else min(1.0, self._fraction + parts / _PARTS)
            found.append(_part(block, self._fraction, stop))
            self._num_in_work += 1
            wanted -= size * (stop - self._fraction)
            self._fraction = stop
            if stop == 1:
                self._block, self._fraction = None, 0.0
        return found

    def add(self, block: SourceBlock) -> None:
        """Take a block that was processed."""
        before = block.counted.span.before
        if before.epoch != self._pass:
            self._pass, self._pass_rows, self._pass_is_whole = before.epoch, 0, True
        self._num_in_work -= 1
        self._pass_rows += len(block.lengths)
        self._num_rows += len(block.lengths)
        self._num_tokens += block.num_tokens
        self._num_bytes += int(block.counted.span.num_bytes[0])
        self.blocks.append(block)
        self._lengths = None

    def keep(self, kept: Set[int]) -> None:
        """Drop all blocks that were processed but some, given the ``id`` of each of these."""
        self.blocks = [block for block in self.blocks if id(block.counted) in kept]
        self._lengths = None

    @property
    def num_rows(self) -> int:
        """Number of rows of the blocks that were processed."""
        return sum(len(block.lengths) for block in self.blocks)

    def lengths(self, skip: int) -> Index:
        """Return the tokens of each row that was processed and is left, ``int64 (n,)``, after those to skip."""
        if self._lengths is None:
            self._lengths = np.concatenate([*(block.lengths for block in self.blocks), np.empty(0, dtype=np.int64)])
        return self._lengths[skip:]

    def num_rows_before(self, epoch: int, skip: int) -> int:
        """Return how many of these rows are of passes before one."""
        later = itertools.takewhile(lambda block: block.counted.span.before.epoch >= epoch, reversed(self.blocks))
        return max(0, self.num_rows - sum(len(block.lengths) for block in later) - skip)

    @property
    def tokens_per_byte(self) -> float:
        """Tokens of a byte of records as read; 0 where nothing was read."""
        return self._num_tokens / self._num_bytes if self._num_bytes else 0.0

    @property
    def tokens_per_row(self) -> float:
        """Mean tokens of a row; 0 where nothing was read."""
        return self._num_tokens / self._num_rows if self._num_rows else 0.0

    @property
    def _bytes_per_token(self) -> float:
        if self._num_tokens:
            return self._num_bytes / self._num_tokens
        return max(_BYTES_PER_TOKEN, self._num_bytes)  # no row so far: double the bytes each time

    def _next_block(self) -> ReadBlock | None:
        if self._block is None and not self.is_over:
            self._block = next(self._ahead, None)
            self.is_over = self._block is None
        if self._block is not None and not self._num_in_work and self._block.before.epoch > self._pass:
            self.is_over |= self._pass_is_whole and not self._pass_rows  # other passes have no rows either
        return None if self.is_over else self._block


def _part(block: ReadBlock, first: float, stop: float) -> ReadBlock:
    """Return the part of a block between two fractions of its records; they are multiples of 1 / 64."""
    if first == 0 and stop == 1:
        return block

    def read() -> pa.Table:
        begin, end = int(len(block.table) * first), int(len(block.table) * stop)
        return block.table.slice(begin, end - begin)

    before = dataclasses.replace(block.before, fraction=first)
    after = block.after if stop == 1 else dataclasses.replace(block.before, fraction=stop)
    num_bytes = None if block.approx_bytes is None else round(block.approx_bytes * (stop - first))
    return ReadBlock(read() if num_bytes is None else read, before, after, num_bytes, block.stages, block.prefetch)
