"""Blocks of records: how large they are, and states that count the records read so far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.records import Json, Record, drop_record_numbers
from seqstream.sources.tables.arrow_to_python import is_exact, to_objects

Block: TypeAlias = tuple[pa.Table, Json]
"""A table of records and the state after it; ``None`` when the shard ends with it."""
BLOCK_BYTES = 256 << 10
BLOCK_RECORDS = 1_024
"""A block of records that are taken one by one has no more of them."""
SMALLEST_BLOCK_BYTES = 4 << 10
FEWEST_BLOCKS = 128
"""A corpus of two labels, one after the other, in so many blocks: any eighth of an epoch has both, and not by luck."""
_SAMPLED_RECORDS = 16
COMPARED_BYTES = 512 << 10


def check_count(state: Json) -> int:
    """Return a state that counts records, 0 for ``None``.

    Raises:
        ValueError: It is no count.
    """
    if state is None:
        return 0
    if not isinstance(state, int) or isinstance(state, bool) or state < 0:
        raise ValueError(f"state of a shard must be how many records were read, got {state!r:.80}; load it as it was saved")
    return state


def check_counts(state: Json, length: int) -> list[int]:
    """Return a state of several counts or offsets, zeros for ``None``.

    Raises:
        ValueError: It is no list of as many.
    """
    if state is None:
        return [0] * length
    if not isinstance(state, list | tuple) or len(state) != length:
        raise ValueError(f"state of a shard must be a list of {length} numbers, got {state!r:.80}; load it as it was saved")
    return [check_count(each or 0) if isinstance(each, int | None) else check_count(each) for each in state]


def choose_block_bytes(given: int | None, total: float | None) -> int:
    """Return how many bytes to read at once: those that were given, else 256 KiB, else less to have enough blocks to mix.

    Args:
        given: What the user asked for.
        total: About how many bytes the source has, ``None`` where nobody knows.
    """
    if given is not None:
        return given
    if total is None:
        return BLOCK_BYTES
    return int(min(BLOCK_BYTES, max(total / FEWEST_BLOCKS, SMALLEST_BLOCK_BYTES)))


def sampled_records(num_records: int) -> np.ndarray:
    """Return numbers of a few records, spread over all of them, ``int64 (n,)``."""
    return np.linspace(0, num_records - 1, min(num_records, _SAMPLED_RECORDS)).astype(np.int64)


def count_records(block_bytes: int | None, *, num_records: int, record_bytes: float) -> int:
    """Return how many records that are read by their numbers make a block.

    Args:
        block_bytes: Bytes of a block that the user asked for; ``None`` to choose.
        num_records: Records of the source.
        record_bytes: About how many bytes each has.
    """
    wanted = choose_block_bytes(block_bytes, record_bytes * num_records)
    return max(1, min(BLOCK_RECORDS, int(wanted / max(record_bytes, 1))))


def to_records(table: pa.Table) -> list[Record]:
    """Return the rows of a block as dicts, without the source's own record numbers."""
    table = drop_record_numbers(table)
    columns = [to_objects(column) if is_exact(column.type) else column.to_pylist() for column in table.columns]
    return [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def slices(table: pa.Table, num_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of a table in slices of ``num_rows``, the last with what is left."""
    return (table.slice(first, num_rows) for first in range(0, len(table), num_rows))
