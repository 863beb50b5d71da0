"""Check of ``Bucket(group=...)``: no group is ever split, in one process, on ranks, and after resuming with other ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.planning.bucket import Bucket
from seqstream.records import ROW_ID
from seqstream.sources.whole_groups import group_starts
from seqstream.testing.expectations import MakeLoader, expect
from seqstream.testing.rank_laws import in_turns
from seqstream.windows.block_reader import Cursor, read_blocks


def check_groups(make: MakeLoader, world_sizes: Sequence[int] = (1, 2, 3), num_steps: int = 2) -> None:
    """Check that consecutive records with one key are in one batch, next to each other and in their order.

    Args:
        make: Makes the loader of one rank, which ends with ``Bucket(group=...)``.
        world_sizes: Numbers of ranks. With each an epoch is read, and another one is stopped and resumed with each in turn.
        num_steps: Steps until each stop.

    Raises:
        AssertionError: A group is in two batches, or its rows are in another order.
    """
    groups = _groups_of(make())
    state = make().state_dict()
    for turns in ((size,) for size in world_sizes):
        for taken in in_turns(make, state, itertools.cycle(turns), 1 << 30):
            _expect_whole(groups, (batch for each in taken for batch in each.batches), f"{turns[0]} ranks")
    resumed = in_turns(make, state, itertools.cycle(world_sizes), num_steps)
    batches = [batch for taken in resumed for each in taken for batch in each.batches]
    _expect_whole(groups, batches, f"{world_sizes} ranks in turn")


def _groups_of(loader: Loader) -> Mapping[int, int]:
    """Return the group of each record that has a key, by its row id; groups are runs of one key in the order of the source."""
    spec = loader.stages[-1]
    if not isinstance(spec, Bucket) or spec.group is None:
        raise AssertionError(f"the loader must have Bucket(group=...), got {spec!r}")
    blocks = read_blocks(loader.source, range(loader.source.num_shards), Cursor(), num_open=1)
    tables = [block.table.select([ROW_ID, spec.group]) for block in blocks if len(block.table)]
    table = pa.concat_tables(tables, promote_options="permissive")
    keys, row_ids = table.column(spec.group), table.column(ROW_ID).to_pylist()
    starts = group_starts(keys)
    numbers = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(table))).tolist()
    given = keys.is_valid().to_pylist()
    return {row_id: number for row_id, number, has_key in zip(row_ids, numbers, given, strict=True) if has_key}


def _expect_whole(groups: Mapping[int, int], batches: Iterable[Batch], where: str) -> None:
    """Expect each group to be in one batch, or in batches that repeat it, its rows in their order."""
    batch_of: dict[int, int] = {}
    for number, batch in enumerate(batches):
        rows = zip(batch.row_ids.tolist(), batch.pieces.tolist(), strict=True)
        kept = [(groups.get(row), row, piece) for row, piece in rows]
        for group, members in itertools.groupby(kept, key=lambda each: each[0]):
            own = [(row, piece) for _, row, piece in members]
            expect(group is None or own == sorted(own), f"rows of group {group} must be in their order with {where}, got {own}")
        runs = [group for group, _ in itertools.groupby(group for group, _, _ in kept) if group is not None]
        expect(len(runs) == len(set(runs)), f"rows of a group must be next to each other with {where}, got groups {runs}")
        for group in runs if batch.layout.num_repeated == 0 else ():
            other = batch_of.setdefault(group, number)
            expect(other == number, f"group {group} must be in one batch with {where}, got it in batches {other} and {number}")
