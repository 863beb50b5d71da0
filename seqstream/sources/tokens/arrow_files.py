"""One file of tokens in seqstream's own format.

It is an Arrow IPC file, which any library reads: a record batch for each block, with a checksum, and at the end a batch without
rows that carries a summary of the file. It appears under its name when it is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrays import Lengths
from seqstream.arrow import is_list, no_rows, plain, to_numpy
from seqstream.records import Counts, Json, sequence_column
from seqstream.sources.tokens.length_histogram import add_counts, count_lengths

SUFFIX = ".arrow"
UNFINISHED = ".unfinished"
"""Ending of a file that is being written, or whose writer was killed."""

_CHECKSUM = b"seqstream.crc32"
_SUMMARY = b"seqstream.summary"
_OPTIONS = pa.ipc.IpcWriteOptions(allow_64bit=True)


@dataclasses.dataclass(frozen=True)
class FileSummary:
    """What a file of tokens holds.

    Attributes:
        rows: Number of rows of each block.
        num_tokens: Number of tokens of all rows.
        lengths: How many rows there are of each length.
        checksum: CRC-32 of the checksums of the blocks.
        counts: Records by outcome, as stages have counted them.
        end: Where in the data the next file of the same range begins; ``None`` for the last.
    """

    rows: tuple[int, ...]
    num_tokens: int
    lengths: Mapping[int, int]
    checksum: int
    counts: Counts
    end: Json = None

    def to_json(self) -> str:
        """Return the summary as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> FileSummary:
        """Return the summary that `to_json` has written."""
        fields = json.loads(text)
        lengths = {int(length): count for length, count in fields.pop("lengths").items()}
        return cls(tuple(fields.pop("rows")), lengths=lengths, **fields)


