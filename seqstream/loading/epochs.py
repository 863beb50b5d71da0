"""What an epoch reads and in which order, and all that its batches depend on; nothing here changes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_arrow, to_numpy
from seqstream.distributed.digests import describe_function
from seqstream.loading.arguments import LoaderArguments, ParsedStages, WorkerOptions, engine_prefix
from seqstream.loading.calibration import Calibration
from seqstream.loading.fingerprints import to_text
from seqstream.loading.stage_runner import StageRunner
from seqstream.planning.batch_spec import ID_BYTES, BatchSpec
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.records import RECORD_BITS, ROW_ID, Json, located
from seqstream.shuffling import EvenOrder
from seqstream.sources.mixture import Member, Mixture
from seqstream.sources.random_order import in_random_order
from seqstream.sources.source import Source
from seqstream.stages.label_filter import LabelFilter
from seqstream.stages.map_filter import Filter, Map
from seqstream.tokenizing.engines import ENGINES, FUNCTION
from seqstream.tokenizing.stage import Tokenize
from seqstream.windows.block_reader import Cursor, ReadBlock, UnreadBlocks, UpcomingBlocks, blocks_of, look_ahead
from seqstream.windows.collecting import LAST
from seqstream.windows.first_window import FEW_SHARDS
from seqstream.windows.source_stream import OpenSource

NO_RECORDS = pa.table({ROW_ID: to_arrow(np.empty(0, dtype=np.int64))})


class Epochs:
    """A source, the order in which each epoch reads it, and how its records become batches.

    Attributes:
        arguments: The arguments of the loader.
        parsed: The stages, and what follows from them.
        source: Where records come from.
        mixture: The source, if it is a mixture; else ``None``.
        labels: Which rows have no label, and are dropped.
    """

    def __init__(self, arguments: LoaderArguments, parsed: ParsedStages) -> None:
        self.arguments = arguments
        self.parsed = parsed
        self.source = arguments.source
        self.mixture = arguments.source if isinstance(arguments.source, Mixture) else None
        spec = parsed.spec
        packed = (spec.causal, spec.row_length, spec.overflow) if isinstance(spec, Pack) else ()
        self.labels = LabelFilter(arguments.label_rule, *packed)

    @property
    def spec(self) -> BatchSpec:
        """The batch spec before it is fitted to the data."""
        return self.parsed.spec

    @functools.cached_property
    def fingerprint(self) -> dict[str, Json]:
        """What the order and the content of batches depend on."""
        stages = {f"stage {number}": stage.fingerprint() for number, stage in enumerate(self.parsed.data_stages, 1)}
        return {
            "source": self.source_of(0).fingerprint(),
            **({} if self.mixture is None else {"mixture": self.mixture.settings_fingerprint()}),
            "shuffle": self.arguments.shuffle,
            **stages,
            "batches": self.spec.fingerprint(),
            "accumulate": self.arguments.accumulate,
            **({"labels": labels} if (labels := self.labels.fingerprint()) else {}),
        }

    @property
    def identity(self) -> dict[str, Json]:
        """What a state must have to be loaded: the seed, and the fingerprint as a state has it."""
        return {"seed": self.arguments.seed, **json.loads(self.fingerprint_text)}

    @functools.cached_property
    def fingerprint_text(self) -> str:
        """The fingerprint as it is in a state."""
        return to_text(self.fingerprint)

    @functools.cached_property
    def functions(self) -> dict[str, Json]:
        """What the functions of the stages do when the loader begins, by stage; a fingerprint has their names only."""
        found: dict[str, Json] = {}
        for number, stage in enumerate(self.parsed.data_stages, 1):
            functions = [stage.fn] if isinstance(stage, Map | Filter) else []
            functions += stage.functions if isinstance(stage, Tokenize) else []
            if functions:
                found[f"stage {number}.function"] = [describe_function(function) for function in functions]
        return found

    @functools.cached_property
    def num_shards(self) -> int:
        """How many shards an epoch reads."""
        return self.source_of(0).num_shards

    @property
    def is_by_row(self) -> bool:
        """Whether an epoch reads records one by one, in a random order."""
        return self.arguments.shuffle and self.source.num_records is not None

    def source_of(self, epoch: int) -> Source:
        """Return the source as an epoch reads it: where records are read one by one, in an order of its own."""
        return in_random_order(self.source, self.arguments.seed, epoch) if self.is_by_row else self.source

    def blocks_from(self, epoch: int, cursor: Cursor) -> Iterator[UpcomingBlocks]:
        """Yield the blocks of an epoch from a cursor on."""
        if self.mixture is not None:
            return self._samples_from(epoch)
        return self._blocks_of(self.source, epoch, cursor)

    def open_sources(self, epoch: int) -> list[OpenSource]:
        """Return what opens each source of the mixture in an epoch."""
        mixture = self.mixture
        return [] if mixture is None else [
            functools.partial(self._passes_of, member, stages, epoch)
            for member, stages in zip(mixture.members, self.parsed.stages_of, strict=True)
        ]

    def begins_small(self, full_tokens: int) -> bool:
        """Return whether the first window of the mixture may be small: it is shuffled well, and holds more than a window."""
        if self.mixture is None or not self.arguments.shuffle:
            return True
        sources = self.mixture.parts
        mixes = all(each.num_records is not None or each.num_shards >= FEW_SHARDS for each in sources)
        sizes = self.mixture.sizes if mixes else ()
        known = [size for size in sizes if size is not None]
        return mixes and not (len(known) == len(sizes) and sum(known) <= LAST * ID_BYTES * full_tokens)

    def _passes_of(self, member: Member, stages: int, epoch: int, cursor: Cursor) -> Iterator[ReadBlock]:
        """Yield the blocks of a source of the mixture, pass after pass, from a cursor on."""
        offset = self._first_shards[member.name]
        for number in itertools.count(cursor.epoch):
            key = f"{epoch}.{number}" if epoch else number
            begin = cursor if number == cursor.epoch else Cursor()
            has_blocks = begin != Cursor(epoch=number)
            for block in blocks_of(self._blocks_of(member.source, key, begin, member.share_of(number))):
                has_blocks = True
                yield _as_of(block, number, stages, offset)
            if number + 1 >= member.num_passes or not has_blocks:
                return

    def _samples_from(self, epoch: int) -> Iterator[ReadBlock]:
        """Yield blocks of the first pass over each source that has a weight, those of one after those of another."""
        weights = zip(*(weights for _, weights in self.mixture.schedule.points), strict=True) if self.mixture else ()
        for open_source, own in zip(self.open_sources(epoch), weights, strict=True):
            if max(own) > 0:
                yield from itertools.takewhile(lambda block: not block.before.epoch, open_source(Cursor()))

    def _blocks_of(
        self, source: Source, epoch: object, cursor: Cursor, share: float = 1.0
    ) -> Iterator[UpcomingBlocks]:
        """Yield the blocks of an epoch, or of a part of it, of one source from a cursor on."""
        arguments = self.arguments
        is_by_row = arguments.shuffle and source.num_records is not None
        source = in_random_order(source, arguments.seed, epoch) if is_by_row else source
        num_shards = source.num_shards
        in_order, stop = range(num_shards), round(share * num_shards)
        if not arguments.shuffle:
            return look_ahead(source, in_order, cursor, num_open=1, stop=stop)
        order = in_order if is_by_row else EvenOrder(num_shards, arguments.seed, epoch, "shards")
        return look_ahead(source, order, cursor, stop=stop)

    @functools.cached_property
    def _first_shards(self) -> dict[str, int]:
        """The number of the first shard of each source of the mixture among those of all."""
        return {} if self.mixture is None else dict(zip(self.mixture.names, self.mixture.first_shards.tolist(), strict=False))

    def choose_engines(self, first: Sequence[ReadBlock]) -> dict[str, str]:
        """Return the engine for each column of ids, each proved on the first records.

        Args:
            first: The first blocks, up to one that has records.
        """
        if self.mixture is None:
            return self._choose_engines(0, first)
        engines: dict[str, str] = {}
        sources = self.open_sources(0)
        for number in sorted(set(self.parsed.stages_of)):
            ahead = sources[self.parsed.stages_of.index(number)](Cursor())
            own = [block for block in first if block.stages == number and len(block.table)] or peek(ahead)[1]
            engines |= {engine_prefix(number) + name: each for name, each in self._choose_engines(number, own).items()}
        return engines

    def _choose_engines(self, number: int, first: Sequence[ReadBlock]) -> dict[str, str]:
        """Return the engine for each column of ids in one of the lists of stages."""
        sample = next((block.table for block in first if len(block.table)), NO_RECORDS)
        with located(sample.column(ROW_ID), self.source.locate):
            for stage in self.parsed.stage_lists[number]:
                if isinstance(stage, Tokenize):
                    return stage.choose_engines(sample)
                sample = stage.open()([sample])[0][0]
        return {}

    def stage_runner(self, worker_options: WorkerOptions = WorkerOptions()) -> StageRunner:  # noqa: B008 - it is frozen
        """Return a new runner of the stages, for one thread."""
        parsed = self.parsed
        return StageRunner(parsed.stage_lists, self.source.locate, parsed.empty_fill, self.labels, worker_options)

    def check_repeats(self, what: str) -> None:
        """Raise unless records can be read again.

        Args:
            what: The method that needs to read them.

        Raises:
            ValueError: They can be read once only.
        """
        if not self.source.can_repeat:
            raise ValueError(
                f"{what} cannot look at records that a generator gives only once; pass the generator function itself"
            )

    def check_cursor(self, cursor: Cursor) -> None:
        """Raise unless a cursor of a state is one that an epoch of this source can have.

        Raises:
            ValueError: It is after the last shard, or shards are open that cannot be.
        """
        name = "position.window.cursor"
        if cursor.position > self.num_shards:
            raise ValueError(
                f"{name}.position of the state must be at most the {self.num_shards:,} shards, got {cursor.position:,}"
            )
        shards = [shard.shard for shard in cursor.open]
        if any(shard >= self.num_shards for shard in shards) or len(set(shards)) < len(shards):
            raise ValueError(f"{name}.source of the state must be different shards of {self.num_shards:,}, got {shards}")
        if shards and (self.source_of(0).approx_bytes(np.array(shards)) >= 0).any():
            raise ValueError(f"{name}.source of the state must be shards of several blocks, which are begun, got {shards}")

    def check_calibration(self, calibration: Calibration) -> None:
        """Raise unless the engines and shapes of a state are such as these stages can choose.

        Raises:
            ValueError: Engines are for other columns, or shapes are given where none are chosen.
        """
        columns = [
            engine_prefix(number) + column
            for number in sorted({*self.parsed.stages_of} or {0})
            for stage in self.parsed.stage_lists[number]
            if isinstance(stage, Tokenize)
            for column in stage.columns
        ]
        engines, shapes = calibration.engines, calibration.shapes
        if engines and (set(engines) != set(columns) or not set(engines.values()) <= {*ENGINES, FUNCTION}):
            raise ValueError(f"calibration.engines of the state must name one of each of {columns}, got {dict(engines)}")
        if shapes is not None and (not isinstance(self.spec, Bucket) or self.spec.shapes is None):
            listed = [list(shape) for shape in shapes]
            raise ValueError(f"calibration.shapes of the state must be None for {self.spec!r}, got {listed!r:.80}")


def _as_of(block: ReadBlock, number: int, stages: int, first_shard: int) -> ReadBlock:
    """Return a block of a source as one of a mixture: with the number of the pass, and row ids of the mixture."""
    before, after = (dataclasses.replace(cursor, epoch=number) for cursor in (block.before, block.after))
    if not first_shard:
        return dataclasses.replace(block, before=before, after=after, stages=stages)
    offset = first_shard << RECORD_BITS

    def renumbered(table: pa.Table) -> pa.Table:
        row_ids = to_numpy(table.column(ROW_ID)) + offset
        return table.set_column(table.column_names.index(ROW_ID), ROW_ID, to_arrow(row_ids))

    content = block.content
    read = (lambda: renumbered(content())) if callable(content) else renumbered(content)
    return ReadBlock(read, before, after, block.approx_bytes, stages)


def peek(ahead: Iterator[UpcomingBlocks]) -> tuple[Iterator[UpcomingBlocks], list[ReadBlock]]:
    """Return all the blocks that lie ahead, and the first of them, up to one that has records."""
    seen: list[ReadBlock] = []
    for each in ahead:
        for number, block in enumerate(blocks_of([each]), 1):
            seen.append(block)
            if len(block.table):
                rest = [each.part(number, len(each))] if isinstance(each, UnreadBlocks) and number < len(each) else []
                return itertools.chain(seen, rest, ahead), seen
    return iter(seen), seen
