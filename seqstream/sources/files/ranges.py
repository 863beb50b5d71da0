"""Files cut into shards: ranges of bytes over consecutive plain files, and whole files that are read from their beginning."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from seqstream.arrays import Index, flat_starts
from seqstream.options import num_bytes
from seqstream.records import Json
from seqstream.sources.blocks import check_counts
from seqstream.sources.files.boundaries import CONLL, CONLLU, FILES, LINES, NONBLANK_LINES, PARAGRAPHS
from seqstream.sources.files.chunks import open_chunks
from seqstream.sources.files.fingerprints import fingerprint_files
from seqstream.sources.files.listing import File, FileTable
from seqstream.sources.files.remote import ByteRange, Drop, read_steps_ahead
from seqstream.sources.files.spans import ByteSpan, Limits, range_steps, read_range, read_stream
from seqstream.sources.locations import Location

RULES = {"line": LINES, "paragraph": PARAGRAPHS, "file": FILES, "json": NONBLANK_LINES, "conll": CONLL, "conllu": CONLLU}
"""How records are found, for each unit."""


@dataclass(frozen=True)
class ShardTable:
    """The bytes of each shard.

    Consecutive plain files are one segment, which is cut into ranges of ``block_bytes`` wherever files begin and end. A file
    that is read from its beginning is one segment and one shard.
    """

    first_files: Index
    """First file of each segment, and then the number of files, ``int64 (segments + 1,)``."""
    first_shards: Index
    """First shard of each segment, and then the number of shards, ``int64 (segments + 1,)``."""
    file_starts: Index
    """Where each file begins in its segment, in bytes, ``int64 (files,)``."""


@dataclass(frozen=True)
class Corpus:
    """Files, and how they are cut into shards and records.

    Attributes:
        files: The files.
        unit: What a record is, a key of `RULES`.
        limits: Bytes of a range and of a record.
    """

    files: FileTable
    unit: str
    limits: Limits

    @functools.cached_property
    def shards(self) -> ShardTable:
        """The bytes of each shard: a few numbers for each file."""
        streams, sizes = self.files.streams, np.where(self.files.streams, 0, self.files.sizes)
        begins = streams.copy()
        begins[0] = True
        begins[1:] |= streams[:-1]
        segments = np.flatnonzero(begins)
        offsets = flat_starts(sizes)
        starts = offsets - np.repeat(offsets[segments], np.diff(segments, append=len(sizes)))
        last = np.append(segments[1:], len(sizes)) - 1
        if self.unit == "file":
            # A file is in the range of its first byte; one more range may hold an empty file at the very end.
            ranges = starts[last] // self.limits.block_bytes + 1
        else:
            ranges = -(-(starts[last] + sizes[last]) // self.limits.block_bytes)
        counts = np.where(streams[segments], 1, ranges)
        return ShardTable(np.append(segments, len(sizes)), np.append(0, np.cumsum(counts)), starts)

    @property
    def num_shards(self) -> int:
        """Number of ranges and streams."""
        return int(self.shards.first_shards[-1])

    def blocks(self, shard: int, state: Json) -> Generator[tuple[list[ByteSpan], Json], None, None]:
        """Yield the blocks of a shard as spans of files, each block with the state after it."""
        file = self.files[int(self.shards.first_files[self._segment_of(shard)])]
        if not file.is_stream:
            yield list(self._range_spans(shard)), None
            return
        (start,) = check_counts(state, 1)
        for span, offset in read_stream(file, start, RULES[self.unit], self.limits):
            yield [span], None if offset is None else [offset]

    def prefetch_shard(self, shard: int) -> Drop | None:
        """Begin to read the bytes of a range of remote files; see `Source.prefetch_shard`."""
        if not self._has_remote or self.files.streams[self.shards.first_files[self._segment_of(shard)]]:
            return None
        return read_steps_ahead(range_steps(*each, RULES[self.unit], self.limits) for each in self._file_ranges(shard))

    @functools.cached_property
    def _has_remote(self) -> bool:
        return any(system is not None for system in self.files.systems)

    def approx_bytes(self, shards: Index) -> Index:
        """Return the bytes of shards that are ranges, ``int64 (n,)``; -1 for files that are read from their beginning."""
        segments = np.searchsorted(self.shards.first_shards, shards, side="right") - 1
        return np.where(self.files.streams[self.shards.first_files[segments]], -1, self.limits.block_bytes)

    def location(self, shard: int, record: int) -> Location:
        """Return the file and the line where a record starts; line 1 for a record that is a whole file."""
        for spans, _ in self.blocks(shard, None):
            for span in spans:
                starts = span.starts(RULES[self.unit])
                if record < len(starts):
                    return Location(span.file.name, 1 if self.unit == "file" else self._line(span.file, int(starts[record])))
                record -= len(starts)
        raise IndexError(f"row_id must be of a record of this source, got one after the end of shard {shard}")

    def _line(self, file: File, offset: int) -> int:
        """Return the line of a byte; the file is read from where the line was found before, if that is before the byte."""
        known = self._known_lines.get(file.name, (0, 1))
        line = _line(file, offset, *(known if known[0] <= offset else (0, 1)))
        self._known_lines[file.name] = offset, line
        return line

    @functools.cached_property
    def _known_lines(self) -> dict[str, tuple[int, int]]:
        """For each file the byte whose line was found last, and that line."""
        return {}

    def locate(self, shard: int, record: int) -> str:
        """Return the file and the line where a record starts, as text for messages."""
        file, line = self.location(shard, record)
        return file if self.unit == "file" else f"{file}, line {line:,}"

    def approx_blocks(self) -> float:
        """Estimate the number of blocks: one for a range, and for other files by the estimated size of their text."""
        streams = self.files.streams
        plain = self.num_shards - int(streams.sum())
        if self.unit == "file":
            return float(min(plain, int((~streams).sum())) + int(streams.sum()))
        return plain + float(np.maximum(1, self.files.text_bytes[streams] / self.limits.block_bytes).sum())

    def fingerprint(self) -> Json:
        """Return what identifies the files, as JSON."""
        return fingerprint_files(self.files)

    def _segment_of(self, shard: int) -> int:
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard must be in range({self.num_shards}), got {shard}")
        return int(np.searchsorted(self.shards.first_shards, shard, side="right")) - 1

    def _range_spans(self, shard: int) -> Iterator[ByteSpan]:
        """Yield the records of a range, file by file."""
        for file, start, stop in self._file_ranges(shard):
            span = read_range(file, start, stop, RULES[self.unit], self.limits)
            if span is not None:
                yield span

    def _file_ranges(self, shard: int) -> Iterator[ByteRange]:
        """Yield the bytes of each file in which the records of a range start."""
        segment, block_bytes = self._segment_of(shard), self.limits.block_bytes
        start = (shard - int(self.shards.first_shards[segment])) * block_bytes
        first, end = self.shards.first_files[segment : segment + 2].tolist()
        starts = self.shards.file_starts[first:end]
        # From the file that the range begins in to the last that begins in the range.
        is_file = self.unit == "file"
        low = np.searchsorted(starts, start, "left") if is_file else np.searchsorted(starts, start, "right") - 1
        high = np.searchsorted(starts, start + block_bytes, "left")
        for index in range(int(low), int(high)):
            file = self.files[first + index]
            inside = start - int(starts[index])
            if file.size == 0 and not is_file:
                continue
            yield ByteRange(file, max(0, inside), min(file.size, inside + block_bytes))


def make_limits(block_bytes: int, max_record_bytes: int) -> Limits:
    """Check the options ``block_bytes`` and ``max_record_bytes``.

    Raises:
        TypeError: One is not a whole number.
        ValueError: One is less than 1, or a block of long records could exceed 2 GiB.
    """
    block_bytes, max_record_bytes = num_bytes("block_bytes", block_bytes), num_bytes("max_record_bytes", max_record_bytes)
    # Offsets in a column of text are int32.
    if block_bytes + 2 * max_record_bytes >= 1 << 31:
        raise ValueError(
            f"block_bytes + 2 * max_record_bytes must be below 2 GiB, got {block_bytes:,} + 2 * {max_record_bytes:,}"
        )
    return Limits(block_bytes, max_record_bytes)


def locate_byte(file: File, offset: int) -> str:
    """Return the file and the line of a byte, as text for messages: ``corpus/a.txt, line 17``. Reads the file up to there."""
    return f"{file.name}, line {_line(file, offset):,}"


def _line(file: File, offset: int, position: int = 0, line: int = 1) -> int:
    """Return the number of the line, from 1, that a byte is in.

    Args:
        file: The file.
        offset: The byte.
        position: An earlier byte whose line is known: the file is read from there.
        line: Its line.
    """
    for chunk in open_chunks(file, position):
        line += chunk.count(b"\n", 0, offset - position)
        position += len(chunk)
        if position >= offset:
            break
    return line
