"""The other ways to mix sources, and the measures, against small cases worked out by hand."""

from __future__ import annotations

import numpy as np

from benchmarks import mixture
from benchmarks.harness.unlike_sources import Rows, UnlikeSources

FEW = UnlikeSources(np.array([0.5, 0.3, 0.2]), [np.array([5, 7]), np.array([1]), np.array([2, 4, 6])])


def test_deviations_by_hand() -> None:
    """6 tokens of 6, and 6 of 8, where the one should have half of them; the end of 7 tokens is after the second row."""
    rows = Rows(np.array([0, 1, 0]), np.array([6, 2, 4]))
    assert rows.deviations(np.array([0.5, 0.5]), np.array([6, 7])).tolist() == [[3, -3], [2, -2]]


def test_the_largest_deficit_by_hand() -> None:
    """Each row is of the source that lacks most, the first of equals, and sources are read again from their beginning."""
    rows = FEW.by_deficit(FEW.weights, 40)
    assert rows.sources[:10].tolist() == [0, 1, 2, 0, 0, 1, 0, 2, 1, 0]
    assert rows.lengths[:10].tolist() == [5, 1, 2, 7, 5, 1, 7, 4, 1, 5]
    assert rows.lengths.sum() > 40


def test_drawn_rows_are_those_of_the_library() -> None:
    """The rule that stands for `datasets.interleave_datasets` gives the same rows."""
    sources = UnlikeSources.draw(5, 20_000)
    for shares in (sources.weights, sources.row_weights):
        theirs = sources.interleaved(shares, 20_000)
        drawn = sources.drawn(shares, 20_000)
        num = len(theirs.sources)
        assert theirs.lengths.sum() >= 20_000
        assert drawn.sources[:num].tolist() == theirs.sources.tolist()
        assert drawn.lengths[:num].tolist() == theirs.lengths.tolist()


def test_shares_in_the_rows() -> None:
    """Weights divided by mean lengths give each source its share of the tokens in the mean."""
    tokens = FEW.row_weights * [6, 1, 4]
    np.testing.assert_allclose(tokens / tokens.sum(), FEW.weights)


def test_targets_that_no_machine_misses() -> None:
    """A mixture keeps within the longest row of each share, and changes of weights lose and repeat nothing."""
    ours, *others = (record for record in mixture._shares(7, 100_000) if record.unit == "")
    assert ours.reached
    assert min(record.value for record in others) > ours.value
    assert [record.reached for record in mixture._other_weights(5)] == [True, True]
