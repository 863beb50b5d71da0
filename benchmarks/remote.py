"""How fast are blocks read from a server that answers each request after 20 ms?

The blocks of an epoch, in random order, are read from a server on this machine, in a process of its own: one request at a time,
and as a loader reads them, many at a time and ahead of their use. They are cut at the ends of records, and not decoded. Several
passes over the corpus are one reading. A whole epoch of a loader, from the server and from the file, comes last.

Server and client need a core each, so the ratio is smaller on two cores that do other work.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Iterator

import pyarrow as pa

import seqstream as ss
from benchmarks.harness import corpora, peers
from benchmarks.harness.proven_engine import prove
from benchmarks.harness.range_server import serve_apart
from benchmarks.harness.records import Record
from benchmarks.harness.settings import Settings
from seqstream.records import Json
from seqstream.shuffling import EvenOrder
from seqstream.sources.blocks import Block
from seqstream.windows.block_reader import Cursor, ReadBlock, read_blocks
from seqstream.windows.reading_ahead import reading_ahead

DELAY = 0.02
TARGET = 20
LOADER_TARGET = 2.0
BLOCK_BYTES = 256 << 10
ONE_BY_ONE = 30
"""Blocks that are read one at a time, once a repeat."""

MANY = 1_000
"""Blocks that are read ahead, once a repeat, where all of a corpus is used."""


class RawBlocks(ss.TextFiles):
    """Text files whose blocks are one value each, the bytes of all records."""

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        for spans, after in self._corpus.blocks(shard, state):
            yield pa.table({"bytes": pa.array([span.data for span in spans], pa.binary())}), after


def measure(settings: Settings) -> Iterator[Record]:
    """Measure blocks in random order, and an epoch of a loader, on the corpus of `throughput`."""
    text = settings.text(corpora.FIXED)
    name = corpora.FIXED if corpora.data_folder() else corpora.DOCSTRINGS
    with serve_apart(text.parent, DELAY) as url:
        remote = f"{url}/{text.name}"
        raw = RawBlocks(remote, block_bytes=BLOCK_BYTES)
        few, many = (ONE_BY_ONE, MANY) if settings.max_bytes is None else (4, 64)
        found: dict[str, list[float]] = {}
        for repeat in range(settings.repeats):
            settings.show_progress(f"blocks, turn {repeat + 1}")
            found.setdefault("blocks, one request at a time", []).append(_speed(_blocks(raw, few)))
            with reading_ahead(_blocks(raw, many)) as ahead:
                found.setdefault("blocks, read ahead", []).append(_speed(ahead))
        one, many_at_once = (_record(name, what, speeds, "MB/s") for what, speeds in found.items())
        yield one
        yield many_at_once.against(one, ">=", TARGET)
        ways = {"a loader, from the file": ss.TextFiles(str(text)), "a loader, from the server": ss.TextFiles(remote)}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(settings.repeats):
            for way, source in ways.items():
                settings.show_progress(f"{way}, turn {repeat + 1}")
                seconds[way].append(_epoch_seconds(source))
        local, served = (_record(name, what, each, "s") for what, each in seconds.items())
        yield local
        yield served.against(local, "<=", LOADER_TARGET)


def _record(name: str, what: str, values: list[float], unit: str) -> Record:
    return Record(benchmark="remote", corpus=name, what=what, value=statistics.median(values), unit=unit)


def _blocks(source: ss.TextFiles, num_blocks: int) -> Iterator[ReadBlock]:
    """Yield the first blocks of as many passes as are needed, each in a random order of its own."""
    passes = (read_blocks(source, EvenOrder(source.num_shards, each), Cursor()) for each in itertools.count())
    return itertools.islice(itertools.chain.from_iterable(passes), num_blocks)


def _speed(blocks: Iterable[ReadBlock]) -> float:
    """Read blocks; return the megabytes of their records in a second."""
    begun = time.perf_counter()
    num_bytes = sum(block.table.nbytes for block in blocks)
    return num_bytes / 1e6 / (time.perf_counter() - begun)


def _epoch_seconds(source: ss.TextFiles) -> float:
    proven = prove(corpora.tokenizer())
    begun = time.perf_counter()
    for _ in proven.loader(source, ss.Bucket(max_tokens=peers.MAX_TOKENS)):
        pass
    return time.perf_counter() - begun
