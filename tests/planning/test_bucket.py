"""Buckets with fixed shapes, with multiples of rows, with the cost of attention, and with rows of several sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.planning.bucket import Bucket
from seqstream.planning.plan import MADE_UP, Plan

KEY = (0, 0, 17)

some_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=200).map(lambda values: np.array(values, dtype=np.int64))
keys = st.sampled_from([KEY, None])


def batches_of(plan: Plan) -> list[list[int]]:
    """Return the rows of each batch, in the order of the turns, with made-up rows."""
    return [plan.order[plan.cuts[batch] : plan.cuts[batch + 1]].tolist() for batch in plan.turns]


def every_row_once(plan: Plan, num_rows: int) -> bool:
    """Return whether the plan has each row once, and made-up rows only at the end of batches."""
    real = [row for batch in batches_of(plan) for row in batch if row != MADE_UP]
    at_the_end = all(MADE_UP not in batch[: len(batch) - batch.count(MADE_UP)] for batch in batches_of(plan))
    return sorted(real) == list(range(num_rows)) and at_the_end


@settings(max_examples=100, deadline=None)
@given(some_lengths, st.integers(1, 6), st.sampled_from([1, 4]), st.sampled_from([1, 2]), keys)
def test_every_batch_has_one_of_the_shapes(
    lengths: npt.NDArray[np.int64], num_shapes: int, multiple_of: int, rows_multiple_of: int, key: Any
) -> None:
    """Shapes are chosen from lengths, no more than asked for, within the budget; every row once, one batch filled up."""
    asked = Bucket(240, shapes=num_shapes, multiple_of=multiple_of, rows_multiple_of=rows_multiple_of)
    spec = asked.fitted(lengths[: len(lengths) // 2], 60)
    shapes: Any = spec.shapes
    assert len(shapes) <= num_shapes
    assert shapes[-1][1] == 60
    assert all(rows * length <= 240 and rows % rows_multiple_of == 0 and length % multiple_of == 0 for rows, length in shapes)
    plan = spec.plan(lengths, key=key)
    assert every_row_once(plan, len(lengths))
    for batch in plan.turns:
        rows = plan.order[plan.cuts[batch] : plan.cuts[batch + 1]]
        width = plan.width(batch, int(lengths[rows[rows != MADE_UP]].max()))
        assert (len(rows), width) in shapes
        assert lengths[rows[rows != MADE_UP]].max() <= width
    assert sum(num > 0 for num in plan.num_made_up) <= 1
    assert spec.fitted(lengths, 60) is spec, "chosen shapes stay"


def test_shapes_by_hand() -> None:
    """Shapes 2 x 6 and 4 x 3: 6 5 | 4 and a 3 beside it | 3 2 1 and a made-up row."""
    lengths = np.array([2, 5, 3, 6, 3, 4, 1])
    plan = Bucket(shapes=[(4, 3), (2, 6)]).plan(lengths, key=None)
    assert batches_of(plan) == [[3, 1], [5, 2], [4, 0, 6, MADE_UP]]
    assert plan.padded(lengths).tolist() == [6, 6, 3]
    assert [plan.rows(turn).tolist() for turn in range(3)] == [[3, 1], [5, 2], [4, 0, 6]]


@settings(max_examples=100, deadline=None)
@given(some_lengths, st.integers(2, 5), keys, st.sampled_from([None, 4]))
def test_rows_are_multiples(lengths: npt.NDArray[np.int64], multiple: int, key: Any, batch_size: int | None) -> None:
    """Every batch has a multiple of rows within the budget, and fewer made-up rows than one multiple in all."""
    spec = Bucket(60 * multiple, rows_multiple_of=multiple, batch_size=batch_size and batch_size * multiple)
    plan = spec.plan(lengths, key=key)
    assert every_row_once(plan, len(lengths))
    for rows, width in zip(np.diff(plan.cuts), plan.padded(lengths), strict=True):
        assert rows % multiple == 0
        assert rows * width <= 60 * multiple
        assert batch_size is None or rows <= batch_size * multiple
    assert sum(plan.num_made_up) < multiple


def test_rows_in_multiples_by_hand() -> None:
    """Pairs of rows, at most 16 tokens: 6 5 | 4 3 3 2 | 1 and a made-up row."""
    lengths = np.array([2, 5, 3, 6, 3, 4, 1])
    plan = Bucket(16, rows_multiple_of=2).plan(lengths, key=None)
    assert batches_of(plan) == [[3, 1], [5, 2, 4, 0], [6, MADE_UP]]


@settings(max_examples=60, deadline=None)
@given(some_lengths, keys)
def test_attention_has_its_own_cost(lengths: npt.NDArray[np.int64], key: Any) -> None:
    """Rows times L + L**2 / 6d stays within the budget."""
    plan = Bucket(400, cost="attention", hidden_size=2).plan(lengths, key=key)
    assert every_row_once(plan, len(lengths))
    for rows, width in zip(np.diff(plan.cuts), plan.padded(lengths), strict=True):
        assert rows * (width + width**2 / 12) <= 400 or rows == 1


def test_attention_by_hand() -> None:
    """With a width of 2, rows of 12 cost 24 and rows of 6 cost 9: 24 | 24 | 9 9 9 under a budget of 30."""
    plan = Bucket(30, cost="attention", hidden_size=2).plan(np.array([6, 12, 6, 12, 6]), key=None)
    assert batches_of(plan) == [[1], [3], [0, 2, 4]]


def test_attention_costs_fractions_of_a_token() -> None:
    """With a width of 32, rows of 8 cost 8 + 1/3: twelve fit a budget of 100; with a cost of 9 only eleven would."""
    plan = Bucket(100, cost="attention", hidden_size=32).plan(np.full(24, 8), key=None)
    assert [len(batch) for batch in batches_of(plan)] == [12, 12]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=120),
    st.sampled_from([1, 4]),
    st.sampled_from([None, 5]),
    keys,
)
def test_sides_share_the_budget(pairs: list[tuple[int, int]], multiple_of: int, batch_size: int | None, key: Any) -> None:
    """Rows times the sum of the longest of each side stays within the budget; rows are longest first by the first side."""
    lengths = np.array(pairs)
    spec = Bucket(128, columns=("source_ids", "target_ids"), multiple_of=multiple_of, batch_size=batch_size)
    plan = spec.plan(lengths, key=key)
    assert every_row_once(plan, len(lengths))
    for turn in range(len(plan)):
        own = lengths[plan.rows(turn)]
        widths = -(-own.max(axis=0) // multiple_of) * multiple_of
        assert len(own) * widths.sum() <= 128
        assert batch_size is None or len(own) <= batch_size
        assert (np.diff(-(-own[:, 0] // multiple_of)) <= 0).all()


@pytest.mark.parametrize(
    ("spec", "max_length", "expected"),
    [
        (Bucket(1000), 100, (10, 100)),
        (Bucket(1000), 600, (2, 500)),  # one row of 600 has fewer slots than two of 500
        (Bucket(1000, batch_size=4), 100, (4, 100)),
        (Bucket(batch_size=4), 100, (4, 100)),
        (Bucket(1000, multiple_of=8), 100, (10, 96)),
        (Bucket(1000), None, (1, 1000)),
        (Bucket(1000, rows_multiple_of=4), None, (4, 250)),
        (Bucket(1000, columns=("a", "b")), 100, (5, 100)),
        (Bucket(shapes=[(2, 90), (30, 10)]), 90, (30, 10)),
        (Bucket(1000, cost="attention", hidden_size=10), 100, (983, 1)),  # 1 costs 61/60; 100 cost 267, so are three
    ],
    ids=str,
)
def test_the_largest_batch_by_hand(spec: Bucket, max_length: int | None, expected: tuple[int, int]) -> None:
    """Of the possible shapes it is the one that needs the most memory."""
    assert spec.largest(max_length) == expected


def test_shapes_are_read_from_a_file(tmp_path: Path) -> None:
    """A file that `json.dump` has written gives the same bucket as the list, with the same text and fingerprint."""
    (tmp_path / "shapes.json").write_text(json.dumps([[2, 60], (8, 16)]))
    spec = Bucket(shapes=str(tmp_path / "shapes.json"))
    assert spec == Bucket(shapes=[(8, 16), (2, 60)])
    assert repr(spec) == "Bucket(shapes=((8, 16), (2, 60)))"
    assert spec.fingerprint() == Bucket(shapes=((2, 60), (8, 16))).fingerprint()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bucket(64, shapes=0), "shapes must be a positive whole number, got 0"),
        (lambda: Bucket(shapes=4), "Bucket must have max_tokens or batch_size, got neither"),
        (
            lambda: Bucket(64, shapes=[(2, 33)]),
            r"shape \(2, 33\) cannot fit max_tokens=64, batch_size=None; leave them out",
        ),
        (lambda: Bucket(shapes=[]), r"shapes must be a number, or a list of \(rows, length\), got none"),
        (lambda: Bucket(shapes=[(2, 3, 4)]), r"shapes must be a number, or a list of \(rows, length\), got \(2, 3, 4\)"),  # type: ignore[list-item]
        (lambda: Bucket(shapes=[(0, 3)]), "rows of shapes must be a positive whole number, got 0"),
        (lambda: Bucket(shapes=[(1, 3), (2, 3)]), "shapes must have each length once"),
        (
            lambda: Bucket(shapes=[(3, 8)], rows_multiple_of=2),
            r"shape \(3, 8\) must have a multiple of rows_multiple_of=2 rows",
        ),
        (
            lambda: Bucket(shapes=[(8, 512)]).plan(np.array([9, 700]), key=None),
            r"sequence of 700 tokens cannot fit the longest shape, 512; add a longer shape or set Tokenize\(max_length=512\)",
        ),
        (
            lambda: Bucket(64, rows_multiple_of=4).plan(np.array([3, 17]), key=None),
            r"4 sequences of 17 tokens cannot fit max_tokens=64; raise max_tokens, lower rows_multiple_of or set Tok",
        ),
        (
            lambda: Bucket(64, cost="attention", hidden_size=1).plan(np.array([20]), key=None),
            "sequence of 20 tokens, which count as 87, cannot fit max_tokens=64; raise max_tokens or set",
        ),
        (
            lambda: Bucket(64, columns=("a", "b")).plan(np.array([[40, 30]]), key=None),
            r"sequences of 40 and 30 tokens cannot fit max_tokens=64 together; raise max_tokens or set Tokenize\(max_length",
        ),
        (lambda: Bucket(64, shapes=4).fitted(np.array([100]), 100), "sequence of 100 tokens cannot fit max_tokens=64; raise"),
        (lambda: Bucket(64, cost="flops"), "cost must be one of 'tokens', 'attention', got 'flops'"),  # type: ignore[arg-type]
        (
            lambda: Bucket(64, cost="attention"),
            "cost='attention' and hidden_size go together, got cost='attention' and hidden_",
        ),
        (lambda: Bucket(64, hidden_size=64), "cost='attention' and hidden_size go together, got cost='tokens'"),
        (lambda: Bucket(batch_size=6, rows_multiple_of=4), "batch_size must be a multiple of rows_multiple_of=4, got 6"),
        (lambda: Bucket(64, columns=("a", "a")), r"columns must name columns, each once, got \('a', 'a'\)"),
        (
            lambda: Bucket(64, columns=("a", "b"), shapes=2),
            "shapes, rows_multiple_of and cost cannot be given for several columns",
        ),
        (lambda: Bucket(batch_size=4).largest(None), "the largest batch cannot be known without a longest row; set Tokenize"),
        (lambda: Bucket(64).largest(65), "sequence of 65 tokens cannot fit max_tokens=64; raise max_tokens or set Tokenize"),
    ],
)
def test_limits_without_room_raise(make: Any, message: str) -> None:
    """The message has the values, the limit and the remedy; where possible, the constructor raises."""
    with pytest.raises(ValueError, match=message):
        make()


def test_on_one_rank_long_and_short_batches_alternate() -> None:
    """Of any two batches one is long, with a budget too, which gives several ranks a mixed plan."""
    lengths = np.random.default_rng(0).integers(1, 200, 2000)
    plan = Bucket(2000).plan(lengths, key=KEY)
    is_long = plan.turns < len(plan) / 2
    assert (is_long[::2] != is_long[0]).sum() <= 1
    assert (is_long[1::2] == is_long[0]).sum() <= 1
    assert Bucket(2000).plan(lengths, key=None).turns.tolist() == [*range(len(plan))]
