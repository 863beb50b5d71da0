"""Blocks through the stages in other processes, in order, by any ``concurrent.futures.Executor``."""

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
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import pyarrow as pa

from seqstream.arrow import to_buffer
from seqstream.loading.arguments import WorkerOptions
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
from seqstream.records import Counts, located
from seqstream.windows.block_buffer import BufferedBlocks, Guard
from seqstream.windows.processing import Process, row_ids_of, tables_of

_AHEAD = 4
"""How many blocks each worker has, in work and waiting: where one takes long, the others need not wait for its turn."""

_POLL_SECONDS = 0.1
"""How often whoever waits for a block looks if it is still wanted."""

_POLLS_AT_WORK = 10
"""After how many looks it is seen if Python ends meanwhile."""

_END_SECONDS = 0.5
"""How long an error waits at most to learn how a process has ended."""

_IMPORT_SECONDS = 1.0
"""How long processes wait at most for threads that import modules before they are forked."""


class Workers:
    """Processes that serve one window after the other, started by the first call of `start`; they end with this object.

    Args:
        options: Who runs the stages.
        stages: What they do.
        locate: Names the place of a row id in the data, for errors.
    """

    def __init__(self, options: WorkerOptions, stages: LoaderStages, locate: Callable[[int], str]) -> None:
        self._locate = locate
        self._num_ahead = _AHEAD * (options.num_workers or os.cpu_count() or 1)
        self._pool: _Pool = _Pool(options, stages) if options.executor is None else _Lent(options, stages)
        weakref.finalize(self, self._pool.stop)

    def start(self) -> None:
        """Start the processes, if they do not run; from the main thread, which is the one that may fork."""
        self._pool.start()

    def stop(self) -> None:
        """End the processes at once; `start` starts new ones."""
        self._pool.stop()

    def run(self, engines: Mapping[str, str]) -> Process:
        """Return the function that processes blocks."""

        def process(entries: Sequence[BufferedBlocks], guard: Guard) -> None:
            coming = iter(entries)
            under_way: deque[tuple[BufferedBlocks, _UnderWay]] = deque()
            try:
                while True:
                    for entry in itertools.islice(coming, self._num_ahead - len(under_way)):
                        guard()
                        under_way.append((entry, self._pool.send(engines, to_buffer(*tables_of([entry])))))
                    if not under_way:
                        return
                    entry, sent = under_way[0]
                    outcome = self._pool.wait(sent, guard)
                    under_way.popleft()
                    if isinstance(outcome, Exception):
                        with located(row_ids_of(tables_of([entry])), self._locate):
                            raise outcome
                    entry.processed(*outcome)
            finally:
                for _, sent in under_way:
                    self._pool.drop(sent)

        return process


@dataclasses.dataclass(frozen=True)
class _UnderWay:
    """A block that an executor has."""

    task: BlockTask
    future: Future[Answer]


class _Pool:
    """The processes themselves; nothing that they work on knows the `Workers` whose end is theirs."""

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
        self._leave_to_parent()
        if self._executor is not None and not connection.wait([process.sentinel for process in self._processes], 0):
            return
        self.stop()
        context = self._options.context
        found = copy.copy(multiprocessing.get_context(context) if context is None or isinstance(context, str) else context)
        is_child = found.get_start_method() != "forkserver"
        found.Process = functools.partial(_started, found.Process, self._processes)  # type: ignore[attr-defined]
        start = self._stages, self._pid, is_child
        self._executor = ProcessPoolExecutor(self._options.num_workers, found, start_worker, start)
        _wait_for_imports()
        gc.collect()  # here: a forked child that collects a process group would join threads that it does not have
        with _interrupts_later(), _environment("TOKENIZERS_PARALLELISM", "false"):
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

    def send(self, engines: Mapping[str, str], block: bytes) -> _UnderWay:
        """Have a block processed."""
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="seqstream-")
        return self._submit(BlockTask(self._stages.key, next(self._numbers), dict(engines), block, self._folder))

    def wait(self, sent: _UnderWay, guard: Guard) -> tuple[pa.Table, Counts] | Exception:
        """Return what became of a block: its rows and counts, or the error of a stage.

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

    def drop(self, sent: _UnderWay) -> None:
        """Forget a block that nobody waits for any more."""
        if not sent.future.cancel():
            file = sent.task.answer_file
            sent.future.add_done_callback(lambda _: file.unlink(missing_ok=True))

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _submit(self, task: BlockTask) -> _UnderWay:
        executor = self._executor
        if executor is None:
            raise RuntimeError("the worker processes were stopped by another iteration of this loader")
        with self._death_is_explained():
            try:
                return _UnderWay(task, executor.submit(process_block, task))
            except BrokenExecutor:
                raise
            except RuntimeError as error:  # it was shut down, or Python ends
                self.stop()
                raise RuntimeError(f"executor must run as long as the loader does, got {executor!r}: {error}") from error

    def _result(self, sent: _UnderWay, guard: Guard) -> Answer:
        with self._death_is_explained():
            for number in itertools.count(1):
                if concurrent.futures.wait([sent.future], _POLL_SECONDS).done:
                    break
                guard()
                if number % _POLLS_AT_WORK == 0:
                    self._end_with_python()
            return sent.future.result()

    def _end_with_python(self) -> None:
        """End the processes if Python ends, which would wait for all blocks under way: then nothing new may be submitted."""
        executor = self._executor
        try:
            if executor is not None:
                executor.submit(os.getpid).cancel()
        except BrokenExecutor:
            return  # the block that is waited for says so
        except RuntimeError:
            self.stop()
            raise

    def _leave_to_parent(self) -> None:
        """Begin anew in a forked process, which has inherited an executor without its threads and must not end it."""
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
    def _death_is_explained(self) -> Iterator[None]:
        """Say what to do where a process has died."""
        try:
            yield
        except BrokenExecutor as error:
            died = self._find_dead()
            self.stop()
            raise RuntimeError(f"{died}; {self._advice()}") from error

    def _find_dead(self) -> str:
        """Name the process that has died, and how; those that its executor ends for it have got SIGTERM."""
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


class _Lent(_Pool):
    """An executor of the user: its processes learn the stages with the first blocks, and are not ended here."""

    def _end_with_python(self) -> None:
        """Leave the executor to whoever made it."""

    def start(self) -> None:
        """Begin to use the executor."""
        self._leave_to_parent()
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
"""Executors of the process that this one was forked from."""

_HELP = "functions must be defined in a module, not inside of another or as a lambda, unless processes are forked"


def _started(make: Callable[..., BaseProcess], processes: list[BaseProcess], *args: Any, **options: Any) -> BaseProcess:
    """Make a process of an executor and keep it in a list."""
    process = make(*args, **options)
    processes.append(process)
    return process


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Keep SIGINT from processes that are started meanwhile, until they have chosen to ignore it, and from this thread."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for processes that are started meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _wait_for_imports() -> None:
    """Wait until no other thread is importing a module: a child forked meanwhile would find it locked for ever."""
    until = time.monotonic() + _IMPORT_SECONDS  # this thread may be importing the module that trains
    while time.monotonic() < until:
        specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
        if not any(getattr(spec, "_initializing", False) for spec in specs):
            return
        time.sleep(0.001)
