"""What runs inside a worker process: it opens the stages once, runs them over blocks, and ends when its parent has died.

All processes of an executor answer through one pipe. A process that is killed while it writes a large answer there leaves half
of it, and no answer after it can be read. So a large answer is written to a file, and the pipe carries a note of that.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import secrets
import shutil
import signal
import threading
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import torch

from seqstream.arrow import from_buffer, to_buffer
from seqstream.loading.stage_lists import DataStage, engines_of, open_stages
from seqstream.records import Counts, OpenStage
from seqstream.stages.label_filter import LabelFilter
from seqstream.stages.running import run_stages

ATOMIC_BYTES = 2048
"""Answers up to this size go through the pipe: up to 4,096 bytes that are written at once arrive as a whole or not at all."""

NEEDS_STAGES = b""
"""The answer of a process that does not have the stages: the block must be sent again, with them."""

IN_FILE = None
"""The answer of a process that has written its answer to a file."""

Answer: TypeAlias = "bytes | None"
"""`NEEDS_STAGES`, `IN_FILE`, or what `unpack` takes."""

_KEPT = 8
"""A process that works for several loaders keeps the stages of this many, and has this many lists of stages open."""

_WATCH_SECONDS = 1.0
"""How long a worker outlives its parent at most, where the system does not notify it."""


@dataclasses.dataclass(frozen=True)
class LoaderStages:
    """What the processes of a loader do with a block.

    Attributes:
        stage_lists: Its lists of stages.
        empty_fill: The token that a row without tokens gets; ``None`` to drop such rows.
        labels: Which rows have no label, and are dropped; ``None`` to drop none.
        key: Identifies the loader.
    """

    stage_lists: tuple[tuple[DataStage, ...], ...]
    empty_fill: int | None = None
    labels: LabelFilter | None = None
    key: str = dataclasses.field(default_factory=functools.partial(secrets.token_hex, 8))


@dataclasses.dataclass(frozen=True)
class BlockTask:
    """A block on its way to a process.

    Attributes:
        key: Identifies the loader.
        number: Identifies the block.
        engines: The engine for each column of ids.
        block: The records, as `seqstream.arrow.to_buffer` returns them.
        folder: Where a large answer goes, if this folder is on the machine of the process.
        list_number: Number of the list of stages.
        stages: The pickled `LoaderStages`, where the process may not have them yet.
    """

    key: str
    number: int
    engines: Mapping[str, str]
    block: bytes
    folder: str
    list_number: int = 0
    stages: bytes | None = None

    @property
    def answer_file(self) -> Path:
        """Where a large answer is written."""
        return Path(self.folder, str(self.number))


_known: OrderedDict[str, LoaderStages] = OrderedDict()
_lock = threading.Lock()
_opened = threading.local()
_folders: set[str] = set()
"""Folders in which this process has written answers."""


def remember_stages(stages: LoaderStages) -> None:
    """Keep the stages of a loader in this process."""
    with _lock:
        _known[stages.key] = stages
        while len(_known) > _KEPT:
            _known.popitem(last=False)


def forget_stages(key: str) -> None:
    """Drop the stages of a loader from this process."""
    with _lock:
        _known.pop(key, None)


def process_block(task: BlockTask) -> Answer:
    """Run the stages of a loader over a block."""
    if multiprocessing.parent_process() is not None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads of Rust do not survive a fork, and each core has its process
    if task.stages is not None:
        remember_stages(pickle.loads(task.stages))
    with _lock:
        known = _known.get(task.key)
    if known is None:
        return NEEDS_STAGES
    answer = pickle.dumps(_run(known, task), protocol=5)
    if len(answer) <= ATOMIC_BYTES or not Path(task.folder).is_dir():
        return answer
    _folders.add(task.folder)
    task.answer_file.write_bytes(answer)
    return IN_FILE


def unpack(answer: bytes) -> tuple[pa.Table, Counts] | Exception:
    """Return the rows of a block with their counts, or the error that a stage raised."""
    rows, counts_or_error = pickle.loads(answer)
    return pickle.loads(counts_or_error) if rows is None else (from_buffer(rows), counts_or_error)


def start_worker(stages: LoaderStages, parent: int, is_child: bool) -> None:
    """Prepare a process that works for one loader: signals, threads, and an end with its parent.

    Args:
        stages: Its stages.
        parent: The process id of the loader.
        is_child: Whether that process has started this one, rather than a fork server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the loader's process ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process has the handlers of its parent
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(1)
    remember_stages(stages)
    threading.Thread(target=_end_with, args=(parent, is_child), name="seqstream-parent", daemon=True).start()


def _end_with(parent: int, is_child: bool) -> None:
    """End this process once its parent has ended, whatever it is doing."""
    process = multiprocessing.parent_process()
    while process is not None:
        multiprocessing.connection.wait([process.sentinel], _WATCH_SECONDS)
        # Others that the parent has forked may keep the sentinel open.
        if not process.is_alive() or (is_child and os.getppid() != parent):
            break
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _run(known: LoaderStages, task: BlockTask) -> tuple[bytes | None, Counts | bytes]:
    """Return the rows and counts of a block, or ``None`` and a pickled error."""
    try:
        opened = _open(known, task.engines, task.list_number)
        (table,), (counts,) = run_stages([from_buffer(task.block)], opened, known.empty_fill, known.labels)
        return to_buffer(table), counts
    except Exception as error:  # noqa: BLE001 - the loader raises it again, with its location in the data
        return None, _pickled(error)


def _open(known: LoaderStages, engines: Mapping[str, str], number: int) -> tuple[OpenStage, ...]:
    """Open a list of stages, once in each thread."""
    found: OrderedDict[object, tuple[OpenStage, ...]] = _opened.__dict__.setdefault("stages", OrderedDict())
    name = known.key, number, tuple(sorted(engines.items()))
    if name not in found:
        found[name] = open_stages(known.stage_lists[number], engines_of(engines, number))
        while len(found) > _KEPT:
            found.popitem(last=False)
    return found[name]


def _pickled(error: Exception) -> bytes:
    """Return an error pickled; as a ``RuntimeError`` with the same message where it cannot be pickled."""
    trace = "".join(traceback.format_exception(error))
    error.add_note(f"in a worker process:\n{trace}")
    try:
        whole = pickle.dumps(error)
        pickle.loads(whole)
    except Exception:  # noqa: BLE001 - an error may hold anything
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}\nin a worker process:\n{trace}"))
    return whole
