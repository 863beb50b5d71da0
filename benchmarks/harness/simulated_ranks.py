"""Simulates many ranks in one process: their windows, in the block order of a loader, and what ranks send to each other.

Legend: ``W`` ranks, ``T`` steps, ``M`` blocks of a corpus, ``D`` different lengths.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

import seqstream as ss
from benchmarks.harness.proven_engine import Proven
from seqstream.arrays import Index, Lengths
from seqstream.arrow import to_numpy
from seqstream.distributed.collectives import Bytes, SingleProcess
from seqstream.distributed.global_order import GlobalOrder, encode_counts, gather_lengths
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.rank_shares import Schedule, schedule_turns
from seqstream.records import Json, OpenStage
from seqstream.reporting.stragglers import Served, length_of, serve
from seqstream.shuffling import EvenOrder
from seqstream.sources.blocks import BLOCK_BYTES, Block
from seqstream.stages.running import run_stages
from seqstream.windows.block_reader import Cursor, UpcomingBlocks, look_ahead, read_blocks
from seqstream.windows.processing import GROUP_BYTES

EPOCH = 1
"""The epoch whose order blocks have, one with full windows."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of a corpus, as a loader reads them.

    Attributes:
        source: The source.
        stage: The tokenising stage.
        read: The records of each block.
        made: Their rows.
    """

    source: ss.TextFiles
    stage: OpenStage
    read: list[pa.Table]
    made: list[pa.Table]

    @classmethod
    def of(cls, text: Path, proven: Proven, block_bytes: int = BLOCK_BYTES) -> Blocks:
        """Read and tokenise a corpus, in blocks as large as those of a corpus that many ranks share."""
        source = ss.TextFiles(str(text), block_bytes=block_bytes)
        stage = proven.open()
        read = [block.table for block in read_blocks(source, range(source.num_shards), Cursor())]
        return cls(source, stage, read, [run_stages([table], (stage,))[0][0] for table in read])

    @functools.cached_property
    def lengths(self) -> list[Lengths]:
        """Lengths of the rows of each block, in the order of the data."""
        columns = (table.column("input_ids").combine_chunks() for table in self.made)
        return [np.diff(to_numpy(column.offsets)).astype(np.int64) for column in columns]

    @functools.cached_property
    def counts(self) -> Index:
        """Number of rows of each length in each block, ``int64 (M, longest + 1)``."""
        longest = max(int(lengths.max(initial=0)) for lengths in self.lengths)
        return np.stack([np.bincount(lengths, minlength=longest + 1) for lengths in self.lengths])

    @property
    def num_tokens(self) -> int:
        return sum(int(lengths.sum()) for lengths in self.lengths)


@dataclasses.dataclass(frozen=True)
class Long(ss.Source):
    """A source that repeats another until it is as large as a window."""

    source: ss.Source
    size: int

    @property
    def num_shards(self) -> int:
        return self.size

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        return self.source.read(shard % self.source.num_shards, state)

    def approx_bytes(self, shards: Index) -> Index:
        return self.source.approx_bytes(shards % self.source.num_shards)


def tokenise(blocks: Iterable[pa.Table], stage: OpenStage) -> None:
    """Tokenise blocks as a loader does, several at a time."""
    num_bytes = 0
    group: list[pa.Table] = []
    for table in blocks:
        if group and num_bytes + table.nbytes > GROUP_BYTES:
            run_stages(group, (stage,))
            group, num_bytes = [], 0
        group.append(table)
        num_bytes += table.nbytes
    run_stages(group, (stage,))


@dataclasses.dataclass(frozen=True)
class World:
    """A full window of many ranks, each with one ``W``-th of its blocks, consecutive ones."""

    blocks: Blocks
    spec: ss.Bucket
    size: int
    seed: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        return (self.seed, EPOCH, 0)

    @property
    def num_blocks(self) -> int:
        """Number of blocks that fill the window; if a corpus has fewer, its blocks are repeated."""
        rows = sum(map(len, self.blocks.lengths))
        batches = self.spec.num_batches(rows, self.blocks.num_tokens) / len(self.blocks.read)
        return max(self.size, round(self.spec.window_batches * self.size / batches))

    @property
    def order(self) -> EvenOrder:
        return EvenOrder(self.num_blocks, self.seed, EPOCH, "shards")

    def ahead(self) -> Iterator[UpcomingBlocks]:
        """Yield the blocks of the window in the order of a loader."""
        return look_ahead(Long(self.blocks.source, self.num_blocks), self.order, Cursor())

    @functools.cached_property
    def numbers(self) -> list[Index]:
        """The blocks of each rank."""
        numbers = self.order.between(0, self.num_blocks) % self.blocks.source.num_shards
        owners = np.arange(len(numbers)) * self.size // len(numbers)
        return np.split(numbers, np.searchsorted(owners, np.arange(1, self.size)))

    def runs_of(self, rank: int) -> LengthCounts:
        """Count the rows of a rank by length."""
        counts = np.bincount(self.numbers[rank], minlength=len(self.blocks.read)) @ self.blocks.counts
        lengths = np.flatnonzero(counts)[::-1]
        return LengthCounts(lengths, counts[lengths])

    @functools.cached_property
    def sent_counts(self) -> list[bytes]:
        """The counts that each rank sends."""
        return [encode_counts([self.runs_of(rank)]) for rank in range(self.size)]

    def lengths_of(self, rank: int) -> Lengths:
        """Return the lengths of a rank's rows, in the order of the data."""
        return np.concatenate([self.blocks.lengths[number] for number in self.numbers[rank]])

    def plan(self, lengths: Lengths, ranks: Simulated) -> tuple[GlobalOrder, GlobalPlan, Schedule]:
        """Plan the window as a rank with rows of these lengths does."""
        global_order = gather_lengths([lengths], range(self.size), ranks)
        global_plan = self.spec.plan_global(global_order.length_counts, key=self.key, world_size=self.size)
        return global_order, global_plan, schedule_turns(global_plan, 0, self.size)


