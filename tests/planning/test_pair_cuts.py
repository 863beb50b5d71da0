"""Batches of rows of several sides: limits for any lengths, examples by hand, and other ways to sort."""

from __future__ import annotations

import itertools
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.arrays import Cuts, Index
from seqstream.planning.bucket_cuts import fitting_rows
from seqstream.planning.pair_cuts import Lengths2, _strip_starts, plan_pairs

few = settings(max_examples=80, deadline=None)


def slots_of(lengths: Lengths2, order: Index, cuts: Cuts) -> npt.NDArray[np.int64]:
    """Return the number of slots of each batch."""
    batches = (lengths[order[begin:end]] for begin, end in itertools.pairwise(cuts.tolist()))
    return np.array([len(batch) * batch.max(0).sum() for batch in batches], dtype=np.int64)


def filled(lengths: Lengths2, order: Index, max_tokens: int | None, max_rows: int | None) -> Cuts:
    """Fill batch after batch in this order, one row at a time."""
    cuts, longest = [0], np.zeros(lengths.shape[1], dtype=np.int64)
    for position, row in enumerate(lengths[order]):
        num_rows = position - cuts[-1] + 1
        longest = np.maximum(longest, row)
        over = max_tokens is not None and num_rows * longest.sum() > max_tokens
        if over or (max_rows is not None and num_rows > max_rows):
            cuts.append(position)
            longest = row
    return np.array([*cuts, len(order)] if len(order) else cuts)


def by_sum(lengths: Lengths2) -> Index:
    return np.argsort(-lengths.sum(1), kind="stable")


def in_equal_strips(lengths: Lengths2, side: int, num_strips: int) -> Index:
    """Sort by a side into strips of equally many tokens, and within strips by the other side, alternately down and up."""
    order = np.argsort(-lengths[:, side], kind="stable")
    tokens = np.cumsum(lengths[order].sum(1))
    strip = (tokens - 1) * num_strips // tokens[-1]
    other = lengths[order, 1 - side]
    return order[np.lexsort([np.where(strip % 2, other, -other), strip])]


@st.composite
def rows_of_sides(draw: st.DrawFn) -> Lengths2:
    """Draw rows of two or three sides of at most 60 tokens, all different or of few kinds."""
    num_sides = draw(st.integers(2, 3))
    row = st.lists(st.integers(1, draw(st.sampled_from([3, 60]))), min_size=num_sides, max_size=num_sides)
    kinds = draw(st.lists(row, min_size=1, max_size=draw(st.sampled_from([4, 60]))))
    return np.array(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=200)), dtype=np.int64)


@few
@given(rows_of_sides(), st.integers(180, 2000), st.none() | st.integers(1, 40))
def test_plans_hold_every_row_within_the_limits(lengths: Lengths2, max_tokens: int, max_rows: int | None) -> None:
    """Every row once, within both limits, no more padding than rows sorted by their sum, and at most 4 % more batches."""
    order, cuts = plan_pairs(lengths, max_tokens=max_tokens, max_rows=max_rows)
    assert order.dtype == cuts.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (cuts[0], cuts[-1]) == (0, len(lengths))
    assert (np.diff(cuts) > 0).all()
    slots = slots_of(lengths, order, cuts)
    assert slots.max() <= max_tokens
    assert max_rows is None or np.diff(cuts).max() <= max_rows
    plain = filled(lengths, by_sum(lengths), max_tokens, max_rows)
    assert slots.sum() <= slots_of(lengths, by_sum(lengths), plain).sum()
    assert len(cuts) - 1 <= max(len(plain) - 1, 1.04 * (len(plain) - 1))


@few
@given(rows_of_sides(), st.integers(180, 2000))
def test_rows_of_a_batch_are_longest_first(lengths: Lengths2, max_tokens: int) -> None:
    """In a batch the first side decides, then the second and so on; rows of the same lengths keep their order, everywhere."""
    order, cuts = plan_pairs(lengths, max_tokens=max_tokens, max_rows=None)
    for begin, end in itertools.pairwise(cuts.tolist()):
        rows = [tuple(row) for row in lengths[order[begin:end]].tolist()]
        assert rows == sorted(rows, reverse=True)
    for kind in {tuple(row) for row in lengths.tolist()}:
        alike = order[(lengths[order] == kind).all(1)]
        assert (np.diff(alike) > 0).all()


