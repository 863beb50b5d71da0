"""The lengths of the rows of a corpus, found by reading and tokenising it once.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqstream.records import ROW_ID, located
from seqstream.shuffling import EvenOrder
from seqstream.sources.source import Source
from seqstream.stages.running import run_stages
from seqstream.tokenizing.stage import Tokenize
from seqstream.windows.block_reader import Cursor, ReadBlock, read_blocks
from seqstream.windows.processing import GROUP_BYTES

OnBlocks: TypeAlias = Callable[[int], None]
"""A callback that receives the number of blocks read so far."""

EPOCH = 1
"""The epoch that is measured: the first one in which all windows are full."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """The lengths of a corpus, record counts, and the engine and time that tokenising took.

    Attributes:
        lengths: ``int32 (N,)``, tokens of each row, special tokens included and nothing truncated, in the order of an epoch.
        records: Number of records read.
        empty: Number of them without a token of their own.
        num_bytes: Their size in memory, in bytes.
        is_whole: Whether the whole corpus was read.
        engine: Name of the engine that computed the ids.
        seconds: Time for reading and tokenising.
    """

    lengths: npt.NDArray[np.int32]
    records: int
    empty: int
    num_bytes: int
    is_whole: bool
    engine: str
    seconds: float

    @property
    def tokens(self) -> int:
        """Number of tokens of all rows."""
        return int(self.lengths.sum(dtype=np.int64))


def take_survey(
    source: Source, tokenize: Tokenize, *, seed: int = 0, limit: int | None = None, on_blocks: OnBlocks = lambda _: None
) -> Survey:
    """Read and tokenise a corpus in the order of an epoch, and keep only the lengths: four bytes a row.

    Args:
        source: The corpus.
        tokenize: How it is tokenised; ``max_length=None`` gives the lengths of whole records.
        seed: Seed of the order in which shards are read.
        limit: Stop after about this many tokens; ``None`` reads the whole corpus.
        on_blocks: Called after every few blocks.

    Raises:
        ValueError: The corpus has no record, or no record gives a row.
    """
    blocks = read_epoch(source, seed)
    first = _skip_empty_blocks(blocks)
    engines = tokenize.choose_engines(first.table)
    stage = tokenize.open(engines)
    (column,) = tokenize.columns
    lengths: list[npt.NDArray[np.int32]] = []
    total = Counter[str]()
    started = time.perf_counter()
    for group in _groups(first, blocks):
        with located(pa.chunked_array([chunk for table in group for chunk in table.column(ROW_ID).chunks]), source.locate):
            rows, counts = run_stages(group, (stage,))
        lengths += [pc.list_value_length(table.column(column)).to_numpy() for table in rows]
        tokens = sum(int(part.sum(dtype=np.int64)) for part in lengths[-len(rows) :])
        for each in counts:
            total.update(each)
        num_bytes = sum(table.nbytes for table in group)
        total.update(records=sum(map(len, group)), bytes=num_bytes, tokens=tokens, blocks=len(group))
        on_blocks(total["blocks"])
        if limit is not None and total["tokens"] >= limit:
            break
    seconds = time.perf_counter() - started
    if not total["tokens"]:
        raise ValueError(f"source must give at least one row, got none: {total['empty']:,} records were empty")
    is_whole = next(blocks, None) is None
    return Survey(np.concatenate(lengths), total["records"], total["empty"], total["bytes"], is_whole, engines[column], seconds)


def read_epoch(source: Source, seed: int) -> Iterator[ReadBlock]:
    """Yield the blocks of a source in the order of the epoch that is measured."""
    return read_blocks(source, EvenOrder(source.num_shards, seed, EPOCH, "shards"), Cursor())


def _skip_empty_blocks(blocks: Iterator[ReadBlock]) -> ReadBlock:
    """Return the first block that has records."""
    for block in blocks:
        if len(block.table):
            return block
    raise ValueError("source must have at least one record, got none; look at the paths and what is in them")


def _groups(first: ReadBlock, blocks: Iterable[ReadBlock]) -> Iterator[list[pa.Table]]:
    """Yield the tables of consecutive blocks that are tokenised together, at most `GROUP_BYTES` of them."""
    group = [first.table]
    for block in blocks:
        if sum(table.nbytes for table in group) + block.table.nbytes > GROUP_BYTES:
            yield group
            group = []
        group.append(block.table)
    yield group
