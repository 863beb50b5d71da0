"""What a worker does with a block, in any process and on any machine: it opens the stages once, and runs them over the block.

It knows no loader, only a `BlockProgram`, which each worker gets once and keeps.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import multiprocessing
import os
import pickle
import threading
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeAlias

import pyarrow as pa

from seqstream.arrow import from_buffer, to_buffer
from seqstream.loading.stage_lists import DataStage, engines_of, open_stages
from seqstream.records import Counts, OpenStage
from seqstream.sources.source import Source
from seqstream.stages.label_filter import LabelFilter
from seqstream.stages.running import run_stages
from seqstream.windows.block_reader import UnreadShard

_KEPT = 8
"""A worker of several loaders keeps this many programs, and each of its threads has this many lists of stages open."""


@dataclasses.dataclass(frozen=True)
class BlockProgram:
    """What workers do with blocks.

    Attributes:
        stage_lists: Lists of stages; a block passes through one of them.
        empty_fill: The token that a row without tokens gets; ``None`` to drop such rows.
        labels: Which rows have no label, and are dropped; ``None`` to drop none.
        sources: Sources of which workers read shards.
    """

    stage_lists: tuple[tuple[DataStage, ...], ...]
    empty_fill: int | None = None
    labels: LabelFilter | None = None
    sources: tuple[Source, ...] = ()


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """A shard of one block that the worker is to read.

    Attributes:
        source: Number of the source in the program.
        shard: Number of the shard.
        first_shard: As that of `UnreadShard`.
    """

    source: int
    shard: int
    first_shard: int


@dataclasses.dataclass(frozen=True)
class BlockTask:
    """A block on its way to a worker.

    Attributes:
        name: No other task has it: some executors run tasks that are equal only once.
        key: Identifies the program.
        engines: The engine for each column of ids.
        list_number: Number of the list of stages.
        records: The records, as `seqstream.arrow.to_buffer` returns them, or where to read them.
        program: The program as `pack_program` returns it, if the worker may not have it yet.
        pickler: Module whose ``dumps`` pickles errors.
    """

    name: str
    key: str
    engines: Mapping[str, str]
    list_number: int
    records: bytes | ShardTask
    program: bytes | None = None
    pickler: str = "pickle"


@dataclasses.dataclass(frozen=True)
class ProcessedRows:
    """The rows of a block, as `seqstream.arrow.to_buffer` returns them, and what was counted."""

    rows: bytes
    counts: Counts


@dataclasses.dataclass(frozen=True)
class StageFailure:
    """The error that a stage raised, pickled."""

    error: bytes


@dataclasses.dataclass(frozen=True)
class NeedsProgram:
    """The worker does not have the program: the block must be sent again, with it."""


@dataclasses.dataclass(frozen=True)
class NeedsRecords:
    """The worker cannot read the shard, for some reason: the block must be sent again, with its records."""

    reason: str


Answer: TypeAlias = ProcessedRows | StageFailure | NeedsProgram | NeedsRecords
"""What a worker returns for a block."""

_programs: OrderedDict[str, BlockProgram] = OrderedDict()
_lock = threading.Lock()
_opened = threading.local()


def pack_program(program: BlockProgram, pickler: str) -> bytes:
    """Return a program pickled and compressed.

    Args:
        program: The program.
        pickler: Module whose ``dumps`` pickles it.

    Raises:
        Exception: A stage or a source cannot be pickled; a note names it.
    """
    dumps = importlib.import_module(pickler).dumps
    try:
        packed: bytes = pa.compress(dumps(program), codec="zstd", asbytes=True)
    except Exception:
        for part in (*program.sources, *itertools.chain(*program.stage_lists)):
            try:
                dumps(part)
            except Exception as error:
                error.add_note(f"while pickling {part!r:.200} for the workers of an executor")
                raise
        raise
    return packed


def remember_program(key: str, program: BlockProgram) -> None:
    """Keep a program in this process."""
    with _lock:
        _programs[key] = program
        _programs.move_to_end(key)
        while len(_programs) > _KEPT:
            _programs.popitem(last=False)


def forget_program(key: str) -> None:
    """Drop a program from this process."""
    with _lock:
        _programs.pop(key, None)


def process_block(task: BlockTask) -> Answer:
    """Run the stages of a program over a block, in a worker."""
    if multiprocessing.parent_process() is not None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads of Rust do not survive a fork, and each core has its process
    program = _find_program(task)
    if program is None:
        return NeedsProgram()
    try:
        table = _records(program, task.records)
    except Exception as error:  # noqa: BLE001 - the loader reads the shard, and raises this error if it gets it too
        return NeedsRecords(f"{type(error).__name__}: {error}")
    try:
        opened = open_program(task.key, program, task.engines, task.list_number)
        (rows,), counts = run_stages([table], opened, program.empty_fill, program.labels)
        return ProcessedRows(to_buffer(rows), counts)
    except Exception as error:  # noqa: BLE001 - the loader raises it again, with its location in the data
        return StageFailure(_pickle_error(error, task.pickler))


def open_program(key: str, program: BlockProgram, engines: Mapping[str, str], list_number: int) -> tuple[OpenStage, ...]:
    """Return a list of stages of a program, opened once in each thread.

    Args:
        key: Identifies the program.
        program: The program.
        engines: Name of the engine for each column of ids.
        list_number: Number of the list of stages.
    """
    found: OrderedDict[object, tuple[OpenStage, ...]] = _opened.__dict__.setdefault("stages", OrderedDict())
    name = key, list_number, tuple(sorted(engines.items()))
    if name not in found:
        found[name] = open_stages(program.stage_lists[list_number], engines_of(engines, list_number))
        while len(found) > _KEPT:
            found.popitem(last=False)
    return found[name]


def _find_program(task: BlockTask) -> BlockProgram | None:
    with _lock:
        program = _programs.get(task.key)
    if program is None and task.program is not None:
        program = pickle.loads(pa.input_stream(pa.py_buffer(task.program), compression="zstd").read())
        remember_program(task.key, program)
    return program


def _records(program: BlockProgram, records: bytes | ShardTask) -> pa.Table:
    if isinstance(records, bytes):
        return from_buffer(records)
    return UnreadShard(program.sources[records.source], records.shard, records.first_shard)()


def _pickle_error(error: Exception, pickler: str) -> bytes:
    """Return an error pickled; as a ``RuntimeError`` with the same message where it cannot be pickled."""
    trace = "".join(traceback.format_exception(error))
    error.add_note(f"in a worker process:\n{trace}")
    try:
        whole: bytes = importlib.import_module(pickler).dumps(error)
        pickle.loads(whole)
    except Exception:  # noqa: BLE001 - an error may hold anything
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}\nin a worker process:\n{trace}"))
    return whole
