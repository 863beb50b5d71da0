"""The lengths of the rows of a corpus, found by reading and tokenising it once, or from a manifest of tokens.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqstream.loading.stage_lists import DataStage, choose_engines, open_stages, tokenizer_of
from seqstream.records import ROW_ID, Counts, located, sequence_column
from seqstream.shuffling import EvenOrder
from seqstream.sources.source import Source
from seqstream.stages.label_filter import LabelFilter
from seqstream.stages.running import run_stages
from seqstream.tokenizing.stage import Tokenize
from seqstream.windows.block_reader import Cursor, ReadBlock, read_blocks
from seqstream.windows.processing import GROUP_BYTES

OnBlocks: TypeAlias = Callable[[int], None]
"""A callback that receives the number of blocks read so far."""

OnRows: TypeAlias = Callable[[Sequence[pa.Table], Sequence[pa.Table]], None]
"""A callback that receives the records of some blocks, and the rows that the stages made of each block."""

EPOCH = 1
"""The epoch that is measured: the first one in which all windows are full."""

_MOST_ROWS = 4_000_000
"""Of a manifest with more rows than this, as many are planned."""


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
        scale: Number of rows of the corpus that each length stands for: above 1 for a large manifest.
    """

    lengths: npt.NDArray[np.int32]
    records: int
    empty: int
    num_bytes: int
    is_whole: bool
    engine: str
    seconds: float
    scale: float = 1.0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return round(len(self.lengths) * self.scale)

    @property
    def tokens(self) -> int:
        """Number of tokens of all rows."""
        return round(int(self.lengths.sum(dtype=np.int64)) * self.scale)

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of reading and tokenising; ``None`` if nothing was read."""
        return self.tokens / self.seconds if self.seconds else None


def take_survey(
    source: Source,
    stages: Tokenize | Sequence[DataStage],
    *,
    seed: int = 0,
    limit: int | None = None,
    fill: int | None = None,
    on_blocks: OnBlocks = lambda _: None,
    on_rows: OnRows = lambda *_: None,
) -> Survey:
    """Read and tokenise a corpus in the order of an epoch, and keep only the lengths: four bytes a row.

    The length of a row of several columns of ids is the sum of their lengths.

    Args:
        source: The corpus.
        stages: The stages of its records; a ``Tokenize`` with ``max_length=None`` gives the lengths of whole records.
        seed: Seed of the order in which shards are read.
        limit: Stop after about this many tokens; ``None`` reads the whole corpus.
        fill: The token that a row without tokens gets; ``None`` where such rows are left out.
        on_blocks: Called after every few blocks.
        on_rows: Called with the records and the rows of every few blocks.

    Raises:
        ValueError: The corpus has no record, or no record gives a row.
    """
    stages = [stages] if isinstance(stages, Tokenize) else stages
    blocks = read_epoch(source, seed)
    first = _skip_empty_blocks(blocks)
    engines = choose_engines(stages, first.table)
    opened, labels = open_stages(stages, engines), LabelFilter(None)
    columns = columns_of_ids(source, stages)
    lengths: list[npt.NDArray[np.int32]] = []
    total = Counter[str]()
    started = time.perf_counter()
    for group in _groups(first, blocks):
        with located(pa.chunked_array([chunk for table in group for chunk in table.column(ROW_ID).chunks]), source.locate):
            rows, counts = run_stages(group, opened, fill, labels)
        found = [row_lengths(table, columns) for table in rows]
        looked = time.perf_counter()
        on_rows(group, rows)
        started += time.perf_counter() - looked  # which is not tokenising
        lengths += found
        total.update(_count(group, found, counts))
        on_blocks(total["blocks"])
        if limit is not None and total["tokens"] >= limit:
            break
    seconds = time.perf_counter() - started
    if not total["tokens"]:
        raise ValueError(f"source must give at least one row, got none: {total['empty']:,} records were empty")
    is_whole = next(blocks, None) is None
    engine = " and ".join(sorted(set(engines.values()))) or "nothing, as ids are given"
    return Survey(np.concatenate(lengths), total["records"], total["empty"], total["bytes"], is_whole, engine, seconds)


def _count(group: Sequence[pa.Table], lengths: Sequence[npt.NDArray[np.int32]], counts: Sequence[Counts]) -> Counter[str]:
    """Return the records, bytes, blocks and tokens of some blocks, and the records by outcome."""
    total = Counter(records=sum(map(len, group)), bytes=sum(table.nbytes for table in group), blocks=len(group))
    total["tokens"] = sum(int(part.sum()) for part in lengths)
    for each in counts:
        total.update(each)
    return total


def survey_histogram(histogram: Mapping[int, int], num_bytes: int) -> Survey:
    """Return the survey of rows of which only a histogram is known, as a manifest of tokens has it, in a random order.

    Args:
        histogram: How many rows there are of each length.
        num_bytes: Size of the rows, in bytes.
    """
    lengths, counts = (np.array(values, dtype=np.int64) for values in (list(histogram), list(histogram.values())))
    num_rows = int(counts.sum())
    scale = max(1.0, num_rows / _MOST_ROWS)
    ends = np.rint(np.cumsum(counts) / scale).astype(np.int64)
    rows = np.repeat(lengths.astype(np.int32), np.diff(ends, prepend=0))
    np.random.default_rng(0).shuffle(rows)
    return Survey(rows, num_rows, 0, num_bytes, True, "nothing, as the manifest has the lengths", 0.0, scale)


def columns_of_ids(source: Source, stages: Sequence[DataStage]) -> tuple[str, ...]:
    """Return the columns of ids that stages make, or that the source has; none if they are not known by name."""
    tokenize = tokenizer_of(stages)
    info = source.token_info
    return tokenize.columns if tokenize is not None else info.columns if info is not None else ()


def row_lengths(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.int32]:
    """Return the tokens of each row, those of several columns summed, ``int32 (N,)``.

    Raises:
        ValueError: No column has sequences.
    """
    columns = columns or [name for name in (sequence_column(table.schema),) if name is not None]
    if not columns:
        raise ValueError(f"rows must have a column of ids, got {', '.join(table.column_names)}; add Tokenize(...)")
    parts = [pc.list_value_length(table.column(name)).to_numpy().astype(np.int32) for name in columns]
    total: npt.NDArray[np.int32] = np.sum(parts, axis=0, dtype=np.int32)
    return parts[0] if len(parts) == 1 else total


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
