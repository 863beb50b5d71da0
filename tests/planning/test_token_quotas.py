"""Shares of tokens: how sources flow, and how many rows each gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.planning.token_quotas import Flow, SourceRows

LONGEST = 50


def endless(weights: np.ndarray, limit: float) -> Flow:
    """The flow of sources that do not end."""
    return Flow.of(weights, np.full(len(weights), np.inf), limit)


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from(["any", "one large", "equal"]), st.booleans())
def test_every_window_ends_within_one_row(seed: int, kind: str, extreme: bool) -> None:
    """After each window every source is less than the longest row from its share, wherever the windows end."""
    rng = np.random.default_rng(seed)
    num = int(rng.integers(1, 40))
    weights = np.ones(num) if kind == "equal" else rng.random(num) ** int(rng.integers(1, 4)) + 1e-4
    if kind == "one large":
        weights[0] = 3 * weights.sum()
    weights /= weights.sum()
    sizes = (weights * 12_000).astype(int) + 9 * LONGEST
    rows = [rng.choice([1, LONGEST], size) if extreme else rng.integers(1, LONGEST + 1, size) for size in sizes]
    surpluses = np.zeros(num)
    for window in range(5):
        target = int(rng.integers(50, 1500))
        source_rows = SourceRows.of(rows, endless(weights, target), surpluses)
        counts = source_rows.first_tokens(target)
        assert abs(source_rows.tokens(counts).sum() - target) <= LONGEST
        if window % 2:
            wanted = int(counts.sum() * rng.random())
            counts = source_rows.first_rows(wanted)
            assert counts.sum() == wanted
        given_tokens = source_rows.tokens(counts)
        surpluses += given_tokens - weights * given_tokens.sum()
        assert np.abs(surpluses).max() <= LONGEST
        rows = [own[count:] for own, count in zip(rows, counts, strict=True)]


def test_rows_that_are_read_too_far_change_nothing() -> None:
    """How many rows a source gives depends on the rows before the end of the window alone."""
    rng = np.random.default_rng(0)
    weights = np.array([0.5, 0.3, 0.2])
    rows = [rng.integers(1, LONGEST, 400) for _ in weights]
    flow = endless(weights, 2_000)
    more = SourceRows.of(rows, flow, np.zeros(3))
    needed = [own[: int(np.searchsorted(np.cumsum(own), share * 2_000)) + 1] for own, share in zip(rows, weights, strict=True)]
    fewer = SourceRows.of(needed, flow, np.zeros(3))
    for num in (1, 7, 40, 75):
        assert more.first_rows(num).tolist() == fewer.first_rows(num).tolist()
    assert more.first_tokens(2_000).tolist() == fewer.first_tokens(2_000).tolist()


def test_what_a_source_lacks_the_others_give() -> None:
    """When a source ends, the others flow faster, in proportion to their weights; at the end all have ended."""
    flow = Flow.of(np.array([0.5, 0.25, 0.25]), np.array([40.0, 10.0, np.inf]), 200)
    assert flow.times.tolist() == [0, 40, pytest.approx(70), 200]
    assert flow.at(55) == pytest.approx([30, 10, 15])
    assert flow.at(200) == pytest.approx([40, 10, 150])
    assert flow.at(260) == pytest.approx([40, 10, 210])
    assert flow.ends.tolist() == [pytest.approx(70), 40, np.inf]
    places = ((0, 20.0), (0, 40.0), (1, 10.0), (2, 20.0), (2, 150.0), (0, -5.0))
    assert [flow.time_of(*place) for place in places] == pytest.approx([40, 70, 40, 70, 200, -10])
    alone = Flow.of(np.array([1.0, 1.0]), np.array([5.0, 7.0]), 100)
    assert alone.end == 12
    assert alone.at(50).tolist() == [5, 7]


@settings(deadline=None)
@given(st.integers(0, 1 << 30))
def test_flows_add_up(seed: int) -> None:
    """At any time the sources have given as many tokens as have flowed, and no more than they have."""
    rng = np.random.default_rng(seed)
    num = int(rng.integers(1, 12))
    left = np.where(rng.random(num) < 0.6, rng.integers(0, 500, num), np.inf)
    flow = Flow.of(rng.random(num) + 0.01, left, 1_000)
    for time in rng.uniform(0, flow.end, 5):
        assert flow.at(time).sum() == pytest.approx(time)
        assert (flow.at(time) <= left + 1e-6).all()
        for source in np.flatnonzero(flow.ends > time).tolist():
            assert flow.time_of(source, float(flow.at(time)[source])) == pytest.approx(time, abs=1e-6)


def test_weight_0_and_no_rows() -> None:
    """A source without weight gives nothing, and sources without rows leave the rest to others."""
    flow = Flow.of(np.array([0.0, 1.0]), np.array([np.inf, np.inf]), 30)
    rows = SourceRows.of([np.array([5, 5]), np.array([10, 10, 10])], flow, np.zeros(2))
    assert rows.first_tokens(30).tolist() == [0, 3]
    assert rows.first_rows(3).tolist() == [0, 3]
    lagging = SourceRows.of([np.array([5, 5]), np.array([10, 10, 10])], flow, np.array([-8.0, 8.0]))
    assert lagging.first_tokens(22).tolist() == [0, 2]
    assert SourceRows.of([np.empty(0, dtype=np.int64)] * 2, flow, np.zeros(2)).first_tokens(10).tolist() == [0, 0]
