"""Runs the stages over blocks in other processes, in the order of the blocks."""

from __future__ import annotations

import contextlib
import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from seqstream.arrow import to_buffer
from seqstream.loading.arguments import WorkerOptions
from seqstream.loading.process_pool import BlockInWork, ProcessPool, UserExecutor
from seqstream.loading.worker_process import LoaderStages
from seqstream.records import ROW_ID, Counts, located
from seqstream.windows.block_buffer import Guard
from seqstream.windows.block_reader import ReadBlock
from seqstream.windows.processing import Process
from seqstream.windows.reading_ahead import reading_ahead

_BLOCKS_PER_WORKER = 4
"""How many blocks each worker has, in work and waiting: while one block takes long, the others need not wait for their turn."""


class Workers:
    """Processes that work on one window after the other, started by the first call of `start`; they end with this object.

    Args:
        options: How many processes there are, and how they are started; or the executor to use instead.
        stages: The stages that they run.
        locate: Returns where in the data a row id is, for errors.
    """

    def __init__(self, options: WorkerOptions, stages: LoaderStages, locate: Callable[[int], str]) -> None:
        self._locate = locate
        self._num_ahead = _BLOCKS_PER_WORKER * (options.num_workers or os.cpu_count() or 1)
        self._pool = ProcessPool(options, stages) if options.executor is None else UserExecutor(options, stages)
        weakref.finalize(self, self._pool.stop)

    def start(self) -> None:
        """Start the processes, if they do not run; call it in the main thread, the one that may fork."""
        self._pool.start()

    def stop(self) -> None:
        """End the processes at once; `start` starts new ones."""
        self._pool.stop()

    @contextlib.contextmanager
    def _dropping(self, in_work: deque[tuple[ReadBlock, BlockInWork]]) -> Iterator[None]:
        """Drop the blocks that are in work at the end."""
        try:
            yield
        finally:
            for _, sent in in_work:
                self._pool.drop(sent)

    def run(self, engines: Mapping[str, str]) -> Process:
        """Return the function that processes blocks.

        Args:
            engines: Name of the engine for each column of ids.
        """

        def process(blocks: Iterator[ReadBlock], guard: Guard) -> Iterator[tuple[pa.Table, Counts]]:
            in_work: deque[tuple[ReadBlock, BlockInWork]] = deque()
            with reading_ahead(blocks) as ahead, self._dropping(in_work):
                while True:
                    for block in itertools.islice(ahead, self._num_ahead - len(in_work)):
                        guard()
                        in_work.append((block, self._pool.send(engines, to_buffer(block.table), block.stages)))
                    if not in_work:
                        return
                    block, sent = in_work[0]
                    outcome = self._pool.wait(sent, guard)
                    in_work.popleft()
                    if isinstance(outcome, Exception):
                        with located(block.table.column(ROW_ID), self._locate):
                            raise outcome
                    yield outcome

        return process
