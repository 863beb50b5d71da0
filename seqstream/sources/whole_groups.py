"""A source whose blocks hold whole groups: consecutive records with one key are never in two blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import join_tables, plain, to_arrow, to_numpy
from seqstream.records import RECORD, Json, drop_record_numbers, record_numbers
from seqstream.sources.blocks import Block
from seqstream.sources.random_order import RandomRows
from seqstream.sources.source import DerivedSource, Source


def group_starts(keys: pa.ChunkedArray) -> Index:
    """Return the first record of each group of consecutive equal keys, ascending; a record without a key is a group.

    Raises:
        ValueError: Keys are neither strings, numbers nor booleans.
    """
    if not len(keys):
        return np.zeros(0, dtype=np.int64)
    keys = plain(keys).combine_chunks()
    kind = keys.type
    if pa.types.is_nested(kind):
        raise ValueError(f"Bucket(group=...) must name a column of strings, numbers or booleans, got {kind}")
    if pa.types.is_null(kind):
        return np.arange(len(keys))
    codes = to_numpy(keys.dictionary_encode(null_encoding="encode").indices)
    is_start = np.append(True, codes[1:] != codes[:-1])
    if keys.null_count:
        is_start |= np.asarray(keys.is_null().to_numpy(zero_copy_only=False))
    return np.flatnonzero(is_start)


@dataclasses.dataclass(frozen=True)
class WholeGroups(DerivedSource):
    """A source whose blocks hold whole groups of consecutive records with equal keys.

    A shard leaves the records up to its first change of the key to the shard before it, whether or not these belong to a group
    there: so no shard must look back. Each shard reads ahead to the first change of the key in the next one. Records keep their
    row ids.

    Args:
        source: The other source.
        key: The column whose equal values are a group.
    """

    key: str

    @classmethod
    def of(cls, source: Source, key: str) -> WholeGroups:
        """Return a source of whole groups; records that are read by their numbers are in shards of consecutive numbers."""
        num = source.num_records
        return cls(source if num is None else RandomRows(source, range(num), num), key)

    @property
    def num_shards(self) -> int:
        return self.source.num_shards

    def prefetch_shard(self, shard: int) -> Callable[[], None] | None:
        return self.source.prefetch_shard(shard)

    def fingerprint(self) -> Json:
        return {"source": self.source.fingerprint(), "group": self.key}

    def approx_blocks(self) -> float | None:
        return self.source.approx_blocks()

    def approx_bytes(self, shards: Index) -> Index:
        return self.source.approx_bytes(shards)

    def to_row_ids(self, shard: int, records: Index) -> Index:
        return records  # which are those of other shards, too

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        before, skip, first, owns_next = state or (None, 0, 0, shard == 0)
        origin = before, skip, first  # of the rows that are held back: those of the last group, which may go on
        held: pa.Table | None = None
        for table, after in self.source.read(shard, before):
            rows, following = self._numbered(table, shard, first)
            rows = rows.slice(skip)
            num_held = 0 if held is None else len(held)
            held = rows if held is None else join_tables([held, rows])
            starts = self._starts(held)
            cut = int(starts[-1]) if len(starts) else 0
            if cut:
                complete, held = held.slice(0, cut), held.slice(cut)
                origin = before, skip + cut - num_held, first
                if not owns_next:
                    complete, owns_next = complete.slice(int(starts[1])), True
                if after is None:
                    held = join_tables([complete, held])
                elif len(complete):
                    yield complete, [*origin, owns_next]
            before, skip, first = after, 0, following
        if held is not None:
            yield join_tables([held, *self._heads_after(shard)]) if owns_next else held.slice(0, 0), None

    def _heads_after(self, shard: int) -> Iterator[pa.Table]:
        """Yield the records of the next shard up to the first change of the key, and of those after it if it has none."""
        for number in range(shard + 1, self.num_shards):
            head: pa.Table | None = None
            first = 0
            for table, _ in self.source.read(number):
                rows, first = self._numbered(table, number, first)
                head = rows if head is None else join_tables([head, rows])
                starts = self._starts(head)
                if len(starts) > 1:
                    yield head.slice(0, int(starts[1]))
                    return
            if head is not None:
                yield head

    def _numbered(self, table: pa.Table, shard: int, first: int) -> tuple[pa.Table, int]:
        """Return a block with its row ids in the column ``record``, and the number of the record after it."""
        records = record_numbers(table, first)
        row_ids = self.source.to_row_ids(shard, records.astype(np.int64, copy=False))
        table = drop_record_numbers(table).append_column(RECORD, to_arrow(row_ids))
        return table, int(records[-1]) + 1 if len(records) else first

    def _starts(self, table: pa.Table) -> Index:
        if not len(table):
            return np.zeros(0, dtype=np.int64)
        if self.key not in table.column_names:
            known = ", ".join(name for name in table.column_names if name != RECORD)
            raise ValueError(f"Bucket(group=...) must name a column of the data, which has {known}, got {self.key!r}")
        return group_starts(table.column(self.key))
