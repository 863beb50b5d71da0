"""Processes that run the stages over blocks, in order, through torch's own ``DataLoader``.

A block crosses to a worker and back as one buffer in shared memory, in the format of Arrow streams.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
import itertools
import os
import pickle
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from seqstream.ahead import SwitchedOffError
from seqstream.buffering import Entry, Guard, Process, row_ids_of, tables_of
from seqstream.buffers import from_buffer, to_buffer
from seqstream.composing import DataStage, open_stages
from seqstream.running import placed, run_stages
from seqstream.stages import Counts, OpenStage
from seqstream.unlabelled import RowLabels

START_METHODS = ("fork", "spawn", "forkserver")

_WHO_IS_FREE: dict[str, Any] = {"in_order": False} if "in_order" in inspect.signature(DataLoader).parameters else {}
"""Gives a block to the worker that is free, whose turn it may not be; torch can do so from 2.6 on."""

_AHEAD = 2 if _WHO_IS_FREE else 4
"""How many blocks each worker has, in work and waiting, while nobody asks for more."""

_IMPORT_SECONDS = 1.0
"""How long processes wait at most for threads that import modules before they are forked."""

_ITERATORS: weakref.WeakSet[Any] = weakref.WeakSet()
"""Iterators of torch that have processes, here."""


def _disown() -> None:
    """Keep a forked child from ending the processes of its parent when it collects what it has inherited."""
    for iterator in _ITERATORS:
        iterator._shutdown = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)

Task: TypeAlias = "tuple[int, dict[str, str], torch.Tensor]"
"""The number of the task, the engines, and a block."""

Answer: TypeAlias = "tuple[torch.Tensor, Counts] | bytes"
"""The block and what was counted, or a pickled error."""


class _Stages(Dataset["tuple[int, Answer]"]):
    """What a worker does with a block: ``stages[task]``. The stages are opened in the worker, once."""

    def __init__(self, stages: Sequence[DataStage], fill: int | None, labels: RowLabels | None) -> None:
        self._stages = tuple(stages)
        self._fill = fill
        self._labels = labels
        self._opened: tuple[OpenStage, ...] | None = None

    def __getitem__(self, task: Task) -> tuple[int, Answer]:
        number, engines, block = task
        return number, self._answer(engines, block)

    def _answer(self, engines: dict[str, str], block: torch.Tensor) -> Answer:
        try:
            if self._opened is None:
                self._opened = open_stages(self._stages, engines)
            read = [from_buffer(block.numpy())]
            (table,), counts = run_stages(read, self._opened, self._fill, self._labels)
            return _as_tensor(table), counts
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again where the place in the data is known
            return _pickled(error)


class _Tasks:
    """A sampler whose tasks are told anew for every epoch."""

    def __init__(self) -> None:
        self.current: Iterable[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.current)


@dataclasses.dataclass(frozen=True)
class Processes:
    """How many worker processes there are to be, and how they are started, ``None`` for the default of Python."""

    num: int = 0
    start_method: str | None = None


class Workers:
    """Long-lived worker processes, started by the first call of `start`; they serve one epoch at a time, and end with this.

    Args:
        processes: How many, and how they are started.
        stages: What they do.
        locate: Names the place of a row id in the data, for errors.
        fill: The token that a row without any gets, instead of being dropped; ``None`` drops it.
        labels: What a row must have to be kept; ``None`` keeps all.
    """

    def __init__(
        self,
        processes: Processes,
        stages: Sequence[DataStage],
        locate: Callable[[int], str],
        fill: int | None,
        labels: RowLabels | None = None,
    ) -> None:
        self._locate = locate
        self._pool = _Pool(processes, _Stages(stages, fill, labels))
        weakref.finalize(self, self._pool.stop)

    def start(self) -> None:
        """Start the processes, if they do not run; from the main thread, which is the one that may fork."""
        self._pool.start()

    def run(self, engines: Mapping[str, str]) -> Process:
        """Return the function that processes blocks."""

        def process(entries: Sequence[Entry], guard: Guard) -> None:
            failed: list[Exception] = []
            answers = self._pool.answers(_tasks(entries, engines, failed))
            for entry in entries:
                guard()
                answer = next(answers, None)
                if answer is None:
                    raise failed[0]
                if isinstance(answer, bytes):
                    with placed(row_ids_of(tables_of([entry])), self._locate):
                        raise pickle.loads(answer)
                rows, counts = answer
                entry.processed(from_buffer(rows.numpy()), counts)

        return process


def _tasks(entries: Sequence[Entry], engines: Mapping[str, str], failed: list[Exception]) -> Iterator[Task]:
    """Read blocks for the workers; an error ends the tasks, and is kept for whoever misses the answer."""
    for number, entry in enumerate(entries):
        try:
            block = _as_tensor(*tables_of([entry]))
        except Exception as error:  # noqa: BLE001 - it is raised where it is not taken for one of the processes
            failed.append(error)
            return
        yield number, dict(engines), block


class _Pool:
    """The processes themselves; nothing that they work on knows the `Workers` whose end is theirs."""

    def __init__(self, processes: Processes, stages: _Stages) -> None:
        self._tasks = _Tasks()
        self._lock = threading.Lock()  # an epoch that was left may still wait for an answer when the next one begins
        self._run_number = 0
        self._loader: DataLoader[tuple[int, Answer]] = DataLoader(
            stages,
            batch_size=None,
            sampler=self._tasks,
            num_workers=processes.num,
            collate_fn=_as_it_is,
            prefetch_factor=_AHEAD,
            persistent_workers=True,
            multiprocessing_context=processes.start_method,
            **_WHO_IS_FREE,
        )

    def start(self) -> None:
        with self._lock:
            if self._loader._iterator is None:
                _wait_for_imports()
                gc.collect()  # here: a forked child that collects a process group would join threads that it does not have
                self._tasks.current = ()
                _ITERATORS.add(iter(self._loader))

    def stop(self) -> None:
        self._run_number += 1  # without the lock: who holds it waits for an answer, and now hears of the end
        _let_go(self._loader)

    def answers(self, tasks: Iterable[Task]) -> Iterator[Answer]:
        """Yield what becomes of the tasks, in their order."""
        with self._lock:
            self._run_number += 1
            own = self._run_number
            self._tasks.current = tasks
            came = iter(self._loader)
            self._tasks.current = ()
            _ITERATORS.add(came)
        early: dict[int, Answer] = {}
        for number in itertools.count():
            while number not in early:
                answer = self._next(came, own)
                if answer is None:
                    return
                early[answer[0]] = answer[1]
            yield early.pop(number)

    def _next(self, came: Iterator[tuple[int, Answer]], run_number: int) -> tuple[int, Answer] | None:
        with self._lock:
            if self._run_number != run_number:
                raise SwitchedOffError
            try:
                return next(came, None)
            except RuntimeError as error:
                _let_go(self._loader)
                error.add_note("a worker process has died; if the system killed it for memory, set fewer workers")
                raise


def _wait_for_imports() -> None:
    """Wait until no other thread is importing a module: a child forked meanwhile would find it locked for ever."""
    until = time.monotonic() + _IMPORT_SECONDS  # this thread may be importing the module that trains
    while time.monotonic() < until:
        specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
        if not any(getattr(spec, "_initializing", False) for spec in specs):
            return
        time.sleep(0.001)


def _let_go(loader: DataLoader[tuple[int, Answer]]) -> None:
    """End the processes of a loader, which starts them again when it is iterated."""
    iterator, loader._iterator = loader._iterator, None
    if iterator is not None:
        iterator._shutdown_workers()  # type: ignore[attr-defined]  # the iterator of processes has it


def _as_tensor(table: pa.Table) -> torch.Tensor:
    """Return a table as a tensor, which crosses to another process in shared memory."""
    return torch.frombuffer(bytearray(to_buffer(table)), dtype=torch.uint8)


def _as_it_is(answer: Any) -> Any:
    return answer


def _pickled(error: Exception) -> bytes:
    """Return an error as what another process can raise: the same, or one that says the same."""
    told = "".join(traceback.format_exception(error))
    error.add_note(f"in a worker process:\n{told}")
    try:
        whole = pickle.dumps(error)
        pickle.loads(whole)
    except Exception:  # noqa: BLE001 - an error may hold anything
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}\nin a worker process:\n{told}"))
    return whole
