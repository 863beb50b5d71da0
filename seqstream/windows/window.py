"""A window: rows that are planned together, and of them the rows and batches of this rank."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Mask
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.plan import Plan
from seqstream.records import Counts
from seqstream.windows.batch_slices import BatchSlices, slice_plan
from seqstream.windows.columns import Column
from seqstream.windows.settings import WindowStart

Numbers = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Window:
    """Rows that are planned together, and of them the ``n`` rows and ``T`` batches of this rank.

    Attributes:
        start: Where it begins, with the number of blocks it has.
        following: Where the next begins; ``None`` if the epoch ends with this one.
        number: Row id of its first row on all ranks, by which the window is known within the epoch; -1 if it has none. For a
            mixture it is the number of tokens before it.
        length_counts: The lengths of the rows of all ranks, by which they were planned.
        columns: Columns of this rank's rows, by name.
        sequence: The column whose lengths are those of the rows; ``None`` if no column has rows of different lengths.
        row_ids: ``int64 (n,)``.
        pieces: ``int64 (n,)``, number of each row's piece; 0 where a record was not split.
        is_repeated: ``bool (n,)``, rows that another rank has as well; ``None`` for none.
        spec: The batch spec, with all decided that the data decides.
        plan: The batches.
        after: Rows of the window that all ranks have served after each batch.
        counts: Records that were changed or left out, by outcome, as far as this rank has processed them.
        step_numbers: The optimiser step of the epoch that each batch belongs to.
        step_ends: Whether each batch is the last of its step.
        totals: ``int64 (T, 2)``, real tokens and labels of the batches that all ranks have at once, -1 labels where they are
            not known; ``None`` where this is the only rank.
        step_totals: ``int64 (T, 2)``, the same of the optimiser step of each batch; ``None`` where a batch is a step.
        rank: Number of this rank.
        full_bytes: Approximate bytes of records as read that fill a window; 0 where nothing was planned.
        passes: How often each source of a mixture was read before the window, and after it, ``float64 (S,)`` each.
    """

    start: WindowStart
    following: WindowStart | None
    number: int
    length_counts: LengthCounts
    columns: dict[str, Column]
    sequence: str | None
    row_ids: Index
    pieces: Index
    is_repeated: Mask | None
    spec: BatchSpec
    plan: Plan
    after: list[int]
    counts: Counts
    step_numbers: list[int]
    step_ends: list[bool]
    totals: Index | None = None
    step_totals: Index | None = None
    rank: int = 0
    full_bytes: int = 0
    passes: tuple[Numbers, Numbers] | None = None

    @functools.cached_property
    def slices(self) -> BatchSlices:
        """The rows in the order of the plan, from which batches take slices."""
        return slice_plan(
            self.plan,
            self.columns,
            self.sequence,
            self.row_ids,
            self.pieces,
            is_repeated=self.is_repeated,
            sides=self.spec.columns,
        )
