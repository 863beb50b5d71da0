"""Which blocks a window has, and what all ranks know of their rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from seqstream.arrays import Lengths
from seqstream.distributed.agreement import explain_blocks
from seqstream.distributed.digests import digest_arrays
from seqstream.distributed.global_order import GlobalOrder, gather_lengths
from seqstream.distributed.handshake import NO_BLOCKS, Handshake, check_in
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.length_counts import LengthCounts
from seqstream.records import ROW_ID, located
from seqstream.windows.block_buffer import BlockBuffer, BufferedBlocks, count_blocks, last_blocks, share_out
from seqstream.windows.columns import lengths_of, read_rows
from seqstream.windows.settings import SLOW_GROWTH, WindowSettings, WindowStart

LAST = 1.25
"""What is left of an epoch after a window is at least a quarter of one; less is part of it."""


@dataclasses.dataclass(frozen=True)
class CollectedBlocks:
    """The blocks of a window, processed by whoever owns them; as far as all ranks know of them.

    Attributes:
        window_settings: How they become a window.
        start: Where it begins, with the number of blocks it has.
        entries: The blocks.
        is_last: Whether the epoch ends with them.
        global_order: Of all their rows, without those that belong to the window before.
    """

    window_settings: WindowSettings
    start: WindowStart
    entries: list[BufferedBlocks]
    is_last: bool
    global_order: GlobalOrder

    @property
    def runs(self) -> LengthCounts:
        return self.global_order.runs

    @property
    def num_rows(self) -> int:
        return _count_rows(self.entries) - self.start.skip

    @property
    def num_blocks(self) -> int:
        return count_blocks(self.entries)

    @property
    def read_bytes(self) -> int:
        """Bytes of its records as read, of all ranks."""
        return sum(int(entry.num_bytes.sum()) for entry in self.entries)

    def share(self, num_rows: int, num_tokens: int) -> float:
        """Return how much of a full window some of its rows are."""
        num_batches = self.window_settings.spec.num_batches(num_rows, num_tokens)
        size = self.window_settings.spec.window_size(shuffle=self.window_settings.shuffle)
        return size.share(
            num_batches=num_batches,
            num_tokens=num_tokens,
            read_bytes=self.read_bytes,
            world_size=self.window_settings.world_size,
        )

    def global_order_of(self, num_rows: int) -> GlobalOrder:
        """Return the census of the first rows."""
        if num_rows == self.num_rows:
            return self.global_order
        return _census(self.entries, self.start.skip, num_rows, self.window_settings)


def collect_blocks(buffer: BlockBuffer, start: WindowStart, window_settings: WindowSettings) -> CollectedBlocks | None:
    """Take the blocks of a window from the buffer, and process those of this rank; return ``None`` if there are none.

    There are more of them than was chosen where those have rows, but too few for a batch: no window ends where it began.
    """
    size, ended = _choose_size(buffer, start, window_settings)
    if not size:
        return None
    ranks = window_settings.sharing.ranks
    entries = [entry.with_digest(ranks.world_size) for entry in buffer.take(size)]
    taken = [entry for entry in entries if entry.owner is not None]
    entries = taken + share_out(entries[len(taken) :], ranks.rank, ranks.world_size)
    while True:
        _process([entry for entry in entries if entry.block is not None], entries, start, window_settings)
        start = dataclasses.replace(start, blocks=count_blocks(entries))
        num_rows = _count_rows(entries) - start.skip
        if num_rows < 0:
            raise ValueError(
                f"source must still have the {start.skip:,} rows that the state skips, got {num_rows + start.skip:,}; the data "
                "has changed"
            )
        collected = CollectedBlocks(
            window_settings, start, entries, ended, _census(entries, start.skip, num_rows, window_settings)
        )
        if ended or not _is_short(
            collected.runs, window_settings.spec, planned_for(start, window_settings) * window_settings.accumulate
        ):
            return collected
        (more,) = buffer.take(1)
        entries = entries + more.with_digest(ranks.world_size).given_to(ranks.world_size - 1, ranks.rank)
        ended = not buffer.fill(1)


def _process(
    todo: Sequence[BufferedBlocks], entries: Sequence[BufferedBlocks], start: WindowStart, window_settings: WindowSettings
) -> None:
    """Process blocks of this rank, and let all ranks know how many rows each block of the window has, or what went wrong."""
    read = [entry for entry in entries if entry.digest is not None]
    digest = f"{digest_arrays(np.array([entry.digest for entry in read], dtype=np.int64)):08x}"
    header = Handshake(
        window_settings.key[-1], start.cursor.position, count_blocks(entries), start.skip, start.served, digest=digest
    )
    explain = functools.partial(
        explain_blocks, [entry.digest or 0 for entry in read], [entry.first_row_id for entry in read], window_settings.locate
    )
    try:
        window_settings.process(todo, window_settings.guard)
        for entry in todo:
            _look_at(entry, window_settings)
    except Exception as error:
        check_in(header.failing(error), window_settings.sharing.ranks, explain)
        raise
    own = [entry.num_rows for entry in entries if entry.owner == window_settings.sharing.ranks.rank]
    told = check_in(header.telling(np.concatenate(own) if own else NO_BLOCKS), window_settings.sharing.ranks, explain)
    for entry in entries:
        owner = entry.owner or 0
        entry.num_rows, told[owner] = told[owner][: len(entry)].astype(np.int64), told[owner][len(entry) :]


def _look_at(entry: BufferedBlocks, window_settings: WindowSettings) -> None:
    """Note the lengths of a block's rows, and refuse missing values: the rank that has them can tell the others now."""
    table = entry.table
    if table is not None:
        for name in (name for name in table.column_names if table.column(name).null_count):
            with located(table.column(ROW_ID), window_settings.locate):
                read_rows(name, table)
        entry.keys = window_settings.spec.sort_keys(lengths_of(table, window_settings.spec.columns))


