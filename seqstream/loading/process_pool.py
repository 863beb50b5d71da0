"""Executors that process blocks: worker processes of the loader, or an executor of the user."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import gc
import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import pyarrow as pa

from seqstream.loading.arguments import WorkerOptions
from seqstream.loading.process_start import interrupts_later, set_variable, wait_for_imports
from seqstream.loading.worker_process import (
    NEEDS_STAGES,
    Answer,
    BlockTask,
    LoaderStages,
    forget_stages,
    process_block,
    remember_stages,
    start_worker,
    unpack,
)
from seqstream.records import Counts
from seqstream.windows.block_buffer import Guard

_POLL_SECONDS = 0.1
"""How often a thread that waits for a block checks whether it is still wanted."""

_POLLS_AT_WORK = 10
"""After how many polls the thread checks whether Python is about to exit."""

_END_SECONDS = 0.5
"""How long an error waits at most to learn how a process has ended."""


@dataclasses.dataclass(frozen=True)
class BlockInWork:
    """A block that was submitted to an executor.

    Attributes:
        task: The block and what to do with it.
        future: The answer of the process that has it.
    """

    task: BlockTask
    future: Future[Answer]


class ProcessPool:
    """Worker processes of a loader, run by a ``ProcessPoolExecutor``.

    It holds no reference to its `Workers`, at whose end it stops.

    Args:
        options: How many processes there are, and how they are started.
        stages: The stages that they run.
    """

    def __init__(self, options: WorkerOptions, stages: LoaderStages) -> None:
        self._options = options
        self._stages = stages
        self._numbers = itertools.count()
        self._pid = os.getpid()
        self._executor: Executor | None = None
        self._folder: str | None = None
        self._processes: list[BaseProcess] = []

    def start(self) -> None:
        """Start the processes, unless all of them run."""
        self._reset_after_fork()
        if self._executor is not None and not connection.wait([process.sentinel for process in self._processes], 0):
            return
        self.stop()
        context = self._options.context
        found = multiprocessing.get_context(context) if context is None or isinstance(context, str) else context
        own = copy.copy(found)  # whose processes are recorded
        is_child = own.get_start_method() != "forkserver"
        own.Process = functools.partial(_record_process, own.Process, self._processes)  # type: ignore[attr-defined]
        start_args = self._stages, self._pid, is_child
        self._executor = ProcessPoolExecutor(self._options.num_workers, own, start_worker, start_args)
        wait_for_imports()
        gc.collect()  # here: a forked child that collects a process group would join threads that it does not have
        with interrupts_later(), set_variable("TOKENIZERS_PARALLELISM", "false"):
            try:
                for _ in range(self._options.num_workers):
                    self._executor.submit(os.getpid)
            except Exception as error:
                self.stop()
                help_ = "a daemonic process needs num_workers=0" if multiprocessing.current_process().daemon else _HELP
                error.add_note(f"while starting {self._options.num_workers} worker processes; {help_}")
                raise

    def stop(self) -> None:
        """End the processes, whatever they are doing."""
        if os.getpid() != self._pid:
            return
        executor, self._executor = self._executor, None
        processes, self._processes = self._processes, []
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                if process.pid is not None:
                    process.kill()
            self._remove_folder()

    def send(self, engines: Mapping[str, str], block: bytes, stages: int = 0) -> BlockInWork:
        """Submit a block.

        Args:
            engines: Name of the engine for each column of ids.
            block: The records, as `seqstream.arrow.to_buffer` returns them.
            stages: Number of the list of stages that they pass through.
        """
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="seqstream-")
        return self._submit(BlockTask(self._stages.key, next(self._numbers), dict(engines), block, self._folder, stages))

    def wait(self, sent: BlockInWork, guard: Guard) -> tuple[pa.Table, Counts] | Exception:
        """Return the rows and the counts of a block, or the error that a stage raised.

        Raises:
            RuntimeError: A process has died.
        """
        answer = self._result(sent, guard)
        if answer == NEEDS_STAGES:
            sent = self._submit(dataclasses.replace(sent.task, stages=self._pickled_stages))
            answer = self._result(sent, guard)
        if answer is None:
            answer = sent.task.answer_file.read_bytes()
            sent.task.answer_file.unlink()
        return unpack(answer)

    def drop(self, sent: BlockInWork) -> None:
        """Cancel a block whose answer is not needed any more, or delete that answer when it arrives."""
        if not sent.future.cancel():
            file = sent.task.answer_file
            sent.future.add_done_callback(lambda _: file.unlink(missing_ok=True))

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _submit(self, task: BlockTask) -> BlockInWork:
        executor = self._executor
        if executor is None:
            raise RuntimeError("the worker processes were stopped by another iteration of this loader")
        with self._explaining_death():
            try:
                return BlockInWork(task, executor.submit(process_block, task))
            except BrokenExecutor:
                raise
            except RuntimeError as error:  # it was shut down, or Python exits
                self.stop()
                raise RuntimeError(f"executor must run as long as the loader does, got {executor!r}: {error}") from error

    def _result(self, sent: BlockInWork, guard: Guard) -> Answer:
        with self._explaining_death():
            for number in itertools.count(1):
                if concurrent.futures.wait([sent.future], _POLL_SECONDS).done:
                    break
                guard()
                if number % _POLLS_AT_WORK == 0:
                    self._stop_at_exit()
            return sent.future.result()

    def _stop_at_exit(self) -> None:
        """End the processes if Python exits, which shows in that nothing can be submitted: it would wait for all blocks."""
        executor = self._executor
        try:
            if executor is not None:
                executor.submit(os.getpid).cancel()
        except BrokenExecutor:
            return  # waiting for the block raises it
        except RuntimeError:
            self.stop()
            raise

    def _reset_after_fork(self) -> None:
        """Start again without an executor in a forked process: the inherited one has no threads, and is not to be ended."""
        if os.getpid() != self._pid:
            _INHERITED.append(self._executor)
            self._pid, self._executor, self._processes, self._folder = os.getpid(), None, [], None

    @functools.cached_property
    def _pickled_stages(self) -> bytes:
        try:
            return pickle.dumps(self._stages)
        except Exception as error:
            error.add_note(f"while sending the stages to the processes of an executor; {_HELP}")
            raise

    @contextlib.contextmanager
    def _explaining_death(self) -> Iterator[None]:
        """Replace the error of an executor whose process has died by one that says how it died and what to do."""
        try:
            yield
        except BrokenExecutor as error:
            description = self._describe_death()
            self.stop()
            raise RuntimeError(f"{description}; {self._advice()}") from error

    def _describe_death(self) -> str:
        """Return which process has died, and how; not one that the executor has ended for it, with SIGTERM."""
        until, ends, dead = time.monotonic() + _END_SECONDS, dict[int | None, int](), dict[int | None, int]()
        while self._processes and not dead and time.monotonic() < until:
            time.sleep(0.001)
            ends = {process.pid: process.exitcode for process in self._processes if process.exitcode}
            dead = {pid: code for pid, code in ends.items() if code != -signal.SIGTERM}
        for pid, code in (dead or ends).items():
            how = f"was killed by {_signal_name(-code)}" if code and code < 0 else f"ended with exit code {code}"
            return f"worker process {pid} {how}"
        return "a worker process has died"

    def _advice(self) -> str:
        return (
            "iterate again to start new ones; where the system killed it for memory, use a smaller num_workers or smaller "
            "blocks (block_bytes); where processes are spawned, the script that starts them needs "
            'if __name__ == "__main__":'
        )


class UserExecutor(ProcessPool):
    """An executor of the user: its processes get the stages with the first blocks, and are not ended here."""

    def _stop_at_exit(self) -> None:
        """Leave the executor as it is: the user shuts it down."""

    def start(self) -> None:
        """Begin to use the executor."""
        self._reset_after_fork()
        if self._executor is None:
            self._executor = self._options.executor
            remember_stages(self._stages)  # for threads, and processes that are forked from now on

    def stop(self) -> None:
        """Leave the executor as it is."""
        if os.getpid() == self._pid and self._executor is not None:
            self._executor = None
            forget_stages(self._stages.key)
            self._remove_folder()

    def _advice(self) -> str:
        return "this executor cannot go on, so give the loader a new one"


_INHERITED: list[Executor | None] = []
"""Executors of the process that this one was forked from: kept, as their end would act on what both share."""

_HELP = "functions must be defined in a module, not inside of another or as a lambda, unless processes are forked"


def _record_process(make: Callable[..., BaseProcess], processes: list[BaseProcess], *args: Any, **options: Any) -> BaseProcess:
    """Return a new process of an executor, and append it to a list."""
    process = make(*args, **options)
    processes.append(process)
    return process


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