@few
@given(rows_of_sides(), st.integers(1, 40))
def test_a_number_of_rows_alone_fills_every_batch(lengths: Lengths2, max_rows: int) -> None:
    """Without a budget all batches but the last have the most rows, and pad no more than rows sorted by the sum."""
    order, cuts = plan_pairs(lengths, max_tokens=None, max_rows=max_rows)
    assert (np.diff(cuts)[:-1] == max_rows).all()
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert slots_of(lengths, order, cuts).sum() <= slots_of(lengths, by_sum(lengths), cuts).sum()


@few
@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=10),
    st.integers(13, 40),
    st.none() | st.integers(1, 5),
    st.sampled_from([0.0, 0.06, 0.5]),
)
def test_with_one_side_alike_no_plan_of_as_many_batches_pads_less(
    sides: list[int], max_tokens: int, max_rows: int | None, step_cost: float
) -> None:
    """Then only cuts matter: the plan is the best of all plans with its number of batches, tried one by one."""
    lengths = np.array([[side, 1] for side in sides], dtype=np.int64)
    order, cuts = plan_pairs(lengths, max_tokens=max_tokens, max_rows=max_rows, step_cost=step_cost)
    rows = -np.sort(-lengths.sum(1))
    max_rows_by_sum = fitting_rows(rows, max_tokens, max_rows)
    inner = itertools.combinations(range(1, len(rows)), len(cuts) - 2)
    plans = (np.array([0, *some, len(rows)]) for some in inner)
    within = [plan for plan in plans if (np.diff(plan) <= max_rows_by_sum[plan[:-1]]).all()]
    assert slots_of(lengths, order, cuts).sum() == min(int((np.diff(plan) * rows[plan[:-1]]).sum()) for plan in within)


