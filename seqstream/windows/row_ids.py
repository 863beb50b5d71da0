"""Numbers the records of a source: the column of row ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_arrow
from seqstream.records import PIECE, RECORD_BITS, ROW_ID, drop_record_numbers, record_numbers
from seqstream.sources.source import Source


def with_row_ids(source: Source, table: pa.Table, shard: int, first: int, *, first_shard: int = 0) -> tuple[pa.Table, int]:
    """Return records with their row ids, and the number of the record after their last.

    Args:
        source: Where they come from.
        table: Records of one shard that follow each other.
        shard: The shard.
        first: Number of the first of them, where they have no numbers.
        first_shard: Number of the first shard of the source in a mixture.

    Raises:
        ValueError: The source gives a column of a reserved name.
    """
    records = record_numbers(table, first).astype(np.int64, copy=False)
    following = int(records[-1]) + 1 if len(records) else first
    table = drop_record_numbers(table)
    if taken := [name for name in (ROW_ID, PIECE) if name in table.column_names]:
        raise ValueError(
            f"column {taken[0]!r} cannot come from a source; the loader numbers records itself, so rename the column"
        )
    row_ids = source.to_row_ids(shard, records)
    if first_shard:
        row_ids = row_ids + (first_shard << RECORD_BITS)
    return table.append_column(ROW_ID, to_arrow(row_ids)), following
