"""Files as shards: ranges of bytes over neighbouring plain files, and streams."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from seqstream.arrays import Index
from seqstream.options import num_bytes
from seqstream.records import Json
from seqstream.sources.blocks import check_counts
from seqstream.sources.files.boundaries import FILES, LINES, NONBLANK_LINES, PARAGRAPHS
from seqstream.sources.files.chunks import open_chunks
from seqstream.sources.files.listing import File, FileTable
from seqstream.sources.files.spans import Limits, Piece, read_range, read_stream
from seqstream.sources.locations import Location

RULES = {"line": LINES, "paragraph": PARAGRAPHS, "file": FILES, "json": NONBLANK_LINES}


@dataclass(frozen=True)
class Shards:
    """Which bytes each shard is.

    Files follow each other in segments: neighbouring plain files are one segment, cut into ranges of ``block_bytes``
    wherever files begin and end; a file that is read from its front is a segment and a shard of its own.
    """

    segments: Index
    """First file of each segment."""
    shards: Index
    """First shard of each segment, and the number of all shards."""
    starts: Index
    """Where each file begins in its segment."""


@dataclass(frozen=True)
class Corpus:
    """Files, and how they are cut into shards and records."""

    files: FileTable
    unit: str
    limits: Limits

    @functools.cached_property
    def shards(self) -> Shards:
        """The layout: a few numbers for each file."""
        streams, sizes = self.files.streams, np.where(self.files.streams, 0, self.files.sizes)
        begins = streams.copy()
        begins[0] = True
        begins[1:] |= streams[:-1]
        segments = np.flatnonzero(begins)
        before = np.cumsum(sizes) - sizes
        starts = before - np.repeat(before[segments], np.diff(segments, append=len(sizes)))
        last = np.append(segments[1:], len(sizes)) - 1
        if self.unit == "file":
            # A file belongs to the range of its first byte, an empty one at the very end too.
            ranges = starts[last] // self.limits.block_bytes + 1
        else:
            ranges = -(-(starts[last] + sizes[last]) // self.limits.block_bytes)
        counts = np.where(streams[segments], 1, ranges)
        return Shards(segments, np.append(0, np.cumsum(counts)), starts)

    @property
    def num_shards(self) -> int:
        """Number of ranges and streams."""
        return int(self.shards.shards[-1])

    def blocks(self, shard: int, state: Json) -> Generator[tuple[list[Piece], Json], None, None]:
        """Yield the blocks of a shard as pieces of files, each with the state after it."""
        file = self.files[int(self.shards.segments[self._segment_of(shard)])]
        if not file.is_stream:
            yield list(self._range_pieces(shard)), None
            return
        (start,) = check_counts(state, 1)
        for piece, offset in read_stream(file, start, RULES[self.unit], self.limits):
            yield [piece], None if offset is None else [offset]

    def approx_bytes(self, shards: Index) -> Index:
        """Say how many bytes ranges have, ``int64 (n,)``; -1 for streams, of which nobody knows."""
        segments = np.searchsorted(self.shards.shards, shards, side="right") - 1
        return np.where(self.files.streams[self.shards.segments[segments]], -1, self.limits.block_bytes)

    def place(self, shard: int, record: int) -> Location:
        """Return the file and the line where a record starts; of a file that is one record the first."""
        for pieces, _ in self.blocks(shard, None):
            for piece in pieces:
                starts = piece.starts(RULES[self.unit])
                if record < len(starts):
                    return Location(piece.file.name, 1 if self.unit == "file" else _line(piece.file, int(starts[record])))
                record -= len(starts)
        raise IndexError(f"row_id must be of a record of this source, got one behind the end of shard {shard}")

    def locate(self, shard: int, record: int) -> str:
        """Name the file and the line where a record starts."""
        file, line = self.place(shard, record)
        return file if self.unit == "file" else f"{file}, line {line:,}"

    def approx_blocks(self) -> float:
        """Estimate the number of blocks: a range is one, a compressed file holds some three times its size."""
        streams = self.files.streams
        plain = self.num_shards - int(streams.sum())
        if self.unit == "file":
            return float(min(plain, int((~streams).sum())) + int(streams.sum()))
        return plain + float(np.maximum(1, self.files.text_bytes[streams] / self.limits.block_bytes).sum())

    def fingerprint(self) -> Json:
        """Say which files these are."""
        return self.files.fingerprint()

    def _segment_of(self, shard: int) -> int:
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard must be in range({self.num_shards}), got {shard}")
        return int(np.searchsorted(self.shards.shards, shard, side="right")) - 1

    def _range_pieces(self, shard: int) -> Iterator[Piece]:
        segment, block_bytes = self._segment_of(shard), self.limits.block_bytes
        start = (shard - int(self.shards.shards[segment])) * block_bytes
        first = int(self.shards.segments[segment])
        behind = int(self.shards.segments[segment + 1]) if segment + 1 < len(self.shards.segments) else len(self.files)
        starts = self.shards.starts[first:behind]
        # From the file that the range begins in to the last that begins in the range.
        is_file = self.unit == "file"
        low = np.searchsorted(starts, start, "left") if is_file else np.searchsorted(starts, start, "right") - 1
        high = np.searchsorted(starts, start + block_bytes, "left")
        for index in range(int(low), int(high)):
            file = self.files[first + index]
            inside = start - int(starts[index])
            if file.size == 0 and not is_file:
                continue
            piece = read_range(file, max(0, inside), min(file.size, inside + block_bytes), RULES[self.unit], self.limits)
            if piece is not None:
                yield piece


def make_limits(block_bytes: int, max_record_bytes: int) -> Limits:
    """Check how much may be read at once."""
    block_bytes, max_record_bytes = num_bytes("block_bytes", block_bytes), num_bytes("max_record_bytes", max_record_bytes)
    # Arrow counts the bytes of a column of text in 31 bits.
    if block_bytes + 2 * max_record_bytes >= 1 << 31:
        raise ValueError(
            f"block_bytes + 2 * max_record_bytes must be below 2 GiB, got {block_bytes:,} + 2 * {max_record_bytes:,}"
        )
    return Limits(block_bytes, max_record_bytes)


def place(file: File, offset: int) -> str:
    """Name the line of a file that holds a byte: ``corpus/a.txt, line 17``. Reads the file up to there."""
    return f"{file.name}, line {_line(file, offset):,}"


def _line(file: File, offset: int) -> int:
    line, position = 1, 0
    for chunk in open_chunks(file):
        line += chunk.count(b"\n", 0, offset - position)
        position += len(chunk)
        if position >= offset:
            break
    return line
