"""The plan of groups of rows that stay in one batch.

Legend: ``D`` distinct rows by what they are planned by, ``P`` places.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from seqstream.arrays import Cuts, Index, ranges
from seqstream.planning.global_plan import GlobalPlan, in_chunks
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.plan import Plan


@dataclasses.dataclass(frozen=True)
class Groups:
    """Rows of a window in groups: all rows of a group have the numbers of the group, so their row numbers are consecutive.

    Attributes:
        sizes: ``int64 (D,)``, rows of a group.
        row_starts: ``int64 (D,)``, row number of the first row of each of the ``D`` kinds.
        starts: ``int64 (D,)``, number of the first group of each.
    """

    sizes: Index
    row_starts: Index
    starts: Index

    @classmethod
    def of(cls, length_counts: LengthCounts, side: int) -> tuple[Groups, LengthCounts]:
        """Return the groups of rows, and how many groups there are of each kind.

        Args:
            length_counts: The rows.
            side: Which of their numbers is that of the rows of a group.
        """
        sizes = length_counts.lengths[:, side]
        groups = dataclasses.replace(length_counts, counts=length_counts.counts // np.maximum(sizes, 1))
        return cls(sizes, length_counts.starts, groups.starts), groups

    def rows_of(self, groups: Index) -> Index:
        """Return the row numbers of groups, group after group."""
        kind = self._kinds(groups)
        return ranges(self.row_starts[kind] + (groups - self.starts[kind]) * self.sizes[kind], self.sizes[kind])

    def num_rows(self, groups: Index) -> Index:
        """Return the number of rows of each group."""
        found: Index = self.sizes[self._kinds(groups)]
        return found

    def groups_of(self, rows: Index) -> Index:
        """Return the group of each row number."""
        kind = np.searchsorted(self.row_starts, rows, side="right") - 1
        found: Index = self.starts[kind] + (rows - self.row_starts[kind]) // self.sizes[kind]
        return found

    def _kinds(self, groups: Index) -> Index:
        return np.searchsorted(self.starts, groups, side="right") - 1


@dataclasses.dataclass(frozen=True)
class GroupedGlobalPlan(GlobalPlan):
    """A global plan whose places are groups of rows; ``order`` and ``max_rows`` count groups.

    Attributes:
        groups: The rows of each group.
    """

    _: dataclasses.KW_ONLY
    groups: Groups

    def row_numbers(self, places: Index) -> Index:
        return self.groups.rows_of(self.order.rows_at(places))

    def places_of(self, numbers: Index) -> tuple[Index, Index]:
        return np.arange(len(numbers)), in_chunks(lambda rows: self.order.places_of(self.groups.groups_of(rows)), numbers)

    def num_items(self, places: Index) -> Index:
        return self.groups.num_rows(self.order.rows_at(places))

    def lay_out(self, rows: Index, places: Index, cuts: Cuts, global_batches: Index, turns: Index) -> Plan:
        row_cuts = np.append(0, np.cumsum(self.num_items(places)))[cuts]
        return Plan(rows, row_cuts, turns, self.multiple_of, counts=self.counts)
