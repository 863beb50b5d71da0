"""The windows of one iteration, epoch after epoch, and what the first of them teaches."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from seqstream.distributed.handshake import report_errors
from seqstream.loading.calibration import Calibration
from seqstream.loading.class_mixing import ClassWatch
from seqstream.loading.epochs import NO_RECORDS, Epochs, peek
from seqstream.loading.expected_run import ExpectedRun, is_read_at_once, sizes_in_tokens
from seqstream.loading.first_window_warnings import warn_of_mistakes
from seqstream.loading.rank_agreement import agree, handshake_at
from seqstream.loading.stage_runner import StageRunner
from seqstream.loading.state import Position
from seqstream.planning.batch_spec import ID_BYTES, BatchSpec
from seqstream.planning.unbucketed import Unbucketed
from seqstream.sources.mixture import Mixture
from seqstream.stages.label_filter import WITHOUT_LABELS
from seqstream.tokenizing.engines import FAST_ENGINES
from seqstream.windows.block_buffer import Guard
from seqstream.windows.block_reader import Cursor, ReadBlock, UpcomingBlocks
from seqstream.windows.building import build_windows, read_windows
from seqstream.windows.collecting import LAST
from seqstream.windows.first_window import FEW_SHARDS, SMALL_BYTES, FirstWindow, Patience, guess_full_bytes
from seqstream.windows.mixture_window import MixtureCollector
from seqstream.windows.settings import FAST_GROWTH, SLOW_GROWTH, RankSharing, WindowSettings, WindowStart
from seqstream.windows.window import Window

_logger = logging.getLogger("seqstream")

_FIRST_STEPS = 2
"""A small first window has rows for this many optimiser steps of several batches."""


@dataclasses.dataclass(frozen=True)
class EpochWindow:
    """A window of an epoch.

    Attributes:
        position: Where it begins.
        window: Its rows, and the plan of its batches.
        calibration: What is known of the data once it is built.
    """

    position: Position
    window: Window
    calibration: Calibration


class EpochWindows:
    """Builds the windows of one iteration. Only one thread may use it.

    Args:
        epochs: What is read.
        runner: Runs the stages.
        calibration: What is known of the data.
        sharing: The ranks that share windows, and the policy for uneven steps.
        guard: Called between steps that take time; raises to stop.
        class_watch: Checks the windows for batches of one class; ``None`` where windows are only counted, without messages.

    Attributes:
        calibration: What is known by now.
    """

    def __init__(
        self,
        epochs: Epochs,
        runner: StageRunner,
        calibration: Calibration,
        sharing: RankSharing,
        *,
        guard: Guard = lambda: None,
        class_watch: ClassWatch | None = None,
    ) -> None:
        self.calibration = calibration
        self._epochs = epochs
        self._runner = runner
        self._sharing = sharing
        self._guard = guard
        self._class_watch = class_watch
        self._is_run = class_watch is not None
        self._world_size = sharing.world_size or sharing.ranks.world_size

    def read(self, start: Position) -> Iterator[EpochWindow]:
        """Yield the windows from a position on, over epochs.

        A window without batches is left out, unless it is the last of all; its counts are added to those of the next.
        """
        counts = Counter[str]()
        empty: EpochWindow | None = None
        for each in self._read_epochs(start):
            counts.update(each.window.counts)
            each = dataclasses.replace(each, window=dataclasses.replace(each.window, counts=dict(counts)))
            empty = None if len(each.window.plan) else each
            if empty is None:
                yield each
                counts.clear()
        if empty is not None:
            yield empty

    def calibrate(self) -> None:
        """Learn what a run that began at epoch 0 knows, from its first window that has batches."""
        ahead, first = peek(self._epochs.blocks_from(0, Cursor()))
        self._choose_engines(first)
        settings = dataclasses.replace(
            self._settings(0, self._guard), spec=self._epochs.spec, first=self._first_window(0, first)
        )
        for window in self._build(0, WindowStart(blocks=0), ahead, settings):
            self.calibration = self.calibration.learn(window, self._world_size)
            if window.full_bytes:
                break

    def _read_epochs(self, start: Position) -> Iterator[EpochWindow]:
        """Yield all windows from a position on, also those without batches."""
        yield from self._read_epoch(start)
        later = itertools.count(start.epoch + 1) if start.until is None else range(start.epoch + 1, start.until)
        for epoch in later:
            yield from self._read_epoch(Position(epoch, start.until, WindowStart(blocks=0)))

    def _read_epoch(self, start: Position) -> Iterator[EpochWindow]:
        """Yield the windows of one epoch from a position on."""
        epochs, begin, ranks = self._epochs, start.window, self._sharing.ranks
        is_whole = begin.is_beginning
        with report_errors(handshake_at(start), ranks):
            ahead, first = peek(epochs.blocks_from(start.epoch, begin.cursor))
        self.calibration = agree(epochs, start, first, self._sharing, self.calibration)
        sizes = self._first_window(start.epoch, first)
        patience = Patience(self._guard, epochs.num_shards, sizes.guessed_bytes)
        settings = dataclasses.replace(
            self._settings(start.epoch, patience),
            sharing=self._sharing,
            first=sizes,
            spec=self._spec_from(start, is_first=is_whole and start.epoch == 0 and not begin.served),
        )
        is_one_shard = (
            epochs.arguments.shuffle and epochs.mixture is None and epochs.source.num_shards == 1 and not epochs.is_by_row
        )
        num_batches = 0
        counts: Counter[str] = Counter()
        for window in self._build(start.epoch, begin, ahead, settings):
            patience.end()
            if self._class_watch is not None and epochs.arguments.shuffle and ranks.rank == 0:
                self._class_watch.look(window)
            if is_whole and start.epoch == 0 and not num_batches:
                self.calibration = self.calibration.learn(window, self._world_size)
                if ranks.rank == 0:
                    warn_of_mistakes(window, epochs.parsed.padding.values)
            num_batches += len(window.plan)
            counts.update(window.counts)
            yield EpochWindow(dataclasses.replace(start, window=window.start), window, self.calibration)
            if window.following is not None and is_one_shard:
                _log_one_shard()
        if is_whole and not num_batches:
            raise ValueError(explain_no_rows(counts))

    def _build(
        self, epoch: int, begin: WindowStart, ahead: Iterator[UpcomingBlocks], settings: WindowSettings
    ) -> Iterator[Window]:
        """Yield the windows of an epoch from a start on.

        Args:
            epoch: Which epoch.
            begin: Where to begin.
            ahead: The blocks from there on, unless the source is a mixture, whose sources are read one by one.
            settings: How blocks become windows.
        """
        passes = self._epochs.passes
        if passes is None:
            return read_windows(ahead, begin, settings)
        size = settings.first.guessed_bytes // ID_BYTES if isinstance(settings.first, FirstWindow) else 1
        if epoch and begin.is_beginning:
            size = self._full_bytes() // ID_BYTES
        elif passes.begins_small and not is_read_at_once(passes.mixture, LAST * ID_BYTES * size):
            size = min(size, SMALL_BYTES * self._world_size // ID_BYTES)
        collector = MixtureCollector(
            passes.mixture, passes.open_sources(epoch), passes.num_shards, start=begin.mixture, first_size=max(1, size)
        )
        windows = build_windows(collector, begin, settings)
        return self._announced(windows, collector, passes.mixture) if begin.is_beginning and not epoch else windows

    def _announced(self, windows: Iterator[Window], collector: MixtureCollector, mixture: Mixture) -> Iterator[Window]:
        """Yield the windows of a mixture, and log once, when the first is built, what the epoch will be like.

        Raises:
            ValueError: It cannot be as the mixture asks.
        """
        for number, window in enumerate(windows):
            if not number:
                expected = ExpectedRun.of(mixture, sizes_in_tokens(mixture, *collector.densities()))
                if expected is not None and self._is_run and not self._sharing.ranks.rank:
                    _logger.warning("an epoch of the mixture has %s", expected)
            yield window

    def _spec_from(self, start: Position, *, is_first: bool) -> BatchSpec:
        """Return the batch spec for the windows of an epoch; reads the beginning of epoch 0 if that has to decide it.

        Args:
            start: Where the windows begin.
            is_first: Whether they begin epoch 0: their first window decides then, as if nothing had been decided before.
        """
        if is_first:
            return self._epochs.spec
        if self.calibration.fit(self._epochs.spec).sample_batches:
            self.calibrate()
        return self.calibration.fit(self._epochs.spec)

    def _choose_engines(self, first: Sequence[ReadBlock]) -> None:
        """Choose engines by the first records, unless they are chosen."""
        if self.calibration.engines is None:
            self.calibration = dataclasses.replace(self.calibration, engines=self._epochs.choose_engines(first))

    def _settings(self, epoch: int, guard: Guard) -> WindowSettings:
        """Return how the blocks of an epoch become windows."""
        arguments, engines = self._epochs.arguments, self.calibration.engines or {}
        return WindowSettings(
            self._runner.process(engines),
            self.calibration.fit(self._epochs.spec),
            (arguments.seed, epoch),
            arguments.shuffle,
            self._epochs.source.locate,
            guard,
            growth=FAST_GROWTH if FAST_ENGINES.issuperset(engines.values()) else SLOW_GROWTH,
            max_length=self._epochs.parsed.max_length,
            accumulate=arguments.accumulate,
            world_size=self._world_size,
        )

    def _first_window(self, epoch: int, first: Sequence[ReadBlock]) -> FirstWindow:
        """Return what chooses the size of the first window of an epoch.

        Args:
            epoch: Which epoch.
            first: The first blocks that are read.
        """
        epochs, shuffle = self._epochs, self._epochs.arguments.shuffle
        table = first[-1].table if first else NO_RECORDS
        num_bytes = max(first[-1].num_bytes, 1) if first else 1
        is_text = epochs.parsed.is_tokenized
        guess = guess_full_bytes(table, num_bytes, epochs.spec, is_text=is_text, shuffle=shuffle, world_size=self._world_size)
        blocks = epochs.source_of(epoch).approx_blocks()
        total = None if blocks is None else blocks * num_bytes
        sizes = FirstWindow(guess, total, is_read=not first or first[-1].approx_bytes is None)
        if not shuffle:
            # Rows in the order of the data are the same whatever the windows, so that a block is enough to begin with; planned
            # ones are the same in every epoch.
            is_free = isinstance(epochs.spec, Unbucketed)
            return dataclasses.replace(sizes, small_bytes=num_bytes * self._world_size) if is_free else sizes
        if epochs.num_shards < FEW_SHARDS and not epochs.is_by_row:
            return sizes
        if epoch == 0:
            return dataclasses.replace(sizes, small_bytes=self._small_bytes(table, num_bytes, guess))
        return dataclasses.replace(sizes, full_bytes=self._full_bytes)

    def _small_bytes(self, table: pa.Table, num_bytes: int, full_bytes: int) -> int:
        """Return how many bytes to begin with: few, or as many as are needed to decide what the first batches decide."""
        spec, accumulate = self._epochs.spec, self._epochs.arguments.accumulate
        few = min(SMALL_BYTES * self._world_size, full_bytes)
        steps = _FIRST_STEPS * accumulate * self._world_size if accumulate > 1 else 0
        num_batches = spec.num_batches(len(table), num_bytes // ID_BYTES)
        return max(few, round(num_bytes * max(spec.sample_batches, steps) / num_batches)) if num_batches else few

    def _full_bytes(self) -> int:
        """Return how many bytes of records as read fill a window, learned from epoch 0 where that is not known."""
        if self.calibration.full_bytes_on(self._world_size) is None:
            self.calibrate()
        return self.calibration.full_bytes_on(self._world_size) or 1


@functools.cache
def _log_one_shard() -> None:
    """Log, once, that one shard is mixed within windows only; not as a warning, which ``-W error`` would make an error."""
    _logger.warning("the source is one shard, so shuffle=True mixes rows within windows only; raise window_bytes to mix more")


def explain_no_rows(counts: Mapping[str, int]) -> str:
    """Return the message of the error for an epoch without rows.

    Args:
        counts: Records by outcome.
    """
    if counts.get("empty") or counts.get("dropped"):
        num = counts.get(WITHOUT_LABELS, 0)
        unlabelled = f" ({num:,} of them without any label)" if num else ""
        return (
            f"source must give at least one row, got none: {counts.get('empty', 0):,} records were empty and "
            f"{counts.get('dropped', 0):,} were dropped{unlabelled}; look at the data, the filters and drop_last"
        )
    return "source must have at least one record, got none; look at the paths and what is in them"
