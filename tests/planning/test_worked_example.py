"""The worked example in the documentation of planning."""

from __future__ import annotations

import doctest

import seqstream.planning


def test_the_worked_example_of_planning() -> None:
    """From lengths to batches of two ranks, every line has the documented result."""
    results = doctest.testmod(seqstream.planning)
    assert results.attempted > 5
    assert results.failed == 0
