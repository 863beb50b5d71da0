"""One run over the epochs of a loader: the iterator that the user holds."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

from seqstream.batches.batch import Batch
from seqstream.distributed.collectives import Ranks
from seqstream.loading.pipeline import Pipeline
from seqstream.loading.prefetch import StoppedError, StopSignal
from seqstream.loading.progress import Progress


class Iteration(Iterator[Batch]):
    """One run over the epochs of a loader, from its position to the end; `Loader.__iter__` makes it.

    Args:
        progress: Where to begin, which moves with each batch.
        pipeline: Makes the batches.
        stop_signal: Ends the threads.
        ranks: The ranks that share windows.
        bar: A progress bar; ``None`` for none.
    """

    def __init__(self, progress: Progress, pipeline: Pipeline, stop_signal: StopSignal, ranks: Ranks, bar: Any | None) -> None:
        self._progress = progress
        self._pipeline = pipeline
        self._pid = os.getpid()
        self._end_reason: str | None = None
        self._lock = threading.RLock()
        self._bar = bar
        self._prepared = pipeline.run(progress.position, progress.calibration, stop_signal, ranks)
        self._stop = weakref.finalize(self, stop_signal.stop)
        self._answered: float | None = None

    def __iter__(self) -> Iteration:
        return self

    def __next__(self) -> Batch:
        with self._lock:  # threads may share an iterator: each batch goes to one of them
            self._check()
            return self._take()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and gives no batch any more."""
        return self._end_reason is not None

    def _check(self) -> None:
        if self._end_reason:
            raise RuntimeError(f"this iterator cannot go on, {self._end_reason}; call iter(loader) again")
        if self._end_reason is not None:
            raise StopIteration
        if os.getpid() != self._pid:
            raise RuntimeError("this iterator cannot go on in a forked process; call iter(loader) there")

    def _take(self) -> Batch:
        asked = time.perf_counter()
        try:
            prepared = next(self._prepared)
        except StoppedError:
            self.close()
            self._check()
            raise
        except BaseException as error:
            self.close("it was interrupted or has raised")
            if isinstance(error, KeyboardInterrupt):
                self._pipeline.stop_workers()  # Python would wait for the blocks under way before it ends
            raise
        batch = self._pipeline.receive(prepared)
        if batch is None:
            self._progress.finish(prepared)
            if self._bar is not None:
                self._bar.total = self._bar.n  # it was an estimate; a notebook shows a bar that ends before it as failed
            self.close("")
            raise StopIteration
        answered = time.perf_counter()
        self._progress.advance(prepared, answered - asked, answered - (self._answered or asked))
        self._answered = answered
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._progress.stats.padding:.2%} padding", refresh=False)
            self._bar.update()
        return batch

    def close(self, reason: str = "it was closed") -> None:
        """End the threads; a later request for a batch raises an error that gives the reason."""
        if self._end_reason is None:
            self._end_reason = reason
            self._stop()
            if self._bar is not None:
                self._bar.close()


def progress_bar(num_batches: int | None, unit: str = " batches") -> Any:
    """Return a progress bar.

    Args:
        num_batches: How many batches, or other units, there will be; ``None`` where that is not known.
        unit: What is counted.
    """
    from tqdm.auto import tqdm

    return tqdm(total=num_batches, unit=unit, dynamic_ncols=True)
