"""Files aligned line by line: line n of one belongs to line n of the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seqstream.arrays import Index
from seqstream.records import Json
from seqstream.sources.blocks import check_counts
from seqstream.sources.files.boundaries import LINES
from seqstream.sources.files.listing import File, FileTable
from seqstream.sources.files.spans import Front, Limits, Piece
from seqstream.sources.locations import Location


@dataclass(frozen=True)
class Aligned:
    """Files of several columns; the files at one position are a shard, read from their fronts."""

    tables: dict[str, FileTable]
    """The files of each column."""
    limits: Limits

    def __post_init__(self) -> None:
        counts = {name: len(table) for name, table in self.tables.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"paths must name as many files for each column, got {counts}")

    @property
    def num_shards(self) -> int:
        """Number of files of each column."""
        return len(next(iter(self.tables.values())))

    def blocks(self, shard: int, state: Json) -> Iterator[tuple[list[Piece], Json]]:
        """Yield the blocks of a shard, as many lines of each file, each with the lines read and the next offsets.

        Raises:
            ValueError: One of the files has fewer lines than another.
        """
        line, *offsets = check_counts(state, 1 + len(self.tables))
        with contextlib.ExitStack() as stack:
            fronts = [Front(file, offset, LINES, self.limits) for file, offset in zip(self._files(shard), offsets, strict=True)]
            for front in fronts:
                stack.callback(front.close)
            is_last = False
            while not is_last:
                pieces, lines = _take_lines(fronts)
                line += lines
                is_last = _all_end(fronts, line)
                yield pieces, None if is_last else [line, *(front.offset for front in fronts)]

    def approx_bytes(self, shards: Index) -> Index:
        """Say nothing: a pair of files is read from its beginning."""
        return np.full(len(shards), -1)

    def locate(self, shard: int, record: int) -> str:
        """Name the files and the line of a record."""
        files, line = self.place(shard, record)
        return f"{files}, line {line:,}"

    def place(self, shard: int, record: int) -> Location:
        """Return the files, joined by "and", and the line of a record."""
        return Location(" and ".join(file.name for file in self._files(shard)), record + 1)

    def fingerprint(self) -> Json:
        """Say which files these are, column by column."""
        return {name: table.fingerprint() for name, table in self.tables.items()}

    def approx_blocks(self) -> float:
        """Estimate the number of blocks: the column with most text decides."""
        sizes = np.max([table.text_bytes for table in self.tables.values()], axis=0)
        return float(np.maximum(1, sizes / self.limits.block_bytes).sum())

    def _files(self, shard: int) -> list[File]:
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard must be in range({self.num_shards}), got {shard}")
        return [table[shard] for table in self.tables.values()]


def _take_lines(fronts: list[Front]) -> tuple[list[Piece], int]:
    """Take the next block of the file with fewest lines in its block, and as many lines of the others."""
    blocks = [front.peek(front.block_end()) for front in fronts]
    starts = [block.starts(LINES) for block in blocks]
    lines = min(map(len, starts))
    # Where the first line too many starts, or the whole block.
    stops = [
        int(each[lines]) - block.offset if lines < len(each) else len(block.data)
        for each, block in zip(starts, blocks, strict=True)
    ]
    return [front.take(stop) for front, stop in zip(fronts, stops, strict=True)], lines


def _all_end(fronts: list[Front], line: int) -> bool:
    ended = [front.is_at_end() for front in fronts]
    if any(ended) and not all(ended):
        short, other = fronts[ended.index(True)].file.name, fronts[ended.index(False)].file.name
        raise ValueError(f"{short} and {other} must have as many lines, got the end of {short} after line {line:,}")
    return all(ended)
