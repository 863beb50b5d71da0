"""What a source says of how it may be read: ahead of time, by workers, and on several ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from seqstream.arrays import Index
from seqstream.sources.blocks import COMPARED_BYTES


class ReadingHints:
    """The members of `Source` for other ways to read it; by default one process reads one shard after another."""

    def prefetch_shard(self, shard: int) -> Callable[[], None] | None:
        """Begin to read the bytes of a shard of one block in the background, for a call of `read` that follows.

        Returns:
            A function that drops what has not been used; ``None`` where nothing was begun.
        """
        return None

    def approx_bytes(self, shards: Index) -> Index:
        """Estimate the bytes of shards of one block each, without reading them; -1 for a shard of any number of blocks.

        Ranks do not read a shard of known size that another rank tokenises.

        Args:
            shards: ``int64 (n,)``, numbers of shards.

        Returns:
            ``int64 (n,)``, bytes of each shard.
        """
        return np.full(len(shards), -1)

    @property
    def is_read_by_workers(self) -> bool:
        """Whether workers may read a shard of one block themselves: from files, with records that depend on no other shard."""
        return False

    @property
    def compared_bytes(self) -> int:
        """About how many bytes of records all ranks read at the beginning of an epoch, to check that their data are the same.

        They always read the first block. It should be 0, for no more than that, if blocks are expensive to read.
        """
        return COMPARED_BYTES
