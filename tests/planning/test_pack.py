"""`Pack`: its rows, how much of a window it plans, and its errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.pack import Pack, PackedPlan
from seqstream.planning.plan import MADE_UP
from tests.helpers.sources import num_planned

KEY = (0, 0, 17)

some_lengths = st.lists(st.integers(1, 60), max_size=150).map(lambda values: np.array(values, dtype=np.int64))


def rows_of(plan: PackedPlan) -> list[list[list[tuple[int, int, int]]]]:
    """Return for each turn and each packed row its items: sequence, first token and number of tokens."""
    batches = []
    for batch in plan.turns:
        rows: list[list[tuple[int, int, int]]] = [[] for _ in range(plan.num_rows)]
        for at in range(plan.cuts[batch], plan.cuts[batch + 1]):
            row, slot = divmod(int(plan.slots[at]), plan.row_length)
            assert slot == sum(size for _, _, size in rows[row]), "items follow each other without gaps"
            rows[row].append((int(plan.order[at]), int(plan.begins[at]), int(plan.lengths[at])))
        batches.append(rows)
    return batches


@settings(max_examples=100, deadline=None)
@given(
    some_lengths,
    st.integers(1, 70),
    st.integers(1, 5),
    st.sampled_from(["truncate", "split", "drop"]),
    st.sampled_from([KEY, None]),
)
def test_every_token_has_one_slot(lengths: npt.NDArray[np.int64], length: int, rows: int, overflow: Any, key: Any) -> None:
    """Each sequence is packed once, as the overflow policy says, in rows that hold it; missing rows are made up."""
    plan = Pack(length, rows=rows, overflow=overflow).plan(lengths, key=key)
    packed = [item for batch in rows_of(plan) for row in batch for item in row]
    real = sorted(item for item in packed if item[0] != MADE_UP)
    expected = []
    for number, size in enumerate(lengths.tolist()):
        if size > length and overflow == "split":
            expected += [(number, begin, min(length, size - begin)) for begin in range(0, size, length)]
        elif size <= length or overflow == "truncate":
            expected.append((number, 0, min(size, length)))
    assert real == expected
    assert all(sum(size for _, _, size in row) <= length for batch in rows_of(plan) for row in batch)
    assert all(row for batch in rows_of(plan) for row in batch), "an empty row has one made-up token"
    assert sum(item[0] == MADE_UP for item in packed) < rows, "no batch has only made-up rows"
    over = int((lengths > length).sum())
    names = {"truncate": "truncated", "split": "split", "drop": "dropped"}
    assert plan.counts == ({names[overflow]: over} if over else {})


def test_rows_by_hand() -> None:
    """Lengths 5 4 3 2 2 in rows of 6: 5 alone, 4 with 2, 3 with 2; three rows are two batches of two, with a made-up row."""
    plan = Pack(6, rows=2).plan(np.array([2, 5, 3, 2, 4]), key=None)
    assert rows_of(plan) == [[[(1, 0, 5)], [(4, 0, 4), (0, 0, 2)]], [[(2, 0, 3), (3, 0, 2)], [(MADE_UP, 0, 1)]]]
    assert plan.num_made_up == [0, 1]
    assert plan.rows(1).tolist() == [2, 3]


def test_pieces_by_hand() -> None:
    """A sequence of 9 in rows of 4 is pieces of 4, 4 and 1, the last of which shares its row."""
    plan = Pack(4, rows=1, overflow="split").plan(np.array([9, 3]), key=None)
    assert rows_of(plan) == [[[(0, 0, 4)]], [[(0, 4, 4)]], [[(1, 0, 3), (0, 8, 1)]]]
    assert plan.pieces.tolist() == [0, 1, 0, 2]


@settings(max_examples=100, deadline=None)
@given(some_lengths, st.integers(20, 70), st.integers(1, 4))
def test_what_is_planned_fills_batches(lengths: npt.NDArray[np.int64], length: int, rows: int) -> None:
    """Before the end of an epoch rows are planned only if tokens fill a batch; at the end all rows are."""
    spec = Pack(length, rows=rows, overflow="truncate")
    now = num_planned(spec, lengths, last=False)
    assert num_planned(spec, lengths, last=True) == len(lengths)
    assert (now == 0) == (np.minimum(lengths, length).sum() < rows * length)
    if now == 0:
        return
    assert len(spec.plan(lengths[:now], key=KEY)) >= 1


@pytest.mark.parametrize(("rows", "batches"), [(1, 4), (1, 32), (2, 4), (4, 8)])
@pytest.mark.parametrize("num", [200, 2000])
def test_what_is_planned_fills_steps(num: int, rows: int, batches: int) -> None:
    """Of realistic lengths, the planned ones fill at least one step, and only whole steps."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        lengths = np.clip(rng.lognormal(4.4, 0.8, num + seed * num // 8).astype(np.int64), 1, 512)
        spec = Pack(512, rows=rows)
        now = num_planned(spec, lengths, last=False, world_size=batches)
        found = len(spec.plan(lengths[:now], key=KEY))
        assert found % batches == 0
        assert found > 0


