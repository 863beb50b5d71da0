"""Processes that all tests of ranks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.rank_processes import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Four processes with torch.distributed over gloo."""
    pool = Pool(4)
    yield pool
    pool.close()
