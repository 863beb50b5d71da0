"""Reading of whole records: those of a range of bytes, or of a file from its beginning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple, TypeAlias, TypeVar

from seqstream.arrays import Index
from seqstream.sources.files.boundaries import BOM, LOOK_AHEAD, LOOK_BEHIND, Rule
from seqstream.sources.files.chunks import open_chunks
from seqstream.sources.files.listing import File
from seqstream.sources.files.reading import read_bytes
from seqstream.sources.files.remote import ByteRange

_FIRST_BYTES, _MOST_BYTES = 1 << 16, 1 << 22
"""Sizes of the reads behind a range in search of the end of its last record."""

Wanted = TypeVar("Wanted")
Result = TypeVar("Result")

Steps: TypeAlias = Generator[Wanted, bytes, Result]
"""Reads bytes without reading them itself: yields what to read next, is sent the bytes, and returns the result."""


class ByteSpan(NamedTuple):
    """A span of bytes of one file that holds whole records."""

    file: File
    offset: int
    """Where it starts in the uncompressed file."""
    data: bytes

    @property
    def text(self) -> bytes:
        """The bytes without a byte order mark."""
        return self.data.removeprefix(BOM) if self.offset == 0 else self.data

    def starts(self, rule: Rule) -> Index:
        """Return where each record starts in the file, ``int64 (records,)``."""
        text = self.text
        return rule.starts(text) + (self.offset + len(self.data) - len(text))


class Limits(NamedTuple):
    """How many bytes are read at once, and how long a record may be."""

    block_bytes: int
    max_record_bytes: int


def read_range(file: File, start: int, stop: int, rule: Rule, limits: Limits) -> ByteSpan | None:
    """Read the records of a file that start in ``[start, stop)``; ``None`` if there are none."""
    return _run(range_steps(file, start, stop, rule, limits), lambda wanted: read_bytes(*wanted))


def range_steps(file: File, start: int, stop: int, rule: Rule, limits: Limits) -> Steps[ByteRange, ByteSpan | None]:
    """Find the records of a file that start in ``[start, stop)``: yield the bytes to read next, mostly once, and be sent them.

    Of a range in the middle of a long record only the range itself is read, whatever the record's length.

    Returns:
        The records; ``None`` if there are none.
    """
    if rule.is_file and start > 0:
        return None
    base, ahead = max(0, start - LOOK_BEHIND), min(file.size, stop + LOOK_AHEAD)
    data = yield ByteRange(file, base, ahead)
    while ahead < file.size and rule.settled(data) < stop - base and len(data) <= 2 * limits.max_record_bytes + LOOK_BEHIND:
        # The white space at the end of the range goes on, so that it is unknown whether a record starts in it.
        ahead, read = min(file.size, ahead + len(data)), ahead
        data += yield ByteRange(file, read, ahead)
    begin = rule.begin(data, base, start - base)
    end = rule.end(data, stop - base)
    if begin >= stop - base and begin in (end, len(data)) and not rule.is_file:
        return None
    if end < 0 and ahead < file.size:
        buffer = bytearray(data)
        parts = _rest(file, ahead, _MOST_BYTES if rule.is_file else _FIRST_BYTES)
        end = yield from _read_on(buffer, parts, stop - base, ByteSpan(file, base, b""), rule=rule, limits=limits)
        data = bytes(buffer)
    return ByteSpan(file, base + begin, data[begin : end if end >= 0 else len(data)])


def read_stream(file: File, offset: int, rule: Rule, limits: Limits) -> Iterator[tuple[ByteSpan, int | None]]:
    """Yield the records of a file from an offset to its end, in blocks, each with the offset of the next one.

    The block at an offset is the same whether reading began there or before.
    """
    with contextlib.closing(FrontReader(file, offset, rule, limits)) as reader:
        is_last = False
        while not is_last:
            span = reader.take(reader.block_end())
            is_last = reader.is_at_end()
            yield span, None if is_last else reader.offset


class FrontReader:
    """Reads a file from an offset to its end, with a buffer of bytes that are read but not taken."""

    def __init__(self, file: File, offset: int, rule: Rule, limits: Limits) -> None:
        self.file = file
        self.offset = offset
        self._rule = rule
        self._limits = limits
        self._buffer = bytearray()
        self._chunks = open_chunks(file, offset)

    def block_end(self) -> int:
        """Read a block, up to the end of its last record, into the buffer; return its size."""
        here = ByteSpan(self.file, self.offset, b"")
        steps = _read_on(self._buffer, self._chunks, self._limits.block_bytes, here, rule=self._rule, limits=self._limits)
        end = _run(steps, lambda chunk: chunk)
        return end if end >= 0 else len(self._buffer)

    def peek(self, size: int) -> ByteSpan:
        """Return the next bytes, which stay in the buffer."""
        with memoryview(self._buffer) as view:
            return ByteSpan(self.file, self.offset, bytes(view[:size]))

    def take(self, size: int) -> ByteSpan:
        """Return the next bytes, and remove them from the buffer."""
        span = self.peek(size)
        del self._buffer[:size]
        self.offset += size
        return span

    def is_at_end(self) -> bool:
        """Return whether no bytes are left."""
        self._buffer += b"" if self._buffer else next(self._chunks, b"")
        return not self._buffer

    def close(self) -> None:
        """Close the file."""
        self._chunks.close()


def _run(steps: Steps[Wanted, Result], read: Callable[[Wanted], bytes]) -> Result:
    """Read what steps ask for, one after the other; return their result."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(read(wanted))
    except StopIteration as end:
        result: Result = end.value
        return result


def _read_on(
    buffer: bytearray, parts: Iterator[Wanted], at: int, here: ByteSpan, *, rule: Rule, limits: Limits
) -> Steps[Wanted, int]:
    """Append parts of a file to a buffer until a record ends at or after ``at``: yield each part, and be sent its bytes.

    Returns:
        Where the record ends; -1 at the end of the file.
    """
    end = rule.end(buffer, at)
    while end < 0 and (part := next(parts, None)) is not None:
        searched = max(at, rule.settled(buffer))
        buffer += yield part
        end = rule.end(buffer, searched)
        # Twice: a paragraph may be half as long as text, which ends lines with one byte and not two. The exact check is later.
        if end < 0 and len(buffer) - at > 2 * limits.max_record_bytes + LOOK_BEHIND:
            starts = here._replace(data=bytes(buffer)).starts(rule)
            last = int(starts[-1]) if len(starts) else here.offset
            raise too_long(here.file, last, len(buffer) - last + here.offset, limits.max_record_bytes)
    return end


def too_long(file: File, offset: int, size: int, max_record_bytes: int) -> ValueError:
    """Return the error for a record that is longer than ``max_record_bytes``."""
    return ValueError(
        f"record of {size:,} bytes or more at byte {offset:,} of {file.name} cannot fit max_record_bytes={max_record_bytes:,}; "
        "raise max_record_bytes, or check that the file is what it should be"
    )


def _rest(file: File, offset: int, size: int) -> Iterator[ByteRange]:
    """Yield the parts of a file from an offset on: the first of ``size`` bytes, and each twice as large as the one before."""
    while offset < file.size:
        stop = min(offset + size, file.size)
        yield ByteRange(file, offset, stop)
        offset, size = stop, min(2 * size, _MOST_BYTES)
