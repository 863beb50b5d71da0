"""The states of a block on its way through a window: one type each, whose fields are what is known then.

Before a window takes it, a block is a `ReadBlock` or one of some `UnreadBlocks`. A window gives it to a rank: there it is an
`AssignedBlock` and, after the stages, a `ProcessedBlock`; on other ranks it is one of `RemoteBlocks`. When all ranks know its
number of rows, it is one of `CountedBlocks`. What a state holds, such as the records as read, is dropped with it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, Lengths
from seqstream.distributed.digests import digest_table
from seqstream.records import ROW_ID
from seqstream.windows.block_reader import BlockSpan, ReadBlock, UpcomingBlocks


@dataclasses.dataclass(frozen=True)
class BlockDigest:
    """By what ranks compare a block that all of them read.

    Attributes:
        value: Checksum of its records.
        first_row_id: Row id of its first record; -1 if it has none.
    """

    value: int
    first_row_id: int

    @classmethod
    def of(cls, table: pa.Table) -> BlockDigest:
        """Return the digest of some records."""
        return cls(digest_table(table), table.column(ROW_ID)[0].as_py() if len(table) else -1)


@dataclasses.dataclass(frozen=True)
class TakenBlocks:
    """Blocks that a window has taken: one of this rank, or any number of another rank.

    Attributes:
        span: Where they lie.
        owner: The rank that processes them.
        digest: Of the one block as read, where other ranks read it as well; else ``None``.
    """

    span: BlockSpan
    owner: int
    digest: BlockDigest | None


@dataclasses.dataclass(frozen=True)
class AssignedBlock(TakenBlocks):
    """A block that this rank is to process.

    Attributes:
        block: Its records as read, or what reads them.
    """

    block: ReadBlock


@dataclasses.dataclass(frozen=True)
class RemoteBlocks(TakenBlocks):
    """Blocks that another rank processes, before their rows are counted."""


@dataclasses.dataclass(frozen=True)
class ProcessedBlock(TakenBlocks):
    """A block of this rank after the stages, before other ranks know its rows.

    Attributes:
        table: Its rows.
    """

    table: pa.Table

    @classmethod
    def of(cls, taken: TakenBlocks, table: pa.Table) -> ProcessedBlock:
        """Return the block with the rows that the stages returned."""
        return cls(taken.span, taken.owner, taken.digest, table)


@dataclasses.dataclass(frozen=True)
class BlockRows:
    """The rows of a block on the rank that has processed it.

    Attributes:
        table: The rows, ``n`` of them.
        keys: ``int64 (n,)`` or ``(n, S)``, what they are sorted by.
        lengths: ``int64 (n,)``, their tokens; the same array where these are the keys.
    """

    table: pa.Table
    keys: Lengths
    lengths: Lengths


@dataclasses.dataclass(frozen=True)
class CountedBlocks(TakenBlocks):
    """Blocks whose numbers of rows all ranks know; they stay so where rows of them are left for the next window.

    Attributes:
        num_rows: ``int64 (n,)``, rows of each block.
        rows: The rows of the one block, on the rank that has processed it; ``None`` on others.
    """

    num_rows: Index
    rows: BlockRows | None = None

    @functools.cached_property
    def total_rows(self) -> int:
        """Number of rows of all the blocks."""
        return int(self.num_rows.sum())

    @classmethod
    def of(cls, taken: TakenBlocks, num_rows: Index, rows: BlockRows | None = None) -> CountedBlocks:
        """Return the blocks with their numbers of rows."""
        return cls(taken.span, taken.owner, taken.digest, num_rows, rows)

    def part(self, first: int, stop: int) -> CountedBlocks:
        """Return blocks ``first`` to ``stop`` of these."""
        if stop - first == len(self.span):
            return self
        return dataclasses.replace(self, span=self.span.part(first, stop), num_rows=self.num_rows[first:stop])


NewBlocks: TypeAlias = AssignedBlock | RemoteBlocks
"""Blocks that a window has just taken."""


def share_out(upcoming: Iterable[UpcomingBlocks], rank: int, world_size: int) -> list[NewBlocks]:
    """Give ranks contiguous shares of blocks, whose sizes differ by at most one.

    Args:
        upcoming: The blocks.
        rank: This rank, which gets each of its blocks by itself.
        world_size: Number of ranks.
    """
    upcoming = list(upcoming)
    num, before = count_blocks(upcoming), 0
    shares: list[NewBlocks] = []
    for blocks in upcoming:
        if isinstance(blocks, ReadBlock):
            shares += assign(blocks, before * world_size // num, rank, world_size)
            before += 1
            continue
        size = len(blocks.span)
        owners = np.arange(before, before + size) * world_size // num
        for first, stop in itertools.pairwise([0, *(1 + np.flatnonzero(np.diff(owners))).tolist(), size]):
            shares += assign(blocks.part(first, stop), int(owners[first]), rank, world_size)
        before += size
    return shares


def assign(upcoming: UpcomingBlocks, owner: int, rank: int, world_size: int) -> list[NewBlocks]:
    """Give blocks to a rank, on which each is by itself; other ranks do not hold what they are read from."""
    if isinstance(upcoming, ReadBlock):
        is_compared = world_size > 1 and not upcoming.span.is_lazy
        digest = BlockDigest.of(upcoming.table) if is_compared else None
        if owner == rank:
            return [AssignedBlock(upcoming.span, owner, digest, upcoming)]
        return [RemoteBlocks(upcoming.span, owner, digest)]
    if owner == rank:
        return [AssignedBlock(block.span, owner, None, block) for block in upcoming.blocks()]
    return [RemoteBlocks(upcoming.span, owner, None)]


def count_blocks(blocks: Iterable[UpcomingBlocks | TakenBlocks]) -> int:
    """Return the number of blocks."""
    return sum(len(each.span) for each in blocks)


def count_rows(blocks: Iterable[CountedBlocks]) -> int:
    """Return the number of rows of all blocks."""
    return sum(each.total_rows for each in blocks)


def last_blocks(blocks: Sequence[CountedBlocks], num: int) -> list[CountedBlocks]:
    """Return the last ``num`` blocks."""
    last: list[CountedBlocks] = []
    for each in reversed(blocks):
        if not num:
            break
        size = len(each.span)
        last.insert(0, each.part(max(0, size - num), size))
        num -= len(last[0].span)
    return last
