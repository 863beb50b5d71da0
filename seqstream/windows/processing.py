"""Blocks through the stages, here or elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import pyarrow as pa

from seqstream.records import ROW_ID, OpenStage, located
from seqstream.stages.row_labels import RowLabels
from seqstream.stages.running import run_stages
from seqstream.windows.block_buffer import BufferedBlocks, Guard

GROUP_BYTES = 2 << 20
"""Blocks are tokenised together up to this size: engines are quicker on larger calls while their caches are cold."""
Process: TypeAlias = Callable[[Sequence[BufferedBlocks], Guard], None]
"""Runs the stages over blocks, in their order: here, or in other processes."""


def run_here(
    stages: tuple[OpenStage, ...],
    locate: Callable[[int], str] = str,
    fill: int | None = None,
    labels: RowLabels | None = None,
) -> Process:
    """Run stages in the calling thread, over several blocks at a time.

    Args:
        stages: Opened stages, in order.
        locate: Names the place of a row id in the data, for errors.
        fill: The token that a row without any gets, instead of being dropped; ``None`` drops it.
        labels: What a row must have to be kept; ``None`` keeps all.
    """

    def process(entries: Sequence[BufferedBlocks], guard: Guard) -> None:
        todo = list(entries)
        while todo:
            guard()
            sizes = itertools.accumulate(int(entry.num_bytes[0]) for entry in todo)
            group = todo[: max(1, sum(1 for size in sizes if size <= GROUP_BYTES))]
            del todo[: len(group)]
            read = tables_of(group)
            with located(row_ids_of(read), locate):
                tables, counts = run_stages(read, stages, fill, labels)
            for entry, table in zip(group, tables, strict=True):
                entry.processed(table, {} if entry is not group[0] else counts)

    return process


def tables_of(entries: Iterable[BufferedBlocks]) -> list[pa.Table]:
    """Return the rows of blocks, as they are by now; blocks that others work on have none here."""
    tables = (entry.table if entry.block is None else entry.block.table for entry in entries)
    return [table for table in tables if table is not None]


def row_ids_of(tables: Iterable[pa.Table]) -> pa.ChunkedArray:
    """Return the row ids of tables, one after the other."""
    return pa.concat_tables([table.select([ROW_ID]) for table in tables]).column(ROW_ID)
