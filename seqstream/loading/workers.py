"""Runs the stages over blocks in the workers of an executor, in the order of the blocks."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from seqstream.loading.arguments import WorkerOptions
from seqstream.loading.block_executor import BlockExecutor, SentBlock
from seqstream.loading.process_pool import ProcessPool
from seqstream.loading.remote_blocks import BlockProgram
from seqstream.loading.user_executor import UserExecutor
from seqstream.records import ROW_ID, Counts, located
from seqstream.windows.block_buffer import Guard
from seqstream.windows.block_reader import ReadBlock
from seqstream.windows.processing import Process
from seqstream.windows.reading_ahead import reading_ahead

_BLOCKS_PER_WORKER = 4
"""How many blocks each worker has, in work and waiting: while one block takes long, the others need not wait for their turn."""


class Workers:
    """Workers that process one window after the other, started by the first call of `start`.

    Processes of the loader end with this object; an executor of the user goes on.

    Args:
        options: How many processes there are, and how they are started; or the executor to use instead.
        program: What they do with blocks.
        locate: Returns where in the data a row id is, for errors.
    """

    def __init__(self, options: WorkerOptions, program: BlockProgram, locate: Callable[[int], str]) -> None:
        self._locate = locate
        self._executor: BlockExecutor
        if options.executor is None:
            self._executor = ProcessPool(options, program)
        else:
            self._executor = UserExecutor(options.executor, program)
        weakref.finalize(self, self._executor.stop)

    def start(self) -> None:
        """Start the processes, if they do not run; call it in the main thread, the one that may fork."""
        self._executor.start()

    def stop(self) -> None:
        """End the processes at once; `start` starts new ones."""
        self._executor.stop()

    @contextlib.contextmanager
    def _dropping(self, in_work: deque[SentBlock]) -> Iterator[None]:
        """Drop the blocks that are in work at the end."""
        try:
            yield
        finally:
            for sent in in_work:
                self._executor.drop(sent)

    def run(self, engines: Mapping[str, str]) -> Process:
        """Return the function that processes blocks.

        Args:
            engines: Name of the engine for each column of ids.
        """
        num_ahead = _BLOCKS_PER_WORKER * self._executor.num_workers

        def process(blocks: Iterator[ReadBlock], guard: Guard) -> Iterator[tuple[pa.Table, Counts]]:
            in_work: deque[SentBlock] = deque()
            with reading_ahead(blocks) as ahead, self._dropping(in_work):
                while True:
                    for block in itertools.islice(ahead, num_ahead - len(in_work)):
                        guard()
                        in_work.append(self._executor.send(engines, block))
                    if not in_work:
                        return
                    outcome = self._executor.wait(in_work[0], guard)
                    block = in_work.popleft().block
                    if isinstance(outcome, Exception):
                        with located(block.table.column(ROW_ID), self._locate):
                            raise outcome
                    yield outcome

        return process
