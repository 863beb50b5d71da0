"""Where a window begins, and the settings by which blocks become windows."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from seqstream.distributed.collectives import Ranks, SingleProcess
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.rank_shares import Uneven
from seqstream.records import Json
from seqstream.stages.label_filter import LabelRule
from seqstream.windows.block_buffer import BlockBuffer, Guard
from seqstream.windows.block_reader import Cursor
from seqstream.windows.collectives import WindowCollectives
from seqstream.windows.processing import Process

MAX_BYTES = 512 << 20
"""A window stops growing at this many bytes of records as read, on each rank."""

SLOW_GROWTH = 4
FAST_GROWTH = 1 << 12
"""Largest ratio of the blocks of a window to those of the one before: fast engines fill it while a few batches are served."""


@dataclasses.dataclass(frozen=True)
class SourceStart:
    """Where a source of a mixture begins its part of a window.

    Attributes:
        cursor: Where its first block begins, with the number of the pass over the source.
        skip: Rows of its first block that earlier windows have.
        surplus: Tokens that it has given beyond its quota: before the window, or, once a part of this was served, after it.
        rows: Rows that it gives to the window; 0 as long as nothing of the window was served.
    """

    cursor: Cursor = dataclasses.field(default_factory=Cursor)
    skip: int = 0
    surplus: float = 0.0
    rows: int = 0

    def to_json(self) -> list[Json]:
        """Return the entry of the source in a state: pass, position, part of a block, skip, surplus, rows and open shards."""
        cursor = self.cursor
        numbers = [cursor.epoch, cursor.position, cursor.fraction, self.skip, self.surplus, self.rows]
        return [*numbers, cursor.source_json()] if cursor.open else numbers

    @classmethod
    def from_json(cls, entry: Sequence[Json]) -> SourceStart:
        """Return the start that `to_json` wrote."""
        epoch, position, fraction, skip, surplus, rows, *opened = entry
        cursor = dataclasses.replace(Cursor.from_json(position, opened[0] if opened else ()), epoch=epoch, fraction=fraction)
        return cls(cursor, skip, surplus, rows)


@dataclasses.dataclass(frozen=True)
class MixtureStart:
    """Where the sources of a mixture begin their parts of a window.

    Attributes:
        sources: By name; also of sources that the mixture no longer has, which wait where they are.
        tokens: Tokens that all sources have given to earlier windows.
        is_last: Whether the window was planned as the last of its epoch.
        goes_on: Whether the epoch goes on after it nonetheless, as the mixture was changed since.
    """

    sources: Mapping[str, SourceStart] = dataclasses.field(default_factory=dict)
    tokens: int = 0
    is_last: bool = False
    goes_on: bool = False

    def to_json(self) -> dict[str, Json]:
        """Return the entry ``mixture`` of a state, which shares nothing with this object."""
        sources = {name: copy.deepcopy(each) if is_deep else each.copy() for name, each, is_deep in self._entries}
        return {"tokens": self.tokens, "is_last": self.is_last, "goes_on": self.goes_on, "sources": sources}

    @functools.cached_property
    def _entries(self) -> list[tuple[str, list[Json], bool]]:
        """The name of each source, its entry, and whether that holds lists: all batches of a window have copies of them."""
        return [(name, start.to_json(), bool(start.cursor.open)) for name, start in self.sources.items()]

    @classmethod
    def from_json(cls, entry: Mapping[str, Json]) -> MixtureStart:
        """Return the start that `to_json` wrote."""
        sources = {name: SourceStart.from_json(each) for name, each in entry["sources"].items()}
        return cls(sources, entry["tokens"], entry["is_last"], entry["goes_on"])

    def restarted(self) -> MixtureStart:
        """Return the start of the same window with nothing of it served; surpluses are those after it."""
        sources = {name: dataclasses.replace(start, skip=0, rows=0) for name, start in self.sources.items()}
        return MixtureStart(sources, self.tokens)


@dataclasses.dataclass(frozen=True)
class WindowStart:
    """Where a window begins, and how much of it was served.

    Attributes:
        cursor: Where its first block begins.
        blocks: Number of its blocks. As long as nothing of it was served, the number that it should have, which the end of the
            epoch may change; 0 where that is still to be chosen.
        skip: Rows of its first blocks that belong to the window before.
        planned_world_size: Number of ranks that it was planned for; 0 as long as nothing of it was served.
        served: Rows of it that were served on all ranks; for `Pack` packed rows.
        step: Optimiser steps of the epoch before it.
        mixture: Where each source of a mixture begins, in place of ``cursor`` and ``skip``; ``blocks`` is then a number of
            tokens. ``None`` for one source, and at the beginning of an epoch.
    """

    cursor: Cursor = dataclasses.field(default_factory=Cursor)
    blocks: int = 1
    skip: int = 0
    planned_world_size: int = 0
    served: int = 0
    step: int = 0
    mixture: MixtureStart | None = None

    @property
    def is_beginning(self) -> bool:
        """Whether the window begins an epoch."""
        return self.cursor == Cursor() and not self.skip and self.mixture is None

    @property
    def num_repeated(self) -> int:
        """Rows that are served again where the window begins anew, with all rows of its first blocks."""
        skips = [] if self.mixture is None else [start.skip for start in self.mixture.sources.values()]
        return self.served + self.skip + sum(skips)

    @property
    def position(self) -> int:
        """Position in the order of shards at which it begins; for a mixture tokens before it."""
        return self.cursor.position if self.mixture is None else self.mixture.tokens


@dataclasses.dataclass(frozen=True)
class RankSharing:
    """The ranks that share windows, and on what terms.

    Attributes:
        ranks: The ranks; a single process by default.
        uneven: What becomes of the last rows where there are fewer than ranks: ``"repeat"`` or ``"drop"``.
        labels: Which labels a batch has; ``None`` where that is not known before the batch is built.
        prefetch: Number of batches of a window that are left when its ranks share the next.
        world_size: Number of ranks for which this process builds windows alone, to count them; ``None`` to share them.
    """

    ranks: Ranks = dataclasses.field(default_factory=SingleProcess)
    uneven: Uneven = "repeat"
    labels: LabelRule | None = None
    prefetch: int = 0
    world_size: int | None = None


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """How blocks become windows: the same for all windows of an epoch.

    Attributes:
        process: Runs the stages over blocks.
        spec: How rows are cut into batches.
        key: Seeds the order of rows and batches, the epoch at its end.
        shuffle: Whether rows and batches are shuffled.
        locate: Returns the location of a row id in the data, for errors.
        guard: Called between steps that take time; raises to stop.
        first: Chooses the number of blocks of a window that begins an epoch; it may look ahead in the buffer.
        growth: Largest ratio of the blocks of a window to those of the one before, during which it is built.
        max_bytes: A window stops growing at this many bytes of records as read, on each rank.
        max_length: The longest row that the stages let pass; ``None`` if they set no limit.
        accumulate: Number of batches of each rank that an optimiser step sums.
        world_size: Number of ranks that windows are planned for: those of ``sharing``, or more where windows are only counted.
        sharing: The ranks that share windows.
    """

    process: Process
    spec: BatchSpec
    key: tuple[object, ...]
    shuffle: bool = True
    locate: Callable[[int], str] = str
    guard: Guard = lambda: None
    first: Callable[[BlockBuffer], int] = lambda _: 1
    growth: int = SLOW_GROWTH
    max_bytes: int = MAX_BYTES
    max_length: int | None = None
    accumulate: int = 1
    world_size: int = 1
    sharing: RankSharing = dataclasses.field(default_factory=RankSharing)

    @property
    def collectives(self) -> WindowCollectives:
        """The collectives of the ranks that share windows."""
        return WindowCollectives(self.sharing.ranks)

    def planned_world_size(self, start: WindowStart) -> int:
        """Return the number of ranks that a window is planned for: those that began to serve it, else the present ones."""
        return start.planned_world_size if start.served else self.world_size
