"""Tables on disk: CSV and Parquet files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from seqstream.sources.delimited import Dialect
from seqstream.sources.files import File, FileTable, Paths, check_unchanged, find_files, normalize_paths, vanished
from seqstream.sources.locations import Location
from seqstream.sources.protocol import Block, Json, Source, split_row_id
from seqstream.sources.sequential import blocks, conform, missing_columns, plain_schema

_CHOOSE = "choose others with columns=[...]"
_BATCH_ROWS = 1_024


@dataclasses.dataclass(frozen=True)
class Csv(Source):
    r"""Records of CSV or TSV files, plain or compressed; a field in quotes may hold newlines.

    A file is a shard, read front to back: whether a newline ends a record depends on every quote before it. Going on in the
    middle of a file reads again what comes before.

    The first line names the columns. Their types are those of the first records of the first file, and hold for all files:
    whole numbers, floats, booleans, else text. Text must be UTF-8; an empty field is empty text, or a missing number.

    Args:
        paths: A path, a glob (its files sort by name), any URL that fsspec knows, or a list of these.
        columns: Columns to read, in this order; all by default.
        types: Types of columns by name, as Arrow calls them, where the guess is wrong: ``{"zip": "string"}``.
        names: Names of the columns, for files whose first line is a record already.
        delimiter: Character between fields, ``"\t"`` for TSV.
        quote: Character around fields that hold delimiters or newlines; ``None`` where quotes are ordinary characters.
        block_bytes: Bytes in a block. Smaller blocks mix better, larger ones cost less each.
        max_record_bytes: A longer record is an error. This much is read at once.

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

    def __post_init__(self) -> None:
        _check_sizes(block_bytes=self.block_bytes, max_record_bytes=self.max_record_bytes)
        for name, character in (("delimiter", self.delimiter), ("quote", self.quote)):
            if character is not None and not (len(character) == 1 and character.isascii()):
                raise ValueError(f"{name} must be one ASCII character, got {character!r}")
        object.__setattr__(self, "paths", normalize_paths(self.paths))
        # Now, so that a missing file or column is an error where it is named.
        _ = self._schema

    @property
    def num_shards(self) -> int:
        return len(self._files)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        yield from blocks(self._tables(self._files[shard]), state, self.block_bytes)

    def fingerprint(self) -> Json:
        # Not max_record_bytes: who meets a longer record raises it and goes on from the last state.
        dialect = {"delimiter": self.delimiter, "quote": self.quote, "header": self.names is None}
        return {
            "kind": "Csv",
            "columns": _shown(self._schema),
            "block_bytes": self.block_bytes,
            **dialect,
            "files": self._digest,
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
        return find_files(normalize_paths(self.paths))

    @functools.cached_property
    def _digest(self) -> Json:
        return self._files.fingerprint()

    @functools.cached_property
    def _dialect(self) -> Dialect:
        return Dialect(self.columns, self.names, self.delimiter, self.quote, self.max_record_bytes)

    @functools.cached_property
    def _schema(self) -> pa.Schema:
        """The columns of all files, as the first one has them."""
        file = self._files[0]
        asked = _asked_types(self.types or {})
        with contextlib.closing(self._dialect.read(file, asked)) as parts:
            guessed = next(parts)
        _check_utf8(guessed, asked, file)
        if problem := missing_columns("types", list(asked), guessed.names):
            raise ValueError(f"{problem} in {file.name}")
        return plain_schema(
            pa.schema([(field.name, asked.get(field.name, _settled(field.type))) for field in guessed]), _CHOOSE
        )

    def _tables(self, file: File) -> Iterator[pa.Table]:
        types = dict(zip(self._schema.names, self._schema.types, strict=True))
        with contextlib.closing(self._dialect.read(file, types)) as parts:
            if problem := missing_columns("columns", self._schema.names, next(parts).names):
                raise ValueError(f"{problem} in {file.name}")
            for batch in parts:
                yield conform(pa.Table.from_batches([batch]), self._schema, _CHOOSE)


@dataclasses.dataclass(frozen=True)
class Parquet(Source):
    """Records of Parquet files; a row group is a shard, read in batches of about ``block_bytes``.

    Columns come in the types of the first file, with dictionaries decoded.

    Args:
        paths: A path, a glob (its files sort by name), any URL that fsspec knows, or a list of these.
        columns: Columns to read, in this order; all by default. Others are not read from disk.
        block_bytes: Bytes in a block. Smaller blocks mix better, larger ones cost less each.

    Raises:
        FileNotFoundError: A path or glob names no file.
        ValueError: A file is not Parquet, or does not have the columns.
    """

    paths: Paths
    _: dataclasses.KW_ONLY
    columns: Sequence[str] | None = None
    block_bytes: int = 262_144

    def __post_init__(self) -> None:
        _check_sizes(block_bytes=self.block_bytes)
        object.__setattr__(self, "paths", normalize_paths(self.paths))
        # Now, so that a missing file or column is an error where it is named.
        _ = self._groups

    @property
    def num_shards(self) -> int:
        return len(self._groups)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        group = self._groups[shard]
        file = self._files[group.file]
        try:
            yield from blocks(self._tables(file, group), state, self.block_bytes)
        except Exception as error:
            error.add_note(f"while reading {file.name}, row group {group.number}")
            raise

    def fingerprint(self) -> Json:
        return {"kind": "Parquet", "columns": _shown(self._schema), "block_bytes": self.block_bytes, "files": self._digest}

    def locate(self, row_id: int) -> str:
        file, row = self.place(row_id)
        return f"{file}, row {row:,}"

    def place(self, row_id: int) -> Location:
        shard, record = split_row_id(row_id)
        group = self._groups[shard]
        return Location(self._files[group.file].name, group.first_row + record)

    def approx_blocks(self) -> float | None:
        return float(sum(max(1.0, group.size / self.block_bytes) for group in self._groups))

    @functools.cached_property
    def _files(self) -> FileTable:
        return find_files(normalize_paths(self.paths))

    @functools.cached_property
    def _digest(self) -> Json:
        return self._files.fingerprint()

    @functools.cached_property
    def _schema(self) -> pa.Schema:
        with _open_parquet(self._files[0]) as parquet:
            schema = parquet.schema_arrow
        if self.columns is None:
            return plain_schema(schema, _CHOOSE)
        if problem := missing_columns("columns", self.columns, schema.names):
            raise ValueError(f"{problem} in {self._files[0].name}")
        return plain_schema(pa.schema([schema.field(name) for name in self.columns]), _CHOOSE)

    @functools.cached_property
    def _groups(self) -> list[_RowGroup]:
        groups: list[_RowGroup] = []
        for number in range(len(self._files)):
            with _open_parquet(self._files[number]) as parquet:
                if problem := missing_columns("columns", self._schema.names, parquet.schema_arrow.names):
                    raise ValueError(f"{problem} in {self._files[number].name}")
                groups += _row_groups(number, parquet.metadata, set(self._schema.names))
        return groups

    def _tables(self, file: File, group: _RowGroup) -> Iterator[pa.Table]:
        rows = max(1, min(_BATCH_ROWS, group.rows * self.block_bytes // max(group.size, 1)))
        # Without columns named, so that one that other files don't have is not lost.
        columns = None if self.columns is None else list(self.columns)
        with _open_parquet(file) as parquet:
            for batch in parquet.iter_batches(rows, row_groups=[group.number], columns=columns, use_threads=False):
                yield conform(pa.Table.from_batches([batch]), self._schema, _CHOOSE)


@dataclasses.dataclass(frozen=True, slots=True)
class _RowGroup:
    """Where a shard of Parquet is: its file, its number in it, its first row, and how many rows and bytes it has."""

    file: int
    number: int
    first_row: int
    rows: int
    size: int


def _row_groups(file: int, metadata: Any, names: set[str]) -> Iterator[_RowGroup]:
    first = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = map(group.column, range(group.num_columns))
        size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema.split(".")[0] in names)
        yield _RowGroup(file, number, first, group.num_rows, size)
        first += group.num_rows


@contextlib.contextmanager
def _open_parquet(file: File) -> Iterator[Any]:
    import pyarrow.parquet as pq

    try:
        opened = pa.OSFile(file.path) if file.system is None else file.system.open(file.path, "rb")
    except FileNotFoundError as error:
        raise vanished(file) from error
    with opened:
        if file.system is None:
            check_unchanged(file, opened.fileno())
        try:
            parquet = pq.ParquetFile(opened)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file.name} must be a Parquet file: {error}") from error
        yield parquet


def _asked_types(types: Mapping[str, str]) -> dict[str, pa.DataType]:
    asked = {}
    for name, kind in types.items():
        try:
            asked[name] = pa.type_for_alias(kind)
        except (TypeError, ValueError):
            raise ValueError(
                f"types must be names that Arrow knows, like 'string' or 'int64', got {kind!r} for '{name}'"
            ) from None
    return asked


def _check_utf8(schema: pa.Schema, asked: Mapping[str, pa.DataType], file: File) -> None:
    try:
        fields = {field.name: field.type for field in schema}
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} must be UTF-8, but its first line is not; convert the file") from error
    for name, kind in fields.items():
        # Arrow's guess for what is no text.
        if pa.types.is_binary(kind) and name not in asked:
            raise ValueError(f"{file.name} must be UTF-8, but column '{name}' is not; convert the file")


def _settled(guess: pa.DataType) -> pa.DataType:
    """Return the type of a column whose first values look like ``guess``: times and what was empty so far are text."""
    is_number = pa.types.is_integer(guess) or pa.types.is_floating(guess) or pa.types.is_boolean(guess)
    return guess if is_number else pa.string()


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _shown(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}
