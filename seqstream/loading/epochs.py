"""What an epoch reads and in which order, and all that its batches depend on; nothing here changes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_arrow
from seqstream.loading.arguments import LoaderArguments, ParsedStages, WorkerOptions
from seqstream.loading.calibration import Calibration
from seqstream.loading.fingerprints import to_text
from seqstream.loading.mixture_passes import MixturePasses
from seqstream.loading.reading_order import ReadingOrder
from seqstream.loading.remote_blocks import BlockProgram
from seqstream.loading.stage_lists import choose_engines, engine_prefix, functions_of, rows_of
from seqstream.loading.stage_runner import StageRunner
from seqstream.loading.token_cache import TokenCache
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.records import ROW_ID, Json, located
from seqstream.sources.mixture import Mixture
from seqstream.sources.source import Source
from seqstream.sources.whole_groups import WholeGroups
from seqstream.stages.label_filter import LabelFilter
from seqstream.tokenizing.engines import ENGINES, FUNCTION
from seqstream.tokenizing.stage import Tokenize
from seqstream.windows.block_reader import Cursor, ReadBlock, UnreadBlocks, UpcomingBlocks, blocks_of
from seqstream.windows.settings import WindowStart

NO_RECORDS = pa.table({ROW_ID: to_arrow(np.empty(0, dtype=np.int64))})


class Epochs:
    """A source, the order in which each epoch reads it, and how its records become batches.

    Attributes:
        arguments: The arguments of the loader.
        parsed: The stages, and what follows from them.
        source: Where records come from.
        order: The order in which it is read.
        passes: Opens the sources of a mixture; ``None`` for one source.
        labels: Which rows have no label, and are dropped.
    """

    def __init__(self, arguments: LoaderArguments, parsed: ParsedStages) -> None:
        self.arguments = arguments
        self.parsed = parsed
        self.source = arguments.source
        if parsed.spec.group is not None:
            self.source = WholeGroups.of(arguments.source, parsed.spec.group)
        self.order = ReadingOrder(arguments.seed, arguments.shuffle)
        self.passes: MixturePasses | None = None
        if isinstance(arguments.source, Mixture):
            self.passes = MixturePasses(arguments.source, self.order, parsed.stages_of)
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
        return {
            f"{engine_prefix(number)}{name}.function": described
            for number, stages in enumerate(self.parsed.stage_lists)
            for name, described in functions_of(stages).items()
        }

    @property
    def mixture(self) -> Mixture | None:
        """The source, if it is a mixture."""
        return None if self.passes is None else self.passes.mixture

    @functools.cached_property
    def num_shards(self) -> int:
        """How many shards an epoch reads."""
        return self.source_of(0).num_shards

    @property
    def is_by_row(self) -> bool:
        """Whether an epoch reads records one by one, in a random order."""
        return self.order.is_by_row(self.source)

    def source_of(self, epoch: int) -> Source:
        """Return the source as an epoch reads it: where records are read one by one, in an order of its own."""
        return self.order.as_read(self.source, epoch)

    def blocks_from(self, epoch: int, cursor: Cursor) -> Iterator[UpcomingBlocks]:
        """Yield the blocks of an epoch from a cursor on."""
        return self.order.blocks(self.source, epoch, cursor) if self.passes is None else self.passes.samples(epoch)

    def choose_engines(self, first: Sequence[ReadBlock]) -> dict[str, str]:
        """Return the engine for each column of ids, each proved on the first records.

        Args:
            first: The first blocks, up to one that has records.
        """
        if self.passes is None:
            return self._choose_engines(0, first)
        engines: dict[str, str] = {}
        for number in sorted(set(self.parsed.stages_of)):
            own = [block for block in first if block.stages == number and len(block.table)]
            own = own or peek(self.passes.open_one(number))[1]
            engines |= {engine_prefix(number) + name: each for name, each in self._choose_engines(number, own).items()}
        return engines

    def _choose_engines(self, number: int, first: Sequence[ReadBlock]) -> dict[str, str]:
        """Return the engine for each column of ids in one of the lists of stages."""
        sample = next((block.table for block in first if len(block.table)), NO_RECORDS)
        with located(sample.column(ROW_ID), self.source.locate):
            return choose_engines(self.parsed.stage_lists[number], sample)

    def stage_runner(
        self,
        worker_options: WorkerOptions = WorkerOptions(),  # noqa: B008 - it is frozen
        cache: TokenCache | None = None,
    ) -> StageRunner:
        """Return a new runner of the stages, for one thread."""
        parsed, sources = self.parsed, (self.source,) if self.mixture is None else self.mixture.parts
        sources = tuple(source for source in sources if worker_options and source.is_read_by_workers)
        program = BlockProgram(parsed.stage_lists, parsed.empty_fill, self.labels, sources)
        return StageRunner(program, self.source.locate, worker_options, cache)

    def open_cache(self) -> TokenCache | None:
        """Return the cache of the rows of blocks; ``None`` where there is none, or records are read one by one."""
        arguments, spec = self.arguments, self.spec
        if arguments.cache is None or self.is_by_row:
            return None
        packed = (spec.causal, spec.row_length, spec.overflow) if isinstance(spec, Pack) else ()
        common = [version("seqstream"), self.labels.fingerprint(), packed, self.parsed.empty_fill]
        stages = [[*common, dataclasses.asdict(rows_of(stages))] for stages in self.parsed.stage_lists]
        return TokenCache(arguments.cache, arguments.cache_bytes, stages)

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

    def check_start(self, window: WindowStart) -> None:
        """Raise unless the start of a window in a state is one that an epoch of this source can have.

        Raises:
            ValueError: It is after the last shard, or shards are open that cannot be; or it is not of a mixture, as this
                source is one, or the other way round.
        """
        if self.mixture is None or window.mixture is None:
            is_known = (window.mixture is None) if self.mixture is None else window.is_beginning or window.cursor.position
            if not is_known:
                raise ValueError("position.window.mixture of the state must be there for a mixture, and only then")
            self._check_cursor("position.window.cursor", self.source_of(0), window.cursor)
            return
        for member in self.mixture.members:
            if (start := window.mixture.sources.get(member.name)) is not None:
                name = f"position.window.mixture.sources.{member.name}"
                self._check_cursor(name, self.order.as_read(member.source), start.cursor)

    def has_sources_of(self, window: WindowStart) -> bool:
        """Return whether the source has all that gives rows to the window of a state that is under way."""
        return self.passes is None or self.passes.has_sources_of(window)

    def _check_cursor(self, name: str, source: Source, cursor: Cursor) -> None:
        num_shards = source.num_shards
        if cursor.position > num_shards:
            raise ValueError(f"{name}.position of the state must be at most the {num_shards:,} shards, got {cursor.position:,}")
        shards = [shard.shard for shard in cursor.open]
        if any(shard >= num_shards for shard in shards) or len(set(shards)) < len(shards):
            raise ValueError(f"{name}.source of the state must be different shards of {num_shards:,}, got {shards}")
        if shards and (source.approx_bytes(np.array(shards)) >= 0).any():
            raise ValueError(f"{name}.source of the state must be shards of several blocks, which are begun, got {shards}")

    def calibration_of(self, saved: Calibration, *, is_same: bool) -> Calibration:
        """Return what of the calibration of a state holds for this loader: engines only if it reads the same sources.

        Raises:
            ValueError: They should hold, and cannot be of these stages.
        """
        known = saved if is_same else dataclasses.replace(saved, engines=None)
        self.check_calibration(known)
        return known

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
