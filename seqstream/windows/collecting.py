"""Takes the blocks of a window from the buffer, processes those of this rank, and counts the rows of all of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import join_tables
from seqstream.distributed.global_order import GlobalOrder
from seqstream.planning.length_counts import LengthCounts
from seqstream.records import Counts, located
from seqstream.windows.block_buffer import BlockBuffer
from seqstream.windows.block_reader import UpcomingBlocks
from seqstream.windows.block_states import (
    CountedBlocks,
    TakenBlocks,
    assign,
    count_blocks,
    count_rows,
    last_blocks,
    share_out,
)
from seqstream.windows.counting import gather_lengths, process_blocks, row_ranges
from seqstream.windows.processing import row_ids_of
from seqstream.windows.settings import SLOW_GROWTH, WindowSettings, WindowStart

LAST = 1.25
"""Largest ratio of the blocks of an epoch's last window to those that were wanted, so that no smaller rest is left."""

Numbers = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class CollectedBlocks:
    """The blocks of a window: the rows of this rank, and the number and lengths of the rows of all ranks.

    Attributes:
        settings: How they become a window.
        start: Where it begins, with the number of blocks it has.
        blocks: The blocks.
        is_last: Whether the epoch ends with them.
        global_order: Of all their rows, without those that belong to the window before.
        counts: What the stages counted in those blocks that this rank has processed for this window.
    """

    settings: WindowSettings
    start: WindowStart
    blocks: list[CountedBlocks]
    is_last: bool
    global_order: GlobalOrder
    counts: Counts

    @property
    def length_counts(self) -> LengthCounts:
        """The lengths of all rows."""
        return self.global_order.length_counts

    @property
    def num_rows(self) -> int:
        """Number of rows, of all ranks."""
        return count_rows(self.blocks) - self.start.skip

    @property
    def num_planned(self) -> int | None:
        """Number of rows that are planned where that was decided before; ``None`` where it follows from the lengths."""
        return None

    @property
    def read_bytes(self) -> int:
        """Bytes of the records as read, of all ranks."""
        return sum(int(each.span.num_bytes.sum()) for each in self.blocks)

    def share(self, num_rows: int, num_tokens: int) -> float:
        """Return how much of a full window some of the rows are, 1.0 for all of it."""
        settings, spec = self.settings, self.settings.spec
        return spec.window_size(shuffle=settings.shuffle).share(
            num_batches=spec.num_batches(num_rows, num_tokens),
            num_tokens=num_tokens,
            read_bytes=self.read_bytes,
            world_size=settings.world_size,
        )

    def global_order_of(self, num_rows: int) -> GlobalOrder:
        """Return the order of the first ``num_rows`` rows; all ranks call it together."""
        if num_rows == self.num_rows:
            return self.global_order
        return gather_lengths(self.blocks, self.ranges(num_rows), self.settings)

    def number(self, global_order: GlobalOrder) -> int:
        """Return the number by which the window is known within the epoch, given the order of the rows that are planned."""
        return global_order.first_row_id

    def ranges(self, num_rows: int) -> list[slice]:
        """Return which rows of each block are among the first ``num_rows`` rows of the window."""
        return list(row_ranges(self.blocks, self.start.skip, num_rows))

    def own_rows(self, num_rows: int) -> pa.Table | None:
        """Return this rank's rows of the first ``num_rows`` rows, in the order of the data; ``None`` if it has none."""
        tables = [
            each.rows.table.slice(rows.start, rows.stop - rows.start)
            for each, rows in zip(self.blocks, self.ranges(num_rows), strict=True)
            if each.rows is not None
        ]
        if not tables:
            return None
        with located(row_ids_of(tables), self.settings.locate):
            return join_tables(tables)

    def begun(self, num_rows: int, world_size: int) -> WindowStart:
        """Return the start of the window, with what a state needs to build it again.

        Args:
            num_rows: Number of rows that are planned.
            world_size: Number of ranks for which they are.
        """
        return dataclasses.replace(self.start, planned_world_size=world_size)

    def full_bytes(self, num_rows: int, share: float) -> int:
        """Return about how many bytes of records as read fill a window; 0 where nothing is planned."""
        return round(self.read_bytes / share) if share else 0

    def passes(self, num_rows: int) -> tuple[Numbers, Numbers] | None:
        """Return how often each source of a mixture was read before and after the window; ``None`` for one source."""
        return None

    def follow(self, num_rows: int, share: float) -> tuple[list[CountedBlocks], WindowStart | None]:
        """Return the blocks with rows left over, and where the next window begins; ``None`` at the end of the epoch.

        Args:
            num_rows: Number of rows that are planned.
            share: How much of a full window they are.
        """
        if self.is_last:
            return [], None
        size = next_size(count_blocks(self.blocks), share, self.settings.growth)
        return start_after(self.blocks, self.num_rows - num_rows, size)


class Collector(Protocol):
    """Takes the blocks of windows, and has them processed."""

    def collect(self, start: WindowStart, settings: WindowSettings) -> CollectedBlocks | None:
        """Return the blocks of a window; ``None`` if there are none."""

    def give_back(self, blocks: Sequence[CountedBlocks]) -> None:
        """Take back the blocks of a window of which rows are left for the next."""


