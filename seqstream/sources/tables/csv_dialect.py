"""Delimited text, cut where records end, and parsed by Arrow block by block; errors name the line."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa

from seqstream.sources.files.boundaries import BOM
from seqstream.sources.files.chunks import open_chunks
from seqstream.sources.files.encodings import HEAD_BYTES, wide_encoding_error
from seqstream.sources.files.listing import File
from seqstream.sources.tables.csv_quotes import Quotes, find_quotes
from seqstream.sources.tables.schema import missing_columns

_BAD_ROW = re.compile(r"(?:In CSV column #(\d+): )?(?:CSV parse error: )?Row #(\d+): (.*)", re.DOTALL)
_BAD_VALUE = re.compile(r"CSV conversion error to (\S+): invalid value (.*)", re.DOTALL)
_READ_BYTES = 1 << 20
_PARSED_BYTES = 1 << 18
_SHOWN_BYTES = 30
_NO_QUOTES = "pass quote=None where quotes are ordinary characters"


class _Block(NamedTuple):
    """Whole records of a file, which begin at ``offset`` of the uncompressed file."""

    file: File
    offset: int
    quotes: Quotes


class _TextBuffer:
    """The next bytes of the text of a file, as many as asked for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.held = bytearray()
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._is_read = False

    @property
    def is_last(self) -> bool:
        """Whether the file is known to have no bytes after those in the buffer."""
        return self._is_read and not self._rest

    def fill(self, size: int) -> bool:
        """Fill the buffer with exactly ``size`` bytes, or with all that are left; return whether there are any."""
        if len(self.held) > size:
            self._rest = memoryview(bytes(self.held[size:]) + self._rest)
            del self.held[size:]
        while (space := size - len(self.held)) and not self.is_last:
            self._rest = self._rest or memoryview(next(self._chunks, b""))
            self._is_read = self._is_read or not self._rest
            self.held += self._rest[:space]
            self._rest = self._rest[space:]
        return bool(self.held)

    def take(self, end: int) -> None:
        """Drop ``held[:end]``; ``held`` becomes a new object, so that others may keep the old one without a copy."""
        self.held = self.held[end:]


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How delimited text is written, and which of its columns are read: arguments of `Csv`."""

    columns: Sequence[str] | None
    names: Sequence[str] | None
    delimiter: str
    quote: str | None
    max_record_bytes: int

    def read(self, file: File, types: Mapping[str, pa.DataType]) -> Generator[pa.Table]:
        """Yield the records of a file in tables, at least one, which may be empty.

        Arrow's streaming reader is not used: its threads call Python, which ends the process if it happens at exit.

        Raises:
            ValueError: A row, a value, a quote or a column is wrong; the message has the file, the line and the remedy.
        """
        header: list[str] | None = None
        for offset, quotes in self._blocks(file):
            begin = 0
            if header is None:
                header, begin = self._read_header(quotes, file)
            yield self._parse(_Block(file, offset, quotes), begin, header, types)
        if header is None and self.names is None:
            raise ValueError(f"{file.name} must begin with a line of column names, got an empty file")
        if header is None:
            yield self._parse(_Block(file, 0, find_quotes(b"", self.delimiter, None)), 0, list(self.names or ()), types)

    def header(self, file: File) -> list[str]:
        """Return the names of the columns of a file."""
        if self.names is not None:
            return list(self.names)
        with contextlib.closing(dataclasses.replace(self, columns=None).read(file, {})) as parts:
            return list(next(parts).column_names)

    def place(self, file: File, row: int) -> str:
        """Return the file and the line where a row starts, counting from 1; the header is a row, an empty line is not."""
        line = self.line(file, row)
        return file.name if line is None else f"{file.name}, line {line:,}"

    def line(self, file: File, row: int) -> int | None:
        """Return the line where a row starts, both counted from 1; ``None`` if there is no such row."""
        for offset, quotes in self._blocks(file):
            if row <= len(quotes.starts):
                return _line(file, offset + int(quotes.starts[row - 1]))
            row -= len(quotes.starts)
        return None

    def _blocks(self, file: File) -> Iterator[tuple[int, Quotes]]:
        """Yield blocks of whole records with their offsets in the file; where blocks end depends on the text alone."""
        chunks = open_chunks(file)
        buffer, offset = _TextBuffer(chunks), 0
        size = step = min(self.max_record_bytes, _READ_BYTES)
        try:
            while buffer.fill(size):
                if offset == 0 and (problem := wide_encoding_error(file, bytes(buffer.held[:HEAD_BYTES]))):
                    raise problem
                if offset == 0 and buffer.held.startswith(BOM):
                    buffer.take(len(BOM))
                    offset = len(BOM)
                    continue
                is_whole = buffer.is_last
                quotes = find_quotes(buffer.held, self.delimiter, self.quote)
                if fault := self._fault(quotes, file, offset, is_whole=is_whole):
                    # The records before it come first: making a source reads one block, and shall not raise for a later one.
                    if fault[0]:
                        yield offset, quotes.until(fault[0])
                    raise ValueError(fault[1])
                end = quotes.size if is_whole else quotes.last_end(quotes.size)
                if end:
                    buffer.take(end)
                    yield offset, quotes.until(end)
                    offset, size = offset + end, step
                elif size > self.max_record_bytes + 1:
                    raise self._too_long(file, offset)
                else:
                    size = min(2 * size, self.max_record_bytes + 2)
        finally:
            chunks.close()

    def _read_header(self, quotes: Quotes, file: File) -> tuple[list[str], int]:
        """Return the names of the columns, and where the records begin."""
        if self.names is not None:
            return list(self.names), 0
        starts = [*map(int, quotes.starts[:2]), quotes.size, quotes.size]
        try:
            line = quotes.data[starts[0] : starts[1]].decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file.name} must be UTF-8, but its first line is not; convert the file") from error
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE
        lines = io.StringIO(line, newline="")
        header = next(csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote or '"', quoting=quoting), [])
        if not header:
            raise ValueError(f"{file.name} must begin with a line of column names, got an empty file")
        return header, starts[1]

    def _parse(self, block: _Block, begin: int, header: list[str], types: Mapping[str, pa.DataType]) -> pa.Table:
        from pyarrow import csv as arrow_csv

        if problem := missing_columns("columns", self.columns or (), header):
            raise ValueError(f"{problem} in {block.file.name}")
        text = memoryview(block.quotes.data)[begin : block.quotes.size]
        if text[: len(BOM)] == BOM:  # Arrow would drop it, but here it is text
            text = memoryview(BOM + text)
        # Arrow needs a line, even an empty one.
        data = pa.py_buffer(text or b"\n")
        parse = arrow_csv.ParseOptions(delimiter=self.delimiter, quote_char=self.quote or False, newlines_in_values=True)
        columns = None if self.columns is None else list(self.columns)
        convert = arrow_csv.ConvertOptions(column_types=types, include_columns=columns)

        def read(size: int) -> pa.Table:
            # Without threads errors have their row, and parsing is as fast.
            options = arrow_csv.ReadOptions(use_threads=False, block_size=size, column_names=header)
            return arrow_csv.read_csv(pa.BufferReader(data), options, parse, convert)

        # With small blocks Arrow's buffers stay in the cache; but types are inferred from the whole text.
        if data.size > _PARSED_BYTES and types.keys() >= set(columns or header):
            with contextlib.suppress(pa.ArrowInvalid):  # also where a record is longer
                return read(_PARSED_BYTES).combine_chunks()
        try:
            return read(data.size + 1)
        except pa.ArrowInvalid as error:
            raise ValueError(self._explain(str(error), block, begin, header)) from error

    def _explain(self, error: str, block: _Block, begin: int, header: list[str]) -> str:
        found = _BAD_ROW.fullmatch(error)
        if found is None:
            return f"{block.file.name} must be text with delimiter={self.delimiter!r} and quote={self.quote!r}: {error}"
        column, row, problem = found.groups()
        starts = block.quotes.starts
        location = _location(block.file, block.offset + int(starts[starts >= begin][int(row) - 1]))
        if column is None:
            return f"{location}: {problem[:1].lower()}{problem[1:]}; correct the file, or set delimiter and quote"
        name = header[int(column)]
        if value := _BAD_VALUE.fullmatch(problem):
            return f"{location}: column '{name}' must hold {value[1]}, got {value[2]}; pass types={{'{name}': 'string'}}"
        return f"{location}: column '{name}' must be UTF-8; convert the file"

    def _fault(self, quotes: Quotes, file: File, offset: int, *, is_whole: bool) -> tuple[int, str] | None:
        """Return where the first record with a wrong quote starts, and what is wrong; ``None`` if there is none."""
        if quotes.fault is not None:
            opening, text = quotes.fault
            problem = (
                f"a field in quotes must end with its closing quote, got {_shown(quotes, opening)}, closed on line "
                f"{_line(file, offset + text):,} before {_shown(quotes, text)}; double the quotes inside of it"
            )
        elif is_whole and quotes.is_open:
            opening = int(quotes.turns[-1])
            shown = _shown(quotes, opening)
            problem = f"a field in quotes must have a closing quote, got the end of the file after {shown}; close it"
        else:
            return None
        start = quotes.last_end(opening)
        return start, f"{_location(file, offset + start)}: {problem}, or {_NO_QUOTES}"

    def _too_long(self, file: File, offset: int) -> ValueError:
        return ValueError(
            f"{_location(file, offset)}: record cannot be longer than max_record_bytes={self.max_record_bytes}; close a quote "
            f"that was left open, {_NO_QUOTES}, or raise it"
        )


def _shown(quotes: Quotes, at: int) -> str:
    return repr(quotes.data[at : at + _SHOWN_BYTES].decode("utf-8", "replace"))


def _location(file: File, offset: int) -> str:
    return f"{file.name}, line {_line(file, offset):,}"


def _line(file: File, offset: int) -> int:
    r"""Return the line of a file that holds a byte; lines end with ``\n``, ``\r\n`` or ``\r``. Reads the file up to there."""
    line, num_read, last = 1, 0, b""
    for chunk in open_chunks(file):
        part = chunk[: offset - num_read]
        line += part.count(b"\n") + part.count(b"\r") - part.count(b"\r\n") - (last == b"\r" and part.startswith(b"\n"))
        num_read, last = num_read + len(chunk), part[-1:]
        if num_read >= offset:
            break
    return line