@few
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 30)), min_size=1, max_size=30), st.integers(36, 100))
def test_strips_are_those_that_pad_least(rows: list[tuple[int, int]], max_tokens: int) -> None:
    """Of all ways to begin strips where the side changes, tried one by one, none has a lower cost."""
    own, rest = np.array(sorted(rows, reverse=True)).T
    max_rows_by_sum = fitting_rows(np.maximum(np.arange(37), 1), max_tokens, None)

    def slots_and_spread(starts: tuple[int, ...]) -> float:
        """Sum the slots of one side, and for each length of the rest half the rows of a batch."""
        total = 0.0
        for begin, end in itertools.pairwise([*starts, len(own)]):
            between = range(own[begin] + rest[begin:end].min(), own[begin] + rest[begin:end].max())
            total += (end - begin) * own[begin] + 0.5 * sum(max_tokens // (length + 1) for length in between)
        return total

    changes = (np.flatnonzero(np.diff(own)) + 1).tolist()
    subsets = itertools.chain.from_iterable(itertools.combinations(changes, num) for num in range(len(changes) + 1))
    found = tuple(_strip_starts(own, rest, max_rows_by_sum).tolist())
    assert slots_and_spread(found) == min(slots_and_spread((0, *subset)) for subset in subsets)


def test_rows_alike_on_both_sides_go_together() -> None:
    """The four rows have equal sums; two of a kind have 2 * (6 + 1) = 14 slots, two of different kinds 2 * (6 + 6)."""
    lengths = np.array([[6, 1], [1, 6], [6, 1], [1, 6]])
    order, cuts = plan_pairs(lengths, max_tokens=14, max_rows=None)
    assert (order.tolist(), cuts.tolist()) == ([0, 2, 1, 3], [0, 2, 4])
    order, cuts = plan_pairs(lengths, max_tokens=13, max_rows=None)
    assert np.diff(cuts).tolist() == [1, 1, 1, 1]
    order, cuts = plan_pairs(lengths, max_tokens=None, max_rows=2)
    assert (order.tolist(), cuts.tolist()) == ([0, 2, 1, 3], [0, 2, 4])
    order, cuts = plan_pairs(lengths, max_tokens=None, max_rows=3)  # 3 * (6 + 6) + 7, in any order
    assert slots_of(lengths, order, cuts).tolist() == [36, 7]


def test_cuts_are_where_least_is_padded() -> None:
    """Greedy filling has 2 * (9 + 1) and 3 * (4 + 1), 35 slots; 1 * (9 + 1) and 4 * (4 + 1) are 30."""
    lengths = np.array([[4, 1], [4, 1], [9, 1], [4, 1], [4, 1]])
    order, cuts = plan_pairs(lengths, max_tokens=20, max_rows=None)
    assert (order.tolist(), cuts.tolist()) == ([2, 0, 1, 3, 4], [0, 1, 5])
    order, cuts = plan_pairs(lengths, max_tokens=20, max_rows=3)
    assert (order.tolist(), cuts.tolist()) == ([2, 0, 1, 3, 4], [0, 2, 5])


def test_cuts_are_found_inside_large_batches() -> None:
    """Greedy filling puts 3 rows of 50 among 97 of 100; with few batches every row is a candidate, so the plan does not."""
    lengths = np.array([[90, 10]] * 97 + [[40, 10]] * 103)
    _, cuts = plan_pairs(lengths, max_tokens=10_000, max_rows=None)
    assert cuts.tolist() == [0, 97, 200]


def test_neighbours_at_the_border_of_strips_are_alike() -> None:
    """The second batch has rows of two strips, with 5 and 6 on the second side: 2 * 8 + 2 * 12 + 8 slots."""
    lengths = np.array([[5, 6], [7, 1], [6, 1], [6, 5], [3, 5]])
    order, cuts = plan_pairs(lengths, max_tokens=26, max_rows=None)
    assert (order.tolist(), cuts.tolist()) == ([1, 2, 3, 0, 4], [0, 2, 4, 5])
    assert slots_of(lengths, order, cuts).tolist() == [16, 24, 8]


def test_strips_that_are_no_better_are_not_used() -> None:
    """Sorted by the sum, two batches of 12 + 2 * 11 slots stay, not three of 28; and three of 8 + 14 + 7, not two of 30."""
    order, cuts = plan_pairs(np.array([[5, 7], [3, 2], [6, 5]]), max_tokens=23, max_rows=None)
    assert (order.tolist(), cuts.tolist()) == ([0, 2, 1], [0, 1, 3])
    order, cuts = plan_pairs(np.array([[6, 1], [1, 7], [6, 1], [1, 6]]), max_tokens=16, max_rows=None, step_cost=0.1)
    assert (order.tolist(), cuts.tolist()) == ([1, 0, 2, 3], [0, 1, 3, 4])


def test_a_batch_by_hand() -> None:
    """Five rows fit in one batch of 5 * (3 + 5) slots: those of 3 first, then by the second side, equal ones in their order."""
    lengths = np.array([[2, 3], [3, 1], [2, 5], [3, 1], [2, 3]])
    order, cuts = plan_pairs(lengths, max_tokens=40, max_rows=5)
    assert (order.tolist(), cuts.tolist()) == ([1, 3, 2, 0, 4], [0, 5])
    _, cuts = plan_pairs(lengths, max_tokens=39, max_rows=5)
    assert len(cuts) == 3


def test_what_a_batch_costs_is_weighed_against_padding() -> None:
    """Of 26 rows, 25 batches are the fewest; a 26th saves 4 slots, and is used while it costs less, as 4 % are allowed."""
    lengths = np.array([[9, 1]] * 24 + [[5, 1], [1, 1]])
    assert len(plan_pairs(lengths, max_tokens=12, max_rows=None, step_cost=0.33)[1]) == 27
    assert len(plan_pairs(lengths, max_tokens=12, max_rows=None, step_cost=0.34)[1]) == 26
    assert len(plan_pairs(lengths[1:], max_tokens=12, max_rows=None, step_cost=0.33)[1]) == 25  # 24, and 4 % of it is none
    assert len(plan_pairs(lengths[1:], max_tokens=12, max_rows=None, step_cost=0.0)[1]) == 25


@pytest.mark.parametrize("seed", range(8))
def test_no_number_of_equal_strips_pads_less(seed: int) -> None:
    """However alike the sides are, sorting in strips of equal size, of any number and either side, is no way round."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(4_000, 3))
    alike = rng.uniform(0, 0.9)
    scale = rng.uniform([2.0, 2.0], [4.0, 4.0])
    lengths = np.exp(scale + 0.6 * (alike * noise[:, :1] + np.sqrt(1 - alike**2) * noise[:, 1:])).astype(np.int64) + 1
    max_tokens = int(lengths.sum() / rng.integers(20, 250)) + int(lengths.sum(1).max())
    order, cuts = plan_pairs(lengths, max_tokens=max_tokens, max_rows=None)
    ours = slots_of(lengths, order, cuts).sum()
    strips = [in_equal_strips(lengths, side, num) for side in (0, 1) for num in (1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32)]
    theirs = min(slots_of(lengths, strip, filled(lengths, strip, max_tokens, None)).sum() for strip in strips)
    assert ours <= theirs
    plain = slots_of(lengths, by_sum(lengths), filled(lengths, by_sum(lengths), max_tokens, None)).sum()
    assert ours - lengths.sum() < 0.6 * (plain - lengths.sum())


def test_one_long_row_does_not_spoil_the_others() -> None:
    """A row far longer than all others, on one side or on both, costs hardly more than its own slots."""
    lengths = np.random.default_rng(0).integers(1, 50, (3_000, 2))
    without = slots_of(lengths, *plan_pairs(lengths, max_tokens=4_000, max_rows=None)).sum()
    for row in ([1_900, 20], [20, 1_900], [1_900, 1_900]):
        longer = np.append(lengths, [row], axis=0)
        slots = slots_of(longer, *plan_pairs(longer, max_tokens=4_000, max_rows=None)).sum()
        assert slots <= 1.02 * without + 3_800


def test_exchanged_sides_pad_the_same() -> None:
    """Strips of both sides are compared: with the sides exchanged, padding is the same."""
    rng = np.random.default_rng(1)
    lengths = np.stack([rng.integers(1, 200, 3_000), rng.integers(1, 20, 3_000)], axis=1)
    slots = [slots_of(rows, *plan_pairs(rows, max_tokens=4_000, max_rows=None)).sum() for rows in (lengths, lengths[:, ::-1])]
    assert slots[0] == slots[1]


def test_an_empty_side_is_fine() -> None:
    """A target without tokens needs no slots."""
    lengths = np.array([[3, 0], [0, 0], [3, 0]])
    order, cuts = plan_pairs(lengths, max_tokens=6, max_rows=None)
    assert (order.tolist(), cuts.tolist()) == ([0, 2, 1], [0, 2, 3])


def test_no_rows_give_no_batches() -> None:
    """An empty window has an empty plan."""
    none = np.empty((0, 2), dtype=np.int64)
    for limits in ({"max_tokens": 10, "max_rows": None}, {"max_tokens": None, "max_rows": 10}):
        order, cuts = plan_pairs(none, **limits)
        assert (order.tolist(), cuts.tolist()) == ([], [0])


def test_planning_is_fast() -> None:
    """Twenty thousand rows in some 250 batches take a few hundredths of a second."""
    rng = np.random.default_rng(0)
    source = np.minimum(rng.lognormal(3, 0.6, 20_000), 400)
    lengths = np.stack([source, source * rng.lognormal(0, 0.3, 20_000)], axis=1).astype(np.int64) + 1
    begun = time.perf_counter()
    _, cuts = plan_pairs(lengths, max_tokens=4_096, max_rows=None)
    assert time.perf_counter() - begun < 0.5  # 0.03 s alone on a machine
    assert len(cuts) > 200


def test_a_row_over_the_budget_raises() -> None:
    """The message has the length of every side, the budget, and the remedy; a row of exactly the budget fits."""
    message = (
        r"^sequences of 300 and 2,250 tokens cannot fit max_tokens=2549 together; "
        r"raise max_tokens or set Tokenize\(max_length=\.\.\.\)$"
    )
    with pytest.raises(ValueError, match=message):
        plan_pairs(np.array([[5, 5], [300, 2250]]), max_tokens=2549, max_rows=None)
    with pytest.raises(ValueError, match=r"^sequences of 3, 4 and 5 tokens cannot fit max_tokens=11 together;"):
        plan_pairs(np.array([[3, 4, 5]]), max_tokens=11, max_rows=1)
    assert plan_pairs(np.array([[5, 5], [300, 2250]]), max_tokens=2550, max_rows=None)[1].tolist() == [0, 1, 2]


def test_a_limit_must_be_given() -> None:
    """Without any limit an error is raised."""
    with pytest.raises(ValueError, match=r"^max_tokens or max_rows must be given, got neither$"):
        plan_pairs(np.array([[3, 2]]), max_tokens=None, max_rows=None)
