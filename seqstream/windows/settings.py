"""Where a window begins, and the settings by which blocks become windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from seqstream.distributed.collectives import Ranks, SingleProcess
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.rank_shares import Uneven
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
    """

    cursor: Cursor = dataclasses.field(default_factory=Cursor)
    blocks: int = 1
    skip: int = 0
    planned_world_size: int = 0
    served: int = 0
    step: int = 0


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
