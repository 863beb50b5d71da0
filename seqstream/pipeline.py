"""From a position to batches: sources, stages, windows and collating put together, and the threads they run in."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch

from seqstream.ahead import Ahead, Switch
from seqstream.arrow import to_arrow
from seqstream.batch import Batch
from seqstream.collating import Padding, collate
from seqstream.device import Transfer
from seqstream.order import Permutation, hash_index
from seqstream.planning.specs import BatchSpec, Bucket, InOrder
from seqstream.reading import Place, ReadBlock, read_blocks
from seqstream.running import join_tables, placed, run_stages
from seqstream.sources.protocol import ROW_ID, Json, Source
from seqstream.stages import Counts, Filter, Map, OpenStage
from seqstream.state import Position
from seqstream.tokenizing import Tokenize
from seqstream.window import Recipe, Window, WindowStart, read_columns, read_windows

DataStage: TypeAlias = Map | Filter | Tokenize
ToState: TypeAlias = Callable[[Position], dict[str, Json]]

_NO_RECORDS = pa.table({ROW_ID: to_arrow(np.empty(0, dtype=np.int64))})
_FIRST_BYTES = 256 << 10
"""About how much the first window of epoch 0 holds at most, as read: a few milliseconds of tokenising."""

_BYTES_PER_TOKEN = 4
"""A guess for that window; the others go by what was counted."""

_SAMPLED_BLOCKS = 8
"""How many blocks `Pipeline.estimate_steps` looks at."""


@dataclasses.dataclass(frozen=True)
class Made:
    """A batch on its way to the consumer; the last of an iteration carries none, only counts.

    Attributes:
        batch: What the consumer gets.
        position: Where the run is after it.
        counts: What became of records since the batch before.
        event: Happens when its copy to the device has ended.
    """

    batch: Batch | None
    position: Position
    counts: Counts
    event: torch.cuda.Event | None = None


class Pipeline:
    """All that a loader is but its position.

    What is learnt on the way - which engine tokenises, how dense the data is - is kept, and does not depend on the position.
    """

    def __init__(
        self,
        source: Source,
        stages: Sequence[DataStage],
        spec: BatchSpec,
        *,
        seed: int,
        shuffle: bool,
        padding: Padding,
        on_batch: Callable[[Batch], Batch] | None,
        transfer: Transfer,
    ) -> None:
        self.source = source
        self.stages = tuple(stages)
        self.spec = spec
        self.seed = seed
        self.shuffle = shuffle
        self.transfer = transfer
        self.engines: dict[str, str] | None = None
        self._padding = padding
        self._on_batch = on_batch
        self._opened: tuple[OpenStage, ...] | None = None
        self._batches_per_block: float | None = None
        keeps_empty = any(isinstance(stage, Tokenize) and stage.empty == "keep" for stage in stages)
        self._fill = int(padding.value("input_ids")) if keeps_empty else None

    def fingerprint(self) -> dict[str, Json]:
        """Say what the order and content of batches depend on."""
        stages = {f"stage {number}": stage.fingerprint() for number, stage in enumerate(self.stages, 1)}
        return {"source": self.source.fingerprint(), "shuffle": self.shuffle, **stages, "batches": self.spec.fingerprint()}

    def use_engines(self, engines: Mapping[str, str]) -> None:
        """Tokenise with the engines that a state names."""
        if engines and dict(engines) != self.engines:
            self.engines, self._opened = dict(engines), None

    def run(self, start: Position, to_state: ToState, switch: Switch, prefetch: int) -> Iterator[Made]:
        """Iterate over batches from a position on, made ahead by threads of ``switch``.

        One thread reads, tokenises and plans the window after the one that is served; another makes batches, if there is more
        to do than to collate them, which takes no longer than to hand them over. With ``prefetch=0`` all happens in the
        caller's thread.
        """
        windows = self._windows(start, switch.check)
        if not prefetch:
            return self._batches(windows, start, to_state, lambda: None)
        ahead = Ahead(windows, 1, switch, "seqstream-windows", goes_on=False)
        batches = self._batches(ahead, start, to_state, ahead.go_on)
        if self._on_batch is None and not self.transfer.has_work:
            return batches
        return Ahead(batches, prefetch, switch, "seqstream-batches")

    def estimate_steps(self) -> int | None:
        """Estimate the batches of an epoch from some of its blocks; exact where those are all."""
        total = self.source.approx_blocks()
        if total is None:
            return None
        blocks = list(itertools.islice(self._blocks(0, Place()), _SAMPLED_BLOCKS + 1))
        if not blocks:
            return 0
        stages = self._open(blocks)
        tables = join_tables(run_stages([block.table for block in blocks], stages, self._fill)[0])
        if len(blocks) <= _SAMPLED_BLOCKS:
            total = len(blocks)
        lengths = read_columns(tables)[2]
        planned = len(self.spec.plan(lengths[: self.spec.num_planned(len(lengths), last=True)], key=None))
        return round(planned * total / len(blocks))

    def _batches(
        self,
        windows: Iterator[tuple[Position, Window]],
        start: Position,
        to_state: ToState,
        go_on: Callable[[], None],
    ) -> Iterator[Made]:
        """Yield the batches of windows; ``go_on`` is called when the next window may be made.

        That is once the first batch of this one is out: made at the same time, they would take the processor from each other,
        and somebody waits for the batch.
        """
        position = start
        counts: Counter[str] = Counter()
        for position, window in windows:
            counts.update(window.counts)
            begun = to_state(position)
            seeds = hash_index(np.arange(len(window.plan)), self.seed, position.epoch, window.number).tolist()
            for turn in range(window.start.served, len(window.plan)):
                position = _after(position, window, turn, self.source.num_shards)
                moved = {"served": turn + 1, "rows": position.rows}
                state = {**begun, **moved} if position.window.served else to_state(position)
                batch = self._customised(collate(window, turn, self._padding, state, seeds[turn]))
                batch, event = self.transfer.send(batch)
                yield Made(batch, position, dict(counts), event)
                counts.clear()
                if turn == window.start.served:
                    go_on()
            if window.start.served >= len(window.plan):
                go_on()
        yield Made(None, position, dict(counts))

    def _customised(self, batch: Batch) -> Batch:
        if self._on_batch is None:
            return batch
        result = self._on_batch(batch)
        if not isinstance(result, Batch):
            raise TypeError(
                f"on_batch must return a Batch, got {type(result).__name__}; end it with return batch.with_columns(...)"
            )
        return result

    def _windows(self, start: Position, guard: Callable[[], None]) -> Iterator[tuple[Position, Window]]:
        """Yield the windows from a position on, over epochs, each with the position at which it begins."""
        yield from self._epoch(start, guard)
        later = itertools.count(start.epoch + 1) if start.until is None else range(start.epoch + 1, start.until)
        for epoch in later:
            yield from self._epoch(Position(epoch, start.until, WindowStart(blocks=0)), guard)

    def _epoch(self, start: Position, guard: Callable[[], None]) -> Iterator[tuple[Position, Window]]:
        """Yield the windows of one epoch from a position on."""
        begin, is_fresh = start.window, start.window.place == Place() and not start.window.skip
        blocks, first = _peek(self._blocks(start.epoch, begin.place))
        stages = self._open(first)
        key = (self.seed, start.epoch)
        recipe = Recipe(stages, self.spec, key, self.shuffle, self.source.locate, guard, fill=self._fill)
        if not begin.blocks:
            begin = dataclasses.replace(begin, blocks=self._first_size(start.epoch, recipe, first))
        num_batches = 0
        counts: Counter[str] = Counter()
        for window in read_windows(blocks, begin, recipe):
            if is_fresh and start.epoch == 0 and not num_batches:
                self._learn_density(window)
            num_batches += len(window.plan)
            counts.update(window.counts)
            rows = start.rows if window.start.served else 0
            yield dataclasses.replace(start, window=window.start, rows=rows), window
            if window.following is not None and self.shuffle and self.source.num_shards == 1:
                _say_once_of_one_shard()
        if is_fresh and not num_batches:
            raise ValueError(_nothing_left(counts))

    def _blocks(self, epoch: int, place: Place) -> Iterator[ReadBlock]:
        num_shards = self.source.num_shards
        if self.shuffle:
            return read_blocks(self.source, Permutation(num_shards, self.seed, epoch, "shards"), place)
        return read_blocks(self.source, range(num_shards), place, num_open=1)

    def _open(self, first: Sequence[ReadBlock]) -> tuple[OpenStage, ...]:
        """Open the stages once; engines are chosen by looking at the first records, unless a state has named them."""
        if self._opened is not None:
            return self._opened
        opened: list[OpenStage] = []
        sample = next((block.table for block in first if len(block.table)), _NO_RECORDS)
        with placed(sample.column(ROW_ID), self.source.locate):
            for stage in self.stages:
                if isinstance(stage, Tokenize):
                    self.engines = self.engines or stage.choose_engines(sample)
                    opened.append(stage.open(self.engines))
                    break
                opened.append(stage.open())
                if self.engines is None:
                    sample = opened[-1]([sample])[0][0]
        opened += [stage.open() for stage in self.stages[len(opened) :] if not isinstance(stage, Tokenize)]
        self._opened = tuple(opened)
        return self._opened

    def _first_size(self, epoch: int, recipe: Recipe, first: Sequence[ReadBlock]) -> int:
        """Return the blocks of the first window of an epoch: few in epoch 0, to begin at once, later enough to fill it.

        Args:
            epoch: Which epoch.
            recipe: What to do with blocks, to learn how dense they are.
            first: The first blocks of the epoch.
        """
        if epoch == 0:
            return self._opening_size(first[-1].table) if first else 1
        if self._batches_per_block is None:
            blocks, first = _peek(self._blocks(0, Place()))
            recipe = dataclasses.replace(recipe, key=(self.seed, 0))
            for window in read_windows(blocks, WindowStart(blocks=self._first_size(0, recipe, first)), recipe):
                if self._learn_density(window):
                    break
        return max(1, round(self.spec.window_batches / (self._batches_per_block or 1)))

    def _opening_size(self, table: pa.Table) -> int:
        """Return the blocks of the very first window, by what is known before any is tokenised: the first that has records."""
        num_bytes: int = max(table.nbytes, 1)
        num_batches = self.spec.num_batches(len(table), num_bytes // _BYTES_PER_TOKEN)
        wanted = self.spec.window_batches / num_batches if num_batches else 1
        return max(1, round(min(wanted, _FIRST_BYTES / num_bytes)))

    def _learn_density(self, window: Window) -> bool:
        """Keep how many batches a block makes, from the first window of epoch 0 that makes any."""
        num_batches = self.spec.num_batches(len(window.lengths), int(window.lengths.sum()))
        if self._batches_per_block is None and num_batches:
            self._batches_per_block = num_batches / window.start.blocks
        return bool(num_batches)


def _after(position: Position, window: Window, turn: int, num_shards: int) -> Position:
    """Return the position after a batch; past the last of a window it is the beginning of the next."""
    begin = window.start
    if turn + 1 < len(window.plan):
        rows = position.rows + len(window.plan.rows(turn))
        now = WindowStart(begin.place, begin.blocks, begin.skip, turn + 1)
        return Position(position.epoch, position.until, now, rows)
    return Position(position.epoch, position.until, window.following or WindowStart(Place(num_shards)))


def _peek(blocks: Iterator[ReadBlock]) -> tuple[Iterator[ReadBlock], list[ReadBlock]]:
    """Return the blocks unchanged, and those up to the first that has records."""
    seen: list[ReadBlock] = []
    for block in blocks:
        seen.append(block)
        if len(block.table):
            break
    return itertools.chain(seen, blocks), seen


@functools.cache
def _say_once_of_one_shard() -> None:
    """Say it as a line of log: nothing is wrong that ``-W error`` should stop."""
    logging.getLogger("seqstream").warning(
        "the source is one shard, so shuffle=True mixes rows within windows only; raise window_batches to mix more"
    )


def _nothing_left(counts: Mapping[str, int]) -> str:
    if counts.get("empty") or counts.get("dropped"):
        return (
            f"source must give at least one row, got none: {counts.get('empty', 0):,} records were empty and "
            f"{counts.get('dropped', 0):,} were dropped; look at the data, the filters and drop_last"
        )
    return "source must have at least one record, got none; look at the paths and what is in them"


def parse_stages(source: Source, stages: Sequence[object]) -> tuple[tuple[DataStage, ...], BatchSpec]:
    """Tell the stages that data meets from the batch spec that ends them.

    Raises:
        TypeError: One of them is no stage, or the source is none.
        ValueError: The batch spec is missing or not the last, or there are two tokenisers.
    """
    if not isinstance(source, Source):
        raise TypeError(
            f"source must be a seqstream source such as TextFiles, HFDataset or Generator, got {type(source).__name__}; "
            f"wrap it, for example Generator(...)"
        )
    *data_stages, spec = stages or (None,)
    if not isinstance(spec, Bucket | InOrder):
        raise ValueError(f"stages must end with Bucket or InOrder, which says how rows become batches, got {spec!r}")
    known = tuple(stage for stage in data_stages if isinstance(stage, Map | Filter | Tokenize))
    for stage in data_stages:
        if stage not in known:
            raise TypeError(f"stages must be Map, Filter or Tokenize before the last, got {stage!r}")
    tokenizers = [stage for stage in known if isinstance(stage, Tokenize)]
    if len(tokenizers) > 1:
        raise ValueError(
            f"stages must have one Tokenize, got {len(tokenizers)}; tokenise several fields with Tokenize({{field: tokenizer}})"
        )
    if tokenizers and tokenizers[0].max_length is None and isinstance(spec, Bucket) and spec.max_tokens is not None:
        warnings.warn(
            f"Tokenize has no max_length, and a record of more than max_tokens={spec.max_tokens} tokens will stop the run; "
            f"set Tokenize(max_length=...)",
            stacklevel=3,
        )
    return known, spec
