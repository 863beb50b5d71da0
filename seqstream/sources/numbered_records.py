"""Records that are read by their numbers: an option of sources, which lets a loader shuffle all records."""

from __future__ import annotations

import functools

import pyarrow as pa

from seqstream.arrays import Index
from seqstream.sources.blocks import count_records, sampled_records


class NumberedRecords:
    """The members of `Source` for records that are read by their numbers; by default a source does not read them so."""

    @property
    def num_records(self) -> int | None:
        """Number of records of the only shard, which `take` reads; ``None`` if records cannot be read by their numbers."""
        return None

    def take(self, records: Index) -> pa.Table:
        """Read records of the only shard by their numbers, in the order given.

        Args:
            records: ``int64 (n,)``, each ``0 <= record < num_records``.

        Returns:
            A row for each record; or fewer rows, with the number of each in a column ``record``.
        """
        raise NotImplementedError(f"{type(self).__name__} must have take(records), as it has num_records")

    @functools.cached_property
    def approx_record_bytes(self) -> float:
        """Average bytes of the records that `take` reads, estimated from a few spaced evenly."""
        table = self.take(sampled_records(self.num_records or 0))
        return float(table.nbytes / max(len(table), 1))

    @property
    def records_per_block(self) -> int:
        """Number of records that `take` reads at once."""
        return count_records(None, num_records=self.num_records or 0, record_bytes=self.approx_record_bytes)
