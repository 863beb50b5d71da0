"""Blocks through the stages, in the calling thread or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import pyarrow as pa

from seqstream.records import ROW_ID, Counts, OpenStage, located
from seqstream.stages.label_filter import LabelFilter
from seqstream.stages.running import run_stages
from seqstream.windows.block_buffer import Guard
from seqstream.windows.block_reader import ReadBlock
from seqstream.windows.reading_ahead import reading_ahead

GROUP_BYTES = 2 << 20
"""Blocks are tokenised together up to this size: engines are quicker on larger calls while their caches are cold."""

Process: TypeAlias = Callable[[Iterator[ReadBlock], Guard], Iterator[tuple[pa.Table, Counts]]]
"""Runs the stages over blocks, here or in other processes; yields the rows of each and what was counted, in their order.

A block is held no longer than until its rows are yielded.
"""


def run_here(
    stage_lists: tuple[tuple[OpenStage, ...], ...],
    locate: Callable[[int], str] = str,
    fill: int | None = None,
    labels: LabelFilter | None = None,
) -> Process:
    """Return a function that runs stages in the calling thread, over several blocks at a time.

    Args:
        stage_lists: Lists of opened stages; each block has the number of its list.
        locate: Returns the location of a row id in the data, for errors.
        fill: The token that a row without any gets, instead of being dropped; ``None`` drops it.
        labels: What a row must have to be kept; ``None`` keeps all.
    """

    def process(blocks: Iterator[ReadBlock], guard: Guard) -> Iterator[tuple[pa.Table, Counts]]:
        with reading_ahead(blocks) as ahead:
            for group in _grouped(ahead):
                guard()
                read = [block.table for block in group]
                with located(row_ids_of(read), locate):
                    tables, counts = run_stages(read, stage_lists[group[0].stages], fill, labels)
                del group, read
                yield from zip(tables, counts, strict=True)

    return process


def _grouped(blocks: Iterable[ReadBlock]) -> Iterator[list[ReadBlock]]:
    """Yield blocks of the same stages that follow each other together, up to `GROUP_BYTES`; a larger one by itself."""
    group: list[ReadBlock] = []
    num_bytes = 0
    for block in blocks:
        if group and (num_bytes + block.num_bytes > GROUP_BYTES or block.stages != group[0].stages):
            yield group
            group, num_bytes = [], 0
        group.append(block)
        num_bytes += block.num_bytes
    if group:
        yield group


def row_ids_of(tables: Iterable[pa.Table]) -> pa.ChunkedArray:
    """Return the row ids of tables, one after the other."""
    return pa.concat_tables([table.select([ROW_ID]) for table in tables]).column(ROW_ID)
