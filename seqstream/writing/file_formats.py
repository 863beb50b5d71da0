"""The formats of files that `write_tokens` writes, and how an earlier writer's files are recognised."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from seqstream.records import Counts, Json
from seqstream.sources.tokens.arrow_files import SUFFIX, FileSummary, FileWriter, TokenFile
from seqstream.sources.tokens.megatron_files import SUMMARY_SUFFIX, MegatronFileWriter, prefix_of, read_summary


class OpenWriter(Protocol):
    """Writes one file.

    Attributes:
        schema: Columns of the blocks.
        num_bytes: Bytes written so far.
    """

    schema: pa.Schema
    num_bytes: int

    def write(self, table: pa.Table, counts: Counts) -> None:
        """Write a block, and add records by outcome."""

    def finish(self, end: Json = None) -> FileSummary:
        """Give the file its name; ``end`` is where in the data the next file of the range begins."""

    def discard(self) -> None:
        """Remove what was written."""


class FileFormat(Protocol):
    """A format.

    Attributes:
        suffix: Ending of the file that is there once all of a file's content is.
    """

    @property
    def suffix(self) -> str: ...

    def open(self, path: Path, schema: pa.Schema) -> OpenWriter:
        """Begin a file of rows with these columns."""

    def written(self, path: Path) -> tuple[str | None, int, FileSummary]:
        """Return the name, the bytes and the summary of a file that is complete; no name if it has no rows to read.

        Raises:
            ValueError: It is damaged.
        """


@dataclasses.dataclass(frozen=True)
class ArrowFormat:
    """Arrow IPC files."""

    suffix: str = SUFFIX

    def open(self, path: Path, schema: pa.Schema) -> FileWriter:
        return FileWriter(path, schema)

    def written(self, path: Path) -> tuple[str | None, int, FileSummary]:
        file = TokenFile(path)
        summary = file.summary()
        file.close()
        return path.name, path.stat().st_size, summary


@dataclasses.dataclass(frozen=True)
class MegatronFormat:
    """Megatron-LM's pairs of files.

    Attributes:
        dtype: Type of the ids.
    """

    dtype: str
    suffix: str = SUMMARY_SUFFIX

    def open(self, path: Path, schema: pa.Schema) -> MegatronFileWriter:
        return MegatronFileWriter(path, schema, self.dtype)

    def written(self, path: Path) -> tuple[str | None, int, FileSummary]:
        summary = read_summary(path)
        if not summary.rows:
            return None, 0, summary
        ids = prefix_of(path).with_name(f"{prefix_of(path).name}.bin")
        return ids.name, ids.stat().st_size, summary
