"""What ranks send each other for a window: worked examples of what is gathered and added up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seqstream.distributed.collectives import CallbackCollectives, SingleProcess
from seqstream.testing.rank_threads import run_ranks
from seqstream.windows.collectives import WindowCollectives


def on_ranks(world_size: int, call: Callable[[WindowCollectives], Any]) -> list[Any]:
    """Return what a call returns on each rank."""
    return run_ranks(world_size, lambda options: call(WindowCollectives(CallbackCollectives(**options))))


def test_the_first_row_of_a_window_is_that_of_its_first_part_with_rows() -> None:
    """Whichever rank has it, and whatever the others have first; -1 where no rank has a row."""
    parts = {0: [[3, 5]], 1: [[], [4]], 2: [[7]]}
    row_ids = [40, 70, 1 << 40]

    def first_row_id(collectives: WindowCollectives, owners: list[int]) -> int:
        own = [np.array(lengths, dtype=np.int64) for lengths in parts[collectives.rank]]
        return collectives.gather_lengths(own, owners, row_ids[collectives.rank]).first_row_id

    assert on_ranks(3, lambda each: first_row_id(each, [1, 2, 0, 1])) == [1 << 40] * 3
    assert on_ranks(3, lambda each: first_row_id(each, [1, 0, 2, 1])) == [40] * 3
    nothing = [np.empty(0, dtype=np.int64)]
    assert on_ranks(2, lambda each: each.gather_lengths(nothing, [0, 1], -1).first_row_id) == [-1, -1]
    assert WindowCollectives(SingleProcess()).gather_lengths([np.array([2])], [0], 9).first_row_id == 9


def test_counts_of_classes_are_added_up() -> None:
    """Each rank sends what it has rows of, and all have the sums."""
    own = [np.array([[1, 0, 2, 0], [5, 0, 9, 0]]), np.array([[0, 0, 1, 3], [0, 0, 4, 8]])]
    for total in on_ranks(2, lambda each: each.add_class_counts(own[each.rank])):
        assert total.tolist() == [[1, 0, 3, 3], [5, 0, 13, 8]]


def test_totals_that_one_rank_does_not_know_are_not_known() -> None:
    """Others are added up."""
    own = [np.array([[3, 2], [4, -1]]), np.array([[5, 1], [0, 0]])]
    for totals in on_ranks(2, lambda each: each.add_step_totals(own[each.rank])):
        assert totals.tolist() == [[8, 3], [4, -1]]


@pytest.mark.parametrize("world_size", [1, 3])
def test_classes_of_all_ranks_are_gathered(world_size: int) -> None:
    """As JSON, in the order of ranks."""
    found = on_ranks(world_size, lambda each: each.gather_classes({"rank": each.rank}))
    assert found == [[{"rank": rank} for rank in range(world_size)]] * world_size
