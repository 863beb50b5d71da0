"""Parquet files: a row group is a shard."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
from seqstream.sources.tables.parquet_footers import FooterCache, RowGroup, row_groups, unite
from seqstream.sources.tables.reblocking import blocks
from seqstream.sources.tables.schema import CHOOSE_COLUMNS, conform, missing_columns, stable_schema

_BATCH_ROWS = 1_024


@dataclasses.dataclass(frozen=True)
class Parquet(Source):
    """Records of Parquet files; a row group is a shard, read in batches of about ``block_bytes``.

    The columns are those of all files, with types that hold the values of each file, and dictionaries decoded; a file without
    a column has missing values there. Folders named ``name=value``, as Spark and ``write_to_dataset`` write them, are a column
    too: of whole numbers if all its values are such, else of strings; a column of that name in the files takes precedence.
    Checksums of pages are verified if the files have them.

    Args:
        paths: A path, a glob (its files sort by name), any URL that fsspec knows, or a list of these.
        columns: Columns to read, in this order; all by default. Other columns are not read from disk.
        block_bytes: Bytes in a block. Smaller blocks mix better, larger ones cost less each.
        storage_options: Arguments of the fsspec file system that opens URLs, such as ``{"token": ...}``. They are in no
            fingerprint, state or ``repr``.

    Raises:
        FileNotFoundError: A path or glob names no file.
        IsADirectoryError: A path is a directory.
        ValueError: A file is not Parquet, no file has one of the columns, or the types of a column cannot be unified.
    """

    paths: Paths
    _: dataclasses.KW_ONLY
    columns: Sequence[str] | None = None
    block_bytes: int = 262_144
    storage_options: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_bytes", num_bytes("block_bytes", self.block_bytes))
        object.__setattr__(self, "columns", names("columns", self.columns))
        if self.columns is not None and not self.columns:
            raise ValueError("columns must name at least one column, got none")
        object.__setattr__(self, "paths", normalize_paths(self.paths))
        _ = self._schema  # read here, so that the error for a missing file or column points at the user's line

    @property
    def num_shards(self) -> int:
        return len(self._groups)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        group = self._groups[shard]
        try:
            yield from blocks(self._tables(group), state, self.block_bytes)
        except Exception as error:
            error.add_note(f"while reading {self._files[group.file].name}, row group {group.number}")
            raise

    def fingerprint(self) -> Json:
        columns = {field.name: str(field.type) for field in self._schema}
        folders = {} if self._folders is None else self._folders.fingerprint()
        return {"kind": "Parquet", "columns": columns, "block_bytes": self.block_bytes, "files": self._digest, **folders}

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
        return find_files(normalize_paths(self.paths), "**/*.parquet", self.storage_options)

    @functools.cached_property
    def _digest(self) -> Json:
        return fingerprint_files(self._files)

    @functools.cached_property
    def _footers(self) -> FooterCache:
        return FooterCache()

    @functools.cached_property
    def _scanned(self) -> tuple[pa.Schema, list[RowGroup]]:
        """The columns of all files, those of the first file first; and the row groups."""
        schema, previous = pa.schema([]), None
        groups: list[RowGroup] = []
        for number in range(len(self._files)):
            with self._open(number) as parquet:
                found = parquet.schema_arrow.remove_metadata()
                groups += row_groups(number, parquet.metadata, found.names if self.columns is None else self.columns)
            if found != previous:  # most corpora have one schema
                previous, name = found, self._files[number].name
                own = stable_schema(self._select(found), CHOOSE_COLUMNS, name)
                schema = unite(schema, own, name, CHOOSE_COLUMNS)
        return schema, groups

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
            with self._open(0) as parquet:
                known = list(dict.fromkeys([*parquet.schema_arrow.names, *named]))
            raise ValueError(f"{missing_columns('columns', missing, known)} in {self._files[0].name}")
        return stable_schema(pa.schema([named[name] for name in self.columns]), CHOOSE_COLUMNS)

    @property
    def _groups(self) -> list[RowGroup]:
        return self._scanned[1]

    def _tables(self, group: RowGroup) -> Iterator[pa.Table]:
        rows = max(1, min(_BATCH_ROWS, group.rows * self.block_bytes // max(group.size, 1)))
        with self._open(group.file) as parquet:
            present = parquet.schema_arrow.names
            names = [name for name in self._schema.names if name in present]
            # A file must be read by at least one column, else there are no rows.
            read = parquet.iter_batches(rows, row_groups=[group.number], columns=names or present[:1], use_threads=False)
            folders = self._folders and self._folders.chosen(self._schema.names)
            done = 0
            for batch in read:
                _check_values(batch, done)
                done += len(batch)
                table = pa.Table.from_batches([batch]).select(names)
                if folders is not None:
                    table = folders.append(table, [self._files[group.file].name], [len(table)])
                yield conform(table, self._schema, CHOOSE_COLUMNS)
            if done != group.rows:
                raise ValueError(
                    f"row group must have {group.rows:,} rows, as the footer says, got {done:,}; write the file anew"
                )

    @contextlib.contextmanager
    def _open(self, number: int) -> Iterator[Any]:
        """Open a file; its footer is parsed only once, unless the footers of all files take too much memory.

        Raises:
            ValueError: The file is not Parquet.
        """
        import pyarrow.parquet as pq

        file = self._files[number]
        with _opened(file) as opened:
            try:
                parquet = pq.ParquetFile(opened, metadata=self._footers.get(number), page_checksum_verification=True)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # reading failed, the file may be good
                    error.add_note(f"while reading the footer of {file.name}")
                    raise
                raise ValueError(f"{file.name} must be a Parquet file: {error}") from error
            self._footers.put(number, parquet.metadata)
            yield parquet


def _check_values(batch: pa.RecordBatch, row: int) -> None:
    """Raise if a value is not one of its column's type, such as text that is not UTF-8; a file may have no checksums.

    Args:
        batch: Rows as they are stored.
        row: Number of the first row in its row group.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"rows {row:,} to {row + len(batch) - 1:,} of a row group must hold what their columns' types say, got: {error}; "
            f"write the file anew, or {CHOOSE_COLUMNS}"
        ) from error


@contextlib.contextmanager
def _opened(file: File) -> Iterator[Any]:
    with naming(file):
        if file.system is None:
            check_regular(file)
        opened = pa.OSFile(file.path) if file.system is None else file.system.open(file.path, "rb")
    with opened:
        if file.system is None:
            check_unchanged(file, opened.fileno())
        yield opened