class BlockCollector:
    """Takes the blocks of one source in their order.

    Args:
        blocks: The blocks of the epoch from some cursor on.
        settings: How they become windows.
    """

    def __init__(self, blocks: Iterator[UpcomingBlocks], settings: WindowSettings) -> None:
        self._buffer = BlockBuffer(blocks, settings.guard, settings.world_size)

    def collect(self, start: WindowStart, settings: WindowSettings) -> CollectedBlocks | None:
        return collect_blocks(self._buffer, start, settings)

    def give_back(self, blocks: Sequence[CountedBlocks]) -> None:
        self._buffer.give_back(blocks)


def collect_blocks(buffer: BlockBuffer, start: WindowStart, settings: WindowSettings) -> CollectedBlocks | None:
    """Take the blocks of a window from the buffer, and process those of this rank; return ``None`` if there are none.

    Where the blocks that were chosen have too few rows for a batch, more are taken: no window ends where it began.

    Raises:
        RuntimeError: The ranks do not agree, or another one has failed.
        ValueError: There are fewer blocks or rows than the start says.
    """
    size, is_last = _choose_size(buffer, start, settings)
    if not size:
        return None
    rank, world_size = settings.collectives.rank, settings.collectives.world_size
    counted, upcoming = buffer.take(size)
    blocks: list[TakenBlocks] = [*counted, *share_out(upcoming, rank, world_size)]
    counts = Counter[str]()
    while True:
        del upcoming  # so that only `blocks` holds records, each until it is processed
        counts.update(process_blocks(blocks, start, settings))
        counted = [each for each in blocks if isinstance(each, CountedBlocks)]
        start = dataclasses.replace(start, blocks=count_blocks(counted))
        num_rows = count_rows(counted) - start.skip
        if num_rows < 0:
            raise ValueError(
                f"source must still have the {start.skip:,} rows that the state skips, got {num_rows + start.skip:,}; the data "
                "has changed"
            )
        global_order = gather_lengths(counted, list(row_ranges(counted, start.skip, num_rows)), settings)
        if is_last or not is_short(global_order.length_counts, start, settings):
            return CollectedBlocks(settings, start, counted, is_last, global_order, counts)
        more, upcoming = buffer.take(1)
        blocks += more
        blocks += [part for each in upcoming for part in assign(each, world_size - 1, rank, world_size)]
        is_last = not buffer.fill(1)


def is_short(length_counts: LengthCounts, start: WindowStart, settings: WindowSettings) -> bool:
    """Return whether rows are too few to choose how they are batched, or, if there are any, to fill an optimiser step."""
    spec, multiple = settings.spec, settings.planned_world_size(start) * settings.accumulate
    if spec.num_batches(length_counts.num_rows, length_counts.num_tokens) < spec.sample_batches:
        return True
    return length_counts.num_rows > 0 and not spec.fills(length_counts, multiple)


def _choose_size(buffer: BlockBuffer, start: WindowStart, settings: WindowSettings) -> tuple[int, bool]:
    """Return the number of blocks of the window, and whether the epoch ends with them; fills the buffer as far as needed."""
    if start.served:
        size = buffer.fill(start.blocks)
        if size < start.blocks:
            raise ValueError(
                f"source must still have the {start.blocks} blocks that the state counts, got {size}; the data has changed"
            )
    else:
        size = level(buffer, start.blocks or settings.first(buffer), settings.max_bytes)
    return size, buffer.fill(size + 1) <= size


def level(buffer: BlockBuffer, size: int, max_bytes: int) -> int:
    """Return how many blocks to take where ``size`` are wanted: all that are left, where those are hardly more.

    Args:
        buffer: Looks ahead.
        size: Number of blocks that are wanted.
        max_bytes: Limit to the bytes of records as read on each rank.
    """
    size = buffer.fill(size, max_bytes)
    most = int(LAST * size)
    num_ahead = buffer.fill(most + 1, int(LAST * max_bytes))
    return num_ahead if num_ahead <= most and num_ahead == len(buffer) else size


def next_size(blocks: int, share: float, growth: int) -> int:
    """Return the number of blocks that the next window should have: as many as fill it, within the growth.

    Args:
        blocks: Blocks of this window.
        share: How much of a full window they were, 1.0 for all of it; 0 if nothing was planned.
        growth: Largest ratio of the blocks of the next window to those of this one.
    """
    wanted = blocks / share if share else SLOW_GROWTH * blocks
    return max(1, min(round(wanted), growth * blocks))


def start_after(blocks: Sequence[CountedBlocks], rows_left: int, size: int) -> tuple[list[CountedBlocks], WindowStart]:
    """Return where the next window begins, and the last blocks of this one, which hold the rows left for it.

    Args:
        blocks: The blocks of this window.
        rows_left: Number of its last rows that were not planned.
        size: Number of blocks that the next window should have.
    """
    ends = np.cumsum(np.concatenate([each.num_rows[::-1] for each in reversed(blocks)]))
    left = last_blocks(blocks, int(np.searchsorted(ends, rows_left)) + 1 if rows_left else 0)
    cursor = left[0].span.before if left else blocks[-1].span.after
    return left, WindowStart(cursor, size, skip=count_rows(left) - rows_left)
