"""Cutting rows into batches: properties for any lengths, and examples by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seqstream.arrays import Cuts, Lengths
from seqstream.planning.bucket_cuts import fill_greedily, fitting_rows, plan_batches

few = settings(max_examples=80, deadline=None)


def descending(lengths: list[int]) -> Lengths:
    return np.sort(np.array(lengths, dtype=np.int64))[::-1]


def slots_of(lengths: Lengths, cuts: Cuts | tuple[int, ...]) -> int:
    """Count real tokens and padding of a plan."""
    return sum(int(end - begin) * int(lengths[begin]) for begin, end in itertools.pairwise(cuts))


def check_limits(lengths: Lengths, cuts: Cuts, max_tokens: int | None, max_rows: int | None) -> None:
    """Check that every row appears once and no batch exceeds a limit."""
    assert cuts.dtype == np.int64
    assert cuts[0] == 0
    assert cuts[-1] == len(lengths)
    assert (np.diff(cuts) > 0).all()
    for begin, end in itertools.pairwise(cuts.tolist()):
        assert max_tokens is None or (end - begin) * lengths[begin] <= max_tokens
        assert max_rows is None or end - begin <= max_rows


def all_plans(lengths: Lengths, max_tokens: int, max_rows: int | None) -> list[tuple[int, ...]]:
    """List every plan within the limits: any set of inner cuts."""
    num = len(lengths)
    rows = fitting_rows(lengths, max_tokens, max_rows)
    inner = itertools.chain.from_iterable(itertools.combinations(range(1, num), size) for size in range(num))
    plans = ((0, *cuts, num) for cuts in inner)
    return [plan for plan in plans if all(end - begin <= rows[begin] for begin, end in itertools.pairwise(plan))]


lengths_of_any_kind = st.one_of(
    st.lists(st.integers(1, 60), min_size=1, max_size=300),
    st.lists(st.sampled_from([1, 7, 8, 60]), min_size=1, max_size=300),
    st.lists(st.integers(1, 3), min_size=1, max_size=300),
).map(descending)


@few
@given(lengths_of_any_kind, st.integers(60, 2000), st.none() | st.integers(1, 40))
def test_plans_hold_every_row_within_the_limits(lengths: Lengths, max_tokens: int, max_rows: int | None) -> None:
    """Every row once, within budget, at most 4 % more batches than greedy filling, and no more padding in as many batches."""
    cuts = plan_batches(lengths, max_tokens=max_tokens, max_rows=max_rows)
    check_limits(lengths, cuts, max_tokens, max_rows)
    greedy = fill_greedily(fitting_rows(lengths, max_tokens, max_rows))
    check_limits(lengths, greedy, max_tokens, max_rows)
    assert len(greedy) <= len(cuts) <= 1 + max(len(greedy) - 1, 1.04 * (len(greedy) - 1))
    if len(cuts) == len(greedy):
        assert slots_of(lengths, cuts) <= slots_of(lengths, greedy)


@few
@given(lengths_of_any_kind, st.integers(1, 40))
def test_a_number_of_rows_alone_fills_every_batch(lengths: Lengths, max_rows: int) -> None:
    """Without a budget all batches but the last have the most rows allowed."""
    cuts = plan_batches(lengths, max_rows=max_rows)
    check_limits(lengths, cuts, None, max_rows)
    assert (np.diff(cuts)[:-1] == max_rows).all()


@few
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9).map(descending), st.integers(12, 40), st.none() | st.integers(1, 5))
def test_no_plan_has_fewer_batches_than_greedy_filling(lengths: Lengths, max_tokens: int, max_rows: int | None) -> None:
    """Of all plans, tried one by one, none has fewer batches."""
    greedy = fill_greedily(fitting_rows(lengths, max_tokens, max_rows))
    assert len(greedy) == min(map(len, all_plans(lengths, max_tokens, max_rows)))


@few
@given(
    st.lists(st.integers(3, 12), min_size=1, max_size=10).map(descending),
    st.integers(12, 40),
    st.none() | st.integers(1, 5),
    st.sampled_from([0.0, 0.06, 0.5]),
)
def test_no_plan_of_as_many_batches_pads_less(
    lengths: Lengths, max_tokens: int, max_rows: int | None, step_cost: float
) -> None:
    """Where a cut may be anywhere, the plan is the best of all plans with its number of batches, tried one by one."""
    cuts = plan_batches(lengths, max_tokens=max_tokens, max_rows=max_rows, step_cost=step_cost)
    plans = [plan for plan in all_plans(lengths, max_tokens, max_rows) if len(plan) == len(cuts)]
    assert slots_of(lengths, cuts) == min(slots_of(lengths, plan) for plan in plans)


@few
@given(st.lists(st.integers(3, 12), min_size=4, max_size=10).map(descending), st.sampled_from([0.02, 0.06, 0.3, 1.0]))
def test_what_a_batch_costs_is_weighed_against_padding(lengths: Lengths, step_cost: float) -> None:
    """Where the number of batches is not limited, slots plus the cost of batches are minimal."""
    max_tokens = 24
    cost = step_cost * max_tokens
    plans = all_plans(lengths, max_tokens, None)
    best = min(slots_of(lengths, plan) + cost * (len(plan) - 1) for plan in plans)
    fewest = min(map(len, plans))
    assume(any(len(plan) == fewest and slots_of(lengths, plan) + cost * (fewest - 1) <= best + 1e-9 for plan in plans))
    cuts = plan_batches(lengths, max_tokens=max_tokens, step_cost=step_cost)
    assert slots_of(lengths, cuts) + cost * (len(cuts) - 1) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(6))
def test_a_smaller_budget_filled_greedily_is_no_better(seed: int) -> None:
    """Greedy filling with a smaller budget and as many batches pads at most 0.2 % less."""
    rng = np.random.default_rng(seed)
    lengths = descending(np.minimum(rng.lognormal(3, 1, 3000).astype(np.int64) + 1, 400).tolist())
    max_tokens = int(rng.integers(1000, 8000))
    cuts = plan_batches(lengths, max_tokens=max_tokens)
    smaller = (fill_greedily(fitting_rows(lengths, budget, None)) for budget in range(int(lengths[0]), max_tokens, 10))
    least = min((slots_of(lengths, plan) for plan in smaller if len(plan) == len(cuts)), default=np.inf)
    assert slots_of(lengths, cuts) <= least + 0.002 * lengths.sum()


def test_greedy_filling_by_hand() -> None:
    """Batches are filled completely: 2 x 4 and 4 x 2 are exactly 8 tokens; three rows are exactly three."""
    lengths = np.array([4, 4, 2, 2, 2, 2, 1])
    assert fitting_rows(lengths, 8, None).tolist() == [2, 2, 4, 4, 4, 4, 8]
    assert fill_greedily(fitting_rows(lengths, 8, None)).tolist() == [0, 2, 6, 7]
    assert fitting_rows(lengths, 8, 3).tolist() == [2, 2, 3, 3, 3, 3, 3]
    assert fill_greedily(fitting_rows(lengths, 8, 3)).tolist() == [0, 2, 5, 7]
    assert fill_greedily(fitting_rows(lengths, None, 3)).tolist() == [0, 3, 6, 7]


def test_a_plan_by_hand() -> None:
    """Greedy filling has 2 x 10 and 3 x 5, 35 slots; 1 x 10 and 4 x 5 are 30, and 4 x 5 is exactly the budget."""
    lengths = np.array([10, 5, 5, 5, 5])
    assert plan_batches(lengths, max_tokens=20).tolist() == [0, 1, 5]
    assert plan_batches(lengths, max_tokens=19).tolist() == [0, 1, 2, 5]  # 10 + 5 + 15, of three such plans the first
    assert plan_batches(lengths, max_tokens=20, max_rows=4).tolist() == [0, 1, 5]
    assert plan_batches(lengths, max_tokens=20, max_rows=3).tolist() == [0, 2, 5]  # the only way in two batches
    assert plan_batches(lengths, max_rows=5).tolist() == [0, 5]


def test_a_plan_with_more_batches_by_hand() -> None:
    """Of 26 rows, 25 batches are the fewest; a 26th saves 4 slots, and is used while it costs less, as 4 % are allowed."""
    lengths = np.array([10] * 24 + [5, 1])
    assert fill_greedily(fitting_rows(lengths, 10, None)).tolist() == [*range(25), 26]
    assert plan_batches(lengths, max_tokens=10, step_cost=0.39).tolist() == list(range(27))
    assert plan_batches(lengths, max_tokens=10, step_cost=0.41).tolist() == [*range(25), 26]
    assert plan_batches(lengths[1:], max_tokens=10, step_cost=0.39).tolist() == [*range(24), 25]  # 24, and 4 % of it is none


def test_no_rows_give_no_batches() -> None:
    """An empty window has an empty plan."""
    none = np.array([], dtype=np.int64)
    assert plan_batches(none, max_tokens=10).tolist() == [0]
    assert plan_batches(none, max_rows=10).tolist() == [0]


def test_many_equal_rows_are_planned_fast() -> None:
    """The number of candidates depends on batches, not on rows: a million rows of one length take no time."""
    lengths = np.full(1_000_000, 3, dtype=np.int64)
    cuts = plan_batches(lengths, max_tokens=30_000)
    assert np.diff(cuts).tolist() == [10_000] * 100


def test_batches_that_cost_nothing_are_still_limited() -> None:
    """With a step cost of 0 the search ends, with no more batches than allowed."""
    lengths = np.arange(100, 0, -1)
    cuts = plan_batches(lengths, max_tokens=200, step_cost=0.0)
    greedy = fill_greedily(fitting_rows(lengths, 200, None))
    assert len(cuts) - 1 <= max(len(greedy) - 1, 1.04 * (len(greedy) - 1))


def test_a_row_over_the_budget_raises() -> None:
    """The message has the length, the budget, and the remedy; a row of exactly the budget fits."""
    message = r"^sequence of 2,113 tokens cannot fit max_tokens=2048; raise max_tokens or set Tokenize\(max_length=\.\.\.\)$"
    with pytest.raises(ValueError, match=message):
        plan_batches(np.array([2113, 5]), max_tokens=2048)
    assert plan_batches(np.array([2048, 5]), max_tokens=2048).tolist() == [0, 1, 2]


def test_a_limit_must_be_given() -> None:
    """Without any limit an error is raised."""
    with pytest.raises(ValueError, match=r"^max_tokens or max_rows must be given, got neither$"):
        plan_batches(np.array([3, 2]))
