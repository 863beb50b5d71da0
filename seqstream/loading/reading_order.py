"""The order in which an epoch reads a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from seqstream.shuffling import EvenOrder
from seqstream.sources.random_order import in_random_order
from seqstream.sources.source import Source
from seqstream.windows.block_reader import Cursor, UpcomingBlocks, look_ahead

_INEXACT = 0.05
"""A share of a source may be so much smaller or larger, as shards are read as a whole."""


@dataclasses.dataclass(frozen=True)
class ReadingOrder:
    """Reads sources in an order that depends on a seed, or in their own order.

    Attributes:
        seed: The seed.
        shuffle: Whether shards, and records that are read by their numbers, are shuffled.
    """

    seed: int
    shuffle: bool

    def is_by_row(self, source: Source) -> bool:
        """Return whether records are read one by one, in a random order."""
        return self.shuffle and source.num_records is not None

    def as_read(self, source: Source, epoch: object = 0, share: float = 1.0) -> Source:
        """Return a source, or a share of it, as an epoch reads it: records that are read one by one in its own order."""
        return in_random_order(source, self.seed, epoch, share) if self.is_by_row(source) else source

    def blocks(
        self, source: Source, epoch: object, cursor: Cursor, share: float = 1.0, **numbers: int
    ) -> Iterator[UpcomingBlocks]:
        """Yield the blocks of an epoch from a cursor on, or of the first shards of it, given their share.

        ``numbers`` are the ``first_shard`` and ``stages`` of `look_ahead`, for a source of a mixture.
        """
        if self.is_by_row(source):
            read = self.as_read(source, epoch, share)
            return look_ahead(read, range(read.num_shards), cursor, **numbers)
        num = source.num_shards
        if not self.shuffle:
            return look_ahead(source, range(num), cursor, num_open=1, stop=round(share * num), **numbers)
        order = EvenOrder(num, self.seed, epoch, "shards")
        return look_ahead(source, order, cursor, stop=round(share * num), **numbers)

    def can_read_share(self, source: Source, share: float) -> bool:
        """Return whether a source has enough shards to read about a share of it."""
        num = source.num_shards
        return self.is_by_row(source) or not num or abs(round(share * num) / num - share) <= _INEXACT