def _census(entries: Sequence[BufferedBlocks], skip: int, num_rows: int, window_settings: WindowSettings) -> GlobalOrder:
    """Count the rows of a window by length, from ``skip`` on."""
    parts: list[list[Lengths]] = []
    owners: list[int] = []
    for entry, rows in zip(entries, ranges_of(entries, skip, num_rows), strict=True):
        owner = entry.owner or 0
        if not owners or owners[-1] != owner:
            owners.append(owner)
            parts.append([])
        if entry.keys is not None:
            parts[-1].append(entry.keys[rows])
    own = [
        np.concatenate(part) for part, owner in zip(parts, owners, strict=True) if owner == window_settings.sharing.ranks.rank
    ]
    return gather_lengths(own, owners, window_settings.sharing.ranks)


def ranges_of(entries: Sequence[BufferedBlocks], skip: int, num_rows: int) -> Iterator[slice]:
    """Yield which rows of each entry are among ``num_rows`` of them from ``skip`` on."""
    before = 0
    for entry in entries:
        num = int(entry.num_rows.sum())
        first, stop = (min(max(at - before, 0), num) for at in (skip, skip + num_rows))
        yield slice(first, stop)
        before += num


def _count_rows(entries: Sequence[BufferedBlocks]) -> int:
    return sum(int(entry.num_rows.sum()) for entry in entries)


def _is_short(runs: LengthCounts, spec: BatchSpec, multiple: int) -> bool:
    """Return whether rows are too few to decide how they are batched; or to fill so many batches, but not none."""
    if spec.num_batches(runs.num_rows, runs.num_tokens) < spec.sample_batches:
        return True
    return runs.num_rows > 0 and not spec.fills(runs, multiple)


def _choose_size(buffer: BlockBuffer, start: WindowStart, window_settings: WindowSettings) -> tuple[int, bool]:
    """Return how many blocks the window takes, and whether the epoch ends with them; fills the buffer as far as needed."""
    if start.served:
        size = buffer.fill(start.blocks)
        if size < start.blocks:
            raise ValueError(
                f"source must still have the {start.blocks} blocks that the state counts, got {size}; the data has changed"
            )
    else:
        size = level(buffer, start.blocks or window_settings.first(buffer), window_settings.max_bytes)
    ended = buffer.fill(size + 1) <= size
    return size, ended


def level(buffer: BlockBuffer, size: int, max_bytes: int) -> int:
    """Return how many blocks to take where so many are wanted: all that are left, where those are hardly more.

    Args:
        buffer: Looks ahead.
        size: How many are wanted.
        max_bytes: At most so many bytes of records as read are taken on each rank.
    """
    size = buffer.fill(size, max_bytes)
    most = int(LAST * size)
    at_hand = buffer.fill(most + 1, int(LAST * max_bytes))
    return at_hand if at_hand <= most and at_hand == len(buffer) else size


def next_size(blocks: int, share: float, growth: int) -> int:
    """Return how many blocks the next window should hold: as many as fill it, but at most ``growth`` times those of this one.

    Args:
        blocks: Blocks of this window.
        share: How much of a full window they were; 0 if nothing was planned.
        growth: At most so many times the blocks of this one.
    """
    wanted = blocks / share if share else SLOW_GROWTH * blocks
    return max(1, min(round(wanted), growth * blocks))


def planned_for(start: WindowStart, window_settings: WindowSettings) -> int:
    """Return for how many ranks a window is planned: those that began to serve it, else those there are."""
    return start.planned_world_size if start.served else window_settings.world_size


def follow(entries: Sequence[BufferedBlocks], rows_left: int, size: int) -> tuple[list[BufferedBlocks], WindowStart]:
    """Return the last blocks, which hold the rows left over, and where the next window begins."""
    ends = np.cumsum(np.concatenate([entry.num_rows[::-1] for entry in reversed(entries)]))
    left = last_blocks(entries, int(np.searchsorted(ends, rows_left)) + 1 if rows_left else 0)
    cursor = left[0].before if left else entries[-1].after
    return left, WindowStart(cursor, size, skip=_count_rows(left) - rows_left)
