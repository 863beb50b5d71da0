"""A source made of another one, whose records keep their row ids and places."""

from __future__ import annotations

import dataclasses

from seqstream.records import Record
from seqstream.sources.locations import Location
from seqstream.sources.protocol import Source


@dataclasses.dataclass(frozen=True)
class DerivedSource(Source):
    """Some records of another source, or all of them in another order.

    Args:
        source: The other one, which knows where its records are.
    """

    source: Source

    def locate(self, row_id: int) -> str:
        return self.source.locate(row_id)

    def place(self, row_id: int) -> Location:
        return self.source.place(row_id)

    def record(self, row_id: int) -> Record:
        return self.source.record(row_id)

    @property
    def can_repeat(self) -> bool:
        return self.source.can_repeat

    @property
    def compared_bytes(self) -> int:
        return self.source.compared_bytes
