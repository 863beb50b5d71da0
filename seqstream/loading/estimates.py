"""How many optimiser steps an epoch has: from a sample of blocks all over the data, planned as a window of the epoch is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from seqstream.arrays import Lengths
from seqstream.arrow import join_tables, take_rows
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.rank_shares import Uneven, cut_steps
from seqstream.shuffling import shuffled
from seqstream.sources.random_order import RandomRows
from seqstream.sources.source import Source
from seqstream.windows.block_reader import Cursor, blocks_of, look_ahead

_NUM_BLOCKS = 128
"""How many blocks are looked at."""

_FEWEST_BLOCKS = 16
_FEW_RECORDS = 4_000
"""Of records that are read one by one fewer are looked at: so many, or 16 blocks."""

_SAMPLE_BYTES = 2 << 20
"""About how many bytes of records are tokenised: of those blocks every so many-th record."""

_READ_BYTES = 256 << 20
"""How much is read, but not tokenised, to count the blocks of files that are read front to back."""

_MOST_ROWS = 200_000
"""So many rows are planned at most, in a window that has more."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Records from all over the data.

    Attributes:
        table: The records, as read, with row ids.
        scale: How much more there is in all, in bytes.
    """

    table: pa.Table
    scale: float


def sample_records(source: Source) -> Sample | None:
    """Return records from all over a source; ``None`` where nobody can know how many there are.

    Shards of one block are looked at where they lie. Others are read front to back, as far as there are no more than 256 MiB:
    beyond, their sizes are what the source guesses, mended by what was found in those that were read.
    """
    guess = source.approx_blocks()
    if guess is None:
        return None
    tables, total_bytes = _sample_shards(source) if _has_single_blocks(source) else _read_all(source, guess)
    if not tables:
        return Sample(pa.table({}), 0.0)
    table = join_tables(tables)
    step = max(1, table.nbytes // _SAMPLE_BYTES)
    if step > 1:
        table = take_rows(table, np.arange(min(step // 2, len(table) - 1), len(table), step))
    return Sample(table, total_bytes / max(table.nbytes, 1))


def estimate_steps(
    lengths: Lengths, sample: Sample, spec: BatchSpec, *, shuffle: bool, world_size: int, accumulate: int, uneven: Uneven
) -> int:
    """Return how many optimiser steps ranks make of all rows, if they are like a sample.

    Args:
        lengths: ``int64 (N,)`` or ``(N, S)``, of the rows that the stages made of the sample.
        sample: The records that they were.
        spec: How rows are batched, decided in all.
        shuffle: Whether windows are those of a loader that shuffles.
        world_size: Number of ranks.
        accumulate: Batches of an optimiser step of each rank.
        uneven: What becomes of steps with fewer rows than ranks.
    """
    if not len(lengths):
        return 0
    runs = LengthCounts.of(spec.sort_keys(lengths))
    sizes = LengthCounts.of(lengths)
    share = spec.window_size(shuffle=shuffle).share(
        num_batches=spec.num_batches(sizes.num_rows, sizes.num_tokens),
        num_tokens=sizes.num_tokens,
        read_bytes=sample.table.nbytes,
        world_size=world_size,
    )
    window = min(sample.scale, 1 / share if share else math.inf, max(1.0, _MOST_ROWS / runs.num_rows))
    is_all = window == sample.scale
    rows = _scaled(runs, window)
    multiple = world_size * accumulate
    search = spec.search_planned(rows, last=is_all, multiple=multiple)
    while search.num_needed is not None:
        search = search.with_lengths(_scaled(rows, search.num_needed / rows.num_rows))
    num = search.num_planned
    if not num and is_all:
        return 0
    if not num:
        rows, num = _scaled(runs, sample.scale), round(runs.num_rows * sample.scale)
    planned = rows if num == rows.num_rows else _scaled(rows, num / rows.num_rows)
    global_plan = spec.plan_global(planned, key=None, world_size=world_size, accumulate=accumulate)
    steps = int(cut_steps(global_plan, 0, world_size, uneven).ends.sum())
    return steps if is_all else math.ceil(steps * runs.num_rows * sample.scale / planned.num_rows)


def _scaled(runs: LengthCounts, factor: float) -> LengthCounts:
    """Return so many times the rows, of the same lengths."""
    ends = np.rint(np.cumsum(runs.counts) * factor).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    return LengthCounts(runs.lengths[counts > 0], counts[counts > 0])


def _has_single_blocks(source: Source) -> bool:
    """Return whether every shard is one block, as far as some of them say."""
    shards = _spread(source, source.num_shards)
    return bool(len(shards)) and bool((source.approx_bytes(shards) >= 0).all())


def _sample_shards(source: Source) -> tuple[list[pa.Table], float]:
    """Return blocks of a source whose shards are one each, and about how many bytes all of them have."""
    last = source.num_shards - 1
    shards = _spread(source, last)
    tables = [table for shard in (*shards.tolist(), last) for table in _tables(source, shard)]
    *others, rest = (table.nbytes for table in tables)  # the last has what is left
    return [table for table in tables if len(table)], sum(others) * last / max(len(shards), 1) + rest


def _read_all(source: Source, guess: float) -> tuple[list[pa.Table], float]:
    """Read shards, far apart ones first, as far as that takes no long time; return some blocks, and the bytes of all."""
    kept: list[pa.Table] = []
    step, seen, num_bytes, of_whole = 1, 0, 0, 0
    for number, shard in enumerate(shuffled(source.num_shards, "estimate").tolist()):
        for table in _tables(source, shard):
            if seen % step == 0 and len(table):
                kept.append(table)
            seen, num_bytes = seen + 1, num_bytes + table.nbytes
            if len(kept) > 2 * _NUM_BLOCKS:
                kept, step = kept[::2], 2 * step
            if num_bytes > _READ_BYTES:
                return kept, of_whole / number * source.num_shards if number else num_bytes / seen * max(guess, seen)
        of_whole = num_bytes
    return kept, float(num_bytes)


def _tables(source: Source, shard: int) -> Iterator[pa.Table]:
    return (block.table for block in blocks_of(look_ahead(source, range(shard, shard + 1), Cursor(), num_open=1)))


def _spread(source: Source, size: int) -> np.ndarray:
    """Return some of the first ``size`` shards, evenly apart, enough of them to hold some thousand records."""
    num = _NUM_BLOCKS
    if isinstance(source, RandomRows):  # whose records may take long to make, and come from everywhere
        num = min(num, max(_FEWEST_BLOCKS, -(-_FEW_RECORDS // source.source.records_per_block)))
    return np.unique(np.linspace(0, size - 1, min(size, num)).astype(np.int64))
