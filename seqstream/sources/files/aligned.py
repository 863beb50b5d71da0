"""Files aligned line by line: line ``n`` of all files together is one record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seqstream.arrays import Index
from seqstream.records import Json
from seqstream.sources.blocks import check_counts
from seqstream.sources.files.boundaries import LINES
from seqstream.sources.files.fingerprints import fingerprint_files
from seqstream.sources.files.listing import File, FileTable
from seqstream.sources.files.spans import ByteSpan, FrontReader, Limits
from seqstream.sources.locations import Location


@dataclass(frozen=True)
class Aligned:
    """Files of several columns; the first files of all columns are a shard, and so on, each file read from its beginning.

    Attributes:
        tables: The files of each column.
        limits: Bytes of a block and of a record.
    """

    tables: dict[str, FileTable]
    limits: Limits

    def __post_init__(self) -> None:
        counts = {name: len(table) for name, table in self.tables.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"paths must name as many files for each column, got {counts}")

    @property
    def num_shards(self) -> int:
        """Number of files of each column."""
        return len(next(iter(self.tables.values())))

    def blocks(self, shard: int, state: Json) -> Iterator[tuple[list[ByteSpan], Json]]:
        """Yield the blocks of a shard: a span of each file, with the same number of lines, and the state after them.

        The state is the number of lines read, and the next offset in each file.

        Raises:
            ValueError: One of the files has fewer lines than another.
        """
        num_lines, *offsets = check_counts(state, 1 + len(self.tables))
        with contextlib.ExitStack() as stack:
            readers = [
                stack.enter_context(contextlib.closing(FrontReader(file, offset, LINES, self.limits)))
                for file, offset in zip(self._files(shard), offsets, strict=True)
            ]
            is_last = False
            while not is_last:
                spans, lines = _take_lines(readers)
                num_lines += lines
                is_last = _all_end(readers, num_lines)
                yield spans, None if is_last else [num_lines, *(reader.offset for reader in readers)]

    def approx_bytes(self, shards: Index) -> Index:
        """Return -1 for each shard, ``int64 (n,)``: it may have any number of blocks."""
        return np.full(len(shards), -1)

    def location(self, shard: int, record: int) -> Location:
        """Return the files, joined by "and", and the line of a record."""
        return Location(" and ".join(file.name for file in self._files(shard)), record + 1)

    def locate(self, shard: int, record: int) -> str:
        """Return the files and the line of a record, as text for messages."""
        files, line = self.location(shard, record)
        return f"{files}, line {line:,}"

    def fingerprint(self) -> Json:
        """Return what identifies the files of each column, as JSON."""
        return {name: fingerprint_files(table) for name, table in self.tables.items()}

    def approx_blocks(self) -> float:
        """Estimate the number of blocks by the column with most text."""
        sizes = np.max([table.text_bytes for table in self.tables.values()], axis=0)
        return float(np.maximum(1, sizes / self.limits.block_bytes).sum())

    def _files(self, shard: int) -> list[File]:
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard must be in range({self.num_shards}), got {shard}")
        return [table[shard] for table in self.tables.values()]


def _take_lines(readers: list[FrontReader]) -> tuple[list[ByteSpan], int]:
    """Take the whole block of the file with fewest lines in its block, and the same number of lines of the other files."""
    blocks = [reader.peek(reader.block_end()) for reader in readers]
    starts = [block.starts(LINES) for block in blocks]
    num_lines = min(map(len, starts))
    sizes = [
        int(each[num_lines]) - block.offset if num_lines < len(each) else len(block.data)
        for each, block in zip(starts, blocks, strict=True)
    ]
    return [reader.take(size) for reader, size in zip(readers, sizes, strict=True)], num_lines


def _all_end(readers: list[FrontReader], num_lines: int) -> bool:
    """Return whether all files are at their ends; raise if only some are."""
    ended = [reader.is_at_end() for reader in readers]
    if any(ended) and not all(ended):
        short, other = readers[ended.index(True)].file.name, readers[ended.index(False)].file.name
        raise ValueError(f"{short} and {other} must have equally many lines, got the end of {short} after line {num_lines:,}")
    return all(ended)
