"""Where a window begins and how blocks become windows: all that does not move while they do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from seqstream.distributed.collectives import Ranks, SingleProcess
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.rank_shares import Uneven
from seqstream.stages.row_labels import LabelRule
from seqstream.windows.block_buffer import BlockBuffer, Guard
from seqstream.windows.block_reader import Cursor
from seqstream.windows.processing import Process

MAX_BYTES = 512 << 20
"""A window stops growing at this many bytes of records as read, on each rank."""


SLOW_GROWTH = 4
FAST_GROWTH = 1 << 12
"""A fast engine fills a window while a few batches are served."""


@dataclasses.dataclass(frozen=True)
class WindowStart:
    """Where a window begins, and how much of it was served.

    Attributes:
        cursor: Where its first block begins.
        blocks: How many blocks it holds; as long as nothing of it was served, how many it should hold, before the end of the
            epoch is taken into account, and 0 where that is still to be chosen.
        skip: Rows of its first blocks that belong to the window before.
        planned_world_size: For how many ranks it was planned; 0 as long as nothing of it was served.
        served: Rows of it that were handed out, of all ranks together: packed rows for `Pack`.
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
    """Who shares windows, and on what terms.

    Attributes:
        ranks: Who takes part.
        uneven: What becomes of a step with fewer rows than ranks.
        labels: Where labels come from; ``None`` if nobody knows before a batch is made.
        prefetch: How many batches of a window are left when its ranks share the next.
        world_size: For how many ranks this one alone makes windows, to count them; ``None`` for those that take part.
    """

    ranks: Ranks = dataclasses.field(default_factory=SingleProcess)
    uneven: Uneven = "repeat"
    labels: LabelRule | None = None
    prefetch: int = 0
    world_size: int | None = None


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """How blocks become windows: everything that does not move.

    Attributes:
        process: Runs the stages over blocks.
        spec: How rows are cut into batches.
        key: What the order of rows and batches depends on, the epoch at its end.
        shuffle: Whether rows and batches are mixed at all.
        locate: Names the place of a row id in the data, for errors.
        guard: Called between steps that take time; raises to stop.
        first: Chooses the size of a window that begins an epoch, in blocks, looking ahead in the buffer.
        growth: A window holds at most so many times the blocks of the one before, as it is made while that one is served.
        max_bytes: A window stops growing at this many bytes of records as read, on each rank.
        max_length: The longest row that the stages let pass; ``None`` if they set no limit.
        accumulate: How many batches of each rank an optimiser step sums.
        world_size: For how many ranks windows are made; so many share them, or this one makes them alone.
        sharing: Who shares them.
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
