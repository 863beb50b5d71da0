"""Small global plans, and random lengths to plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.tie_order import SpreadTies

LENGTHS = st.lists(st.integers(1, 24), min_size=1, max_size=60).map(np.array)


def plan_of(cuts: Sequence[int], turns: Sequence[int], max_rows: Sequence[int]) -> GlobalPlan:
    """Return a plan whose places are row numbers."""
    order = SpreadTies.of(np.array([cuts[-1]]), None)
    return GlobalPlan(order, np.array(cuts), np.array(turns), np.array(max_rows), np.ones(len(max_rows), dtype=np.int64))


def plan_global(spec: BatchSpec, lengths: Any, world_size: int, key: Any = (0,)) -> GlobalPlan:
    """Plan rows for some ranks."""
    return spec.plan_global(LengthCounts.of(spec.sort_keys(lengths)), key=key, world_size=world_size)
