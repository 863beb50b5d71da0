"""Delimited text, cut where records end and parsed by Arrow block by block, with errors that name the line."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa

from seqstream.sources.encodings import HEAD_BYTES, wide_encoding_error
from seqstream.sources.files import File
from seqstream.sources.quotes import Quotes, find_quotes
from seqstream.sources.rules import BOM
from seqstream.sources.sequential import missing_columns
from seqstream.sources.streams import open_chunks

_BAD_ROW = re.compile(r"(?:In CSV column #(\d+): )?(?:CSV parse error: )?Row #(\d+): (.*)", re.DOTALL)
_BAD_VALUE = re.compile(r"CSV conversion error to (\S+): invalid value (.*)", re.DOTALL)
_READ_BYTES = 1 << 20
_SHOWN = 30
_NO_QUOTES = "pass quote=None where quotes are ordinary characters"


class _Block(NamedTuple):
    """Whole records of a file."""

    file: File
    offset: int
    """Where they begin in the uncompressed file."""
    quotes: Quotes


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How delimited text is written, and which columns of it are read: the arguments of `Csv`."""

    columns: Sequence[str] | None
    names: Sequence[str] | None
    delimiter: str
    quote: str | None
    max_record_bytes: int

    def read(self, file: File, types: Mapping[str, pa.DataType]) -> Generator[pa.Table]:
        """Yield the records of a file in tables, one at least, which may have none.

        Arrow's streaming reader is not used: its threads call Python, and end the process if one does so at its exit.

        Raises:
            ValueError: A row, a value, a quote or a column is not as it must be; the message names the file, the line, and
                the remedy.
        """
        header: list[str] | None = None
        for offset, quotes in self._blocks(file):
            begin = 0
            if header is None:
                header, begin = self._header(quotes, file)
            yield self._parse(_Block(file, offset, quotes), begin, header, types)
        if header is None and self.names is None:
            raise ValueError(f"{file.name} must begin with a line of column names, got an empty file")
        if header is None:
            yield self._parse(_Block(file, 0, find_quotes(b"", self.delimiter, None)), 0, list(self.names or ()), types)

    def place(self, file: File, row: int) -> str:
        """Name the line where a row starts, counting from 1: the header is a row, a line with nothing on it is none."""
        line = self.line(file, row)
        return file.name if line is None else f"{file.name}, line {line:,}"

    def line(self, file: File, row: int) -> int | None:
        """Return the line where a row starts; ``None`` where there is no such row."""
        for offset, quotes in self._blocks(file):
            if row <= len(quotes.starts):
                return _line(file, offset + int(quotes.starts[row - 1]))
            row -= len(quotes.starts)
        return None

    def _blocks(self, file: File) -> Iterator[tuple[int, Quotes]]:
        """Yield whole records, each block with its offset in the file; where blocks end depends on the text alone."""
        chunks = open_chunks(file)
        buffer, offset, is_last = bytearray(), 0, False
        size = step = min(self.max_record_bytes, _READ_BYTES)
        try:
            while not is_last or buffer:
                while len(buffer) < size and not is_last:
                    chunk = next(chunks, b"")
                    is_last = not chunk
                    buffer += chunk
                if not buffer:
                    return
                if offset == 0 and (problem := wide_encoding_error(file, bytes(buffer[:HEAD_BYTES]))):
                    raise problem
                if offset == 0 and buffer.startswith(BOM):
                    del buffer[: len(BOM)]
                    offset = len(BOM)
                    continue
                is_whole = is_last and len(buffer) <= size
                quotes = find_quotes(bytes(memoryview(buffer)[:size]), self.delimiter, self.quote)
                if fault := self._fault(quotes, file, offset, is_whole=is_whole):
                    # What comes before it is read first, so that an error of reading is none of making a source.
                    if fault[0]:
                        yield offset, quotes.until(fault[0])
                    raise ValueError(fault[1])
                end = len(quotes.data) if is_whole else quotes.last_end(len(quotes.data))
                if end:
                    yield offset, quotes.until(end)
                    del buffer[:end]
                    offset, size = offset + end, step
                elif size > self.max_record_bytes + 1:
                    raise self._too_long(file, offset)
                else:
                    size = min(2 * size, self.max_record_bytes + 2)
        finally:
            chunks.close()

    def _header(self, quotes: Quotes, file: File) -> tuple[list[str], int]:
        """Return the names of the columns, and where the records begin."""
        if self.names is not None:
            return list(self.names), 0
        starts = [*map(int, quotes.starts[:2]), len(quotes.data), len(quotes.data)]
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
        # Without threads errors know their row, and reading is as fast. Arrow wants a line, if only an empty one.
        text = block.quotes.data
        data = pa.py_buffer(text).slice(begin) if begin < len(text) else pa.py_buffer(b"\n")
        if text.startswith(BOM, begin):  # which Arrow drops, and is text here
            data = pa.py_buffer(BOM + text[begin:])
        read = arrow_csv.ReadOptions(use_threads=False, block_size=data.size + 1, column_names=header)
        parse = arrow_csv.ParseOptions(delimiter=self.delimiter, quote_char=self.quote or False, newlines_in_values=True)
        columns = None if self.columns is None else list(self.columns)
        convert = arrow_csv.ConvertOptions(column_types=types, include_columns=columns)
        try:
            return arrow_csv.read_csv(pa.BufferReader(data), read, parse, convert)
        except pa.ArrowInvalid as error:
            raise ValueError(self._explained(str(error), block, begin, header)) from error

    def _explained(self, error: str, block: _Block, begin: int, header: list[str]) -> str:
        found = _BAD_ROW.fullmatch(error)
        if found is None:
            return f"{block.file.name} must be text with delimiter={self.delimiter!r} and quote={self.quote!r}: {error}"
        column, row, problem = found.groups()
        starts = block.quotes.starts
        place = _place(block.file, block.offset + int(starts[starts >= begin][int(row) - 1]))
        if column is None:
            return f"{place}: {problem[:1].lower()}{problem[1:]}; mend the file, or set delimiter and quote"
        name = header[int(column)]
        if value := _BAD_VALUE.fullmatch(problem):
            return f"{place}: column '{name}' must hold {value[1]}, got {value[2]}; pass types={{'{name}': 'string'}}"
        return f"{place}: column '{name}' must be UTF-8; convert the file"

    def _fault(self, quotes: Quotes, file: File, offset: int, *, is_whole: bool) -> tuple[int, str] | None:
        """Return where the first record with a wrong quote starts, and what is wrong; ``None`` if none has."""
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
        return start, f"{_place(file, offset + start)}: {problem}, or {_NO_QUOTES}"

    def _too_long(self, file: File, offset: int) -> ValueError:
        return ValueError(
            f"{_place(file, offset)}: record cannot be longer than max_record_bytes={self.max_record_bytes}; close a quote "
            f"that was left open, {_NO_QUOTES}, or raise it"
        )


def _shown(quotes: Quotes, at: int) -> str:
    return repr(quotes.data[at : at + _SHOWN].decode("utf-8", "replace"))


def _place(file: File, offset: int) -> str:
    return f"{file.name}, line {_line(file, offset):,}"


def _line(file: File, offset: int) -> int:
    r"""Return the line of a file that holds a byte; lines end with ``\n``, ``\r\n`` or ``\r``. Reads the file up to there."""
    line, position, last = 1, 0, b""
    for chunk in open_chunks(file):
        part = chunk[: offset - position]
        line += part.count(b"\n") + part.count(b"\r") - part.count(b"\r\n") - (last == b"\r" and part.startswith(b"\n"))
        position, last = position + len(chunk), part[-1:]
        if position >= offset:
            break
    return line
