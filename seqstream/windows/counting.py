"""Blocks of a window through the stages, and how many rows of which lengths all ranks have of them."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from seqstream.arrays import Lengths
from seqstream.distributed.agreement import explain_blocks
from seqstream.distributed.digests import digest_arrays
from seqstream.distributed.global_order import GlobalOrder
from seqstream.distributed.handshake import NO_BLOCKS, Handshake
from seqstream.planning.batch_spec import BatchSpec
from seqstream.records import ROW_ID, Counts, ids_columns, located
from seqstream.windows.block_reader import ReadBlock
from seqstream.windows.block_states import (
    AssignedBlock,
    BlockRows,
    CountedBlocks,
    ProcessedBlock,
    RemoteBlocks,
    TakenBlocks,
    count_blocks,
)
from seqstream.windows.columns import read_rows
from seqstream.windows.row_lengths import lengths_of, planning_numbers, total_lengths
from seqstream.windows.settings import WindowSettings, WindowStart


def process_blocks(blocks: list[TakenBlocks], start: WindowStart, settings: WindowSettings) -> Counts:
    """Process the blocks of this rank, and count the rows of all blocks; all ranks call it together.

    Args:
        blocks: The blocks of the window; those that are not `CountedBlocks` are replaced by what they become.
        start: Where the window begins.
        settings: What is done with blocks.

    Returns:
        What the stages counted.

    Raises:
        RuntimeError: The ranks do not agree, or another one has failed.
    """
    digests = [each.digest for each in blocks if each.digest is not None]
    values = [digest.value for digest in digests]
    handshake = Handshake(
        settings.key[-1],
        start.position,
        count_blocks(blocks),
        start.skip,
        start.served,
        digest=f"{digest_arrays(np.array(values, dtype=np.int64)):08x}",
    )
    explain = functools.partial(explain_blocks, values, [digest.first_row_id for digest in digests], settings.locate)
    try:
        counts = _run_stages(blocks, settings)
        for at, each in enumerate(blocks):
            if isinstance(each, ProcessedBlock):
                numbers = _numbers_of(each.table, settings)
                rows = BlockRows(each.table, settings.spec.sort_keys(numbers), tokens_of(each.table, numbers, settings.spec))
                blocks[at] = CountedBlocks.of(each, np.array([len(each.table)]), rows)
    except Exception as error:
        settings.collectives.check_in(handshake.with_error(error), explain)
        raise
    own = [each.num_rows for each in blocks if isinstance(each, CountedBlocks) and each.owner == settings.collectives.rank]
    num_rows = settings.collectives.check_in(handshake.with_rows(np.concatenate(own) if own else NO_BLOCKS), explain)
    for at, each in enumerate(blocks):
        of_owner, size = num_rows[each.owner], len(each.span)
        num_rows[each.owner] = of_owner[size:]
        if isinstance(each, RemoteBlocks):
            blocks[at] = CountedBlocks.of(each, of_owner[:size])
    return counts


def _run_stages(blocks: list[TakenBlocks], settings: WindowSettings) -> Counts:
    """Replace the blocks that this rank is to process by their rows; return what the stages counted."""
    to_process = [at for at, each in enumerate(blocks) if isinstance(each, AssignedBlock)]
    counts = Counter[str]()
    for at, (table, new_counts) in zip(to_process, settings.process(_to_read(blocks), settings.guard), strict=True):
        blocks[at] = ProcessedBlock.of(blocks[at], table)
        counts.update(new_counts)
    return counts


def _to_read(blocks: Iterable[TakenBlocks]) -> Iterator[ReadBlock]:
    """Yield the blocks that this rank is to process."""
    for each in blocks:
        if isinstance(each, AssignedBlock):
            yield each.block


def tokens_of(table: pa.Table, numbers: Lengths, spec: BatchSpec) -> Lengths:
    """Return the tokens of each row, ``int64 (n,)``, given what rows are planned by."""
    return total_lengths(numbers if spec.sides is None else lengths_of(table, spec.columns and ids_columns(spec.columns)))


def _numbers_of(table: pa.Table, settings: WindowSettings) -> Lengths:
    """Return what rows are planned by, ``int64 (n,)`` or ``(n, S)``.

    Raises:
        RecordError: A value is missing, which is checked here so that other ranks receive the error when they check in.
    """
    for name in (name for name in table.column_names if table.column(name).null_count):
        with located(table.column(ROW_ID), settings.locate):
            read_rows(name, table)
    return planning_numbers(table, settings.spec.columns, settings.spec.group)


def gather_lengths(blocks: Sequence[CountedBlocks], ranges: Sequence[slice], settings: WindowSettings) -> GlobalOrder:
    """Gather the lengths of some rows of each block; all ranks call it together."""
    parts: list[list[Lengths]] = []
    owners: list[int] = []
    first_row_id = -1
    for each, rows in zip(blocks, ranges, strict=True):
        if not owners or owners[-1] != each.owner:
            owners.append(each.owner)
            parts.append([])
        if each.rows is not None:
            parts[-1].append(each.rows.keys[rows])
            if first_row_id < 0 and rows.start < rows.stop:
                first_row_id = each.rows.table.column(ROW_ID)[rows.start].as_py()
    rank = settings.collectives.rank
    own = [np.concatenate(part) for part, owner in zip(parts, owners, strict=True) if owner == rank]
    global_order = settings.collectives.gather_lengths(own, owners, first_row_id)
    if settings.spec.sides is None:
        return global_order
    return dataclasses.replace(
        global_order, length_counts=dataclasses.replace(global_order.length_counts, sides=settings.spec.sides)
    )


def row_ranges(blocks: Sequence[CountedBlocks], skip: int, num_rows: int) -> Iterator[slice]:
    """Yield which rows of each of the blocks are among ``num_rows`` rows from ``skip`` on."""
    before = 0
    for each in blocks:
        num = each.total_rows
        yield slice(min(max(skip - before, 0), num), min(max(skip + num_rows - before, 0), num))
        before += num
