"""Ranks as processes over gloo: a pool that runs one job after the other, with any number of ranks.

A job is a function that can be imported, and its arguments; both are sent through a pipe. Every job has its own process group
of the first processes, as a loader uses the default one.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

SECONDS = 60.0
"""Timeout of a process group, and of a caller that waits for a job."""

_ATTEMPTS = 4
_NOT_CONNECTED = "connectFullMesh failed"


class LostError(Exception):
    """A process ended, or did not answer in time."""


class Pool:
    """Processes that wait for jobs."""

    def __init__(self, size: int = 4) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._folder = tempfile.TemporaryDirectory()
        self._numbers = itertools.count()
        self._members: list[tuple[Any, Connection]] = [self._start() for _ in range(size)]

    def _start(self) -> tuple[Any, Connection]:
        own, others = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(others,), daemon=False)
        process.start()
        others.close()
        return process, own

    def run(self, world_size: int, job: Callable[..., Any], *args: Any, seconds: float = SECONDS) -> list[Any]:
        """Run a job on some ranks and return the result of each; raise the first error, with the rank as a note."""
        outcomes = self.attempt(world_size, job, *args, seconds=seconds)
        for rank, outcome in enumerate(outcomes):
            if isinstance(outcome, BaseException):
                outcome.add_note(f"on rank {rank} of {world_size}")
                raise outcome
        return outcomes

    def attempt(
        self, world_size: int, job: Callable[..., Any], *args: Any, seconds: float = SECONDS, stays: float = SECONDS
    ) -> list[Any]:
        """Run a job on some ranks and return the result or the error of each.

        If gloo cannot connect the processes in time, as on a busy machine, the job runs again.

        Args:
            world_size: Number of ranks.
            job: The function that each rank runs.
            args: Its arguments.
            seconds: Timeout of the process group.
            stays: Timeout of an answer; a process that gives none is ended, and its result is a `LostError`.
        """
        outcomes: list[Any] = []
        for _ in range(_ATTEMPTS):
            outcomes = self._attempt(world_size, job, args, seconds, stays)
            if not any(_NOT_CONNECTED in str(outcome) for outcome in outcomes if isinstance(outcome, BaseException)):
                break
        return outcomes

    def _attempt(
        self, world_size: int, job: Callable[..., Any], args: tuple[Any, ...], seconds: float, stays: float
    ) -> list[Any]:
        self._heal()
        store = str(Path(self._folder.name) / f"store{next(self._numbers)}")
        members = self._members[:world_size]
        for rank, (_, pipe) in enumerate(members):
            pipe.send_bytes(pickle.dumps((rank, world_size, store, seconds, job, args)))
        deadline = time.monotonic() + stays
        return [self._answer(process, pipe, deadline) for process, pipe in members]

    def _answer(self, process: Any, pipe: Connection, deadline: float) -> Any:
        ready = wait([pipe, process.sentinel], max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(EOFError, ConnectionResetError):
            if pipe in ready or pipe.poll():
                return pickle.loads(pipe.recv_bytes())
        process.kill()
        process.join()
        return LostError(f"no answer, exit code {process.exitcode}")

    def _heal(self) -> None:
        """Restart processes that have ended."""
        for number, (process, pipe) in enumerate(self._members):
            if not process.is_alive():
                process.join()
                pipe.close()
                self._members[number] = self._start()

    @property
    def pids(self) -> list[int]:
        """Ids of the processes, by rank."""
        return [process.pid for process, _ in self._members]

    def close(self) -> None:
        """End all processes."""
        for _, pipe in self._members:
            with contextlib.suppress(OSError):
                pipe.send_bytes(pickle.dumps(None))
        for process, pipe in self._members:
            process.join(5)
            process.kill()
            process.join()
            pipe.close()
        self._folder.cleanup()


@contextlib.contextmanager
def _group(rank: int, world_size: int, store: str, seconds: float) -> Iterator[None]:
    import torch.distributed as dist

    timeout = datetime.timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _serve(pipe: Connection) -> None:
    """Run jobs until the pool closes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch

    torch.set_num_threads(1)
    while (given := pickle.loads(pipe.recv_bytes())) is not None:
        *where, job, args = given
        try:
            with _group(*where):
                answer = job(*args)
        except BaseException as error:  # noqa: BLE001 - it is returned
            answer = _sendable(error)
        pipe.send_bytes(pickle.dumps(answer))


def _sendable(error: BaseException) -> BaseException:
    """Return an error that can be pickled, with its traceback as a note and without its cause."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]
    except Exception:  # noqa: BLE001 - an error may hold anything
        return RuntimeError(f"{type(error).__name__}: {error}", *error.__notes__)


def rank_and_size(_: Sequence[Any] = ()) -> tuple[int, int]:
    """Return the rank of this process and the number of ranks."""
    import torch.distributed as dist

    return dist.get_rank(), dist.get_world_size()
