"""A source in random order: each of its blocks holds records from everywhere, which are read by their numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from seqstream.arrays import Index
from seqstream.records import Json, with_record_numbers
from seqstream.shuffling import EvenOrder, numbers_at
from seqstream.sources.blocks import Block
from seqstream.sources.source import DerivedSource, Source


def in_random_order(source: Source, seed: int, epoch: object, share: float = 1.0) -> RandomRows:
    """Return a source that reads the records of another by their numbers, in the random order of an epoch.

    Args:
        source: The other source.
        seed: Seeds the order.
        epoch: Each epoch has an order of its own.
        share: Which share of the records it has, the first ones in that order.

    Raises:
        ValueError: The records cannot be read by their numbers.
    """
    if source.num_records is None:
        raise ValueError(f"records of {source!r} cannot be read by their numbers; the source must have num_records and take")
    return RandomRows(source, EvenOrder(source.num_records, seed, epoch, "rows"), round(share * source.num_records))


@dataclasses.dataclass(frozen=True)
class RandomRows(DerivedSource):
    """The records of a source in another order; each shard is one block of records that are consecutive in that order.

    Records keep their row ids. Only the rank that tokenises a block reads it.

    Args:
        source: Reads its records by their numbers: `Source.num_records` is not ``None``.
        order: The number of the record at each position; a range leaves them in their order.
        stop: How many positions of the order it has.
    """

    order: EvenOrder | range
    stop: int

    @property
    def num_shards(self) -> int:
        return -(-self.stop // self.source.records_per_block)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        size = self.source.records_per_block
        records = numbers_at(self.order, shard * size, min((shard + 1) * size, self.stop))
        yield with_record_numbers(self.source.take(records), records), None

    def to_row_ids(self, shard: int, records: Index) -> Index:
        return self.source.to_row_ids(0, records)

    def fingerprint(self) -> Json:
        return {"records": self.source.fingerprint(), "records_per_block": self.source.records_per_block}

    def approx_bytes(self, shards: Index) -> Index:
        return np.full(len(shards), int(self.source.records_per_block * self.source.approx_record_bytes))
