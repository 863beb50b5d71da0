"""Rows on their way to the ranks that use them: each travels once, to whoever takes it at some step."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import to_arrow
from seqstream.buffers import from_buffer, to_buffer
from seqstream.census import Census
from seqstream.planning.grouping import Grouping, Steps, deal, owners
from seqstream.planning.plan import Index, Plan
from seqstream.ranks import Ranks
from seqstream.running import join_tables


@dataclasses.dataclass(frozen=True)
class Dealt:
    """What one rank holds of a window.

    Attributes:
        table: Its rows; with one process those of the whole window.
        plan: Its batches.
        is_repeated: ``bool (n,)``, which of its rows another rank has as well; ``None`` for none.
    """

    table: pa.Table
    plan: Plan
    is_repeated: npt.NDArray[np.bool_] | None


def deal_rows(table: pa.Table, census: Census, grouping: Grouping, steps: Steps, ranks: Ranks) -> Dealt:
    """Send every row of this rank to the rank that takes it, and return what it takes itself.

    Args:
        table: Its own rows of the window, in the order of the data.
        census: Who has what.
        grouping: The plan of the window.
        steps: What is left of it.
        ranks: Who takes part.
    """
    share = deal(steps, ranks.rank, ranks.world_size)
    wanted = grouping.wanted(share.places)
    if ranks.world_size == 1:
        rows = census.row_of(wanted)
    else:
        sent = [table.take(to_arrow(part)) for part in _parts(census, grouping, steps, ranks)]
        table = join_tables([from_buffer(part) for part in ranks.swap([to_buffer(part) for part in sent])])
        rows = _received(wanted, census)
    is_repeated = None
    if share.repeated.any():
        table, rows, is_repeated = _apart(table, rows, np.repeat(share.repeated, grouping.heights(share.places)))
    plan = grouping.lay_out(rows, share.places, share.cuts, steps.groups, np.arange(len(steps)))
    return Dealt(table, plan, is_repeated)


def _received(wanted: Index, census: Census) -> Index:
    """Return where rows lie in what came: by rank, and of each rank in the order in which they are first wanted."""
    numbers, first, inverse = np.unique(wanted, return_index=True, return_inverse=True)
    place = np.empty(len(numbers), dtype=np.int64)
    place[np.lexsort((first, census.owner_of(numbers)))] = np.arange(len(numbers))
    return place[inverse]


def _parts(census: Census, grouping: Grouping, steps: Steps, ranks: Ranks) -> list[Index]:
    """Return which of this rank's rows each rank takes, in the order in which they are first wanted there."""
    which, places = grouping.places_of(census.numbers)
    receiver, step = owners(steps, places, ranks.world_size)
    again = (
        [_repeats(steps, rank, places) for rank in range(1, ranks.world_size)]
        if steps.sizes.min(initial=0) < ranks.world_size
        else []
    )
    for rank, (at, again_step) in enumerate(again, 1):
        which, places = np.append(which, which[at]), np.append(places, places[at])
        receiver, step = np.append(receiver, np.full(len(at), rank)), np.append(step, again_step)
    order = np.lexsort((np.arange(len(which)), places, step, receiver))
    order = order[receiver[order] >= 0]
    keys = receiver[order] * (len(census.numbers) + 1) + which[order]
    order = order[np.sort(np.unique(keys, return_index=True)[1])]  # a sequence in pieces travels once
    ends = np.searchsorted(receiver[order], np.arange(ranks.world_size + 1))
    rows = census.rows[which[order]]
    return [rows[ends[rank] : ends[rank + 1]] for rank in range(ranks.world_size)]


def _repeats(steps: Steps, rank: int, places: Index) -> tuple[Index, Index]:
    """Return which of the places a rank gets although it is another's turn, and at which step."""
    short = np.flatnonzero(steps.sizes <= rank)
    wanted = steps.begins[short] + rank % np.maximum(steps.sizes[short], 1)
    by_place = np.argsort(wanted)
    at = np.searchsorted(wanted[by_place], places)
    hit = at < len(wanted)
    hit[hit] = wanted[by_place][at[hit]] == places[hit]
    return np.flatnonzero(hit), short[by_place][at[hit]]


def _apart(table: pa.Table, rows: Index, repeated: npt.NDArray[np.bool_]) -> tuple[pa.Table, Index, npt.NDArray[np.bool_]]:
    """Give what is repeated rows of its own, at the end of the table."""
    own = len(table)
    table = pa.concat_tables([table, table.take(to_arrow(rows[repeated]))])
    rows[repeated] = own + np.arange(len(table) - own)
    return table, rows, np.arange(len(table)) >= own
