"""Shards of many blocks: tables of any size made into blocks, the number of records read being the state.

Where blocks end depends on the tables alone, never on where reading began. So a resumed shard reads again from its start,
passes over whole blocks, and goes on with the very ones that an unbroken run would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from seqstream.records import Json
from seqstream.sources.blocks import Block, check_count


def blocks(tables: Iterable[pa.Table], state: Json, block_bytes: int) -> Iterator[Block]:
    """Regroup tables into blocks of about ``block_bytes`` and yield those after ``state``, each with the state after it.

    Raises:
        ValueError: No block ends at ``state``, so the data is not what it was when the state was saved.
    """
    resumed, read = check_count(state), 0
    held: tuple[pa.Table, int] | None = None
    for table in regroup(tables, block_bytes):
        first, read = read, read + len(table)
        if first < resumed < read:
            break
        if read > resumed:
            if held is not None:
                yield held
            held = (table, read)
    if held is not None:
        yield held[0], None
    elif read != resumed:
        raise ValueError(
            f"state was saved after {resumed} records, where no block ends now; the data has changed since, start anew"
        )


def regroup(tables: Iterable[pa.Table], block_bytes: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of half to about one and a half times ``block_bytes``, large ones cut, small ones joined.

    A row larger than that is a table by itself; tables without rows disappear; each column is one contiguous array.
    """
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        pieces = max(1, min(len(table), -(-table.nbytes // block_bytes)))
        for piece in range(pieces):
            first, end = len(table) * piece // pieces, len(table) * (piece + 1) // pieces
            held.append(table.slice(first, end - first))
            size += held[-1].nbytes
            if 2 * size >= block_bytes:
                yield _joined(held)
                held, size = [], 0
    if any(len(table) for table in held):
        yield _joined(held)


def _joined(tables: list[pa.Table]) -> pa.Table:
    """Join tables; where columns were open in some, of the types of the others."""
    is_one = all(table.schema.equals(tables[0].schema) for table in tables)
    return pa.concat_tables(tables, promote_options="none" if is_one else "permissive").combine_chunks()
