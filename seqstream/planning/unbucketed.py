"""Batches of consecutive rows, without grouping by length."""

from __future__ import annotations

import dataclasses

import numpy as np

from seqstream.arrays import Lengths
from seqstream.options import yes_or_no
from seqstream.planning.batch_spec import WINDOW_BATCHES, PlannerBase, WindowSize, known_max_length, set_positive, show
from seqstream.planning.global_plan import GlobalPlan, ListedOrder
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.planned_search import PlannedRows, PlannedSearch
from seqstream.planning.tie_order import SpreadTies
from seqstream.records import Json
from seqstream.shuffling import shuffled


@dataclasses.dataclass(frozen=True, repr=False)
class Unbucketed(PlannerBase):
    """Padded batches of consecutive rows, without bucketing: for comparisons and for evaluation.

    With ``shuffle=True`` the rows of a window are shuffled first, so batches are random samples; without, rows keep the order
    of the source.

    Args:
        batch_size: Number of rows of a batch; the last batch of an epoch may have fewer.
        drop_last: Leave out the rows at the end of an epoch that do not fill a whole optimiser step, of all ranks and with
            ``accumulate``: on one rank without ``accumulate``, a smaller last batch. They are counted as dropped.
        window_batches: Least number of batches, of each rank, whose rows are shuffled together.
        window_bytes: Least bytes of ids that are shuffled together, four an id. Where only one of the two is given, only it
            counts; by default windows hold 256 batches of each rank and 64 MiB of ids, whichever is more.
    """

    batch_size: int
    drop_last: bool = False
    window_batches: int | None = dataclasses.field(default=None, kw_only=True)
    window_bytes: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        set_positive(self, ("batch_size", "window_batches", "window_bytes"), limits=("batch_size",))
        object.__setattr__(self, "drop_last", yes_or_no("drop_last", self.drop_last))

    def __repr__(self) -> str:
        return show(self)

    def window_size(self, *, shuffle: bool) -> WindowSize:
        if not shuffle and self.window_batches is None and self.window_bytes is None:
            return WindowSize(WINDOW_BATCHES, None)  # the order of rows does not depend on the window
        return WindowSize.of(self.window_batches, self.window_bytes)

    def sort_keys(self, lengths: Lengths) -> Lengths:
        return np.zeros(len(lengths), dtype=np.int64)

    def fills(self, length_counts: LengthCounts, multiple: int) -> bool:
        return length_counts.num_rows >= self.batch_size * multiple

    def search_planned(self, length_counts: LengthCounts, *, last: bool, multiple: int) -> PlannedSearch:
        size = self.batch_size * multiple
        return PlannedRows(length_counts.num_rows if last and not self.drop_last else length_counts.num_rows // size * size)

    def plan_global(
        self, length_counts: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> GlobalPlan:
        num_rows = length_counts.num_rows
        order = SpreadTies.of(np.array([num_rows]), None) if key is None else ListedOrder(shuffled(num_rows, *key, "rows"))
        cuts = np.append(np.arange(0, num_rows, self.batch_size * world_size), num_rows)
        ones = np.ones(len(cuts) - 1, dtype=np.int64)
        return GlobalPlan(order, cuts, np.arange(len(ones)), self.batch_size * ones, ones, batches_per_step=accumulate)

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        return num_rows / self.batch_size

    def largest(self, max_length: int | None) -> tuple[int, int]:
        return self.batch_size, known_max_length(max_length)

    def fingerprint(self) -> Json:
        return {"kind": "Unbucketed", **dataclasses.asdict(self)}
