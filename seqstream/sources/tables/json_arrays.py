"""Files of one JSON array: its elements become lines, in place, so that every byte keeps its offset in the file.

A newline is put before each element, and newlines between values become blanks. So what reads lines of JSON reads these as
well, and finds the line of a record in the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index
from seqstream.records import Json
from seqstream.sources.blocks import check_counts
from seqstream.sources.files.boundaries import BOM
from seqstream.sources.files.chunks import open_chunks
from seqstream.sources.files.encodings import HEAD_BYTES, wide_encoding_error
from seqstream.sources.files.listing import File
from seqstream.sources.files.ranges import Corpus, locate_byte
from seqstream.sources.files.spans import ByteSpan, too_long
from seqstream.sources.tables.json_spans import without_escaped

_BLANK, _NEWLINE, _QUOTE, _COMMA, _END = b' \n",]'
_DEPTHS = np.zeros(256, np.int8)
_DEPTHS[[*b"[{"]] = 1
_DEPTHS[[*b"]}"]] = -1
_IS_MARK = _DEPTHS != 0
_IS_MARK[[_NEWLINE, _QUOTE, _COMMA]] = True
_IS_BETWEEN = np.zeros(256, np.bool_)
_IS_BETWEEN[[*b" \t\r\n,"]] = True
_FIRST = re.compile(rb"\s*(\S)")
_KEY = re.compile(rb'"((?:[^"\\]|\\.)*+)"\s*:\s*(\S)')
_SHOWN_KEYS = 8


class Position(NamedTuple):
    """What precedes a byte of JSON: how deep it nests, and whether it is in a string."""

    depth: int
    in_string: bool


class Marks(NamedTuple):
    """The marks of a text: brackets, commas, newlines and quotes, those inside of strings left out.

    Attributes:
        at: Offsets, ``int64 (marks,)``.
        kinds: Bytes, ``uint8 (marks,)``.
        depths: How deep the text nests after each, ``int64 (marks,)``.
        after: The position after the text.
    """

    at: Index
    kinds: npt.NDArray[np.uint8]
    depths: Index
    after: Position


@dataclasses.dataclass(frozen=True)
class ArrayCorpus(Corpus):
    """Files of one JSON array each, which are read from their beginning as lines of JSON.

    Attributes:
        key: Key of the array in an object around it; ``None`` if the file is the array.
    """

    key: str | None = None

    def blocks(self, shard: int, state: Json) -> Generator[tuple[list[ByteSpan], Json], None, None]:
        """Yield the blocks of a file as spans of lines; the state is the offset after a block, where an element ends."""
        (offset,) = check_counts(state, 1)
        file = self.files[int(self.shards.first_files[self._segment_of(shard)])]
        with contextlib.closing(open_chunks(file, offset)) as chunks:
            reader = _ArrayReader(file, chunks, offset)
            if offset == 0:
                reader.skip_head(self.key)
            while True:
                span = reader.take(*self.limits)
                if reader.is_at_end and self.key is None:
                    reader.check_rest()
                yield [span], None if reader.is_at_end else [reader.offset]
                if reader.is_at_end:
                    return


class _ArrayReader:
    """Reads the elements of an array as lines, from the beginning of its file or from the end of an element.

    Attributes:
        offset: Where the next element begins in the file.
        is_at_end: Whether no element is left.
    """

    def __init__(self, file: File, chunks: Iterator[bytes], offset: int) -> None:
        self.offset = offset
        self.is_at_end = False
        self._file, self._chunks = file, chunks
        self._buffer = bytearray()
        """Bytes that were read and not taken."""
        self._num_lines = 0
        """Bytes of the buffer that are lines already."""
        self._position = Position(1, in_string=False)
        self._last = _COMMA
        """The last mark of these lines that is no newline."""
        self._ends: Index = np.empty(0, np.int64)
        """Where elements end in these lines, each after its comma; and where the array ends."""

    def skip_head(self, key: str | None) -> None:
        """Read up to the bracket that opens the array; all of it becomes blank.

        Raises:
            ValueError: The file has no such array.
        """
        size: int | None = None
        wanted = 1
        while size is None:
            chunk = b" "
            while len(self._buffer) < wanted and (chunk := next(self._chunks, b"")):
                self._buffer += chunk
            wanted = 2 * len(self._buffer)
            size = _array_start(bytes(self._buffer), key, self._file, is_whole=not chunk)
        self._buffer[:size] = b" " * size
        self._num_lines = size
        self._make_lines()

    def take(self, block_bytes: int, max_record_bytes: int) -> ByteSpan:
        """Return lines of at least ``block_bytes``, or all that are left.

        Raises:
            ValueError: An element is too long, or the file ends inside of the array.
        """
        while self._position.depth and (not len(self._ends) or self._ends[-1] < block_bytes):
            if len(self._buffer) - block_bytes > 2 * max_record_bytes:
                last = int(self._ends[-1]) if len(self._ends) else 0
                raise too_long(self._file, self.offset + last, len(self._buffer) - last, max_record_bytes)
            if not (chunk := next(self._chunks, b"")):
                where = locate_byte(self._file, self.offset + len(self._buffer))
                raise ValueError(f"{where}: file must be one JSON array, got its end before that of the array; write it anew")
            self._buffer += chunk
            self._make_lines()
        size = int(self._ends[min(int(np.searchsorted(self._ends, block_bytes)), len(self._ends) - 1)])
        span = ByteSpan(self._file, self.offset, bytes(self._buffer[:size]))
        del self._buffer[:size]
        self.offset, self._num_lines = self.offset + size, self._num_lines - size
        self._ends = self._ends[self._ends > size] - size
        self.is_at_end = not self._position.depth and not len(self._ends)
        return span

    def check_rest(self) -> None:
        """Raise if anything but white space follows the array."""
        for chunk in itertools.chain([bytes(self._buffer)], self._chunks):
            if found := _FIRST.match(chunk):
                where = locate_byte(self._file, self.offset + found.start(1))
                shown = chunk[found.start(1) :][:20].decode("utf-8", "replace")
                raise ValueError(f"{where}: file must be one JSON array, got {shown!r} after its end; leave that out")
            self.offset += len(chunk)

    def _make_lines(self) -> None:
        """Make lines of the bytes that were read, up to the end of the array."""
        part = bytes(self._buffer[self._num_lines :]).rstrip(b"\\")  # a quote after backslashes is read with all of them
        marks = find_marks(part, self._position)
        closing = np.flatnonzero(marks.depths == 0)[:1]
        num_marks = int(closing[0]) if len(closing) else len(marks.at)
        at, kinds, depths = marks.at[:num_marks] + self._num_lines, marks.kinds[:num_marks], marks.depths[:num_marks]
        letters = np.frombuffer(self._buffer, np.uint8)
        letters[at[kinds == _NEWLINE]] = _BLANK
        is_other = kinds != _NEWLINE
        at, kinds, depths = at[is_other], kinds[is_other], depths[is_other]
        commas = at[(kinds == _COMMA) & (depths == 1)]
        kinds_before = np.append(self._last, kinds)[:-1]
        before = at[(_DEPTHS[kinds] == 1) & (depths == 2) & (kinds_before == _COMMA)] - 1
        before = before[_IS_BETWEEN[letters[before]] & (before >= 0)]
        letters[commas] = _NEWLINE
        letters[before] = _NEWLINE
        ends = commas + 1
        if len(closing):
            end = marks.at[num_marks] + self._num_lines
            if letters[end] != _END:
                where = locate_byte(self._file, self.offset + int(end))
                raise ValueError(f"{where}: array must end with ], got {chr(letters[end])}; correct the file")
            letters[end] = _BLANK
            ends = np.append(ends, end + 1)
        self._ends = np.concatenate([self._ends, ends])
        self._position = marks.after._replace(depth=0 if len(closing) else marks.after.depth)
        self._num_lines += len(part)
        self._last = int(kinds[-1]) if len(kinds) else self._last


def find_marks(text: bytes, position: Position) -> Marks:
    """Return the marks of a text that follows a position, and the position after it."""
    letters = np.frombuffer(text, np.uint8)
    at = np.flatnonzero(_IS_MARK[letters])
    if b"\\" in text:
        at = without_escaped(letters, at)
    kinds = letters[at]
    is_quote = kinds == _QUOTE
    in_string = (np.cumsum(is_quote) + position.in_string) & 1 == 1
    is_mark = is_quote | ~in_string
    depths = position.depth + np.cumsum(_DEPTHS[kinds[is_mark]], dtype=np.int64)
    after = Position(int(depths[-1]) if len(depths) else position.depth, bool(in_string[-1]) if len(at) else position.in_string)
    return Marks(at[is_mark], kinds[is_mark], depths, after)


def _array_start(head: bytes, key: str | None, file: File, *, is_whole: bool) -> int | None:
    """Return the offset after the bracket that opens the array of a file; ``None`` if more of the file is needed.

    Raises:
        ValueError: The file has no such array; the message has the keys of the object that it is.
    """
    if problem := wide_encoding_error(file, head[:HEAD_BYTES]):
        raise problem
    first = _FIRST.match(head, len(BOM) if head.startswith(BOM) else 0)
    if first is None and not is_whole:
        return None
    letter = b"" if first is None else first[1]
    if first is not None and key is None and letter == b"[":
        return first.end()
    values = _values(head) if letter == b"{" else {}
    if key in values and values[key][0] == b"[":
        return values[key][1]
    if letter == b"{" and key is not None and key not in values and not is_whole:
        return None
    lines = "read lines of objects with JsonLines"
    if key is not None:
        listed = ", ".join(map(repr, [*values][:_SHOWN_KEYS])) or "none"
        got = f"an array; leave key out, or {lines}" if letter == b"[" else f"keys {listed}; correct key, or {lines}"
        raise ValueError(f"{file.name} must be an object with an array at key={key!r}, got {got}")
    array = next((name for name, (kind, _) in values.items() if kind == b"["), None)
    remedy = f"pass key={array!r} for the array in it, or {lines}" if array is not None else lines
    shown = ", ".join(map(repr, [*values][:_SHOWN_KEYS]))
    got = f"an object with the keys {shown}" if values else "an empty file" if first is None else "other text"
    raise ValueError(f"{file.name} must be one JSON array, got {got}; {remedy}")


def _values(text: bytes) -> dict[str, tuple[bytes, int]]:
    """Return the first letter of the value of each key in an object, and the offset after it; of the text's first object."""
    marks = find_marks(text, Position(0, in_string=False))
    end = np.flatnonzero((marks.depths == 0) & (_DEPTHS[marks.kinds] == -1))[:1]
    quotes = np.flatnonzero(marks.kinds == _QUOTE)[::2]
    quotes = quotes[(marks.depths[quotes] == 1) & (quotes < (end[0] if len(end) else len(marks.at)))]
    found = (_KEY.match(text, at) for at in marks.at[quotes].tolist())
    return {json.loads(b'"%b"' % each[1], strict=False): (each[2], each.end()) for each in found if each}
