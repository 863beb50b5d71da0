"""Answers about epochs that need a look at the data: how many steps, which shapes, the largest batch."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa

from seqstream.arrays import Lengths
from seqstream.loading.calibration import Calibration
from seqstream.loading.epoch_windows import EpochWindows, explain_no_rows
from seqstream.loading.epochs import NO_RECORDS, Epochs, peek
from seqstream.loading.mixture_passes import MixturePasses
from seqstream.loading.mixture_sample import SampledRows, SourceSample, mix_samples
from seqstream.loading.sampling import Sample, sample_records
from seqstream.loading.state import Position
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.bucket import Bucket
from seqstream.planning.given_shapes import Shape
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.pack import Pack
from seqstream.planning.rank_shares import Uneven, schedule_turns
from seqstream.records import ROW_ID, located
from seqstream.sources.source import Source
from seqstream.windows.block_reader import Cursor, blocks_of
from seqstream.windows.counting import tokens_of
from seqstream.windows.row_lengths import planning_numbers
from seqstream.windows.settings import RankSharing, WindowStart
from seqstream.windows.window import Window
from seqstream.windows.worst_case import repeat_record

_MOST_ROWS = 200_000
"""Of a window with more rows than this, a part of this size is planned."""


class Estimates:
    """Answers questions by looking at the data, beside whatever iterates over it: nothing that a thread uses is changed.

    Args:
        epochs: What a loader reads.
        calibration: What it knows of the data.
        world_size: Number of ranks.

    Attributes:
        calibration: What is known after the questions; only this object has it.
    """

    def __init__(self, epochs: Epochs, calibration: Calibration, world_size: int) -> None:
        self.calibration = calibration
        self._epochs = epochs
        self._runner = epochs.stage_runner()
        self._sharing = RankSharing(uneven=epochs.arguments.uneven, world_size=world_size)
        self._world_size = world_size

    def estimate_steps(self) -> int | None:
        """Estimate the optimiser steps of an epoch, from blocks all over it; ``None`` where its size cannot be known."""
        epochs = self._epochs
        sampled = self._sampled() if epochs.passes is None else self._mixed(epochs.passes)
        if sampled is None:
            return None
        return estimate_steps(
            sampled,
            self.calibration.fit(epochs.spec).fitted(sampled.lengths, epochs.parsed.max_length),
            shuffle=epochs.arguments.shuffle,
            world_size=self._world_size,
            accumulate=epochs.arguments.accumulate,
            uneven=epochs.arguments.uneven,
        )

    def _sampled(self) -> SampledRows | None:
        """Return rows from all over the source; ``None`` where its size is not known."""
        source = self._epochs.source_of(0)
        sample = sample_records(source)
        if sample is None:
            return None
        return SampledRows(self._rows_of(sample, source)[1], sample.table.nbytes, sample.scale)

    def _mixed(self, passes: MixturePasses) -> SampledRows | None:
        """Return rows of all sources of a mixture by their shares; ``None`` where its size is not known."""
        spec, parts = self._epochs.spec, passes.mixture.parts
        samples: list[SourceSample | None] = [None] * len(parts)
        for number, sample in passes.samples_of_sources():
            if sample is None:
                return None
            table, lengths = self._rows_of(sample, parts[number], passes.stages_of[number])
            num_tokens = int(spec.count_tokens(tokens_of(table, lengths, spec)).sum())
            samples[number] = SourceSample(lengths, num_tokens, sample.scale)
        return mix_samples(passes.mixture, samples, _MOST_ROWS)

    def _rows_of(self, sample: Sample, source: Source, stages: int = 0) -> tuple[pa.Table, Lengths]:
        """Return the rows that the stages make of a sample, and what they are planned by."""
        epochs, table = self._epochs, NO_RECORDS
        engines = self._engines()
        if len(sample.table):
            with located(sample.table.column(ROW_ID), source.locate):
                table, _ = self._runner.run(sample.table, engines, stages)
        return table, planning_numbers(table, epochs.spec.columns, epochs.spec.group)

    def count_steps(self, epoch: int) -> int:
        """Count the optimiser steps of an epoch, building all its windows here.

        Raises:
            ValueError: Records can be read once only.
        """
        self._epochs.check_repeats("count_steps()")
        windows = self._windows()
        steps = sum(sum(each.window.step_ends) for each in windows.read(Position(epoch, epoch + 1, WindowStart(blocks=0))))
        self.calibration = dataclasses.replace(self.calibration, engines=windows.calibration.engines)
        return steps

    def shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of all batches, from the first window of epoch 0 if nothing has decided them yet.

        Raises:
            ValueError: Batches have no fixed shapes, or records can be read once only.
        """
        spec = self._epochs.spec
        if isinstance(spec, Pack):
            return ((spec.rows, spec.row_length),)
        if self.calibration.fit(spec).sample_batches:
            self._epochs.check_repeats("shapes()")
            windows = self._windows()
            windows.calibrate()
            self.calibration = windows.calibration
        if self.calibration.shapes is None:
            raise ValueError(f"batches of {spec!r} have no fixed shapes; set Bucket(shapes=...)")
        return self.calibration.shapes

    def largest_window(self, max_tokens: int | None) -> Window:
        """Return a window of one batch of the largest shape that can occur, its rows all the first record.

        Args:
            max_tokens: A budget to try instead of that of the batch spec.

        Raises:
            ValueError: The longest row cannot be known, or does not fit; or records can be read once only.
        """
        epochs = self._epochs
        epochs.check_repeats("worst_batch()")
        if max_tokens is None and self.calibration.fit(epochs.spec).sample_batches:
            self.shapes()
        spec = self.calibration.fit(epochs.spec) if max_tokens is None else _with_budget(epochs.spec, max_tokens)
        rows, length = spec.largest(epochs.parsed.max_length)
        engines = self._engines()
        total: Counter[str] = Counter()
        for block in blocks_of(epochs.blocks_from(0, Cursor())):
            with located(block.table.column(ROW_ID), epochs.source.locate):
                table, counts = self._runner.run(block.table, engines, block.stages)
                if len(table):
                    return repeat_record(table, spec, rows, length)
            total.update(counts)
        raise ValueError(explain_no_rows(total))

    def _windows(self) -> EpochWindows:
        return EpochWindows(self._epochs, self._runner, self.calibration, self._sharing)

    def _engines(self) -> Mapping[str, str]:
        """Return the engines, chosen by the first records of epoch 0 if they are not chosen yet."""
        if self.calibration.engines is None:
            _, first = peek(self._epochs.blocks_from(0, Cursor()))
            self.calibration = dataclasses.replace(self.calibration, engines=self._epochs.choose_engines(first))
        return self.calibration.engines or {}


