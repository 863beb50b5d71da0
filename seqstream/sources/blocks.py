"""Blocks of records: their sizes, their rows as Python values, and states that count records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, evenly_spaced
from seqstream.records import Json, Record, drop_record_numbers, record_numbers
from seqstream.sources.tables.arrow_to_python import is_exact, to_objects

Block: TypeAlias = tuple[pa.Table, Json]
"""A table of records and the state after it, which is ``None`` after the last block of a shard."""

BLOCK_BYTES = 256 << 10
"""Bytes of a block by default."""

SMALLEST_BLOCK_BYTES = 4 << 10
"""Bytes of a block by default are not fewer, however small the corpus."""

FEWEST_BLOCKS = 128
"""Blocks that a corpus has by default, if they are not too small.

With as many, every eighth of a shuffled epoch has both labels of a corpus that is sorted by two labels.
"""

BLOCK_RECORDS = 1_024
"""Most records in a block of Python objects or of records that are read by their numbers."""

COMPARED_BYTES = 512 << 10
"""Bytes of records by which ranks compare their data at the beginning of an epoch."""

_SAMPLED_RECORDS = 16


def check_count(state: Json) -> int:
    """Return a state that is a number of records; 0 for ``None``.

    Raises:
        ValueError: The state is not a whole number from 0 up.
    """
    if state is None:
        return 0
    if not isinstance(state, int) or isinstance(state, bool) or state < 0:
        raise ValueError(f"state of a shard must be the number of records read, got {state!r:.80}; load it as it was saved")
    return state


def check_counts(state: Json, length: int) -> list[int]:
    """Return a state that is a list of counts or offsets; zeros for ``None``.

    Raises:
        ValueError: The state is not a list of ``length`` whole numbers from 0 up.
    """
    if state is None:
        return [0] * length
    if not isinstance(state, list | tuple) or len(state) != length:
        raise ValueError(f"state of a shard must be a list of {length} numbers, got {state!r:.80}; load it as it was saved")
    return [check_count(each or 0) if isinstance(each, int | None) else check_count(each) for each in state]


def choose_block_bytes(given: int | None, total: float | None) -> int:
    """Return the bytes of a block: ``given``, else 256 KiB, or less in a small source, so that it has enough blocks to shuffle.

    Args:
        given: The user's option ``block_bytes``.
        total: About how many bytes the source has; ``None`` if unknown.
    """
    if given is not None:
        return given
    if total is None:
        return BLOCK_BYTES
    return int(min(BLOCK_BYTES, max(total / FEWEST_BLOCKS, SMALLEST_BLOCK_BYTES)))


def sampled_records(num_records: int) -> Index:
    """Return the numbers of at most 16 records, spaced evenly over all, ``int64 (n,)``."""
    return np.array(evenly_spaced(num_records, _SAMPLED_RECORDS), dtype=np.int64)


def count_records(block_bytes: int | None, *, num_records: int, record_bytes: float) -> int:
    """Return the number of records in a block, for records that are read by their numbers.

    Args:
        block_bytes: The user's option ``block_bytes``; ``None`` for the default.
        num_records: Records of the source.
        record_bytes: Average bytes of a record.
    """
    wanted_bytes = choose_block_bytes(block_bytes, record_bytes * num_records)
    return max(1, min(BLOCK_RECORDS, int(wanted_bytes / max(record_bytes, 1))))


def to_records(table: pa.Table) -> list[Record]:
    """Return the rows of a block as dicts, without the column ``record``."""
    table = drop_record_numbers(table)
    columns = [to_objects(column) if is_exact(column.type) else column.to_pylist() for column in table.columns]
    return [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def find_record(tables: Iterable[pa.Table], number: int) -> Record | None:
    """Return the record of a number in the blocks of a shard; ``None`` if there is none."""
    first = 0
    for table in tables:
        rows = np.flatnonzero(record_numbers(table, first) == number)
        if len(rows):
            return to_records(table.slice(int(rows[0]), 1))[0]
        first += len(table)
    return None


def slices(table: pa.Table, num_rows: int) -> Iterator[pa.Table]:
    """Yield a table in slices of ``num_rows`` rows; the last may have fewer."""
    return (table.slice(first, num_rows) for first in range(0, len(table), num_rows))
