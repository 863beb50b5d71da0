"""The examples of the way over from other ways to batch, each run as a reader would run it, on a part of the corpus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.examples import keep_part, run
from tests.helpers.forked import ROOT

NUM_DOCSTRINGS = 600
EXAMPLES = sorted(file.name for file in (ROOT / "examples").glob("from_*.py"))
RANDOM = ("from_pad_sequence.py", "from_data_collator.py")
"""Those whose batches were of random rows before."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep_part(tmp_path_factory.mktemp("cache"), NUM_DOCSTRINGS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_rows_and_losses_are_the_same(name: str, cache: Path, tmp_path: Path) -> None:
    """The code before and after gives each row once, with one loss, and seqstream pads little."""
    printed = run(name, cache=cache, cwd=tmp_path)
    assert printed.endswith("the same rows, and the same loss\n")
    number = r"([\d,.]+)"
    line = rf"^(before|after): +{number} rows in {number} batches, {number}% padding, loss {number}, {number} s of CPU time$"
    (before, *old), (after, *new) = re.findall(line, printed, re.MULTILINE)
    assert (before, after) == ("before", "after")
    assert old[0] == new[0] == f"{NUM_DOCSTRINGS}"
    assert old[3] == new[3]
    assert float(new[2]) < 12
    assert name not in RANDOM or float(old[2]) > 60
    if name == "from_group_by_length.py":  # Trainer makes the steps of an epoch with its own data, and with a loader
        (steps, loss), (own_steps, own_loss) = re.findall(r" trained for (\d+) steps in \S+ s, mean loss (\S+)$", printed, re.M)
        assert int(steps) == int(old[1])
        assert abs(int(own_steps) - int(new[1])) <= 1
        assert abs(float(loss) - float(own_loss)) < 0.2


def test_there_are_six() -> None:
    """One for each way that people have."""
    assert EXAMPLES == [
        "from_bucket_iterator.py",
        "from_data_collator.py",
        "from_dynamic_bucketing.py",
        "from_group_by_length.py",
        "from_max_token_bucketize.py",
        "from_pad_sequence.py",
    ]
