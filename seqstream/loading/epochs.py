"""From a position to windows, over epochs: blocks in the order of an epoch, and what is learnt from the first of them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrow import join_tables, to_arrow
from seqstream.distributed.agreement import Common
from seqstream.distributed.digests import describe_function
from seqstream.distributed.handshake import Handshake, agree_on_engines, reported
from seqstream.loading.arguments import DataStage, longest_row, open_stages
from seqstream.loading.class_mixing import ClassWatch
from seqstream.loading.estimates import estimate_steps, sample_records
from seqstream.loading.first_window_warnings import look_at
from seqstream.loading.state import Position
from seqstream.loading.worker_process import LoaderStages
from seqstream.loading.workers import WorkerOptions, Workers
from seqstream.planning.batch_spec import ID_BYTES, BatchSpec
from seqstream.planning.bucket import Bucket, Shape
from seqstream.planning.pack import Pack
from seqstream.planning.rank_shares import Uneven
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import ROW_ID, Counts, Json, OpenStage, located
from seqstream.shuffling import EvenOrder
from seqstream.sources.random_order import in_random_order
from seqstream.sources.source import Source
from seqstream.stages.map_filter import Filter, Map
from seqstream.stages.row_labels import WITHOUT_LABELS, LabelRule, RowLabels
from seqstream.stages.running import run_stages
from seqstream.tokenizing.engines import ENGINES, FAST_ENGINES, FUNCTION
from seqstream.tokenizing.stage import Tokenize
from seqstream.windows.block_buffer import Guard
from seqstream.windows.block_reader import Cursor, ReadBlock, UnreadBlocks, UpcomingBlocks, blocks_of, look_ahead
from seqstream.windows.building import read_windows
from seqstream.windows.columns import lengths_of
from seqstream.windows.first_window import FEW_SHARDS, SMALL_BYTES, FirstWindow, Patience, guess_full_bytes
from seqstream.windows.processing import Process, run_here
from seqstream.windows.settings import FAST_GROWTH, SLOW_GROWTH, RankSharing, WindowSettings, WindowStart
from seqstream.windows.window import Window
from seqstream.windows.worst_case import repeat_record

_NO_RECORDS = pa.table({ROW_ID: to_arrow(np.empty(0, dtype=np.int64))})
_FIRST_STEPS = 2
"""A small first window has enough for so many optimiser steps of several batches."""

_COMPARED_RECORDS = 2_048
_COMPARED_BLOCKS = 128
"""How many records read one by one, and how many blocks, ranks compare at most at the beginning of an epoch."""


class Epochs:
    """The windows of all epochs of a source.

    What is learnt on the way - which engine tokenises, how dense the data is, which shapes pad least - is kept, and does not
    depend on the position.

    Attributes:
        spec: How rows are batched, decided as far as it is by now.
        engines: The engine for each column of ids, as soon as they are chosen.
        world_size: For how many ranks windows are made.
    """

    def __init__(
        self,
        source: Source,
        stages: Sequence[DataStage],
        spec: BatchSpec,
        *,
        seed: int,
        shuffle: bool,
        accumulate: int,
        pad_token: float,
        worker_options: WorkerOptions,
        labels: LabelRule | None = None,
    ) -> None:
        self.source = source
        self.stages = tuple(stages)
        self.spec = self._asked = spec
        self.seed = seed
        self.shuffle = shuffle
        self._accumulate = accumulate
        self.engines: dict[str, str] | None = None
        self.world_size = 1
        self._worker_options = worker_options
        self._workers: Workers | None = None
        self._max_length = longest_row(stages)
        self._opened: tuple[OpenStage, ...] | None = None
        self._full_bytes: int | None = None
        self._are_others_each_time = False  # records
        self._class_watch = ClassWatch()
        keeps_empty = any(isinstance(stage, Tokenize) and stage.empty == "keep" for stage in stages)
        self._fill = int(pad_token) if keeps_empty else None
        self._labels = RowLabels.of(labels, spec)
        self._is_text = any(isinstance(stage, Tokenize) for stage in stages)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: all but what runs."""
        return {**self.__dict__, "_workers": None, "_opened": None}

    def fingerprint(self) -> dict[str, Json]:
        """Say what the order and content of batches depend on."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> dict[str, Json]:
        stages = {f"stage {number}": stage.fingerprint() for number, stage in enumerate(self.stages, 1)}
        return {
            "source": self._visited(0).fingerprint(),
            "shuffle": self.shuffle,
            **stages,
            "batches": self._asked.fingerprint(),
            "accumulate": self._accumulate,
            **({"labels": labels} if (labels := self._labels.fingerprint()) else {}),
        }

    @functools.cached_property
    def _functions(self) -> dict[str, Json]:
        """What the functions of stages do, by stage, as they were at the beginning: a state says no more than their names."""
        found: dict[str, Json] = {}
        for number, stage in enumerate(self.stages, 1):
            functions = [stage.fn] if isinstance(stage, Map | Filter) else []
            functions += stage.functions if isinstance(stage, Tokenize) else []
            if functions:
                found[f"stage {number}.function"] = [describe_function(function) for function in functions]
        return found

    def _common(self, start: Position, first: Sequence[ReadBlock], sharing: RankSharing) -> Common:
        """Return what all ranks must have in common to share an epoch from a position on.

        Args:
            start: Where they begin.
            first: The first blocks there, which every rank reads.
            sharing: Who shares windows, and on what terms.
        """
        window = start.window
        entries = {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "empty rows": self._fill,
            "uneven": sharing.uneven,
            "prefetch": sharing.prefetch,
            "epochs": None if start.until is None else start.until - start.epoch,
            "state": {"step": window.step, "group": window.planned_world_size, "source": window.cursor.source_json()},
            **self.fingerprint(),
            **self._functions,
        }
        block = None if self._are_others_each_time or not first else self._compared(start, first[-1])
        return Common(entries, block, self.source.locate)

    def _compared(self, start: Position, first: ReadBlock) -> ReadBlock:
        """Return the records that ranks compare: the first block, and some that follow if those need not be read in order."""
        visited = self._visited(start.epoch)
        if not callable(first.content) or first.num_bytes >= visited.compared_bytes:
            return first

        def read() -> pa.Table:
            tables, num_bytes, num_records = [], 0, 0
            most = _COMPARED_RECORDS if self._by_row else math.inf
            for block in itertools.islice(blocks_of(self._ahead(start.epoch, start.window.cursor)), _COMPARED_BLOCKS):
                if num_bytes >= visited.compared_bytes or num_records >= most or not callable(block.content):
                    break
                tables.append(block.content())
                num_bytes += max(block.num_bytes, 1)
                num_records += len(tables[-1])
            return join_tables(tables)

        return dataclasses.replace(first, content=read)

    @functools.cached_property
    def num_shards(self) -> int:
        """How many shards an epoch visits."""
        return self._visited(0).num_shards

    def use_engines(self, engines: Mapping[str, str]) -> None:
        """Tokenise with the engines that a state names."""
        if engines and dict(engines) != self.engines:
            self.engines, self._opened = dict(engines), None

    def check_cursor(self, cursor: Cursor) -> None:
        """Refuse a place in the order of shards that is none of this source.

        Raises:
            ValueError: A state has such a place.
        """
        if cursor.position > self.num_shards:
            raise ValueError(f"position of the state must be at most the {self.num_shards:,} shards, got {cursor.position:,}")
        shards = [shard.shard for shard in cursor.open]
        if any(shard >= self.num_shards for shard in shards) or len(set(shards)) < len(shards):
            raise ValueError(f"source of the state must be different shards of {self.num_shards:,}, got {shards}")
        if shards and (self._visited(0).approx_bytes(np.array(shards)) >= 0).any():
            raise ValueError(f"source of the state must be shards of several blocks, which are begun, got {shards}")

    def check_choices(self, engines: Mapping[str, str], shapes: Sequence[Sequence[int]] | None) -> None:
        """Refuse engines and shapes that these stages cannot have chosen.

        Raises:
            ValueError: A state has such ones.
        """
        columns = [column for stage in self.stages if isinstance(stage, Tokenize) for column in stage.columns]
        if engines and (set(engines) != set(columns) or not set(engines.values()) <= {*ENGINES, FUNCTION}):
            raise ValueError(f"engine of the state must name one of each of {columns}, got {dict(engines)}")
        asked = self._asked.shapes if isinstance(self._asked, Bucket) else None
        if shapes is not None and asked is None:
            raise ValueError(f"shapes of the state must be None for {self._asked!r}, got {shapes!r:.80}")

    @property
    def shapes(self) -> tuple[Shape, ...] | None:
        """The shapes that all batches have, if they are decided."""
        shapes = self.spec.shapes if isinstance(self.spec, Bucket) else None
        return None if shapes is None or isinstance(shapes, int) else tuple(shapes)  # type: ignore[arg-type]

    def use_shapes(self, shapes: Sequence[Sequence[int]] | None) -> None:
        """Make batches of the shapes that a state names."""
        if shapes is not None and isinstance(self.spec, Bucket):
            self.spec = dataclasses.replace(self.spec, shapes=tuple((rows, length) for rows, length in shapes))

    def apart(self) -> Epochs:
        """Return the same epochs, to look at without touching what a thread may be at work on."""
        twin = copy.copy(self)
        twin.stages, twin._class_watch, twin._workers, twin._opened = tuple(self.stages), ClassWatch(), None, None
        return twin

    def estimate_steps(self, world_size: int, uneven: Uneven) -> int | None:
        """Estimate the optimiser steps of an epoch that ranks share, from blocks all over it."""
        sample = sample_records(self._visited(0))
        if sample is None:
            return None
        _, first = _peek(self._ahead(0, Cursor()))
        stages = self._open(first)
        with located(sample.table.column(ROW_ID), self.source.locate) if len(sample.table) else contextlib.nullcontext():
            tables = self._run([sample.table], stages)[0] if len(sample.table) else [_NO_RECORDS]
        lengths = lengths_of(join_tables(tables), self.spec.columns)
        return estimate_steps(
            lengths,
            sample,
            self.spec.fitted(lengths, self._max_length),
            shuffle=self.shuffle,
            world_size=world_size,
            accumulate=self._accumulate,
            uneven=uneven,
        )

    def count_steps(self, epoch: int, world_size: int, uneven: Uneven) -> int:
        """Count the optimiser steps of an epoch that ranks share, making all its windows here."""
        self._check_repeats("count_steps()")
        start = Position(epoch, epoch + 1, WindowStart(blocks=0))
        sharing = RankSharing(uneven=uneven, world_size=world_size)
        return sum(sum(window.step_ends) for _, window in self.windows(start, lambda: None, sharing))

    def choose_shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of all batches, looking at the first of epoch 0 if nothing has decided them yet.

        Raises:
            ValueError: Batches have no fixed shapes, or records can be read once only.
        """
        if isinstance(self.spec, Pack):
            return ((self.spec.rows, self.spec.row_length),)
        if self.spec.sample_batches:
            self._check_repeats("shapes()")
            self._learn(lambda: None)
        if self.shapes is None:
            raise ValueError(f"batches of {self.spec!r} have no fixed shapes; set Bucket(shapes=...)")
        return self.shapes

    def repeat_first(self, max_tokens: int | None) -> Window:
        """Return a window of one batch of the largest shape that can occur, of the first record over and over.

        Args:
            max_tokens: A budget to try instead of that of the spec.

        Raises:
            ValueError: The longest row cannot be known, or does not fit; or records can be read once only.
        """
        self._check_repeats("worst_batch()")
        if max_tokens is None and self.spec.sample_batches:
            self.choose_shapes()
        spec = self.spec if max_tokens is None else self._with_budget(max_tokens)
        rows, length = spec.largest(self._max_length)
        ahead, first = _peek(self._ahead(0, Cursor()))
        stages = self._open(first)
        total: Counter[str] = Counter()
        for block in blocks_of(ahead):
            with located(block.table.column(ROW_ID), self.source.locate):
                (table,), counts = self._run([block.table], stages)
                if len(table):
                    return repeat_record(table, spec, rows, length)
            total.update(counts)
        raise ValueError(_nothing_left(total))

    def _with_budget(self, max_tokens: int) -> BatchSpec:
        if not isinstance(self._asked, Bucket):
            raise ValueError(
                f"max_tokens cannot be tried with {self._asked!r}, which has no such budget; use Bucket(max_tokens=...)"
            )
        return dataclasses.replace(self._asked, max_tokens=max_tokens)

    def _check_repeats(self, what: str) -> None:
        if not self.source.can_repeat:
            raise ValueError(
                f"{what} cannot look at records that a generator gives only once; pass the generator function itself"
            )

    def windows(self, start: Position, guard: Guard, sharing: RankSharing) -> Iterator[tuple[Position, Window]]:
        """Yield the windows from a position on, over epochs, each with the position at which it begins.

        A window of no batches is passed over, unless nothing comes after it; what it counted is counted by the next.

        Args:
            start: Where to begin.
            guard: Called between steps that take time; raises to stop.
            sharing: Who shares the windows.
        """
        counts = Counter[str]()
        empty: tuple[Position, Window] | None = None
        for position, window in self._all(start, guard, sharing):
            counts.update(window.counts)
            window = dataclasses.replace(window, counts=dict(counts))
            empty = None if len(window.plan) else (position, window)
            if empty is None:
                yield position, window
                counts.clear()
        if empty is not None:
            yield empty

    def _all(self, start: Position, guard: Guard, sharing: RankSharing) -> Iterator[tuple[Position, Window]]:
        yield from self._epoch(start, guard, sharing)
        later = itertools.count(start.epoch + 1) if start.until is None else range(start.epoch + 1, start.until)
        for epoch in later:
            yield from self._epoch(Position(epoch, start.until, WindowStart(blocks=0)), guard, sharing)

    def _epoch(self, start: Position, guard: Guard, sharing: RankSharing) -> Iterator[tuple[Position, Window]]:
        """Yield the windows of one epoch from a position on."""
        begin, is_fresh = start.window, start.window.cursor == Cursor() and not start.window.skip
        self.world_size = sharing.world_size or sharing.ranks.world_size
        handshake = Handshake(start.epoch, begin.cursor.position, begin.blocks, begin.skip, begin.served)
        with reported(handshake, sharing.ranks):
            ahead, first = _peek(self._ahead(start.epoch, begin.cursor))
        self._agree(handshake, start, first, sharing)
        sizes = self._first_window(start.epoch, first, guard)
        patience = Patience(guard, self.num_shards, sizes.guessed_bytes)
        window_settings = dataclasses.replace(self._recipe(start.epoch, first, patience), sharing=sharing, first=sizes)
        begins_anew = is_fresh and start.epoch == 0 and not start.window.served
        if self.spec.sample_batches and not begins_anew:
            self._learn(guard)
            window_settings = dataclasses.replace(window_settings, spec=self.spec)
        if begins_anew:
            window_settings = dataclasses.replace(
                window_settings, spec=self._asked
            )  # so that the window is the same if all was decided before
        num_batches = 0
        counts: Counter[str] = Counter()
        for window in read_windows(ahead, begin, window_settings):
            patience.end()
            if self.shuffle and sharing.ranks.rank == 0 and sharing.world_size is None:
                self._class_watch.look(window)
            if is_fresh and start.epoch == 0 and not num_batches:
                self._learn_from(window)
                if sharing.ranks.rank == 0:
                    look_at(window)
            num_batches += len(window.plan)
            counts.update(window.counts)
            yield dataclasses.replace(start, window=window.start), window
            if window.following is not None and self.shuffle and self.source.num_shards == 1 and not self._by_row:
                _say_once_of_one_shard()
        if is_fresh and not num_batches:
            raise ValueError(_nothing_left(counts))

    def _agree(self, handshake: Handshake, start: Position, first: Sequence[ReadBlock], sharing: RankSharing) -> None:
        """Use the engines that rank 0 chooses, if all ranks have the same data and options."""

        def choose() -> dict[str, str]:
            return self.engines or self._choose_engines(first)

        if sharing.ranks.world_size == 1:
            self.engines = choose()
            return
        with reported(handshake, sharing.ranks):
            common = self._common(start, first, sharing)
        self.engines, self._are_others_each_time = agree_on_engines(handshake, sharing.ranks, common, choose)

    def _ahead(self, epoch: int, cursor: Cursor) -> Iterator[UpcomingBlocks]:
        source, in_order = self._visited(epoch), range(self.num_shards)
        if not self.shuffle:
            return look_ahead(source, in_order, cursor, num_open=1)
        order = in_order if self._by_row else EvenOrder(self.num_shards, self.seed, epoch, "shards")
        return look_ahead(source, order, cursor)

    @property
    def _by_row(self) -> bool:
        return self.shuffle and self.source.num_records is not None

    def _visited(self, epoch: int) -> Source:
        """Return the source as an epoch reads it: where records can be read one by one, in an order of its own."""
        return in_random_order(self.source, self.seed, epoch) if self._by_row else self.source

    def _open(self, first: Sequence[ReadBlock]) -> tuple[OpenStage, ...]:
        """Open the stages once; engines are chosen by looking at the first records, unless a state has named them."""
        if self._opened is None:
            if self.engines is None:
                self.engines = self._choose_engines(first)
            self._opened = open_stages(self.stages, self.engines)
        return self._opened

    def _choose_engines(self, first: Sequence[ReadBlock]) -> dict[str, str]:
        sample = next((block.table for block in first if len(block.table)), _NO_RECORDS)
        with located(sample.column(ROW_ID), self.source.locate):
            for stage in self.stages:
                if isinstance(stage, Tokenize):
                    return stage.choose_engines(sample)
                sample = stage.open()([sample])[0][0]
        return {}

    def _recipe(self, epoch: int, first: Sequence[ReadBlock], guard: Guard) -> WindowSettings:
        return WindowSettings(
            self._run_by(self._open(first)),
            self.spec,
            (self.seed, epoch),
            self.shuffle,
            self.source.locate,
            guard,
            growth=FAST_GROWTH if FAST_ENGINES.issuperset((self.engines or {}).values()) else SLOW_GROWTH,
            max_length=self._max_length,
            accumulate=self._accumulate,
            world_size=self.world_size,
        )

    def _run_by(self, opened: tuple[OpenStage, ...]) -> Process:
        """Say who runs the stages: workers, or whoever needs a window."""
        if self._workers is None:
            return run_here(opened, self.source.locate, self._fill, self._labels)
        return self._workers.run(self.engines or {})

    def start_workers(self) -> None:
        """Start the worker processes, if there are to be any and they do not run."""
        if self._worker_options and self._workers is None:
            stages = LoaderStages(self.stages, self._fill, self._labels)
            self._workers = Workers(self._worker_options, stages, self.source.locate)
        if self._workers is not None:
            self._workers.start()

    def stop_workers(self) -> None:
        """End the worker processes at once, whatever they are doing."""
        if self._workers is not None:
            self._workers.stop()

    def _run(self, tables: list[pa.Table], stages: tuple[OpenStage, ...]) -> tuple[list[pa.Table], Counts]:
        """Run opened stages over tables, and leave out what is not served."""
        return run_stages(tables, stages, self._fill, self._labels)

    def _first_window(self, epoch: int, first: Sequence[ReadBlock], guard: Guard) -> FirstWindow:
        """Return what chooses the first window of an epoch.

        Args:
            epoch: Which epoch.
            first: The first blocks of the epoch.
            guard: Raises to stop.
        """
        table = first[-1].table if first else _NO_RECORDS
        num_bytes = max(first[-1].num_bytes, 1) if first else 1
        guess = guess_full_bytes(
            table, num_bytes, self._asked, is_text=self._is_text, shuffle=self.shuffle, world_size=self.world_size
        )
        blocks = self._visited(epoch).approx_blocks()
        total = None if blocks is None else blocks * num_bytes
        sizes = FirstWindow(guess, total, is_read=not first or first[-1].approx_bytes is None)
        if not self.shuffle:
            # Rows in the order of the data are the same whatever the windows, so that a block is enough to begin with; planned
            # ones are the same in every epoch.
            is_free = isinstance(self.spec, Unbucketed)
            return dataclasses.replace(sizes, small_bytes=num_bytes * self.world_size) if is_free else sizes
        if self.num_shards < FEW_SHARDS and not self._by_row:
            return sizes
        if epoch == 0:
            return dataclasses.replace(sizes, small_bytes=self._small_bytes(table, num_bytes, guess))
        return dataclasses.replace(sizes, full_bytes=functools.partial(self._learnt_bytes, guard))

    def _small_bytes(self, table: pa.Table, num_bytes: int, full_bytes: int) -> int:
        """Return how many bytes to begin with: few, or as many as what is decided by the first batches needs."""
        few = min(SMALL_BYTES * self.world_size, full_bytes)
        steps = _FIRST_STEPS * self._accumulate * self.world_size if self._accumulate > 1 else 0
        wanted = max(self._asked.sample_batches, steps)
        num_batches = self._asked.num_batches(len(table), num_bytes // ID_BYTES)
        return max(few, round(num_bytes * wanted / num_batches)) if num_batches else few

    def _learnt_bytes(self, guard: Guard) -> int:
        """Return how many bytes of records as read fill a window, as the first window of epoch 0 has taught."""
        if self._full_bytes is None:
            self._learn(guard)
        return self._full_bytes or 1

    def _learn(self, guard: Guard) -> None:
        """Learn from the beginning of epoch 0 what a run that came from there knows."""
        ahead, first = _peek(self._ahead(0, Cursor()))
        window_settings = dataclasses.replace(
            self._recipe(0, first, guard), spec=self._asked, first=self._first_window(0, first, guard)
        )
        for window in read_windows(ahead, WindowStart(blocks=0), window_settings):
            if self._learn_from(window):
                break

    def _learn_from(self, window: Window) -> bool:
        """Keep how many bytes fill a window, and what was decided by them, from the first window that has batches."""
        if window.full_bytes and self._full_bytes is None:
            self._full_bytes = window.full_bytes
        if self.spec.sample_batches:
            self.spec = window.spec
        return bool(window.full_bytes)


def _peek(ahead: Iterator[UpcomingBlocks]) -> tuple[Iterator[UpcomingBlocks], list[ReadBlock]]:
    """Return what lies ahead, and of it the blocks up to the first that has records."""
    seen: list[ReadBlock] = []
    for each in ahead:
        for number, block in enumerate(blocks_of([each]), 1):
            seen.append(block)
            if len(block.table):
                rest = [each.part(number, len(each))] if isinstance(each, UnreadBlocks) and number < len(each) else []
                return itertools.chain(seen, rest, ahead), seen
    return iter(seen), seen


@functools.cache
def _say_once_of_one_shard() -> None:
    """Say it as a line of log: nothing is wrong that ``-W error`` should stop."""
    logging.getLogger("seqstream").warning(
        "the source is one shard, so shuffle=True mixes rows within windows only; raise window_bytes to mix more"
    )


def _nothing_left(counts: Mapping[str, int]) -> str:
    if counts.get("empty") or counts.get("dropped"):
        num = counts.get(WITHOUT_LABELS, 0)
        unlabelled = f" ({num:,} of them without any label)" if num else ""
        return (
            f"source must give at least one row, got none: {counts.get('empty', 0):,} records were empty and "
            f"{counts.get('dropped', 0):,} were dropped{unlabelled}; look at the data, the filters and drop_last"
        )
    return "source must have at least one record, got none; look at the paths and what is in them"