Swapped: TypeAlias = tuple[Bytes, Index]
"""Bytes, and how many of them are for each rank or from each rank."""


@dataclasses.dataclass
class Simulated:
    """The collectives of one rank of many, with prepared data of the other ranks.

    Attributes:
        rank: Its rank.
        world_size: Number of ranks.
        sent_counts: The counts of each rank, for the all-gather of counts.
        kind: The description of its columns that each rank sends when rows are exchanged.
        received: The data that the others send to this rank, call by call.
        turn: Number of the next call of ``all_to_all``.
        before_call: Called before anything is sent.
    """

    rank: int
    world_size: int
    sent_counts: list[bytes]
    kind: bytes = b""
    received: Sequence[Swapped] = ()
    turn: int = 0
    before_call: Callable[[], None] = lambda: None

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        self.before_call()
        if self.kind and data.endswith(self.kind):  # after a digest of the plan
            return [data] * self.world_size
        if data != self.sent_counts[self.rank]:
            raise ValueError("a rank must send the counts of its part of the window, got other counts")
        return self.sent_counts

    def all_to_all(self, data: Bytes, sizes: Index) -> Swapped:
        self.before_call()
        received, sizes = self.received[self.turn]
        self.turn = (self.turn + 1) % len(self.received)
        return received.copy(), sizes


class Noting(SingleProcess):
    """Collectives that keep what they are given to send."""

    def __init__(self) -> None:
        self.sent: list[Swapped] = []

    def all_to_all(self, data: Bytes, sizes: Index) -> Swapped:
        self.sent.append((data, sizes))
        return data, sizes


def synchronised(world: World) -> Served:
    """Return the batches of one window that all ranks share."""
    ranks = Simulated(0, world.size, world.sent_counts)
    global_order, global_plan, steps = world.plan(world.lengths_of(0), ranks)
    return serve(global_order.length_counts, global_plan, world.size, steps)


def alone(world: World) -> tuple[Served, Served]:
    """Return the batches of windows of each rank's own: in random orders, and by quantile of each rank's own rows.

    In random orders there are as many steps as the rank with the fewest batches has.
    """
    own = [_alone(world, rank) for rank in range(world.size)]
    fewest, most = (how(len(turns) for _, turns in own) for how in (min, max))
    random = [served[:, turns[:fewest]] for served, turns in own]
    aligned = [served[:, np.arange(most) * len(turns) // most] for served, turns in own]
    return _served(random), _served(aligned)


def _alone(world: World, rank: int) -> tuple[Index, Index]:
    """Return the padded length and the rows of each batch, ``int64 (2, K)``, longest first, and the order of serving."""
    length_counts = world.runs_of(rank)
    global_plan = world.spec.plan_global(length_counts, key=(*world.key, rank), world_size=1)
    return np.stack(
        [length_of(length_counts, global_plan.row_numbers(global_plan.cuts[:-1])), np.diff(global_plan.cuts)]
    ), global_plan.turns


def _served(batches: Sequence[Index]) -> Served:
    longest, rows = np.stack(batches, axis=2)
    return Served(longest, rows)
