"""Where the time of a loader goes: some of its windows are built, and timed part by part."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa

from seqstream.loading.calibration import Calibration
from seqstream.loading.device import Transfer
from seqstream.loading.epoch_windows import EpochWindows
from seqstream.loading.epochs import Epochs, peek
from seqstream.loading.mixture_passes import MixturePasses
from seqstream.loading.pipeline import Pipeline
from seqstream.loading.profile_table import Finding, LoaderProfile
from seqstream.loading.progress import Progress
from seqstream.loading.reading_order import ReadingOrder
from seqstream.loading.stage_runner import StageRunner
from seqstream.loading.state import Position
from seqstream.loading.stats import Stats
from seqstream.records import Counts
from seqstream.sources.source import Source
from seqstream.tokenizing.stage import Tokenize
from seqstream.windows.block_buffer import Guard
from seqstream.windows.block_reader import Cursor, ReadBlock, UpcomingBlocks
from seqstream.windows.processing import Process
from seqstream.windows.settings import RankSharing, WindowStart

_Item = TypeVar("_Item")


class Clock:
    """Seconds by part; the time of a part that runs within another is not that of the other."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the context to a part."""
        before, self._inner, start = self._inner, 0.0, time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] += elapsed - self._inner
            self._inner = before + elapsed

    def each(self, name: str, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yield items, and add the time that they take to a part."""
        iterator = iter(items)
        while True:
            with self.part(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item


@dataclasses.dataclass(frozen=True)
class _TimedOrder(ReadingOrder):
    """Reads as a loader does, by the clock."""

    clock: Clock

    def blocks(
        self, source: Source, epoch: object, cursor: Cursor, share: float = 1.0, **numbers: int
    ) -> Iterator[UpcomingBlocks]:
        return self.clock.each("read", super().blocks(source, epoch, cursor, share, **numbers))


class _TimedRunner(StageRunner):
    """Runs stages as another runner does, by the clock."""

    def __init__(self, runner: StageRunner, clock: Clock) -> None:
        self.__dict__.update(runner.__dict__)
        self._clock = clock

    def process(self, engines: Mapping[str, str]) -> Process:
        run, clock = super().process(engines), self._clock

        def read(blocks: Iterator[ReadBlock]) -> Iterator[ReadBlock]:
            for block in blocks:
                with clock.part("read"):
                    _ = block.table  # it is read when it is first used
                yield block

        def process(blocks: Iterator[ReadBlock], guard: Guard) -> Iterator[tuple[pa.Table, Counts]]:
            return clock.each("tokenize", run(read(blocks), guard))

        return process


def profile(epochs: Epochs, calibration: Calibration, stats: Stats, seconds: float) -> LoaderProfile:
    """Build windows of epoch 0 and their batches in this thread, and return where the time went.

    Args:
        epochs: What a loader reads.
        calibration: What it knows of the data.
        stats: What it has handed out so far.
        seconds: After how long no other window is begun.

    Raises:
        ValueError: Records can be read once only.
    """
    epochs.check_repeats("explain()")
    clock, arguments = Clock(), epochs.arguments
    if calibration.engines is None:  # chosen once, and so no part of what a window takes
        _, first = peek(epochs.blocks_from(0, Cursor()))
        calibration = dataclasses.replace(calibration, engines=epochs.choose_engines(first))
    timed = Epochs(arguments, epochs.parsed)
    timed.order = _TimedOrder(arguments.seed, arguments.shuffle, clock)
    if timed.mixture is not None:
        timed.passes = MixturePasses(timed.mixture, timed.order, epochs.parsed.stages_of)
    runner = _TimedRunner(epochs.stage_runner(cache=epochs.open_cache()), clock)
    sharing = RankSharing(uneven=arguments.uneven, labels=arguments.label_rule)
    windows = EpochWindows(timed, runner, calibration, sharing)
    pipeline, transfer = Pipeline(epochs), Transfer(arguments.device, arguments.pin_memory)
    counts: Counter[str] = Counter()
    for each in clock.each("plan", windows.read(Position(0, 1, WindowStart(blocks=0)))):
        counts.update(windows=1)
        for turn in range(len(each.window.plan)):
            with clock.part("collate"):
                batch = pipeline.collate(each.window, turn, {}, arguments.seed)
            with clock.part("on_batch"):
                batch = pipeline.customise(batch)
            with clock.part("device"):
                transfer.receive(*transfer.send(batch))
            counts.update(batches=1, tokens=batch.num_tokens)
        if sum(clock.seconds.values()) >= seconds:
            break
    present = {"on_batch": arguments.on_batch is not None, "device": transfer.has_work}
    names = ("read", "tokenize", "plan", "collate", *(name for name, is_there in present.items() if is_there))
    finding = Finding(
        seconds={name: clock.seconds[name] for name in names},
        tokens=counts["tokens"],
        num_workers=arguments.num_workers or int(arguments.executor is not None),
        engines=tuple(sorted(set((windows.calibration.engines or {}).values()))),
        is_cached=arguments.cache is not None,
        has_functions=any(not isinstance(stage, Tokenize) for stage in epochs.parsed.data_stages),
        waited=stats.seconds_waited / stats.seconds if stats.seconds else None,
    )
    made = counts["windows"], counts["batches"], counts["tokens"]
    return LoaderProfile(finding.seconds, *made, finding.tokens_per_second, stats, finding.advice)


class Explains:
    """The method of a loader that profiles it."""

    _epochs: Epochs
    _progress: Progress

    def explain(self, seconds: float = 2.0) -> LoaderProfile:
        """Return where the time goes, as a table to print: read, tokenise, plan, collate, and how long the consumer has waited.

        It builds the first windows of epoch 0 and all their batches once more, in this thread and without workers, beside what
        is under way.

        Args:
            seconds: After how long no other window is begun; one is always built.

        Raises:
            ValueError: Records can be read once only.
        """
        return profile(self._epochs, self._progress.calibration, self._progress.stats, seconds)
