"""Blocks through an executor: sent, and sent again with what the worker lacks, until their rows or their error arrive."""

from __future__ import annotations

import abc
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import pickle
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

import pyarrow as pa

from seqstream.arrow import from_buffer, to_buffer
from seqstream.loading.remote_blocks import (
    Answer,
    BlockProgram,
    BlockTask,
    NeedsObjects,
    NeedsRecords,
    ShardTask,
    StageFailure,
    process_block,
)
from seqstream.loading.worker_process import answer_by_file, receive_answer
from seqstream.records import Counts
from seqstream.windows.block_buffer import Guard
from seqstream.windows.block_reader import ReadBlock, UnreadShard

_POLL_SECONDS = 0.1
"""How often a thread that waits for a block checks whether it is still wanted."""

_POLLS_AT_WORK = 10
"""After how many polls the thread checks whether Python is about to exit."""


@dataclasses.dataclass
class SentBlock:
    """A block that was sent to a worker.

    Attributes:
        block: The block.
        task: The block and what to do with it, as it was last sent.
        file: Where a large answer is written; ``None`` if the future has every answer.
        future: The answer.
    """

    block: ReadBlock
    task: BlockTask
    file: Path | None
    future: Future[Any]


class BlockExecutor(abc.ABC):
    """Processes blocks in an executor.

    It holds no reference to its `Workers`, at whose end it stops.

    Args:
        program: What to do with blocks.
    """

    def __init__(self, program: BlockProgram) -> None:
        self._program = program
        self._pid = os.getpid()
        self._executor: Executor | None = None
        self._folder: Path | None = None
        self._names = (f"{secrets.token_hex(8)}-{number}" for number in itertools.count())
        self._sources = {id(source): number for number, source in enumerate(program.sources)}

    @property
    @abc.abstractmethod
    def num_workers(self) -> int:
        """How many blocks are processed at the same time."""

    @abc.abstractmethod
    def start(self) -> None:
        """Begin to use the executor, if it is not in use."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End the use of the executor, whatever it is doing."""

    def send(self, engines: Mapping[str, str], block: ReadBlock) -> SentBlock:
        """Send a block to a worker: where to read its records, if it can and they are not here, or else the records.

        Args:
            engines: Name of the engine for each column of ids.
            block: The block.
        """
        content = block.content
        number = self._sources.get(id(content.source)) if isinstance(content, UnreadShard) else None
        if isinstance(content, UnreadShard) and number is not None and not block.was_read:
            records: bytes | ShardTask = ShardTask(self._keys[1], number, content.shard, content.first_shard)
        else:
            records = to_buffer(block.table)
        task = self._task(records, block.stages, engines)
        if self._uses_files and self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="seqstream-"))
        file = None if self._folder is None else self._folder / task.name
        return SentBlock(block, task, file, self._submit(task, file))

    def wait(self, sent: SentBlock, guard: Guard) -> tuple[pa.Table, Counts] | Exception:
        """Return the rows and the counts of a block, or the error that a stage raised.

        Raises:
            Exception: The executor has failed, or the records cannot be read.
        """
        while True:
            answer = self._answer(sent, guard)
            if isinstance(answer, NeedsObjects):
                self._send_again(sent, packed=self._packed)
            elif isinstance(answer, NeedsRecords):
                self._send_again(sent, records=to_buffer(sent.block.table))  # raises what it raises without workers
                self._stop_remote_reading(sent.block.content, answer.reason)
            elif isinstance(answer, StageFailure):
                error: Exception = pickle.loads(answer.error)
                return error
            else:
                return from_buffer(answer.rows), answer.counts

    def drop(self, sent: SentBlock) -> None:
        """Cancel a block whose answer is not needed any more, or delete that answer when it arrives."""
        file = sent.file
        if not sent.future.cancel() and file is not None:
            sent.future.add_done_callback(lambda _: file.unlink(missing_ok=True))

    @functools.cached_property
    def _keys(self) -> tuple[str, str]:
        """What identifies the lists of stages, and the sources."""
        return secrets.token_hex(8), secrets.token_hex(8)

    @property
    def _objects(self) -> dict[str, Any]:
        """The lists of stages and the sources, by what identifies them."""
        return dict(zip(self._keys, (self._program.stage_lists, self._program.sources), strict=True))

    @property
    @abc.abstractmethod
    def _packed(self) -> Mapping[str, bytes]:
        """The same for workers that do not have them."""

    @property
    def _pickler(self) -> str:
        """Module that pickles what is sent to workers."""
        return "pickle"

    @property
    def _uses_files(self) -> bool:
        """Whether workers are processes of this machine, which write large answers to files."""
        return True

    @abc.abstractmethod
    def _explain_failure(self) -> contextlib.AbstractContextManager[None]:
        """Replace an error of the executor by one that describes what has happened and what to do."""

    @abc.abstractmethod
    def _stop_at_exit(self) -> None:
        """End what would keep Python from exiting."""

    def _task(self, records: bytes | ShardTask, list_number: int, engines: Mapping[str, str]) -> BlockTask:
        fill, labels = self._program.empty_fill, self._program.labels
        return BlockTask(next(self._names), records, self._keys[0], list_number, dict(engines), fill, labels, self._pickler)

    def _send_again(self, sent: SentBlock, **changes: Any) -> None:
        sent.task = dataclasses.replace(sent.task, name=next(self._names), **changes)
        sent.future = self._submit(sent.task, sent.file)

    def _submit(self, task: BlockTask, file: Path | None) -> Future[Any]:
        executor = self._executor
        if executor is None:
            raise RuntimeError("the worker processes were stopped by another iteration of this loader")
        run = functools.partial(process_block, task) if file is None else functools.partial(answer_by_file, task, file)
        with self._explain_failure():
            try:
                return executor.submit(run)
            except BrokenExecutor:
                raise
            except RuntimeError as error:  # it was shut down, or Python exits
                self.stop()
                raise RuntimeError(f"executor must run as long as the loader does, got {executor!r}: {error}") from error

    def _answer(self, sent: SentBlock, guard: Guard) -> Answer:
        with self._explain_failure():
            for number in itertools.count(1):
                if concurrent.futures.wait([sent.future], _POLL_SECONDS).done:
                    break
                guard()
                if number % _POLLS_AT_WORK == 0:
                    self._stop_at_exit()
            result = sent.future.result()
        answer: Answer = result if sent.file is None else receive_answer(result, sent.file)
        return answer

    def _stop_remote_reading(self, content: object, reason: str) -> None:
        """Send the records of a source from now on, with one warning."""
        if isinstance(content, UnreadShard) and self._sources.pop(id(content.source), None) is not None:
            warnings.warn(
                f"workers cannot read {content.source!r:.200} ({reason}), so the loader reads it and sends them the records; "
                "files must have the same paths and times on all machines",
                stacklevel=2,
            )

    def _reset_after_fork(self) -> None:
        """Begin again without an executor in a forked process: the inherited one has no threads, and is not to be ended."""
        if os.getpid() != self._pid:
            _INHERITED.append(self._executor)
            self._pid, self._executor, self._folder = os.getpid(), None, None

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


_INHERITED: list[Executor | None] = []
"""Executors of the process that this one was forked from: kept, as their end would act on what both share."""
