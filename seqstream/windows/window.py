"""A window: rows that are planned together, and of them those of this rank."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.plan import Plan
from seqstream.records import Counts
from seqstream.windows.batch_slices import BatchSlices, slice_plan
from seqstream.windows.columns import Column
from seqstream.windows.settings import WindowStart


@dataclasses.dataclass(frozen=True)
class Window:
    """Rows that are planned together, and of them those of this rank.

    Attributes:
        start: Where it begins, with the number of blocks it has.
        following: Where the next begins; ``None`` if the epoch ends with this one.
        number: The row id of its first row, which no other window of the epoch has; -1 if it has none.
        runs: The lengths of all its rows, by which they were planned.
        columns: Columns of this rank's rows.
        sequence: Name of the column that lengths are those of; ``None`` if no column has rows of different lengths.
        row_ids: ``int64 (n,)``.
        pieces: ``int64 (n,)``.
        is_repeated: ``bool (n,)``, rows that another rank has as well; ``None`` for none.
        spec: What was planned by, decided in all.
        plan: Which rows go together, step after step.
        after: Rows of the window that are served after each batch.
        counts: What became of records that were changed or left out, as far as this rank worked on them.
        step_numbers: The optimiser step of the epoch that each batch belongs to.
        step_ends: Whether it is the last of its step.
        totals: ``int64 (T, 2)``, real tokens and labels of what all ranks take at once, -1 labels where nobody knows; ``None``
            where this is the only rank.
        step_totals: The same of the optimiser step that each batch belongs to; ``None`` where a batch is a step.
        rank: Whose rows these are.
        full_bytes: About how many bytes of records as read would fill a window; 0 where nothing was planned.
    """

    start: WindowStart
    following: WindowStart | None
    number: int
    runs: LengthCounts
    columns: dict[str, Column]
    sequence: str | None
    row_ids: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.int64]
    is_repeated: npt.NDArray[np.bool_] | None
    spec: BatchSpec
    plan: Plan
    after: list[int]
    counts: Counts
    step_numbers: list[int]
    step_ends: list[bool]
    totals: npt.NDArray[np.int64] | None = None
    step_totals: npt.NDArray[np.int64] | None = None
    rank: int = 0
    full_bytes: int = 0

    @functools.cached_property
    def planned(self) -> BatchSlices:
        """What batches take their slices from."""
        return slice_plan(
            self.plan,
            self.columns,
            self.sequence,
            self.row_ids,
            self.pieces,
            is_repeated=self.is_repeated,
            sides=self.spec.columns,
        )
