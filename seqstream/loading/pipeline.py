"""From windows to batches: collated, passed through ``on_batch`` and sent to the device, and the threads that do it."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch

from seqstream.batches.batch import OWN_NAMES, Batch
from seqstream.batches.collate import collate
from seqstream.batches.collate_packed import collate_packed
from seqstream.distributed.collectives import Ranks
from seqstream.loading.calibration import Calibration
from seqstream.loading.class_mixing import ClassWatch
from seqstream.loading.collective_relay import CollectiveRelay
from seqstream.loading.device import Transfer
from seqstream.loading.epoch_windows import EpochWindow, EpochWindows
from seqstream.loading.epochs import Epochs
from seqstream.loading.prefetch import Prefetcher, StopSignal
from seqstream.loading.source_stats import StatsBySource
from seqstream.loading.state import Position, SavedState, write_state
from seqstream.loading.stats import Stats
from seqstream.planning.pack import Pack
from seqstream.records import Counts, Json
from seqstream.shuffling import hash_index
from seqstream.windows.block_reader import Cursor
from seqstream.windows.settings import RankSharing, WindowStart
from seqstream.windows.source_totals import totals_of_batches
from seqstream.windows.window import Window


@dataclasses.dataclass(frozen=True)
class PreparedBatch:
    """A batch on its way to the consumer; the last of an iteration carries none, only counts.

    Attributes:
        batch: What the consumer gets.
        position: Where the run is after it.
        calibration: What is known of the data once it is served.
        counts: Records by outcome since the batch before.
        event: Happens when its copy to the device has ended.
        is_meeting: Whether ranks share the next window before this batch is handed out.
        by_source: What each source of a mixture has in it; ``None`` for one source.
    """

    batch: Batch | None
    position: Position
    calibration: Calibration
    counts: Counts
    event: torch.cuda.Event | None = None
    is_meeting: bool = False
    by_source: StatsBySource | None = None


class Pipeline:
    """Makes batches from any position on, in threads and worker processes.

    Args:
        epochs: What is read.
    """

    def __init__(self, epochs: Epochs) -> None:
        self.epochs = epochs
        self._arguments = epochs.arguments
        self._transfer = Transfer(self._arguments.device, self._arguments.pin_memory)
        self._runner = epochs.stage_runner(self._arguments.worker_options, epochs.open_cache())
        self._class_watch = ClassWatch(None if epochs.mixture is None else epochs.mixture.column)
        self._seen_columns: set[str] = set()
        self._names = () if epochs.mixture is None else tuple(epochs.mixture.names)

    def __copy__(self) -> Pipeline:
        return Pipeline(self.epochs)

    def run(self, start: Position, calibration: Calibration, stop_signal: StopSignal, ranks: Ranks) -> BatchRun:
        """Iterate over batches from a position on, prepared ahead by threads of ``stop_signal``.

        One thread reads, tokenizes and plans the window after the one that is served. Another makes batches, if there is more
        to do than to collate them, which takes no longer than to hand them over. With ``prefetch=0`` all happens in the
        caller's thread. The collectives of ranks are always called in the caller's thread: before the first batch, and when
        ``prefetch`` batches of a window are left.

        Args:
            start: Where to begin.
            calibration: What is known of the data.
            stop_signal: Ends the threads.
            ranks: The ranks that share windows.
        """
        self._runner.start_workers()
        stop_signal.call_on_stop(self._runner.end_iteration)
        prefetch = self._arguments.prefetch
        relay = CollectiveRelay(ranks, stop_signal) if prefetch and ranks.world_size > 1 else None
        sharing = RankSharing(relay or ranks, self._arguments.uneven, self._arguments.label_rule, prefetch)
        windows = EpochWindows(
            self.epochs, self._runner, calibration, sharing, guard=stop_signal.check, class_watch=self._class_watch
        ).read(start)
        if not prefetch:
            return BatchRun(self._batches(windows, start, calibration, lambda: None))
        ahead = Prefetcher(
            windows if relay is None else relay.pass_on(windows), 1, stop_signal, "seqstream-windows", goes_on=False
        )
        batches = self._batches(ahead, start, calibration, ahead.go_on, left=prefetch)
        if self._arguments.on_batch is None and not self._transfer.has_work:
            return BatchRun(batches, relay)
        return BatchRun(Prefetcher(batches, prefetch, stop_signal, "seqstream-batches"), relay)

    def receive(self, prepared: PreparedBatch) -> Batch | None:
        """Return the batch that was prepared, ready for the device; ``None`` at the end of an iteration."""
        return None if prepared.batch is None else self._transfer.receive(prepared.batch, prepared.event)

    def stop_workers(self) -> None:
        """End the worker processes at once, whatever they are doing."""
        self._runner.stop_workers()

    def state_at(self, position: Position, calibration: Calibration, stats: Stats | None = None) -> dict[str, Json]:
        """Return the state of a loader at a position."""
        return write_state(SavedState(position, calibration, self._arguments.seed, self.epochs.fingerprint_text, stats))

    def collate_alone(self, window: Window, state: dict[str, Json]) -> Batch:
        """Return the one batch of a window that is in no epoch, on the device.

        Args:
            window: It has one batch.
            state: What the batch carries.
        """
        batch, event = self._transfer.send(self.customise(self.collate(window, 0, state, self._arguments.seed)))
        return self._transfer.receive(batch, event)

    def _batches(
        self,
        windows: Iterator[EpochWindow],
        start: Position,
        calibration: Calibration,
        go_on: Callable[[], None],
        left: int = 0,
    ) -> Iterator[PreparedBatch]:
        """Yield the batches of windows, and call ``go_on`` when the next window may be built.

        That is after the first batch of this window: built at the same time, the two would compete for the processor while the
        consumer waits. When ``left`` batches are left, ranks share the next window, which must be under way by then.
        """
        position = start
        counts: Counter[str] = Counter()
        for each in windows:
            window, position, calibration = each.window, each.position, each.calibration
            counts.update(window.counts)
            self._warn_of_hidden(window)
            keys = self._arguments.seed, position.epoch, window.number, window.rank
            seeds = hash_index(np.array(window.after), *keys).tolist()
            meeting = max(0, len(window.plan) - 1 - left)
            by_source = self._by_source(window)
            for turn in range(len(window.plan)):
                position = _after(position, window, turn, self.epochs.num_shards)
                state = self.state_at(position, calibration)
                batch = self.customise(self.collate(window, turn, state, seeds[turn]))
                batch, event = self._transfer.send(batch)
                if turn == meeting == 0 and window.totals is not None:
                    go_on()
                sources = by_source[turn] if by_source else None
                yield PreparedBatch(batch, position, calibration, dict(counts), event, turn == meeting, sources)
                counts.clear()
                if not turn and (meeting or window.totals is None):
                    go_on()
            if not len(window.plan):
                go_on()
        yield PreparedBatch(None, position, calibration, dict(counts))

    def _by_source(self, window: Window) -> list[StatsBySource]:
        """Return what each source of a mixture has in each batch of a window; nothing for one source."""
        mixture = self.epochs.mixture
        if mixture is None:
            return []
        totals = totals_of_batches(window, mixture.column, len(mixture.names))
        return [StatsBySource(self._names, each) for each in totals]

    def _warn_of_hidden(self, window: Window) -> None:
        """Warn once of columns that have the name of an attribute of every batch."""
        new = window.columns.keys() - self._seen_columns
        self._seen_columns |= new
        for name in sorted(new):
            if name in OWN_NAMES:
                warnings.warn(
                    f"column {name!r} is batch[{name!r}] only, batch.{name} is what every batch has under that name; give the "
                    "column another name to have both",
                    stacklevel=2,
                )

    def collate(self, window: Window, turn: int, state: dict[str, Json], seed: int) -> Batch:
        """Return a batch of a window before ``on_batch``."""
        padding = self.epochs.parsed.padding
        if isinstance(window.spec, Pack):
            return collate_packed(window, turn, padding, state, seed, causal=window.spec.causal)
        return collate(window, turn, padding, state, seed, layout=self._arguments.layout)

    def customise(self, batch: Batch) -> Batch:
        """Return what ``on_batch`` makes of a batch."""
        if self._arguments.on_batch is None:
            return batch
        result = self._arguments.on_batch(batch)
        if not isinstance(result, Batch):
            raise TypeError(
                f"on_batch must return a Batch, got {type(result).__name__}; end it with return batch.with_columns(...)"
            )
        return result


@dataclasses.dataclass
class BatchRun(Iterator[PreparedBatch]):
    """Batches on their way, and the collectives that the consumer's thread calls for them.

    Attributes:
        batches: Prepares the batches.
        relay: Makes the calls of the thread that builds windows; ``None`` if there are no other ranks, or no threads.
        is_due: Whether ranks share a window before anything else happens.
    """

    batches: Iterator[PreparedBatch]
    relay: CollectiveRelay | None = None
    is_due: bool = True

    def __next__(self) -> PreparedBatch:
        self._share()
        prepared = next(self.batches)
        self.is_due = prepared.is_meeting
        self._share()
        return prepared

    def _share(self) -> None:
        if self.is_due and self.relay is not None:
            self.relay.serve()
        self.is_due = False


def _after(position: Position, window: Window, turn: int, num_shards: int) -> Position:
    """Return the position after a batch; past the last of a window it is the beginning of the next."""
    if turn + 1 < len(window.plan):
        now = dataclasses.replace(window.start, served=window.after[turn])
        return Position(position.epoch, position.until, now)
    return Position(position.epoch, position.until, window.following or WindowStart(Cursor(num_shards)))
