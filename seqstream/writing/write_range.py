"""One range of shards: its blocks through the stages into files, from where an earlier writer has stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import secrets
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from seqstream.arrow import is_list
from seqstream.loading.stage_lists import DataStage, open_stages
from seqstream.records import Counts, Json, OpenStage
from seqstream.sources.source import Source
from seqstream.sources.tokens.arrow_files import FileSummary, decoded
from seqstream.windows.block_reader import Cursor, ReadBlock
from seqstream.windows.processing import run_here
from seqstream.windows.row_ids import with_row_ids
from seqstream.writing.file_formats import FileFormat, OpenWriter

_SMALL_IDS = 1 << 16
"""Ids below this take two bytes."""


@dataclasses.dataclass(frozen=True)
class WriteJob:
    """What writes a folder of tokens; it can be sent to other processes.

    Attributes:
        source: Where records come from.
        stages: What happens to them.
        engines: Name of the engine for each column of ids.
        ids: Columns of ids, and the number of ids of each; ``None`` where that is not known.
        fill: The token that a row without tokens gets; ``None`` to drop such rows.
        folder: Where the files go.
        format: The format of the files.
        file_bytes: A file is ended at the first block past this size.
        ranges: First shard of each range, and one past the last.
        key: Identifies the job.
    """

    source: Source
    stages: tuple[DataStage, ...]
    engines: Mapping[str, str]
    ids: Mapping[str, int | None]
    fill: int | None
    folder: Path
    format: FileFormat
    file_bytes: int
    ranges: tuple[tuple[int, int], ...]
    key: str = dataclasses.field(default_factory=functools.partial(secrets.token_hex, 8))

    def path(self, number: int, part: int) -> Path:
        """Return the name of a file of a range."""
        return self.folder / f"{number:06}-{part:04}{self.format.suffix}"


@dataclasses.dataclass(frozen=True)
class RangePlace:
    """Where in a range the next file begins.

    Attributes:
        part: Number of the file.
        shard: Its first shard.
        state: The state of the reader of this shard.
        records: Number of records of the shard before it.
    """

    part: int
    shard: int
    state: Json = None
    records: int = 0


_opened = threading.local()
"""The stages of the job that this thread has worked on last."""


def written_files(job: WriteJob, number: int) -> tuple[list[tuple[str | None, int, FileSummary]], RangePlace | None]:
    """Return the files of a range that are complete, and where the next begins; ``None`` if there is none.

    Raises:
        ValueError: A file is damaged.
    """
    found: list[tuple[str | None, int, FileSummary]] = []
    place: RangePlace | None = RangePlace(0, job.ranges[number][0])
    while place is not None and (path := job.path(number, place.part)).exists():
        found.append(job.format.written(path))
        end = found[-1][2].end
        place = None if end is None else RangePlace(place.part + 1, *end)
    return found, place


def write_range(job: WriteJob, number: int) -> int:
    """Write what is missing of a range, and return the number of its rows."""
    found, place = written_files(job, number)
    num_rows = sum(sum(summary.rows) for _, _, summary in found)
    if place is None:
        return num_rows
    writer: OpenWriter | None = None
    part, counted = place.part, Counter[str]()
    try:
        for table, counts, before in _processed(job, number, place):
            if writer is not None and len(table):
                table = _conform(table, writer.schema)
                if writer.num_bytes >= job.file_bytes or table.schema != writer.schema:
                    writer.finish(before)
                    writer, part = None, part + 1
            counted.update(counts)
            if writer is None and len(table):
                writer = job.format.open(job.path(number, part), table.schema)
            if writer is not None:
                writer.write(table, counted)
                counted.clear()
                num_rows += len(table)
        writer = writer or job.format.open(job.path(number, part), pa.schema([]))
        writer.write(pa.table({}), counted)
        writer.finish()
        writer = None
    finally:
        if writer is not None:
            writer.discard()
    return num_rows


def _processed(job: WriteJob, number: int, place: RangePlace) -> Iterator[tuple[pa.Table, Counts, Json]]:
    """Yield the rows of the blocks of a range from a place on, their counts, and where each block begins."""
    befores: deque[Json] = deque()

    def blocks() -> Iterator[ReadBlock]:
        for shard in range(place.shard, job.ranges[number][1]):
            state, records = (place.state, place.records) if shard == place.shard else (None, 0)
            for table, after in job.source.read(shard, state):
                befores.append([shard, state, records])
                table, records = with_row_ids(job.source, table, shard, records)
                state = after
                yield ReadBlock(table, Cursor(), Cursor())

    process = run_here((_open(job),), job.source.locate, job.fill)
    for table, counts in process(blocks(), lambda: None):
        yield _with_small_ids(decoded(table), job.ids), counts, befores.popleft()


def _open(job: WriteJob) -> tuple[OpenStage, ...]:
    """Open the stages of a job, once in each thread."""
    if multiprocessing.parent_process() is not None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads of Rust do not survive a fork, and each core has its process
    if getattr(_opened, "key", None) != job.key:
        _opened.key, _opened.stages = job.key, open_stages(job.stages, job.engines)
    stages: tuple[OpenStage, ...] = _opened.stages
    return stages


def _with_small_ids(table: pa.Table, ids: Mapping[str, int | None]) -> pa.Table:
    """Return a table whose ids take two bytes where all of them fit, else four; labels take four."""
    for name, limit in {**ids, "labels": None}.items():
        if name not in table.column_names or not is_list(table.schema.field(name).type):
            continue
        kind = pa.uint16() if limit is not None and limit <= _SMALL_IDS else pa.int32()
        column = table.column(name)
        if pa.types.is_integer(column.type.value_type) and column.type.value_type != kind:
            with contextlib.suppress(pa.ArrowInvalid):  # a number that does not fit stays as it is
                place = table.schema.get_field_index(name)
                table = table.set_column(place, name, column.cast(pa.list_(kind)))
    return table


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the types of earlier blocks where it has no values; otherwise as it is."""
    if table.schema == schema or table.column_names != schema.names:
        return table
    with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if all(own == kind or _is_empty(own) for own, kind in zip(table.schema.types, schema.types, strict=True)):
            return table.cast(schema)
    return table


def _is_empty(kind: pa.DataType) -> bool:
    return bool(pa.types.is_null(kind) or (is_list(kind) and pa.types.is_null(kind.value_type)))
