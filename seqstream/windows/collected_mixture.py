"""The blocks of a window of a mixture, and how many rows of each source are taken of them.

Legend: ``S`` sources of the mixture.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import join_tables
from seqstream.distributed.global_order import GlobalOrder
from seqstream.planning.batch_spec import ID_BYTES
from seqstream.planning.token_quotas import Flow, SourceRows
from seqstream.records import located
from seqstream.windows.block_states import CountedBlocks, count_rows
from seqstream.windows.collecting import CollectedBlocks, next_size, start_after
from seqstream.windows.counting import row_ranges
from seqstream.windows.mixture_columns import MixtureColumns
from seqstream.windows.processing import row_ids_of
from seqstream.windows.settings import MixtureStart, SourceStart, WindowStart

Numbers = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class CollectedMixture(CollectedBlocks):
    """The blocks of a window of a mixture, source after source in the order of their names.

    Attributes:
        names: Names of the sources.
        blocks_of: The blocks of each.
        starts: Where each begins.
        rows: The rows that each could give; ``None`` where a loaded state fixes their numbers.
        num_rows_of: ``int64 (S,)``, how many each gives if every row is planned.
        tokens_of: The tokens of each of the rows that a source could give, ``int64 (n,)`` a source.
        flow: What each should give; ``None`` where ``starts`` already include the surpluses after the window.
        columns: The columns of each source.
        num_shards: Number of shards of each source, as it is read.
        limits: How often each source may be read.
    """

    names: Sequence[str]
    blocks_of: Sequence[Sequence[CountedBlocks]]
    starts: Sequence[SourceStart]
    rows: SourceRows | None
    num_rows_of: Index
    tokens_of: Sequence[Index]
    flow: Flow | None
    columns: MixtureColumns
    num_shards: Sequence[int]
    limits: Sequence[float]
    _known_counts: dict[int, Index] = dataclasses.field(default_factory=dict, repr=False)
    _known_ends: dict[int, tuple[list[CountedBlocks], list[SourceStart]]] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def num_rows(self) -> int:
        return int(self.num_rows_of.sum())

    @property
    def num_planned(self) -> int | None:
        return self.num_rows if self.rows is None else None

    @property
    def read_bytes(self) -> int:
        """0: the size of the window is measured in tokens, not in bytes read."""
        return 0

    def full_bytes(self, num_rows: int, share: float) -> int:
        """Return the bytes of ids that fill a window."""
        return round(ID_BYTES * int(self._tokens(self.counts_of(num_rows)).sum()) / share) if share else 0

    def passes(self, num_rows: int) -> tuple[Numbers, Numbers]:
        after = self._after(num_rows)[1]
        return np.array([*map(self._passes_at, self.starts, range(len(self.names)))]), np.array(
            [*map(self._passes_at, after, range(len(self.names)))]
        )

    def _passes_at(self, start: SourceStart, number: int) -> float:
        """Return how often a source was read up to ``start``."""
        cursor = start.cursor
        near = itertools.chain(self.blocks_of[number][:1], reversed(self.blocks_of[number])) if start.skip else ()
        part = next((start.skip / max(1, block.total_rows) for block in near if block.span.before == cursor), 0.0)
        done = cursor.epoch + (cursor.position - len(cursor.open) + part) / max(1, self.num_shards[number])
        return min(done, self.limits[number])

    def number(self, global_order: GlobalOrder) -> int:
        """Return the tokens served before the window, which identify it: two windows may begin with the same row."""
        return 0 if self.start.mixture is None else self.start.mixture.tokens

    def counts_of(self, num_rows: int) -> Index:
        """Return how many of the first rows of the window each source gives, ``int64 (S,)``."""
        if num_rows == self.num_rows or self.rows is None:
            return self.num_rows_of
        if num_rows not in self._known_counts:
            self._known_counts[num_rows] = self.rows.first_rows(num_rows)
        return self._known_counts[num_rows]

    def ranges(self, num_rows: int) -> list[slice]:
        return ranges_of(self.names, self.blocks_of, self.starts, self.counts_of(num_rows).tolist())

    def own_rows(self, num_rows: int) -> pa.Table | None:
        tables, sources = [], []
        numbers = [number for number in by_name(self.names) for _ in self.blocks_of[number]]
        for each, rows, number in zip(self.blocks, self.ranges(num_rows), numbers, strict=True):
            if each.rows is not None and rows.stop > rows.start:
                tables.append(self.columns.complete(each.rows.table.slice(rows.start, rows.stop - rows.start)))
                sources.append((number, rows.stop - rows.start))
        if not tables:
            return None
        with located(row_ids_of(tables), self.settings.locate):
            return self.columns.with_sources(join_tables(tables), np.repeat(*np.array(sources, dtype=np.int32).T))

    def begun(self, num_rows: int, world_size: int) -> WindowStart:
        mixture = self.start.mixture or MixtureStart()
        if self.rows is not None:
            counts = self.counts_of(num_rows)
            own = {
                name: dataclasses.replace(start, surplus=surplus, rows=count)
                for name, start, surplus, count in zip(
                    self.names, self.starts, self._surpluses(counts).tolist(), counts.tolist(), strict=True
                )
            }
            mixture = dataclasses.replace(mixture, sources={**mixture.sources, **own}, is_last=self.is_last)
        return dataclasses.replace(self.start, planned_world_size=world_size, mixture=mixture)

    def follow(self, num_rows: int, share: float) -> tuple[list[CountedBlocks], WindowStart | None]:
        mixture = self.start.mixture or MixtureStart()
        if self.is_last and not mixture.goes_on:
            return [], None
        counts = self.counts_of(num_rows)
        left, starts = self._after(num_rows)
        tokens = int(self._tokens(counts).sum())
        size = next_size(tokens, share, self.settings.growth)
        following = {**mixture.sources, **dict(zip(self.names, starts, strict=True))}
        return left, WindowStart(blocks=size, mixture=MixtureStart(following, mixture.tokens + tokens))

    def _after(self, num_rows: int) -> tuple[list[CountedBlocks], list[SourceStart]]:
        """Return the blocks of which rows are left, and where each source begins in the next window."""
        if num_rows in self._known_ends:
            return self._known_ends[num_rows]
        counts = self.counts_of(num_rows)
        all_left: list[CountedBlocks] = []
        starts = []
        parts = zip(self.blocks_of, self.starts, counts.tolist(), self._surpluses(counts).tolist(), strict=True)
        for blocks, start, count, surplus in parts:
            cursor, skip = start.cursor, start.skip
            if blocks:
                left, after = start_after(blocks, count_rows(blocks) - start.skip - count, 0)
                all_left += left
                cursor, skip = after.cursor, after.skip
            starts.append(SourceStart(cursor, skip, surplus))
        self._known_ends[num_rows] = all_left, starts
        return all_left, starts

    def _tokens(self, counts: Index) -> Index:
        """Return the tokens of the first rows of each source, ``int64 (S,)``."""
        pairs = zip(self.tokens_of, counts.tolist(), strict=True)
        return np.array([int(lengths[:count].sum()) for lengths, count in pairs], dtype=np.int64)

    def _surpluses(self, counts: Index) -> Numbers:
        """Return the tokens that each source has given beyond its quota, after the window, ``float64 (S,)``."""
        before = np.array([start.surplus for start in self.starts])
        if self.flow is None:
            return before
        tokens = self._tokens(counts)
        after: Numbers = np.round(before + tokens - self.flow.at(float(tokens.sum())), 3)
        return after


def by_name(names: Sequence[str]) -> list[int]:
    """Return the numbers of sources in the order of their names, which a window has whatever their order in the mixture."""
    return sorted(range(len(names)), key=names.__getitem__)


def ranges_of(
    names: Sequence[str], blocks_of: Sequence[Sequence[CountedBlocks]], starts: Sequence[SourceStart], counts: Sequence[int]
) -> list[slice]:
    """Return which rows of each block are taken, source after source by name, given how many rows of each source."""
    return [rows for number in by_name(names) for rows in row_ranges(blocks_of[number], starts[number].skip, counts[number])]
