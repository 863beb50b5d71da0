"""Batch specs: their plans, how much of a window they plan, and their errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.planning.batch_spec import WindowSize
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.planning.plan import Plan
from seqstream.planning.tie_order import longest_first
from seqstream.planning.unbucketed import Unbucketed
from tests.helpers.sources import num_planned

KEY = (0, 0, 17)

buckets = st.builds(
    Bucket,
    st.none() | st.integers(64, 500),
    batch_size=st.integers(1, 20),
    multiple_of=st.sampled_from([1, 2, 8]),
) | st.builds(Bucket, st.integers(64, 500), multiple_of=st.sampled_from([1, 3, 8, 64]))
in_orders = st.builds(Unbucketed, st.integers(1, 20), drop_last=st.booleans())
some_lengths = st.lists(st.integers(1, 60), max_size=200).map(lambda values: np.array(values, dtype=np.int64))


def rows_of(plan: Plan) -> list[list[int]]:
    """Return the rows of each batch, in the order of the turns."""
    return [plan.rows(turn).tolist() for turn in range(len(plan))]


def widths_of(plan: Plan, lengths: npt.NDArray[np.int64]) -> list[int]:
    """Return the padded length of each batch, in the order of the turns."""
    widths: list[int] = plan.padded(lengths)[plan.turns].tolist()
    return widths


@settings(max_examples=100, deadline=None)
@given(buckets, some_lengths, st.sampled_from([KEY, None]))
def test_a_bucket_plans_every_row_once_within_its_limits(spec: Bucket, lengths: npt.NDArray[np.int64], key: Any) -> None:
    """Rows once, longest first; the width is the longest rounded up, and rows times width within the budget."""
    plan = spec.plan(lengths, key=key)
    assert sorted(row for rows in rows_of(plan) for row in rows) == list(range(len(lengths)))
    assert sorted(plan.turns.tolist()) == list(range(len(plan)))
    for turn, width in enumerate(widths_of(plan, lengths)):
        rows = plan.rows(turn)
        assert (np.diff(lengths[rows]) <= 0).all()
        assert width % spec.multiple_of == 0
        assert lengths[rows].max() <= width < lengths[rows].max() + spec.multiple_of
        assert plan.width(plan.turns[turn], int(lengths[rows].max())) == width
        assert spec.max_tokens is None or len(rows) * width <= spec.max_tokens
        assert spec.batch_size is None or len(rows) <= spec.batch_size


@settings(max_examples=60, deadline=None)
@given(in_orders, some_lengths, st.sampled_from([KEY, None]))
def test_in_order_plans_every_row_once(spec: Unbucketed, lengths: npt.NDArray[np.int64], key: Any) -> None:
    """All batches but the last are full; without a key rows keep their order; the width is the longest row."""
    plan = spec.plan(lengths, key=key)
    served = [row for rows in rows_of(plan) for row in rows]
    assert sorted(served) == list(range(len(lengths)))
    assert key is not None or served == list(range(len(lengths)))
    sizes = [len(rows) for rows in rows_of(plan)]
    assert all(size == spec.batch_size for size in sizes[:-1])
    assert widths_of(plan, lengths) == [lengths[rows].max() for rows in rows_of(plan)]


@settings(max_examples=60, deadline=None)
@given(buckets | in_orders, st.integers(0, 100))
def test_what_is_planned_of_a_window_fills_batches(spec: Bucket | Unbucketed, num_rows: int) -> None:
    """With a fixed number of rows, those that do not fill a batch begin the next window, or end the epoch."""
    lengths = np.ones(num_rows, dtype=np.int64)
    now, at_end = num_planned(spec, lengths, last=False), num_planned(spec, lengths, last=True)
    if isinstance(spec, Bucket) and spec.max_tokens is not None:
        assert now == at_end == num_rows
        return
    assert spec.batch_size is not None
    assert now == num_rows - num_rows % spec.batch_size
    assert at_end == (now if isinstance(spec, Unbucketed) and spec.drop_last else num_rows)


def test_a_bucket_by_hand() -> None:
    """Lengths 1 to 6 under 12 tokens: filled greedily, 6 5 | 4 3 2 | 1 are 25 slots; 6 5 | 4 3 | 2 1 are 24."""
    lengths = np.array([2, 5, 1, 6, 3, 4])
    plan = Bucket(12).plan(lengths, key=None)
    assert plan.order.tolist() == [3, 1, 5, 4, 0, 2]
    assert rows_of(plan) == [[3, 1], [5, 4], [0, 2]]
    assert widths_of(plan, lengths) == [6, 4, 2]


def test_rounded_lengths_by_hand() -> None:
    """Lengths 8 7 5 4 1 round to 8 8 8 4 4; 16 tokens hold two rows of 8: 8 8 | 8 4 | 4 are 36 slots, 8 | 8 8 | 4 4 are 32."""
    lengths = np.array([5, 8, 1, 7, 4])
    plan = Bucket(16, multiple_of=4).plan(lengths, key=None)
    assert rows_of(plan) == [[1], [3, 0], [4, 2]]
    assert widths_of(plan, lengths) == [8, 8, 4]


def test_a_fixed_number_of_rows_by_hand() -> None:
    """Sorted rows, three a batch, with the rest last."""
    lengths = np.array([2, 5, 1, 6, 3, 4, 4])
    plan = Bucket(batch_size=3).plan(lengths, key=None)
    assert rows_of(plan) == [[3, 1, 5], [6, 4, 0], [2]]
    assert widths_of(plan, lengths) == [6, 4, 1]


def test_in_order_by_hand() -> None:
    """Consecutive rows, three a batch."""
    lengths = np.array([2, 5, 1, 6, 3, 4, 4])
    plan = Unbucketed(3).plan(lengths, key=None)
    assert rows_of(plan) == [[0, 1, 2], [3, 4, 5], [6]]
    assert widths_of(plan, lengths) == [5, 6, 4]
    assert len(Unbucketed(3).plan(np.array([], dtype=np.int64), key=None)) == 0


@pytest.mark.parametrize("spec", [Bucket(40), Bucket(batch_size=4), Unbucketed(4)], ids=repr)
def test_another_key_gives_another_plan(spec: Bucket | Unbucketed) -> None:
    """The same key gives the same plan, another key another plan."""
    lengths = np.random.default_rng(0).integers(1, 20, 200)
    assert rows_of(spec.plan(lengths, key=KEY)) == rows_of(spec.plan(lengths, key=KEY))
    assert rows_of(spec.plan(lengths, key=KEY)) != rows_of(spec.plan(lengths, key=(0, 1, 17)))


def test_consecutive_batches_have_every_length() -> None:
    """Any eight consecutive batches are one of each eighth by length, and any four are one of each quarter."""
    lengths = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 1025), 8))
    for seed in range(5):
        plan = Bucket(batch_size=8).plan(lengths, key=(seed, 0, 0))
        eighths = (np.array(widths_of(plan, lengths)) - 1) // 128
        for start in range(len(plan) - 8):
            assert sorted(eighths[start : start + 8]) == list(range(8))
            assert sorted(eighths[start : start + 4] // 2) == list(range(4))


def test_without_a_key_batches_are_longest_first() -> None:
    """Without a key, a window is served from its longest rows to its shortest."""
    lengths = np.random.default_rng(0).integers(1, 200, 500)
    plan = Bucket(1000).plan(lengths, key=None)
    assert np.concatenate(rows_of(plan)).tolist() == longest_first(lengths, None).tolist()


def test_batches_are_estimated_from_rows_and_tokens() -> None:
    """The limit that gives more batches decides."""
    assert Bucket(100).num_batches(7, 1000) == 10
    assert Bucket(100, batch_size=5).num_batches(60, 1000) == 12
    assert Bucket(batch_size=5).num_batches(60, 1000) == 12
    assert Unbucketed(5).num_batches(60, 1000) == 12
    assert Bucket(100).num_batches(0, 0) == Unbucketed(5).num_batches(0, 0) == 0


def test_windows_hold_256_batches_and_64_mebibytes_by_default() -> None:
    """Where only one of the two is given, only it counts; rows that keep their order need no large window."""
    for spec in (Bucket(100), Unbucketed(5), Pack(8, rows=2)):
        assert spec.window_size(shuffle=True) == WindowSize(256, 64 << 20)
    assert Bucket(100, window_batches=3).window_size(shuffle=True) == WindowSize(3, None)
    assert Pack(8, rows=2, window_bytes=4096).window_size(shuffle=True) == WindowSize(None, 4096)
    assert Unbucketed(5, window_batches=3, window_bytes=4096).window_size(shuffle=True) == WindowSize(3, 4096)
    assert Bucket(100).window_size(shuffle=False) == WindowSize(256, 64 << 20)
    assert Unbucketed(5).window_size(shuffle=False) == WindowSize(256, None)


def test_the_share_of_a_window_by_hand() -> None:
    """Both numbers must be reached; an id counts four bytes, and records as read count half."""
    size = WindowSize(10, 4000)
    assert size.share(num_batches=5, num_tokens=2000, read_bytes=0, world_size=1) == 0.5
    assert size.share(num_batches=20, num_tokens=250, read_bytes=0, world_size=1) == 0.25
    assert size.share(num_batches=20, num_tokens=250, read_bytes=4000, world_size=1) == 0.5
    assert size.share(num_batches=20, num_tokens=5000, read_bytes=0, world_size=4) == 0.5
    assert WindowSize(10, None).share(num_batches=20, num_tokens=1, read_bytes=1, world_size=1) == 2


def test_fingerprints_are_json_and_name_each_argument() -> None:
    """A change of any argument shows in the fingerprint."""
    fingerprint = Bucket(100, batch_size=5, window_batches=3, multiple_of=8).fingerprint()
    given = {"kind": "Bucket", "max_tokens": 100, "batch_size": 5, "window_batches": 3, "multiple_of": 8}
    others = {"rows_multiple_of": 1, "shapes": None, "cost": "tokens", "hidden_size": None, "columns": None, "step": None}
    assert fingerprint == given | others | {"window_bytes": None, "balance": None}
    in_order = {"kind": "Unbucketed", "batch_size": 4, "drop_last": False, "window_batches": None, "window_bytes": None}
    assert Unbucketed(4).fingerprint() == in_order
    assert json.loads(json.dumps(fingerprint)) == fingerprint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Bucket, r"Bucket must have max_tokens or batch_size, got neither; for example Bucket\(max_tokens=16_384\)"),
        (lambda: Bucket(0), "max_tokens must be a positive whole number, got 0"),
        (lambda: Bucket(-5), "max_tokens must be a positive whole number, got -5"),
        (
            lambda: Bucket(1e4),  # type: ignore[arg-type]
            r"max_tokens must be a positive whole number, got 10000\.0",
        ),
        (lambda: Bucket(True), "max_tokens must be a positive whole number, got True"),
        (lambda: Bucket(batch_size=0), "batch_size must be a positive whole number, got 0"),
        (lambda: Bucket(9, window_batches=0), "window_batches must be a positive whole number, got 0"),
        (lambda: Bucket(9, window_bytes=0), "window_bytes must be a positive whole number, got 0"),
        (lambda: Unbucketed(9, window_bytes=0), "window_bytes must be a positive whole number, got 0"),
        (
            lambda: Bucket(9, step="random"),  # type: ignore[arg-type]
            "step must be one of 'alike', 'mixed', got 'random'",
        ),
        (lambda: Bucket(9, multiple_of=0), "multiple_of must be a positive whole number, got 0"),
        (lambda: Bucket(7, multiple_of=8), "max_tokens must be at least multiple_of=8, got 7"),
        (lambda: Unbucketed(0), "batch_size must be a positive whole number, got 0"),
        (
            lambda: Unbucketed("8"),  # type: ignore[arg-type]
            "batch_size must be a positive whole number, got '8'",
        ),
    ],
)
def test_arguments_out_of_range_raise(make: Any, message: str) -> None:
    """The message has the name of the argument, the rule and the value."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_the_least_that_is_allowed_is_allowed() -> None:
    """One row, one token, one batch."""
    assert rows_of(Bucket(1, batch_size=1, window_batches=1).plan(np.ones(2, dtype=np.int64), key=None)) == [[0], [1]]
    assert Bucket(8, multiple_of=8).max_tokens == 8
    assert rows_of(Unbucketed(1).plan(np.ones(2, dtype=np.int64), key=None)) == [[0], [1]]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Bucket, "max_tokens"),
        (lambda limit: Bucket(batch_size=limit), "batch_size"),
        (Unbucketed, "batch_size"),
        (lambda limit: Pack(limit, rows=2), "row_length"),
    ],
)
@pytest.mark.parametrize("limit", [10**30, 1e30, float("inf")])
def test_a_size_that_limits_nothing(make: Callable[[Any], Any], name: str, limit: float) -> None:
    """A ``model_max_length`` that means no limit raises where a limit is needed."""
    with pytest.raises(ValueError, match=rf"^{name} must be below 2\*\*31, got .*; a model_max_length so large says"):
        make(limit)


def test_numbers_of_numpy_become_plain() -> None:
    """Text, comparisons and states are the same as with numbers of Python."""
    assert repr(Bucket(np.int64(64), batch_size=np.int32(8))) == "Bucket(max_tokens=64, batch_size=8)"
    assert json.dumps(Pack(np.int64(64), rows=np.uint8(2)).fingerprint()) == json.dumps(Pack(64, rows=2).fingerprint())
    assert json.dumps(Unbucketed(np.int64(3)).fingerprint()) == json.dumps(Unbucketed(3).fingerprint())
    with pytest.raises(ValueError, match=r"^max_tokens must be a positive whole number, got np.int64\(0\)$"):
        Bucket(np.int64(0))
