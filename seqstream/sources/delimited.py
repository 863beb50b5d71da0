"""Delimited text as Arrow parses it, with errors that name the line."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from seqstream.sources.files import File
from seqstream.sources.sequential import missing_columns
from seqstream.sources.streams import open_chunks

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BAD_ROW = re.compile(r"(?:In CSV column #(\d+): )?(?:CSV parse error: )?Row #(\d+): (.*)", re.DOTALL)
_BAD_VALUE = re.compile(r"CSV conversion error to (\S+): invalid value (.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How delimited text is written, and which columns of it are read: the arguments of `Csv`."""

    columns: Sequence[str] | None
    names: Sequence[str] | None
    delimiter: str
    quote: str | None
    max_record_bytes: int

    def read(self, file: File, types: Mapping[str, pa.DataType]) -> Generator[Any]:
        """Yield the schema of a file, then its records in batches.

        Raises:
            ValueError: A row, a value or a column is not as it must be; the message names the file, the line, and the remedy.
        """
        from pyarrow import csv as arrow_csv

        # Without threads errors know their row, and reading is as fast.
        names = None if self.names is None else list(self.names)
        read = arrow_csv.ReadOptions(use_threads=False, block_size=self.max_record_bytes, column_names=names)
        parse = arrow_csv.ParseOptions(delimiter=self.delimiter, quote_char=self.quote or False, newlines_in_values=True)
        columns = None if self.columns is None else list(self.columns)
        convert = arrow_csv.ConvertOptions(column_types=types, include_columns=columns)
        try:
            with open_text(file) as text, arrow_csv.open_csv(text, read, parse, convert) as batches:
                yield batches.schema
                yield from batches
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise ValueError(self._explained(str(error), file)) from error

    def place(self, file: File, row: int) -> str:
        """Name the line where a row starts, counting from 1: the header is a row, a line with nothing on it is none."""
        line = self.line(file, row)
        return file.name if line is None else f"{file.name}, line {line:,}"

    def line(self, file: File, row: int) -> int | None:
        """Return the line where a row starts; ``None`` where it cannot be counted."""
        return next((line for number, (line, _) in enumerate(self._rows(file), 1) if number == row), None)

    def _rows(self, file: File) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows of a file as Python reads them, each with the line where it starts."""
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE
        # Python's reader gives up on a field of 128 KiB: then there is no line to name.
        with io.TextIOWrapper(open_text(file), "utf-8-sig", "replace", newline="") as text, contextlib.suppress(csv.Error):
            rows = csv.reader(text, delimiter=self.delimiter, quotechar=self.quote or '"', quoting=quoting)
            line = 1
            for fields in rows:
                if fields:
                    yield line, fields
                line = rows.line_num + 1

    def _explained(self, error: str, file: File) -> str:
        if "straddling object" in error:
            limit = f"max_record_bytes={self.max_record_bytes}"
            return f"{file.name} cannot have a record longer than {limit}; close a quote that was left open, or raise it"
        _, header = next(self._rows(file), (1, []))
        header = header if self.names is None else list(self.names)
        if not header:
            return f"{file.name} must begin with a line of column names, got an empty file"
        if problem := missing_columns("columns", self.columns or (), header):
            return f"{problem} in {file.name}"
        found = _BAD_ROW.fullmatch(error)
        if found is None:
            return f"{file.name} must be text with delimiter={self.delimiter!r} and quote={self.quote!r}: {error}"
        column, row, problem = found.groups()
        place = self.place(file, int(row))
        if column is None:
            return f"{place}: {problem[:1].lower()}{problem[1:]}; mend the file, or set delimiter and quote"
        name = header[int(column)]
        if value := _BAD_VALUE.fullmatch(problem):
            return f"{place}: column '{name}' must hold {value[1]}, got {value[2]}; pass types={{'{name}': 'string'}}"
        return f"{place}: column '{name}' must be UTF-8; convert the file"


def open_text(file: File) -> io.BufferedReader:
    """Open the uncompressed bytes of a file as Arrow and Python read them."""
    return io.BufferedReader(_Chunks(open_chunks(file)))


class _Chunks(io.RawIOBase):
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        self._rest = self._rest or memoryview(next(self._chunks, b""))
        size = min(len(target), len(self._rest))
        target[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
