"""Records in an even random order: a source that reads them one by one, as blocks of records from all over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from seqstream.records import Json, with_record_numbers
from seqstream.shuffling import EvenOrder
from seqstream.sources.blocks import Block
from seqstream.sources.source import DerivedSource, Source


def in_random_order(source: Source, seed: int, epoch: int) -> RandomRows:
    """Return a source that reads the records of another one by one, in the order of an epoch.

    Raises:
        ValueError: Its records cannot be read one by one.
    """
    if source.num_records is None:
        raise ValueError(f"records of {source!r} cannot be read one by one; it must have num_records and take")
    return RandomRows(source, EvenOrder(source.num_records, seed, epoch, "rows"))


@dataclasses.dataclass(frozen=True)
class RandomRows(DerivedSource):
    """The records of a source in another order: each shard is one block of records that follow each other in that order.

    Records keep their row ids. Nothing is read before a block is, and only the rank that tokenises it reads it.

    Args:
        source: Reads its records one by one: `Source.num_records` is not ``None``.
        order: Which record comes when.
    """

    order: EvenOrder

    @property
    def num_shards(self) -> int:
        return -(-self._num_records // self.source.records_per_block)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        size = self.source.records_per_block
        records = self.order.between(shard * size, min((shard + 1) * size, self._num_records))
        yield with_record_numbers(self.source.take(records), records), None

    def to_row_ids(self, shard: int, records: np.ndarray) -> np.ndarray:
        return self.source.to_row_ids(0, records)

    def fingerprint(self) -> Json:
        return {"records": self.source.fingerprint(), "records_per_block": self.source.records_per_block}

    def approx_bytes(self, shards: np.ndarray) -> np.ndarray:
        return np.full(len(shards), int(self.source.records_per_block * self.source.approx_record_bytes))

    @property
    def _num_records(self) -> int:
        return self.source.num_records or 0
