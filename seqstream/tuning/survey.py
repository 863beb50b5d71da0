"""Measuring a corpus: the lengths of its rows, and how fast a loader gives them out.

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

from seqstream.loading.loader import Loader
from seqstream.planning.bucket import Bucket
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import ROW_ID, Json, located, split_row_id
from seqstream.shuffling import EvenOrder
from seqstream.sources.blocks import Block
from seqstream.sources.source import Source
from seqstream.stages.running import run_stages
from seqstream.tokenizing.stage import Tokenize
from seqstream.windows.block_reader import Cursor, ReadBlock, read_blocks
from seqstream.windows.processing import GROUP_BYTES

OnBlocks: TypeAlias = Callable[[int], None]
"""Told how many blocks were read so far."""

EPOCH = 1
"""The epoch that is measured: the first whose windows are all full."""

_MEASURED_TOKENS = 2_000_000
_MEASURED_SECONDS = 1.0
"""Speed is measured on so many tokens, on fewer where tokenising them takes longer than this."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """Lengths of a corpus, and what it took to find them.

    Attributes:
        lengths: ``int32 (N,)``, tokens of each row, special ones included and nothing cut, in the order of an epoch.
        records: Records read.
        empty: Those of them that gave no token of their own.
        num_bytes: Bytes of them in memory.
        is_whole: Whether all of the corpus was read.
        engine: What computed the ids.
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
        """Tokens of all rows."""
        return int(self.lengths.sum(dtype=np.int64))


def take_survey(
    source: Source, tokenize: Tokenize, *, seed: int = 0, limit: int | None = None, on_blocks: OnBlocks = lambda _: None
) -> Survey:
    """Read and tokenise a corpus in the order of an epoch, and keep nothing but lengths: four bytes a row.

    Args:
        source: The corpus.
        tokenize: How it is tokenised; ``max_length=None`` gives the lengths of whole records.
        seed: Another seed, another order.
        limit: Stop after about so many tokens.
        on_blocks: Called after every few blocks.

    Raises:
        ValueError: No record gives a row.
    """
    blocks = _epoch(source, seed)
    first = _find_records(blocks)
    engines = tokenize.choose_engines(first.table)
    stage = tokenize.open(engines)
    (column,) = tokenize.columns
    lengths: list[npt.NDArray[np.int32]] = []
    total = Counter[str]()
    begun = time.perf_counter()
    for group in _groups(first, blocks):
        with located(pa.chunked_array([chunk for table in group for chunk in table.column(ROW_ID).chunks]), source.locate):
            rows, counts = run_stages(group, (stage,))
        lengths += [pc.list_value_length(table.column(column)).to_numpy() for table in rows]
        tokens = sum(int(part.sum(dtype=np.int64)) for part in lengths[-len(rows) :])
        total.update(counts)
        num_bytes = sum(table.nbytes for table in group)
        total.update(records=sum(map(len, group)), bytes=num_bytes, tokens=tokens, blocks=len(group))
        on_blocks(total["blocks"])
        if limit is not None and total["tokens"] >= limit:
            break
    seconds = time.perf_counter() - begun
    if not total["tokens"]:
        raise ValueError(f"source must give at least one row, got none: {total['empty']:,} records were empty")
    is_whole = next(blocks, None) is None
    return Survey(np.concatenate(lengths), total["records"], total["empty"], total["bytes"], is_whole, engines[column], seconds)


def _epoch(source: Source, seed: int) -> Iterator[ReadBlock]:
    return read_blocks(source, EvenOrder(source.num_shards, seed, EPOCH, "shards"), Cursor())


def _find_records(blocks: Iterator[ReadBlock]) -> ReadBlock:
    for block in blocks:
        if len(block.table):
            return block
    raise ValueError("source must have at least one record, got none; look at the paths and what is in them")


def _groups(first: ReadBlock, blocks: Iterable[ReadBlock]) -> Iterator[list[pa.Table]]:
    """Yield tables of several blocks each, as many as are tokenised together."""
    group = [first.table]
    for block in blocks:
        if sum(table.nbytes for table in group) + block.table.nbytes > GROUP_BYTES:
            yield group
            group = []
        group.append(block.table)
    yield group


@dataclasses.dataclass(frozen=True)
class Sample(Source):
    """The first blocks of some shards of another source.

    Attributes:
        source: The other source.
        parts: Number of each shard there, and how many of its blocks are taken.
    """

    source: Source
    parts: tuple[tuple[int, int], ...]

    @property
    def num_shards(self) -> int:
        return len(self.parts)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        number, num_blocks = self.parts[shard]
        done, inner = state or (0, None)
        for table, after in self.source.read(number, inner):
            done += 1
            ended = after is None or done == num_blocks
            yield table, None if ended else [done, after]
            if ended:
                return

    def locate(self, row_id: int) -> str:
        shard, record = split_row_id(row_id)
        return self.source.locate((self.parts[shard][0] << 32) + record)


def num_measured_bytes(survey: Survey) -> float:
    """Return how many bytes of a corpus speed is measured on: few enough that a run takes about a second."""
    tokens = min(_MEASURED_TOKENS, survey.tokens / survey.seconds * _MEASURED_SECONDS)
    return tokens * survey.num_bytes / survey.tokens


def take_sample(source: Source, num_bytes: float, *, seed: int = 0) -> Sample:
    """Return the first blocks of an epoch, up to about so many bytes in memory."""
    parts = Counter[int]()
    for block in _epoch(source, seed):
        for row_id in block.table.column(ROW_ID)[:1].to_pylist():
            parts[split_row_id(row_id)[0]] += 1
        num_bytes -= block.table.nbytes
        if num_bytes <= 0:
            break
    return Sample(source, tuple(parts.items()))


@dataclasses.dataclass(frozen=True)
class Speed:
    """Real tokens that a loader gave out, and the seconds it took: reading, tokenising, planning and padding."""

    tokens: int
    seconds: float


def measure_speed(source: Source, tokenize: Tokenize, spec: Bucket | Unbucketed, engine: str, *, seed: int = 0) -> Speed:
    """Run a loader over an epoch with full windows, for a consumer that does nothing.

    The engine is proved and warm before the clock starts: ``tokenize`` keeps it.
    """
    loader = Loader(source, tokenize, spec, seed=seed)
    state = loader.state_dict()
    loader.load_state_dict({**state, "engine": dict.fromkeys(tokenize.columns, engine)})
    next(iter(loader))
    loader.set_epoch(EPOCH)
    before = loader.stats
    for _ in loader:
        pass
    return Speed(loader.stats.tokens - before.tokens, loader.stats.seconds - before.seconds)