def estimate_steps(
    sampled: SampledRows, spec: BatchSpec, *, shuffle: bool, world_size: int, accumulate: int, uneven: Uneven
) -> int:
    """Return how many optimiser steps an epoch has if all its rows are like those of a sample.

    Args:
        sampled: The sample.
        spec: How rows are batched, fitted to the data.
        shuffle: Whether windows are those of a loader that shuffles.
        world_size: Number of ranks.
        accumulate: Batches of each rank in an optimiser step.
        uneven: What happens to a step with fewer rows than ranks.
    """
    lengths, scale = sampled.lengths, sampled.scale
    if not len(lengths):
        return 0
    length_counts = dataclasses.replace(LengthCounts.of(spec.sort_keys(lengths)), sides=spec.sides)
    sizes = dataclasses.replace(LengthCounts.of(lengths), sides=spec.sides)
    share = spec.window_size(shuffle=shuffle).share(
        num_batches=spec.num_batches(sizes.num_rows, sizes.num_tokens),
        num_tokens=sizes.num_tokens,
        read_bytes=sampled.num_bytes,
        world_size=world_size,
    )
    window = min(scale, 1 / share if share else math.inf, max(1.0, _MOST_ROWS / length_counts.num_rows))
    is_all = window == scale
    rows = length_counts.scaled(window)
    multiple = world_size * accumulate
    search = spec.search_planned(rows, last=is_all, multiple=multiple)
    while search.num_needed is not None:
        search = search.with_lengths(rows.scaled(search.num_needed / rows.num_rows))
    num = search.num_planned
    if not num and is_all:
        return 0
    if not num:
        rows, num = length_counts.scaled(scale), round(length_counts.num_rows * scale)
    planned = rows if num == rows.num_rows else rows.scaled(num / rows.num_rows)
    global_plan = spec.plan_global(planned, key=None, world_size=world_size, accumulate=accumulate)
    steps = int(schedule_turns(global_plan, 0, world_size, uneven).ends_step.sum())
    return steps if is_all else math.ceil(steps * length_counts.num_rows * scale / planned.num_rows)


def _with_budget(spec: BatchSpec, max_tokens: int) -> BatchSpec:
    if not isinstance(spec, Bucket):
        raise ValueError(f"max_tokens cannot be tried with {spec!r}, which has no such budget; use Bucket(max_tokens=...)")
    return dataclasses.replace(spec, max_tokens=max_tokens)
