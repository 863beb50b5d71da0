"""Batches of consecutive rows: no grouping by length."""

from __future__ import annotations

import dataclasses

import numpy as np

from seqstream.arrays import Lengths
from seqstream.options import yes_or_no
from seqstream.planning.batch_spec import WINDOW_BATCHES, Decided, WindowSize, needed, set_positive, show
from seqstream.planning.global_plan import GlobalPlan, ListedOrder
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.planned_search import PlannedRows, PlannedSearch
from seqstream.planning.tie_order import SpreadTies
from seqstream.records import Json
from seqstream.shuffling import shuffled


@dataclasses.dataclass(frozen=True, repr=False)
class Unbucketed(Decided):
    """Batches of consecutive rows, padded: what one gets without bucketing, to compare with and to evaluate with.

    With ``shuffle=True`` the rows of a window are shuffled first, so batches are random; without, rows come as the source has
    them.

    Args:
        batch_size: Number of rows of a batch; the last of an epoch may have fewer.
        drop_last: Leave out what does not fill a whole optimiser step, of all ranks and with ``accumulate``, at the end of an
            epoch: of one rank without ``accumulate`` the last batch where it is smaller. Its rows are counted as dropped.
        window_batches: Least batches whose rows are shuffled together.
        window_bytes: Least bytes of ids that are shuffled together, four each. Where one of the two is given, it alone counts;
            by default windows hold 256 batches a rank and 64 MiB of ids, whichever is more.
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
            return WindowSize(WINDOW_BATCHES, None)  # rows come as they are, whatever the window
        return WindowSize.of(self.window_batches, self.window_bytes)

    def sort_keys(self, lengths: Lengths) -> Lengths:
        return np.zeros(len(lengths), dtype=np.int64)

    def fills(self, runs: LengthCounts, multiple: int) -> bool:
        return runs.num_rows >= self.batch_size * multiple

    def search_planned(self, runs: LengthCounts, *, last: bool, multiple: int) -> PlannedSearch:
        size = self.batch_size * multiple
        return PlannedRows(runs.num_rows if last and not self.drop_last else runs.num_rows // size * size)

    def plan_global(
        self, runs: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> GlobalPlan:
        num_rows = runs.num_rows
        order = SpreadTies.of(np.array([num_rows]), None) if key is None else ListedOrder(shuffled(num_rows, *key, "rows"))
        cuts = np.append(np.arange(0, num_rows, self.batch_size * world_size), num_rows)
        groups = np.ones(len(cuts) - 1, dtype=np.int64)
        return GlobalPlan(order, cuts, np.arange(len(groups)), self.batch_size * groups, groups, batches_per_step=accumulate)

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        return num_rows / self.batch_size

    def largest(self, max_length: int | None) -> tuple[int, int]:
        return self.batch_size, needed(max_length)

    def fingerprint(self) -> Json:
        return {"kind": "Unbucketed", **dataclasses.asdict(self)}
