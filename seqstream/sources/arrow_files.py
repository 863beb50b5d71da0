"""Arrow IPC files, which are Feather files as well: a record batch is a shard."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from seqstream.sources.table_files import TableFiles, open_table_file
from seqstream.sources.tables.table_parts import TablePart

_MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"


@dataclasses.dataclass(frozen=True)
class ArrowFiles(TableFiles):
    """Records of Arrow IPC files, ``.arrow`` and ``.feather``: those of ``pyarrow.ipc``, pandas, polars and ``datasets``.

    Of a file with random access a record batch is a shard; a stream, as ``datasets`` writes it, is one shard and is read from
    its beginning. Columns, their types and those of folders are as in `Parquet`.

    Args:
        paths: A path, a glob (its files sort by name), any URL that fsspec knows, or a list of these.
        columns: Columns to read, in this order; all by default. Other columns are not read from disk.
        block_bytes: Bytes in a block. Smaller blocks mix better, larger ones cost less each.
        storage_options: Arguments of the fsspec file system that opens URLs, such as ``{"token": ...}``. They are in no
            fingerprint, state or ``repr``.

    Raises:
        FileNotFoundError: A path or glob names no file.
        IsADirectoryError: A path is a directory.
        ValueError: A file is not Arrow IPC, no file has one of the columns, or the types of a column cannot be unified.
    """

    pattern: ClassVar[str] = "**/*.arrow"
    part_name: ClassVar[str] = "record batch"

    def _scan(self, number: int) -> tuple[pa.Schema, list[TablePart]]:
        size = int(self._files.sizes[number].clip(min=0))
        with self._open(number) as reader:
            count = 1 if _is_stream(reader) else reader.num_record_batches
            return reader.schema.remove_metadata(), [TablePart(number, at, size // count) for at in range(count)]

    def _batches(self, part: TablePart, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self._open(part.file, names) as reader:
            yield from reader if _is_stream(reader) else [reader.get_batch(part.number)]

    def _first_row(self, part: TablePart) -> int:
        with self._open(part.file, ()) as reader:
            return sum(reader.get_batch(number).num_rows for number in range(part.number))

    @contextlib.contextmanager
    def _open(self, number: int, names: Sequence[str] | None = None) -> Iterator[Any]:
        """Open a file to read some columns, or the first one if it has none of them; all columns if ``names`` is ``None``.

        Raises:
            ValueError: The file is not Arrow IPC.
        """
        with open_table_file(self._files[number]) as opened, self._explained(number):
            present = _reader(opened, None).schema.names
            fields = [at for at, name in enumerate(present) if names is None or name in names] or [0]
            opened.seek(0)
            yield _reader(opened, fields)

    @contextlib.contextmanager
    def _explained(self, number: int) -> Iterator[None]:
        """Raise an error that names the file where Arrow cannot read it."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # reading failed, the file may be good
                raise
            raise ValueError(f"{self._files[number].name} must be an Arrow IPC file: {error}; write it anew") from error


def _is_stream(reader: Any) -> bool:
    return isinstance(reader, pa.ipc.RecordBatchStreamReader)


def _reader(opened: Any, fields: list[int] | None) -> Any:
    """Return a reader of an open file for some fields, by their numbers, or for all."""
    first = opened.read(len(_MAGIC))
    opened.seek(0)
    if first.startswith(_FEATHER_1):
        raise pa.ArrowInvalid("it is Feather version 1; write it anew with pyarrow.feather.write_feather(table, path)")
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=fields)
    opener = pa.ipc.open_file if first == _MAGIC else pa.ipc.open_stream
    return opener(opened, options=options)
