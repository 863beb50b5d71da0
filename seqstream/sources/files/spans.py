"""Reading whole records: of a range of bytes, or from the front of a file."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import NamedTuple

from seqstream.arrays import Index
from seqstream.sources.files.boundaries import BOM, LOOK_AHEAD, LOOK_BEHIND, Rule
from seqstream.sources.files.chunks import open_chunks
from seqstream.sources.files.listing import File, read_bytes

_FIRST_STEP, _LAST_STEP = 1 << 16, 1 << 22


class Piece(NamedTuple):
    """Whole records of one file, as they are in it."""

    file: File
    offset: int
    """Where it begins in the uncompressed file."""
    data: bytes

    @property
    def text(self) -> bytes:
        """Its bytes without a byte order mark."""
        return self.data.removeprefix(BOM) if self.offset == 0 else self.data

    def starts(self, rule: Rule) -> Index:
        """Return where each record starts in the file."""
        text = self.text
        return rule.starts(text) + (self.offset + len(self.data) - len(text))


class Limits(NamedTuple):
    """How much is read at once."""

    block_bytes: int
    max_record_bytes: int


def read_range(file: File, start: int, stop: int, rule: Rule, limits: Limits) -> Piece | None:
    """Read the records of a file that start in ``[start, stop)``; ``None`` if there are none.

    A range in the middle of a long record costs its own bytes, whatever the record's length.
    """
    if rule.is_file and start > 0:
        return None
    base, ahead = max(0, start - LOOK_BEHIND), min(file.size, stop + LOOK_AHEAD)
    data = read_bytes(file, base, ahead)
    while ahead < file.size and rule.settled(data) < stop - base and len(data) <= 2 * limits.max_record_bytes + LOOK_BEHIND:
        # White space at the border, too long to know whether a record starts with it.
        ahead, read = min(file.size, ahead + len(data)), ahead
        data += read_bytes(file, read, ahead)
    begin = rule.begin(data, base, start - base)
    end = rule.end(data, stop - base)
    if begin >= stop - base and begin in (end, len(data)) and not rule.is_file:
        return None
    if end < 0 and ahead < file.size:
        buffer = bytearray(data)
        end = _read_on(buffer, _steps(file, ahead), stop - base, Piece(file, base, b""), rule=rule, limits=limits)
        data = bytes(buffer)
    return Piece(file, base + begin, data[begin : end if end >= 0 else len(data)])


def read_stream(file: File, offset: int, rule: Rule, limits: Limits) -> Iterator[tuple[Piece, int | None]]:
    """Yield the records of a file from an offset to its end, in blocks, each with the offset where the next begins.

    The block that begins at an offset is the same whether the file was opened there or before.
    """
    with contextlib.closing(Front(file, offset, rule, limits)) as front:
        is_last = False
        while not is_last:
            piece = front.take(front.block_end())
            is_last = front.is_at_end()
            yield piece, None if is_last else front.offset


class Front:
    """The part of a file that is still to be read, filled from its front."""

    def __init__(self, file: File, offset: int, rule: Rule, limits: Limits) -> None:
        self.file = file
        self.offset = offset
        self._rule = rule
        self._limits = limits
        self._buffer = bytearray()
        self._chunks = open_chunks(file, offset)

    def block_end(self) -> int:
        """Read a block, and on to the end of its last record; return the size of both."""
        here = Piece(self.file, self.offset, b"")
        end = _read_on(self._buffer, self._chunks, self._limits.block_bytes, here, rule=self._rule, limits=self._limits)
        return end if end >= 0 else len(self._buffer)

    def peek(self, size: int) -> Piece:
        """Return the next bytes without moving."""
        with memoryview(self._buffer) as view:
            return Piece(self.file, self.offset, bytes(view[:size]))

    def take(self, size: int) -> Piece:
        """Return the next bytes and move behind them."""
        piece = self.peek(size)
        del self._buffer[:size]
        self.offset += size
        return piece

    def is_at_end(self) -> bool:
        """Return whether nothing is left to take."""
        self._buffer += b"" if self._buffer else next(self._chunks, b"")
        return not self._buffer

    def close(self) -> None:
        """Close the file."""
        self._chunks.close()


def _read_on(buffer: bytearray, chunks: Iterator[bytes], at: int, here: Piece, *, rule: Rule, limits: Limits) -> int:
    """Append to a buffer until a record ends at or after ``at``; return where, or -1 at the end of the file."""
    end = rule.end(buffer, at)
    while end < 0 and (chunk := next(chunks, b"")):
        searched = max(at, rule.settled(buffer))
        buffer += chunk
        end = rule.end(buffer, searched)
        # Twice: a paragraph of empty lines that end in two bytes is half as long as text. The exact test comes later.
        if end < 0 and len(buffer) - at > 2 * limits.max_record_bytes + LOOK_BEHIND:
            starts = here._replace(data=bytes(buffer)).starts(rule)
            last = int(starts[-1]) if len(starts) else here.offset
            raise too_long(here.file, last, len(buffer) - last + here.offset, limits.max_record_bytes)
    return end


def too_long(file: File, offset: int, size: int, max_record_bytes: int) -> ValueError:
    """Return the error for a record that is longer than allowed."""
    return ValueError(
        f"record of {size:,} bytes or more at byte {offset:,} of {file.name} cannot fit max_record_bytes={max_record_bytes:,}; "
        "raise max_record_bytes, or check that the file is what it should be"
    )


def _steps(file: File, position: int) -> Generator[bytes, None, None]:
    step = _FIRST_STEP
    while position < file.size:
        stop = min(position + step, file.size)
        yield read_bytes(file, position, stop)
        position, step = stop, min(2 * step, _LAST_STEP)
