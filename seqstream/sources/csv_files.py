"""CSV and TSV files: a file is a shard."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from seqstream.options import names, num_bytes
from seqstream.records import Json, split_row_id
from seqstream.sources.blocks import Block
from seqstream.sources.files.fingerprints import fingerprint_files
from seqstream.sources.files.folder_columns import FolderColumns, find_folder_columns, own_columns
from seqstream.sources.files.listing import File, FileTable, Paths, find_files, normalize_paths
from seqstream.sources.locations import Location
from seqstream.sources.source import Source
from seqstream.sources.tables.csv_dialect import Dialect
from seqstream.sources.tables.reblocking import blocks
from seqstream.sources.tables.rounding import has_large_floats
from seqstream.sources.tables.schema import CHOOSE_COLUMNS, conform, missing_columns, stable_schema, type_names

_WHOLE = re.compile(r"\s*[+-]?\d{16,300}\s*")
"""A whole number that a float may round."""


@dataclasses.dataclass(frozen=True)
class Csv(Source):
    r"""Records of CSV or TSV files, plain or compressed; a field in quotes may hold newlines.

    A file is a shard and is read front to back: whether a newline ends a record depends on every quote before it. To resume in
    the middle of a file, the records before are read again.

    The first line names the columns. Their types are inferred from the first records of the first file, for all files: whole
    numbers, floats, booleans, else text. A whole number that a column of floats would round is an error. Text must be UTF-8;
    an empty field is empty text, or a missing number.

    Quotes are read as Python's ``csv.reader(strict=True)`` reads them: one at the beginning of a field opens it, one inside of
    it is doubled, and a delimiter or the end of the line follows the closing one; all else is an error with the line.

    Folders named ``name=value`` are a column too, as in `Parquet`; a column of that name in the files takes precedence.

    Args:
        paths: A path, a glob (its files sort by name), any URL that fsspec knows, or a list of these.
        columns: Columns to read, in this order; all by default.
        types: Arrow's names of the types of columns, where the inferred type is wrong: ``{"zip": "string"}``.
        names: Names of the columns, for files whose first line is a record.
        delimiter: Character between fields, ``"\t"`` for TSV.
        quote: Character around fields that hold delimiters or newlines; ``None`` if quotes are ordinary characters.
        block_bytes: Bytes in a block. Smaller blocks mix better, larger ones cost less each.
        max_record_bytes: A longer record is an error. This many bytes are read at once.
        storage_options: Arguments of the fsspec file system that opens URLs, such as ``{"token": ...}``. They are in no
            fingerprint, state or ``repr``.

    Raises:
        FileNotFoundError: A path or glob names no file.
        ValueError: A column is not in the first file, or Arrow has no such type.
    """

    paths: Paths
    _: dataclasses.KW_ONLY
    columns: Sequence[str] | None = None
    types: Mapping[str, str] | None = None
    names: Sequence[str] | None = None
    delimiter: str = ","
    quote: str | None = '"'
    block_bytes: int = 262_144
    max_record_bytes: int = 1 << 20
    storage_options: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("block_bytes", "max_record_bytes"):
            object.__setattr__(self, name, num_bytes(name, getattr(self, name)))
        for name, character in (("delimiter", self.delimiter), ("quote", self.quote)):
            is_off = character is None and name == "quote"
            is_one = isinstance(character, str) and len(character) == 1 and character.isascii()
            if not is_off and (not is_one or character in ("\0", "\r", "\n")):
                raise ValueError(f"{name} must be one ASCII character, got {character!r}")
        for name in ("columns", "names"):
            object.__setattr__(self, name, names(name, getattr(self, name)))
        if not isinstance(self.types, Mapping | None):
            raise TypeError(f"types must be a dict of columns and their types, like {{'zip': 'string'}}, got {self.types!r}")
        object.__setattr__(self, "paths", normalize_paths(self.paths))
        _ = self._schema  # read here, so that the error for a missing file or column points at the user's line

    @property
    def num_shards(self) -> int:
        return len(self._files)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        yield from blocks(self._tables(self._files[shard]), state, self.block_bytes)

    def fingerprint(self) -> Json:
        # Without max_record_bytes: a user may raise it after a longer record, and resume from the last state.
        dialect = {"delimiter": self.delimiter, "quote": self.quote, "header": self.names is None}
        return {
            "kind": "Csv",
            "columns": type_names(self._schema),
            "block_bytes": self.block_bytes,
            **dialect,
            "files": self._digest,
            **({} if self._folders is None else self._folders.fingerprint()),
        }

    def locate(self, row_id: int) -> str:
        shard, record = split_row_id(row_id)
        return self._dialect.place(self._files[shard], record + 1 + (self.names is None))

    def place(self, row_id: int) -> Location:
        shard, record = split_row_id(row_id)
        file = self._files[shard]
        return Location(file.name, self._dialect.line(file, record + 1 + (self.names is None)))

    def approx_blocks(self) -> float | None:
        return float((self._files.text_bytes / self.block_bytes).clip(min=1).sum())

    @functools.cached_property
    def _files(self) -> FileTable:
        return find_files(normalize_paths(self.paths), "*.csv", self.storage_options)

    @functools.cached_property
    def _digest(self) -> Json:
        return fingerprint_files(self._files)

    @functools.cached_property
    def _dialect(self) -> Dialect:
        dialect = Dialect(None, self.names, self.delimiter, self.quote, self.max_record_bytes)
        if self.columns is None:
            return dialect
        folders = find_folder_columns(self._files.names)
        present = self.columns if folders is None else dialect.header(self._files[0])
        return dataclasses.replace(dialect, columns=own_columns(self.columns, present, folders))

    @functools.cached_property
    def _folders(self) -> FolderColumns | None:
        """The columns in names of folders that the files do not have."""
        found = find_folder_columns(self._files.names)
        found = found and found.without(self._schema.names)
        return found and found.chosen(self.columns)

    @functools.cached_property
    def _schema(self) -> pa.Schema:
        """Names and types of the columns, from the first file."""
        file = self._files[0]
        given = _arrow_types(self.types or {})
        with contextlib.closing(self._dialect.read(file, given)) as parts:
            inferred = next(parts).schema
        _check_utf8(inferred, given, file)
        if problem := missing_columns("types", list(given), inferred.names):
            raise ValueError(f"{problem} in {file.name}")
        types = pa.schema([(field.name, given.get(field.name, _stable_type(field.type))) for field in inferred])
        return stable_schema(types, CHOOSE_COLUMNS, file.name)

    def _tables(self, file: File) -> Iterator[pa.Table]:
        types = dict(zip(self._schema.names, self._schema.types, strict=True))
        with contextlib.closing(self._dialect.read(file, types)) as parts:
            is_checked = False
            for part in parts:
                if problem := missing_columns("columns", self._schema.names, part.column_names):
                    raise ValueError(f"{problem} in {file.name}")
                table = conform(part, self._schema, CHOOSE_COLUMNS)
                if not is_checked and any(has_large_floats(table.column(name)) for name in self._inferred_floats):
                    self._check_rounding(file)
                    is_checked = True
                if self._folders is not None:
                    table = self._folders.append(table, [file.name], [len(table)])
                yield table if self.columns is None else table.select(self.columns)

    @functools.cached_property
    def _inferred_floats(self) -> list[str]:
        """Columns of floats whose types the user has not given."""
        return [
            field.name for field in self._schema if pa.types.is_floating(field.type) and field.name not in (self.types or {})
        ]

    def _check_rounding(self, file: File) -> None:
        """Raise if a column of floats rounds a whole number of a file, which is read once more for it, as text."""
        types = {field.name: field.type for field in self._schema} | dict.fromkeys(self._inferred_floats, pa.string())
        record = 0
        with contextlib.closing(self._dialect.read(file, types)) as parts:
            for part in parts:
                for name in self._inferred_floats:
                    for row, text in enumerate(part.column(name).to_pylist()):
                        if _is_rounded(text):
                            location = self._dialect.place(file, record + row + 1 + (self.names is None))
                            raise ValueError(
                                f"{location}: column '{name}' cannot hold {text} exactly as double; pass types={{'{name}': "
                                "'string'}, or 'double' to take the nearest float"
                            )
                record += len(part)


def _is_rounded(text: str) -> bool:
    return bool(_WHOLE.fullmatch(text)) and int(float(text)) != int(text)


def _arrow_types(types: Mapping[str, str]) -> dict[str, pa.DataType]:
    given = {}
    for name, kind in types.items():
        try:
            given[name] = pa.type_for_alias(kind)
        except (TypeError, ValueError, AttributeError):
            raise ValueError(
                f"types must be names that Arrow knows, like 'string' or 'int64', got {kind!r} for '{name}'"
            ) from None
    return given


def _check_utf8(schema: pa.Schema, given: Mapping[str, pa.DataType], file: File) -> None:
    for field in schema:
        # The type that Arrow infers for text that is not UTF-8.
        if pa.types.is_binary(field.type) and field.name not in given:
            raise ValueError(f"{file.name} must be UTF-8, but column '{field.name}' is not; convert the file")


def _stable_type(inferred: pa.DataType) -> pa.DataType:
    """Return the type of a column by the type of its first values: text for times, and for values that are empty so far."""
    is_number = pa.types.is_integer(inferred) or pa.types.is_floating(inferred) or pa.types.is_boolean(inferred)
    return inferred if is_number else pa.string()
