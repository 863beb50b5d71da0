"""Worker processes that a loader starts and ends."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from seqstream.loading.arguments import WorkerOptions
from seqstream.loading.block_executor import BlockExecutor
from seqstream.loading.process_start import interrupts_later, set_variable, wait_for_imports
from seqstream.loading.remote_blocks import BlockProgram
from seqstream.loading.worker_process import start_worker

_END_SECONDS = 0.5
"""How long an error waits at most to learn how a process has ended."""


class ProcessPool(BlockExecutor):
    """Worker processes of a loader, run by a ``ProcessPoolExecutor``.

    Args:
        options: How many processes there are, and how they are started.
        program: What they do with blocks.
    """

    def __init__(self, options: WorkerOptions, program: BlockProgram) -> None:
        super().__init__(program)
        self._options = options
        self._processes: list[BaseProcess] = []

    @property
    def num_workers(self) -> int:
        return self._options.num_workers

    def start(self) -> None:
        """Start the processes, unless all of them run."""
        if os.getpid() != self._pid:
            self._processes = []
        self._reset_after_fork()
        if self._executor is not None and not connection.wait([process.sentinel for process in self._processes], 0):
            return
        self.stop()
        context = self._options.context
        found = multiprocessing.get_context(context) if context is None or isinstance(context, str) else context
        own = copy.copy(found)  # whose processes are recorded
        is_child = own.get_start_method() != "forkserver"
        own.Process = functools.partial(_record_process, own.Process, self._processes)  # type: ignore[attr-defined]
        start_args = self._objects, self._pid, is_child
        self._executor = ProcessPoolExecutor(self._options.num_workers, own, start_worker, start_args)
        wait_for_imports()
        gc.collect()  # here: a forked child that collects a process group would join threads that it does not have
        with interrupts_later(), set_variable("TOKENIZERS_PARALLELISM", "false"):
            try:
                for _ in range(self._options.num_workers):
                    self._executor.submit(os.getpid)
            except Exception as error:
                self.stop()
                help_ = "a daemonic process needs num_workers=0" if multiprocessing.current_process().daemon else HELP
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

    @property
    def _packed(self) -> Mapping[str, bytes]:
        raise AssertionError("processes get the stages and the sources when they start")

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

    @contextlib.contextmanager
    def _explain_failure(self) -> Iterator[None]:
        try:
            yield
        except BrokenExecutor as error:
            description = self._describe_death()
            self.stop()
            raise RuntimeError(
                f"{description}; iterate again to start new ones; where the system killed it for memory, use a smaller "
                "num_workers or smaller blocks (block_bytes); where processes are spawned, the script that starts them needs "
                'if __name__ == "__main__":'
            ) from error

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


HELP = "functions must be defined in a module, not inside of another or as a lambda, unless processes are forked"
"""What to do if stages cannot be pickled."""


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