def test_the_search_for_full_steps_by_hand() -> None:
    """Seven sequences of 5 fill four rows of 10, of steps of three; five by proportion fill three, and the search ends."""
    spec = Pack(10, rows=1)
    search = spec.search_planned(LengthCounts.of(np.full(7, 5)), last=False, multiple=3)
    assert (search.num_planned, search.num_needed) == (7, 5)
    found = search.with_lengths(LengthCounts.of(np.full(5, 5)))
    assert (found.num_planned, found.num_needed) == (5, None)
    assert (search.num_planned, search.num_needed) == (7, 5), "a state of the search stays as it is"


def test_a_search_needs_no_lengths_where_all_or_nothing_is_planned() -> None:
    """At the end of an epoch, where steps are full, and where there are too few sequences for one."""
    runs = LengthCounts.of(np.full(6, 5))
    searches = [
        Pack(10, rows=1).search_planned(runs, last=last, multiple=num) for last, num in ((True, 2), (False, 3), (False, 4))
    ]
    assert [(search.num_planned, search.num_needed) for search in searches] == [(6, None), (6, None), (0, None)]


def test_windows_of_real_lengths_are_full() -> None:
    """Before the end of an epoch almost all rows are full: 99.5 % of the slots are tokens."""
    lengths = np.minimum(np.random.default_rng(0).lognormal(5, 1, 20_000).astype(np.int64) + 1, 2048)
    spec = Pack(2048, rows=8)
    plan = spec.plan(lengths[: num_planned(spec, lengths, last=False)], key=KEY)
    tokens = plan.lengths[plan.order != MADE_UP].sum()
    assert tokens / (len(plan) * spec.num_slots) > 0.995
    assert len(plan) >= int(lengths.sum()) // spec.num_slots - 1


def test_batches_mix_rows_of_all_lengths() -> None:
    """Packed rows are shuffled: the longest sequences are not in the same batches."""
    lengths = np.arange(1, 1001)
    plan = Pack(1000, rows=5).plan(lengths, key=KEY)
    longest = [lengths[plan.rows(turn)].max() for turn in range(len(plan))]
    assert min(longest) > 500
    other = Pack(1000, rows=5).plan(lengths, key=(0, 1, 17))
    assert plan.order.tolist() != other.order.tolist()
    again = Pack(1000, rows=5).plan(lengths, key=KEY)
    assert plan.order.tolist() == again.order.tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pack(0, rows=1), "row_length must be a positive whole number, got 0"),
        (lambda: Pack(8, rows=0), "rows must be a positive whole number, got 0"),
        (lambda: Pack(8, rows=1, window_batches=0), "window_batches must be a positive whole number, got 0"),
        (
            lambda: Pack(8, rows=1, overflow="cut"),  # type: ignore[arg-type]
            "overflow must be one of 'error', 'truncate', 'split', 'drop', got 'cut'",
        ),
        (
            lambda: Pack(2048, rows=1).plan(np.array([3, 2113]), key=None),
            r"sequence of 2,113 tokens cannot fit row_length=2048; raise row_length, set Tokenize\(max_length=\.\.\.\)",
        ),
    ],
)
def test_sequences_that_do_not_fit_raise(make: Any, message: str) -> None:
    """The message has the value, the limit and the remedy."""
    with pytest.raises(ValueError, match=message):
        make()
