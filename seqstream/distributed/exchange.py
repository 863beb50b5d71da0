"""Send the rows of a window to the ranks that take them in the plan: each row travels once to each rank that needs it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, Mask, positions
from seqstream.arrow import to_arrow
from seqstream.distributed.collectives import Ranks
from seqstream.distributed.digests import digest_arrays
from seqstream.distributed.global_order import GlobalOrder
from seqstream.distributed.transport import send_array, send_rows
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.plan import Plan
from seqstream.planning.rank_shares import Schedule, owners_of, share_of_rank

_NONE = np.empty(0, dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class RankRows:
    """The rows of a window that one rank takes, and its batches.

    Attributes:
        table: Its rows; on a single process the rows of the whole window.
        plan: Its batches.
        is_repeated: ``bool (n,)``, whether another rank has the row too; ``None`` where there are no such rows.
    """

    table: pa.Table
    plan: Plan
    is_repeated: Mask | None


def exchange_rows(
    table: pa.Table, global_order: GlobalOrder, global_plan: GlobalPlan, schedule: Schedule, ranks: Ranks
) -> RankRows:
    """Send every row of this rank to the ranks that take it, and return the rows that this rank takes.

    Args:
        table: This rank's rows of the window, in the order of the data.
        global_order: Their row numbers.
        global_plan: The plan of the window.
        schedule: The unserved turns of the window.
        ranks: All ranks, which call this together.
    """
    numbers = None
    if ranks.world_size > 1:
        table, numbers = _exchange(table, global_order, global_plan, schedule, ranks)
    share = share_of_rank(schedule, ranks.rank, ranks.world_size)
    wanted = global_plan.row_numbers(share.places)
    rows = global_order.row_of(wanted) if numbers is None else _find(numbers, wanted)
    is_repeated = None
    if share.is_repeated.any():
        is_repeated_item = np.repeat(share.is_repeated, global_plan.num_items(share.places))
        table, rows, is_repeated = _append_repeats(table, rows, is_repeated_item)
    plan = global_plan.lay_out(rows, share.places, share.cuts, share.global_batches, np.arange(len(schedule)))
    return RankRows(table, plan, is_repeated)


def _exchange(
    table: pa.Table, global_order: GlobalOrder, global_plan: GlobalPlan, schedule: Schedule, ranks: Ranks
) -> tuple[pa.Table, Index]:
    """Send rows to the ranks that take them, and return the received rows and their row numbers."""
    which, sizes = _rows_by_receiver(global_order, global_plan, schedule, ranks.world_size)
    parts = (schedule.global_batches, schedule.first_places, schedule.sizes, schedule.served_after)
    counts = (global_order.length_counts.lengths, global_order.length_counts.counts)
    plan = digest_arrays(global_plan.cuts, global_plan.turns, *parts, *counts).to_bytes(4, "little")
    received = send_rows(table, global_order.rows[which], sizes, ranks, plan)
    return received, send_array(global_order.numbers[which], sizes, ranks)[0]


def _find(numbers: Index, wanted: Index) -> Index:
    """Return the position of each wanted row number in ``numbers``, which has exactly the wanted ones, once each."""
    order, by_number = _argsort(wanted), _argsort(numbers)
    if len(numbers) < len(wanted):
        by_number = by_number[np.cumsum(np.diff(wanted[order], prepend=-1) > 0) - 1]
    rows = np.empty(len(wanted), dtype=np.int64)
    rows[order] = by_number
    return rows


def _argsort(values: Index) -> Index:
    """Return an ascending order of values that are not negative; sorting them packed with positions is faster than argsort."""
    bits = len(values).bit_length()
    if int(values.max(initial=0)).bit_length() + bits > 63:
        return np.argsort(values)
    packed = values << bits
    packed |= np.arange(len(values))
    packed.sort()
    packed &= (1 << bits) - 1
    return packed


def _rows_by_receiver(
    global_order: GlobalOrder, global_plan: GlobalPlan, schedule: Schedule, world_size: int
) -> tuple[Index, Index]:
    """Return which of this rank's rows each rank takes.

    Returns:
        Indices of ``global_order.numbers``, ``int32``, rank after rank, each once a rank; and their number for each rank,
        ``int64 (R,)``.
    """
    which, places = global_plan.places_of(global_order.numbers)
    receiver, part = owners_of(schedule, places, world_size)
    if schedule.parts_per_turn == 1:
        repeated, repeat_receiver = _repeats_of_shared_parts(schedule, receiver, part, world_size)
    else:
        repeated, repeat_receiver = _repeats_of_own_parts(schedule, places)
    if len(repeated):
        which, receiver = np.append(which, which[repeated]), np.append(receiver, repeat_receiver)
    bits = len(global_order.numbers).bit_length()
    keys = receiver << bits
    keys |= which
    keys = keys[receiver >= 0]
    keys.sort()
    if len(which) > len(global_order.numbers):
        keys = keys[np.diff(keys, prepend=-1) > 0]  # a sequence in pieces travels once
    sizes = np.diff(np.searchsorted(keys, np.arange(world_size + 1) << bits))
    keys &= (1 << bits) - 1
    return keys.astype(np.int32), sizes


def _repeats_of_shared_parts(schedule: Schedule, receiver: Index, part: Index, world_size: int) -> tuple[Index, Index]:
    """Return the rows that more ranks take, as their part has fewer places than there are ranks, and these ranks."""
    if schedule.sizes.min(initial=world_size) >= world_size:
        return _NONE, _NONE
    short = np.flatnonzero((receiver >= 0) & (schedule.sizes[part] < world_size))
    sizes, first = schedule.sizes[part[short]], receiver[short]
    counts = (world_size - 1 - first) // sizes
    return np.repeat(short, counts), np.repeat(first, counts) + (1 + positions(counts)) * np.repeat(sizes, counts)


def _repeats_of_own_parts(schedule: Schedule, places: Index) -> tuple[Index, Index]:
    """Return the rows, as indices of their places, in parts that another rank repeats, and this rank."""
    rows, receivers = [_NONE], [_NONE]
    for part in () if schedule.is_repeated is None else np.flatnonzero(schedule.is_repeated).tolist():
        begin = int(schedule.first_places[part])
        rows.append(np.flatnonzero((places >= begin) & (places < begin + int(schedule.sizes[part]))))
        receivers.append(np.full(len(rows[-1]), part % schedule.parts_per_turn))
    return np.concatenate(rows), np.concatenate(receivers)


def _append_repeats(table: pa.Table, rows: Index, is_repeated: Mask) -> tuple[pa.Table, Index, Mask]:
    """Append a copy of each repeated row, so that it has a row of its own; return which rows are copies too."""
    num_rows = len(table)
    table = pa.concat_tables([table, table.take(to_arrow(rows[is_repeated]))])
    rows[is_repeated] = np.arange(num_rows, len(table))
    return table, rows, np.arange(len(table)) >= num_rows
