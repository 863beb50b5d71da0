"""The members that sources of files of columns share: the columns of all files, and shards that are parts of files."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from seqstream.options import names, num_bytes
from seqstream.records import Json, split_row_id
from seqstream.sources.blocks import Block
from seqstream.sources.files.fingerprints import fingerprint_files
from seqstream.sources.files.folder_columns import FolderColumns, find_folder_columns
from seqstream.sources.files.listing import File, FileTable, Paths, find_files, normalize_paths
from seqstream.sources.files.reading import check_regular, check_unchanged, naming
from seqstream.sources.locations import Location
from seqstream.sources.source import Source
from seqstream.sources.tables.reblocking import blocks
from seqstream.sources.tables.schema import CHOOSE_COLUMNS, conform, missing_columns, stable_schema
from seqstream.sources.tables.table_parts import TablePart, unite


@dataclasses.dataclass(frozen=True)
class TableFiles(Source):
    """A source of files whose records are stored as columns; subclasses read one format each."""

    paths: Paths
    _: dataclasses.KW_ONLY
    columns: Sequence[str] | None = None
    block_bytes: int = 262_144
    storage_options: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    pattern: ClassVar[str]
    """The glob that the error for a folder recommends."""
    part_name: ClassVar[str]
    """What a part of a file is called, for messages."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_bytes", num_bytes("block_bytes", self.block_bytes))
        object.__setattr__(self, "columns", names("columns", self.columns))
        if self.columns is not None and not self.columns:
            raise ValueError("columns must name at least one column, got none")
        object.__setattr__(self, "paths", normalize_paths(self.paths))
        _ = self._schema  # read here, so that the error for a missing file or column points at the user's line

    @property
    def num_shards(self) -> int:
        return len(self._parts)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        part = self._parts[shard]
        try:
            yield from blocks(self._tables(part), state, self.block_bytes)
        except Exception as error:
            error.add_note(f"while reading {self._files[part.file].name}, {self.part_name} {part.number}")
            raise

    def fingerprint(self) -> Json:
        columns = {field.name: str(field.type) for field in self._schema}
        folders = {} if self._folders is None else self._folders.fingerprint()
        return {
            "kind": type(self).__name__,
            "columns": columns,
            "block_bytes": self.block_bytes,
            "files": self._digest,
            **folders,
        }

    def locate(self, row_id: int) -> str:
        file, row = self.place(row_id)
        return f"{file}, row {row:,}"

    def place(self, row_id: int) -> Location:
        shard, record = split_row_id(row_id)
        part = self._parts[shard]
        return Location(self._files[part.file].name, self._first_row(part) + record)

    def approx_blocks(self) -> float | None:
        return float(sum(max(1.0, part.size / self.block_bytes) for part in self._parts))

    @functools.cached_property
    def _files(self) -> FileTable:
        return find_files(normalize_paths(self.paths), self.pattern, self.storage_options)

    @functools.cached_property
    def _digest(self) -> Json:
        return fingerprint_files(self._files)

    @functools.cached_property
    def _scanned(self) -> tuple[pa.Schema, list[TablePart]]:
        """The columns of all files, those of the first file first; and the parts."""
        schema, previous = pa.schema([]), None
        parts: list[TablePart] = []
        for number in range(len(self._files)):
            found, own_parts = self._scan(number)
            parts += own_parts
            if found != previous:  # most corpora have one schema
                previous, name = found, self._files[number].name
                own = stable_schema(self._select(found), CHOOSE_COLUMNS, name)
                schema = unite(schema, own, name, CHOOSE_COLUMNS)
        return schema, parts

    def _select(self, schema: pa.Schema) -> pa.Schema:
        """Return the fields of a file that are in ``columns``; other fields may have any name and type."""
        return schema if self.columns is None else pa.schema([field for field in schema if field.name in self.columns])

    @functools.cached_property
    def _folders(self) -> FolderColumns | None:
        """The columns in names of folders that no file has itself."""
        found = find_folder_columns(self._files.names)
        return found and found.without(self._scanned[0].names)

    @functools.cached_property
    def _schema(self) -> pa.Schema:
        fields = [*self._scanned[0], *(() if self._folders is None else self._folders.schema)]
        if self.columns is None:
            return stable_schema(pa.schema(fields), CHOOSE_COLUMNS)
        named = {field.name: field for field in fields}
        if missing := [name for name in self.columns if name not in named]:
            known = list(dict.fromkeys([*self._scan(0)[0].names, *named]))
            raise ValueError(f"{missing_columns('columns', missing, known)} in {self._files[0].name}")
        return stable_schema(pa.schema([named[name] for name in self.columns]), CHOOSE_COLUMNS)

    @property
    def _parts(self) -> list[TablePart]:
        return self._scanned[1]

    def _tables(self, part: TablePart) -> Iterator[pa.Table]:
        folders = self._folders and self._folders.chosen(self._schema.names)
        done = 0
        for batch in self._batches(part, self._schema.names):
            self._check_values(batch, done)
            done += len(batch)
            table = pa.Table.from_batches([batch])
            table = table.select([name for name in self._schema.names if name in table.column_names])
            if folders is not None:
                table = folders.append(table, [self._files[part.file].name], [len(batch)])
            yield conform(table, self._schema, CHOOSE_COLUMNS)

    def _check_values(self, batch: pa.RecordBatch, row: int) -> None:
        """Raise if a value is not one of its column's type, such as text that is not UTF-8; a file may have no checksums.

        Args:
            batch: Rows as they are stored.
            row: Number of the first row in its part.
        """
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"rows {row:,} to {row + len(batch) - 1:,} of a {self.part_name} must hold what their columns' types say, got: "
                f"{error}; write the file anew, or {CHOOSE_COLUMNS}"
            ) from error

    @abc.abstractmethod
    def _scan(self, number: int) -> tuple[pa.Schema, list[TablePart]]:
        """Return the columns of a file, all of them, and its parts."""

    @abc.abstractmethod
    def _batches(self, part: TablePart, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a part, at least one column of them.

        Args:
            part: The part.
            names: Columns that are wanted; the file may lack some.
        """

    def _first_row(self, part: TablePart) -> int:
        """Return the number of the first row of a part in its file."""
        return part.first_row or 0


@contextlib.contextmanager
def open_table_file(file: File) -> Iterator[Any]:
    """Open a file for Arrow; raise if it has changed since it was found."""
    with naming(file):
        if file.system is None:
            check_regular(file)
        opened = pa.OSFile(file.path) if file.system is None else file.system.open(file.path, "rb")
        if file.system is None:
            check_unchanged(file, file.path)  # after it was opened; OSFile.fileno fails in some versions of pyarrow
    with opened:
        yield opened
