"""Tables of any size regrouped into blocks of even size; the state of a shard is the number of records read.

Where blocks end depends on the tables alone, never on where reading began. So a resumed shard reads from its start again, skips
whole blocks, and continues with the same blocks as an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from seqstream.records import Json
from seqstream.sources.blocks import Block, check_count


def blocks(tables: Iterable[pa.Table], state: Json, block_bytes: int) -> Iterator[Block]:
    """Yield the blocks after ``state``, of about ``block_bytes`` each, with the state after each of them.

    Raises:
        ValueError: No block ends at ``state``: the data has changed since the state was saved.
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
    """Yield the same rows in tables of half to about one and a half times ``block_bytes``: large tables cut, small ones joined.

    A larger row is a table by itself. Tables without rows are dropped. Each column is one contiguous array.
    """
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        num_slices = max(1, min(len(table), -(-table.nbytes // block_bytes)))
        for number in range(num_slices):
            first, end = len(table) * number // num_slices, len(table) * (number + 1) // num_slices
            held.append(table.slice(first, end - first))
            size += held[-1].nbytes
            if 2 * size >= block_bytes:
                yield _joined(held)
                held, size = [], 0
    if any(len(table) for table in held):
        yield _joined(held)


def _joined(tables: list[pa.Table]) -> pa.Table:
    """Join tables; a column whose type is open in some takes that of the others."""
    is_one = all(table.schema.equals(tables[0].schema) for table in tables)
    return pa.concat_tables(tables, promote_options="none" if is_one else "permissive").combine_chunks()
