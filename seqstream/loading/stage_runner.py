"""Runs the stages of a loader over blocks: in worker processes, or in the calling thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from seqstream.loading.arguments import WorkerOptions
from seqstream.loading.cached_process import with_cache
from seqstream.loading.remote_blocks import BlockProgram
from seqstream.loading.stage_lists import engines_of, open_stages
from seqstream.loading.token_cache import TokenCache
from seqstream.loading.workers import Workers
from seqstream.records import Counts, OpenStage
from seqstream.stages.running import run_stages
from seqstream.windows.processing import Process, run_here


class StageRunner:
    """Runs stages, which it opens once for each choice of engines.

    A thread that looks at the data beside another has a runner of its own.

    Args:
        program: The stages, and how they are run.
        locate: Returns where in the data a row id is, for errors.
        worker_options: Which workers run the stages, if any.
        cache: Keeps the rows of blocks; ``None`` to keep none.
    """

    def __init__(
        self, program: BlockProgram, locate: Callable[[int], str], worker_options: WorkerOptions, cache: TokenCache | None
    ) -> None:
        self._program = program
        self._locate = locate
        self._worker_options = worker_options
        self._cache = cache
        self._workers: Workers | None = None
        self._opened: tuple[Mapping[str, str], tuple[tuple[OpenStage, ...], ...]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: no processes, and no stages that are open."""
        return {**self.__dict__, "_workers": None, "_opened": None}

    def start_workers(self) -> None:
        """Start the worker processes, if there are to be any and they do not run."""
        if self._worker_options and self._workers is None:
            self._workers = Workers(self._worker_options, self._program, self._locate)
        if self._workers is not None:
            self._workers.start()

    def stop_workers(self) -> None:
        """End the worker processes at once, whatever they are doing."""
        if self._workers is not None:
            self._workers.stop()

    def process(self, engines: Mapping[str, str]) -> Process:
        """Return the function that runs the stages over blocks, in workers where there are any.

        Args:
            engines: Name of the engine for each column of ids.
        """
        if self._workers is None:
            process = run_here(self._open(engines), self._locate, self._program.empty_fill, self._program.labels)
        else:
            process = self._workers.run(engines)
        return process if self._cache is None else with_cache(process, self._cache)

    def end_iteration(self) -> None:
        """Finish what is being written."""
        if self._cache is not None:
            self._cache.flush()

    def run(self, table: pa.Table, engines: Mapping[str, str], stages: int = 0) -> tuple[pa.Table, Counts]:
        """Run a list of stages over one table in this thread; return the rows that are kept, and the counts."""
        opened = self._open(engines)[stages]
        (rows,), (counts,) = run_stages([table], opened, self._program.empty_fill, self._program.labels)
        return rows, counts

    def _open(self, engines: Mapping[str, str]) -> tuple[tuple[OpenStage, ...], ...]:
        if self._opened is None or self._opened[0] != engines:
            lists = enumerate(self._program.stage_lists)
            self._opened = engines, tuple(open_stages(stages, engines_of(engines, number)) for number, stages in lists)
        return self._opened[1]
