"""What a worker does with a block, in any process and on any machine: it opens the stages once, and runs them over the block.

It knows no loader: a worker gets stages and sources once, and keeps them for all loaders that have the same.
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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from seqstream.arrow import from_buffer, to_buffer
from seqstream.loading.stage_lists import DataStage, engines_of, open_stages
from seqstream.records import Counts, OpenStage
from seqstream.sources.source import Source
from seqstream.stages.label_filter import LabelFilter
from seqstream.stages.running import run_stages
from seqstream.windows.block_reader import UnreadShard

_KEPT = 16
"""A worker of several loaders keeps this many objects, and each of its threads has this many lists of stages open."""


@dataclasses.dataclass(frozen=True)
class BlockProgram:
    """What is done with blocks.

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
        sources: Identifies the sources.
        number: Number of the source among them.
        shard: Number of the shard.
        first_shard: As that of `UnreadShard`.
    """

    sources: str
    number: int
    shard: int
    first_shard: int


@dataclasses.dataclass(frozen=True)
class BlockTask:
    """A block on its way to a worker.

    Attributes:
        name: No other task has it: some executors run tasks that are equal only once.
        records: The records, as `seqstream.arrow.to_buffer` returns them, or where to read them.
        stage_lists: Identifies the lists of stages.
        list_number: Number of the list among them.
        engines: The engine for each column of ids.
        empty_fill: As that of `BlockProgram`.
        labels: As those of `BlockProgram`.
        pickler: Module whose ``dumps`` pickles errors.
        packed: The objects that the worker may not have yet, as `pack` returns them, by what identifies them.
    """

    name: str
    records: bytes | ShardTask
    stage_lists: str
    list_number: int
    engines: Mapping[str, str]
    empty_fill: int | None = None
    labels: LabelFilter | None = None
    pickler: str = "pickle"
    packed: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


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
class NeedsObjects:
    """The worker does not have the stages or the sources: the block must be sent again, with them."""


@dataclasses.dataclass(frozen=True)
class NeedsRecords:
    """The worker cannot read the shard, for some reason: the block must be sent again, with its records."""

    reason: str


Answer: TypeAlias = ProcessedRows | StageFailure | NeedsObjects | NeedsRecords
"""What a worker returns for a block."""

_objects: OrderedDict[str, Any] = OrderedDict()
"""The stages and sources that this process has, by what identifies them."""

_lock = threading.Lock()
_opened = threading.local()


def pack(objects: Sequence[Any], pickler: str) -> bytes:
    """Return stages or sources pickled and compressed.

    Args:
        objects: The objects, or sequences of them.
        pickler: Module whose ``dumps`` pickles them.

    Raises:
        Exception: One cannot be pickled; a note names it.
    """
    dumps = importlib.import_module(pickler).dumps
    try:
        packed: bytes = pa.compress(dumps(objects), codec="zstd", asbytes=True)
    except Exception:
        for each in itertools.chain(*(each if isinstance(each, tuple) else (each,) for each in objects)):
            try:
                dumps(each)
            except Exception as error:
                error.add_note(f"while pickling {each!r:.200} for the workers of an executor")
                raise
        raise
    return packed


def remember(objects: Mapping[str, Any]) -> None:
    """Keep objects in this process, by what identifies them."""
    with _lock:
        for key, value in objects.items():
            _objects[key] = value
            _objects.move_to_end(key)
        while len(_objects) > _KEPT:
            _objects.popitem(last=False)


def find(key: str, packed: Mapping[str, bytes]) -> Any:
    """Return an object that this process has, or that was sent to it; ``None`` if it has to be sent.

    Args:
        key: Identifies the object.
        packed: Objects as `pack` returns them, by what identifies them.
    """
    with _lock:
        found = _objects.get(key)
    if found is None and key in packed:
        found = pickle.loads(pa.input_stream(pa.py_buffer(packed[key]), compression="zstd").read())
        remember({key: found})
    return found


def forget(keys: Iterable[str]) -> None:
    """Drop objects from this process."""
    with _lock:
        for key in keys:
            _objects.pop(key, None)


def process_block(task: BlockTask) -> Answer:
    """Read a block, if its records were not sent, and run stages over it, in a worker."""
    if multiprocessing.parent_process() is not None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads of Rust do not survive a fork, and each core has its process
    stage_lists = find(task.stage_lists, task.packed)
    sources = find(task.records.sources, task.packed) if isinstance(task.records, ShardTask) else ()
    if stage_lists is None or sources is None:
        return NeedsObjects()
    try:
        table = _read(task.records, sources)
    except Exception as error:  # noqa: BLE001 - the loader reads the shard, and raises this error if it gets it too
        return NeedsRecords(f"{type(error).__name__}: {error}")
    try:
        stages = open_once(task.stage_lists, stage_lists, task.list_number, task.engines)
        (rows,), (counts,) = run_stages([table], stages, task.empty_fill, task.labels)
        return ProcessedRows(to_buffer(rows), counts)
    except Exception as error:  # noqa: BLE001 - the loader raises it again, with its location in the data
        return StageFailure(_pickle_error(error, task.pickler))


def open_once(
    key: str, stage_lists: tuple[tuple[DataStage, ...], ...], number: int, engines: Mapping[str, str]
) -> tuple[OpenStage, ...]:
    """Return a list of stages, opened once in each thread.

    Args:
        key: Identifies the lists.
        stage_lists: The lists.
        number: Number of the list.
        engines: Name of the engine for each column of ids.
    """
    found: OrderedDict[object, tuple[OpenStage, ...]] = _opened.__dict__.setdefault("stages", OrderedDict())
    name = key, number, tuple(sorted(engines.items()))
    if name not in found:
        found[name] = open_stages(stage_lists[number], engines_of(engines, number))
        while len(found) > _KEPT:
            found.popitem(last=False)
    return found[name]


def _read(records: bytes | ShardTask, sources: Sequence[Source]) -> pa.Table:
    if isinstance(records, bytes):
        return from_buffer(records)
    return UnreadShard(sources[records.number], records.shard, records.first_shard)()


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
