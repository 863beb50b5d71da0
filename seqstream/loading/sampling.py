"""Records from all over a source, to estimate what an epoch holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from seqstream.arrow import join_tables, take_rows
from seqstream.shuffling import shuffled
from seqstream.sources.random_order import RandomRows
from seqstream.sources.source import Source
from seqstream.windows.block_reader import Cursor, blocks_of, look_ahead

_NUM_BLOCKS = 128
"""How many blocks a sample is taken from."""

_FEWEST_BLOCKS = 16
_FEW_RECORDS = 4_000
"""A sample of records that are read one by one is smaller: this many records, or 16 blocks."""

_SAMPLE_BYTES = 2 << 20
"""About how many bytes of records are tokenized: a strided sample of the records of these blocks."""

_LEAST_BLOCKS, _LEAST_BYTES = 4, 64 << 10
"""Blocks and bytes for each source of a mixture of many."""

_READ_BYTES = 256 << 20
"""How many bytes are read at most to measure files that are read front to back."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Records from all over the data.

    Attributes:
        table: The records, as read, with row ids.
        scale: Bytes of the whole source, divided by those of the table.
    """

    table: pa.Table
    scale: float


def sample_records(source: Source, share: float = 1.0) -> Sample | None:
    """Return records from all over a source; ``None`` where the source does not know its size.

    Of shards that are one block, some are read. Other shards are read front to back, up to 256 MiB; beyond that, sizes are
    those that the source estimates, corrected by those of the shards that were read.

    Args:
        source: The source.
        share: Share of a sample of the usual size to take: of a mixture, all sources together have one.
    """
    guess = source.approx_blocks()
    if guess is None:
        return None
    tables, total_bytes = _sample_shards(source, share) if _has_single_blocks(source) else _read_all(source, guess, share)
    if not tables:
        return Sample(pa.table({}), 0.0)
    table = join_tables(tables)
    step = max(1, table.nbytes // max(_LEAST_BYTES, int(share * _SAMPLE_BYTES)))
    if step > 1:
        table = take_rows(table, np.arange(min(step // 2, len(table) - 1), len(table), step))
    return Sample(table, total_bytes / max(table.nbytes, 1))


def _has_single_blocks(source: Source) -> bool:
    """Return whether every shard is one block, judged by some of them."""
    shards = _spread(source, source.num_shards, 1.0)
    return bool(len(shards)) and bool((source.approx_bytes(shards) >= 0).all())


def _sample_shards(source: Source, share: float) -> tuple[list[pa.Table], float]:
    """Return blocks of a source whose shards are one block each, and about how many bytes all shards have."""
    last = source.num_shards - 1
    shards = _spread(source, last, share)
    tables = [table for shard in (*shards.tolist(), last) for table in _tables(source, shard)]
    *others, rest = (table.nbytes for table in tables)  # the last has what is left
    return [table for table in tables if len(table)], sum(others) * last / max(len(shards), 1) + rest


def _read_all(source: Source, guess: float, share: float) -> tuple[list[pa.Table], float]:
    """Read shards in random order, up to a limit; return some of their blocks, and about how many bytes all shards have.

    Args:
        source: Its shards have several blocks each.
        guess: About how many blocks all shards have.
        share: As that of `sample_records`.
    """
    most_bytes = share * _READ_BYTES
    kept: list[pa.Table] = []
    step, num_blocks, num_bytes, bytes_of_shards = 1, 0, 0, 0
    for number, shard in enumerate(shuffled(source.num_shards, "estimate").tolist()):
        for table in _tables(source, shard):
            if num_blocks % step == 0 and len(table):
                kept.append(table)
            num_blocks, num_bytes = num_blocks + 1, num_bytes + table.nbytes
            if len(kept) > 2 * _NUM_BLOCKS:
                kept, step = kept[::2], 2 * step
            if num_bytes > most_bytes and number:
                return kept, bytes_of_shards / number * source.num_shards
            if num_bytes > most_bytes:
                return kept, num_bytes / num_blocks * max(guess, num_blocks)
        bytes_of_shards = num_bytes
    return kept, float(num_bytes)


def _tables(source: Source, shard: int) -> Iterator[pa.Table]:
    return (block.table for block in blocks_of(look_ahead(source, range(shard, shard + 1), Cursor(), num_open=1)))


def _spread(source: Source, size: int, share: float) -> np.ndarray:
    """Return some of the first ``size`` shards, evenly spaced, enough of them to hold some thousand records."""
    num = max(_LEAST_BLOCKS, round(share * _NUM_BLOCKS))
    if isinstance(source, RandomRows):  # records from everywhere, each of which may take long to compute
        num = min(num, max(_FEWEST_BLOCKS, -(-_FEW_RECORDS // source.source.records_per_block)))
    return np.unique(np.linspace(0, size - 1, min(size, num)).astype(np.int64))
