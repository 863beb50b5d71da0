"""Rows on their way to the ranks that use them: each travels once, to whoever takes it at some step."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index, ranges
from seqstream.arrow import to_arrow
from seqstream.distributed.collectives import Ranks
from seqstream.distributed.digests import digest_arrays
from seqstream.distributed.global_order import GlobalOrder
from seqstream.distributed.transport import send_array, send_rows
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.plan import Plan
from seqstream.planning.rank_shares import Steps, deal, owners

_NONE = np.empty(0, dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class RankRows:
    """What one rank holds of a window.

    Attributes:
        table: Its rows; with one process those of the whole window.
        plan: Its batches.
        is_repeated: ``bool (n,)``, which of its rows another rank has as well; ``None`` for none.
    """

    table: pa.Table
    plan: Plan
    is_repeated: npt.NDArray[np.bool_] | None


def exchange_rows(table: pa.Table, global_order: GlobalOrder, global_plan: GlobalPlan, steps: Steps, ranks: Ranks) -> RankRows:
    """Send every row of this rank to the rank that takes it, and return what it takes itself.

    Args:
        table: Its own rows of the window, in the order of the data.
        global_order: Who has what.
        global_plan: The plan of the window.
        steps: What is left of it.
        ranks: Who takes part.
    """
    numbers = None
    if ranks.world_size > 1:
        table, numbers = _swap(table, global_order, global_plan, steps, ranks)
    share = deal(steps, ranks.rank, ranks.world_size)
    wanted = global_plan.wanted(share.places)
    rows = global_order.row_of(wanted) if numbers is None else _found(numbers, wanted)
    is_repeated = None
    if share.is_repeated.any():
        table, rows, is_repeated = _append_repeats(
            table, rows, np.repeat(share.is_repeated, global_plan.num_items(share.places))
        )
    plan = global_plan.lay_out(rows, share.places, share.cuts, share.global_batches, np.arange(len(steps)))
    return RankRows(table, plan, is_repeated)


def _swap(
    table: pa.Table, global_order: GlobalOrder, global_plan: GlobalPlan, steps: Steps, ranks: Ranks
) -> tuple[pa.Table, Index]:
    """Send rows to whoever takes them; return those that came, and their numbers."""
    which, sizes = _parts(global_order, global_plan, steps, ranks.world_size)
    groups = (global_plan.cuts, global_plan.turns, steps.global_batches, steps.first_places, steps.sizes, steps.after)
    plan = digest_arrays(*groups, global_order.runs.lengths, global_order.runs.counts).to_bytes(4, "little")
    came = send_rows(table, global_order.rows[which], sizes, ranks, plan)
    return came, send_array(global_order.numbers[which], sizes, ranks)[0]


def _found(numbers: Index, wanted: Index) -> Index:
    """Return where the rows wanted lie among those of some numbers: the same ones, each of them once."""
    order, by_number = _argsort(wanted), _argsort(numbers)
    if len(numbers) < len(wanted):
        by_number = by_number[np.cumsum(np.diff(wanted[order], prepend=-1) > 0) - 1]
    rows = np.empty(len(wanted), dtype=np.int64)
    rows[order] = by_number
    return rows


def _argsort(values: Index) -> Index:
    """Return an ascending order of numbers that are not negative; to sort them with their places is quicker than to argsort."""
    bits = len(values).bit_length()
    if int(values.max(initial=0)).bit_length() + bits > 63:
        return np.argsort(values)
    packed = values << bits
    packed |= np.arange(len(values))
    packed.sort()
    packed &= (1 << bits) - 1
    return packed


def _parts(global_order: GlobalOrder, global_plan: GlobalPlan, steps: Steps, world_size: int) -> tuple[Index, Index]:
    """Return which of this rank's numbers each rank takes, rank after rank, each of them once; and how many each takes."""
    which, places = global_plan.places_of(global_order.numbers)
    receiver, part = owners(steps, places, world_size)
    at, more = _repeats(steps, receiver, part, world_size) if steps.parts_per_turn == 1 else _repeated_parts(steps, places)
    if len(at):
        which, receiver = np.append(which, which[at]), np.append(receiver, more)
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


def _repeats(steps: Steps, receiver: Index, part: Index, world_size: int) -> tuple[Index, Index]:
    """Return which rows other ranks get as well, because a part has fewer than there are ranks, and those ranks."""
    if steps.sizes.min(initial=world_size) >= world_size:
        return _NONE, _NONE
    short = np.flatnonzero((receiver >= 0) & (steps.sizes[part] < world_size))
    sizes, first = steps.sizes[part[short]], receiver[short]
    counts = (world_size - 1 - first) // sizes
    turn = ranges(np.ones_like(counts), counts)
    return np.repeat(short, counts), np.repeat(first, counts) + turn * np.repeat(sizes, counts)


def _repeated_parts(steps: Steps, places: Index) -> tuple[Index, Index]:
    """Return which rows, by their places, lie in parts that another rank gets as well, and that rank."""
    at, more = [_NONE], [_NONE]
    for part in () if steps.is_repeated is None else np.flatnonzero(steps.is_repeated).tolist():
        begin = int(steps.first_places[part])
        at.append(np.flatnonzero((places >= begin) & (places < begin + int(steps.sizes[part]))))
        more.append(np.full(len(at[-1]), part % steps.parts_per_turn))
    return np.concatenate(at), np.concatenate(more)


def _append_repeats(
    table: pa.Table, rows: Index, repeated: npt.NDArray[np.bool_]
) -> tuple[pa.Table, Index, npt.NDArray[np.bool_]]:
    """Give what is repeated rows of its own, at the end of the table."""
    own = len(table)
    table = pa.concat_tables([table, table.take(to_arrow(rows[repeated]))])
    rows[repeated] = own + np.arange(len(table) - own)
    return table, rows, np.arange(len(table)) >= own