class RunningSummary:
    """What a file of tokens holds so far."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._num_tokens = self._checksum = 0
        self._lengths: dict[int, int] = {}
        self._counts: Counter[str] = Counter()

    def add_counts(self, counts: Counts) -> None:
        """Add records by outcome."""
        self._counts.update(counts)

    def add_rows(self, lengths: Lengths, checksum: int = 0) -> None:
        """Add a block of rows, ``int64 (n,)`` tokens each, and its CRC-32."""
        self._rows.append(len(lengths))
        self._checksum = zlib.crc32(checksum.to_bytes(4, "little"), self._checksum)
        self._num_tokens += int(lengths.sum())
        self._lengths = add_counts(self._lengths, count_lengths(lengths))

    def end(self, end: Json = None) -> FileSummary:
        """Return the summary; ``end`` is where in the data the next file of the range begins."""
        return FileSummary(tuple(self._rows), self._num_tokens, self._lengths, self._checksum, dict(self._counts), end)


class FileWriter:
    """Writes a file of tokens, block by block.

    Args:
        path: Where the file appears once it is finished.
        schema: Columns of the blocks.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.num_bytes = 0
        self._path = path
        self._unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        self._file = pa.OSFile(str(self._unfinished), "wb")
        self._writer = pa.ipc.new_file(self._file, schema, options=_OPTIONS)
        self._summary = RunningSummary()

    def write(self, table: pa.Table, counts: Counts, metadata: Mapping[bytes, bytes] | None = None) -> None:
        """Write a block; one without rows only adds its counts.

        Args:
            table: Rows, with the schema of the file.
            counts: Records by outcome.
            metadata: What else is kept with the block.
        """
        self._summary.add_counts(counts)
        if not len(table) and metadata is None:
            return
        batch = compact(table)
        checksum = checksum_of(batch)
        self._writer.write_batch(batch, custom_metadata={_CHECKSUM: str(checksum).encode(), **(metadata or {})})
        self.num_bytes += batch.nbytes
        self._summary.add_rows(row_lengths(batch), checksum)

    def finish(self, end: Json = None, metadata: Mapping[bytes, bytes] | None = None) -> FileSummary:
        """Write the summary, and give the file its name; where another writer has finished the same file, that one stays.

        Args:
            end: Where in the data the next file of the range begins.
            metadata: What else is kept with the file.
        """
        summary = self._summary.end(end)
        empty = no_rows(self.schema)
        self._writer.write_batch(empty, custom_metadata={_SUMMARY: summary.to_json().encode(), **(metadata or {})})
        self._writer.close()
        self._file.close()
        give_name(self._unfinished, self._path)
        return summary

    def discard(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._file.close()
        self._unfinished.unlink(missing_ok=True)


def give_name(unfinished: Path, path: Path) -> None:
    """Give a file that is complete its name, at once; another writer may have finished the same, and cleared this one away."""
    try:
        os.replace(unfinished, path)
    except FileNotFoundError:
        if not path.exists():
            raise


class TokenFile:
    """A file of tokens that is open.

    Args:
        path: The file.
        mmap: Whether it is mapped into memory; otherwise each block is read when it is asked for.

    Raises:
        ValueError: The file is not complete, or is none of tokens.
    """

    def __init__(self, path: Path, *, mmap: bool = True) -> None:
        self.path = path
        self.source = pa.memory_map(str(path)) if mmap and path.stat().st_size else pa.OSFile(str(path))
        try:
            self._reader = pa.ipc.open_file(self.source)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} must be a complete Arrow file of tokens: {error}; {_REWRITE}") from error

    @property
    def schema(self) -> pa.Schema:
        """The columns of all blocks."""
        return self._reader.schema

    def read(self, block: int, *, verify: bool = True) -> pa.RecordBatch:
        """Return the rows of a block.

        Args:
            block: Number of the block in the file.
            verify: Whether to compare its checksum.

        Raises:
            ValueError: The block is damaged.
        """
        batch, metadata = self._get(block)
        if verify and (not _is_valid(batch) or metadata.get(_CHECKSUM) != str(checksum_of(batch)).encode()):
            raise ValueError(f"{self.path}, block {block} must have the checksum it was written with; {_REWRITE}")
        return batch

    def metadata(self, block: int) -> dict[bytes, bytes]:
        """Return what else is kept with a block; that of the file with the last one, number -1."""
        return self._get(block)[1]

    def summary(self) -> FileSummary:
        """Return what the file holds.

        Raises:
            ValueError: The file has no summary.
        """
        text = self._get(-1)[1].get(_SUMMARY)
        if text is None:
            raise ValueError(f"{self.path} must end with a summary of its tokens, got another Arrow file; {_REWRITE}")
        try:
            return FileSummary.from_json(text)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self.path} must end with the summary it was written with, got {error!r}; {_REWRITE}") from error

    def close(self) -> None:
        """Close the file; blocks that were read from it stay as they are."""
        self.source.close()

    def _get(self, block: int) -> tuple[pa.RecordBatch, dict[bytes, bytes]]:
        try:
            count = self._reader.num_record_batches
            got: tuple[pa.RecordBatch, Any] = self._reader.get_batch_with_custom_metadata(
                block if block >= 0 else count + block
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{self.path}, block {block} cannot be read: {error}; {_REWRITE}") from error
        return got[0], dict(got[1] or {})


_REWRITE = "remove the folder and write the tokens again"


def decoded(table: pa.Table) -> pa.Table:
    """Return a table with dictionaries decoded and extension types as they are stored."""
    if not any(pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType) for kind in table.schema.types):
        return table
    return pa.table({name: plain(table.column(name)) for name in table.column_names})


def compact(table: pa.Table) -> pa.RecordBatch:
    """Return the rows of a table without dictionaries in one batch that holds nothing else, as it lies in a file."""
    batches = table.combine_chunks().to_batches()
    batch = batches[0] if batches else no_rows(table.schema)
    return pa.ipc.read_record_batch(batch.serialize(), batch.schema)


def checksum_of(batch: pa.RecordBatch) -> int:
    """Return the CRC-32 of the columns, the number of rows and the buffers of a batch."""
    checksum = zlib.crc32(f"{len(batch)}\n{batch.schema}".encode())
    for column in batch.columns:
        for buffer in column.buffers():
            checksum = zlib.crc32(b"" if buffer is None else buffer, checksum)
    return checksum


def _is_valid(batch: pa.RecordBatch) -> bool:
    """Return whether all columns lie within their buffers, so that they can be read at all."""
    try:
        batch.validate()
    except pa.ArrowInvalid:
        return False
    return True


def row_lengths(batch: pa.RecordBatch) -> Lengths:
    """Return the number of tokens of each row, ``int64 (n,)``; several columns of ids count together."""
    names = [field.name for field in batch.schema if field.name.endswith("_ids") and is_list(field.type)]
    main = sequence_column(batch.schema)
    names = ["input_ids"] if "input_ids" in names else names or ([] if main is None else [main])
    total = np.zeros(len(batch), dtype=np.int64)
    for name in names:
        total += np.diff(to_numpy(batch.column(name).offsets)).astype(np.int64)
    return total
