"""Parquet files: a row group is a shard."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from seqstream.sources.table_files import TableFiles, open_table_file
from seqstream.sources.tables.parquet_footers import FooterCache, row_groups
from seqstream.sources.tables.table_parts import TablePart

_BATCH_ROWS = 1_024


@dataclasses.dataclass(frozen=True)
class Parquet(TableFiles):
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

    pattern: ClassVar[str] = "**/*.parquet"
    part_name: ClassVar[str] = "row group"

    @functools.cached_property
    def _footers(self) -> FooterCache:
        return FooterCache()

    def _scan(self, number: int) -> tuple[pa.Schema, list[TablePart]]:
        with self._open(number) as parquet:
            schema = parquet.schema_arrow.remove_metadata()
            return schema, [*row_groups(number, parquet.metadata, schema.names if self.columns is None else self.columns)]

    def _batches(self, part: TablePart, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        num_rows = part.rows or 0
        rows = max(1, min(_BATCH_ROWS, num_rows * self.block_bytes // max(part.size, 1)))
        with self._open(part.file) as parquet:
            present = parquet.schema_arrow.names
            # A file must be read by at least one column, else there are no rows.
            columns = [name for name in names if name in present] or present[:1]
            done = 0
            for batch in parquet.iter_batches(rows, row_groups=[part.number], columns=columns, use_threads=False):
                done += len(batch)
                yield batch
            if done != num_rows:
                raise ValueError(
                    f"row group must have {num_rows:,} rows, as the footer says, got {done:,}; write the file anew"
                )

    @contextlib.contextmanager
    def _open(self, number: int) -> Iterator[Any]:
        """Open a file; its footer is parsed only once, unless the footers of all files take too much memory.

        Raises:
            ValueError: The file is not Parquet.
        """
        import pyarrow.parquet as pq

        file = self._files[number]
        with open_table_file(file) as opened:
            try:
                parquet = pq.ParquetFile(opened, metadata=self._footers.get(number), page_checksum_verification=True)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # reading failed, the file may be good
                    error.add_note(f"while reading the footer of {file.name}")
                    raise
                raise ValueError(f"{file.name} must be a Parquet file: {error}") from error
            self._footers.put(number, parquet.metadata)
            yield parquet
