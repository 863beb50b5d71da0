"""The examples of the way over from other ways to batch, each run as a reader would run it, on a part of the corpus."""

from __future__ import annotations

import random
import re
import runpy
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

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


Row = tuple[Tensor, int]

MAX_TOKENS = 1_024


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return a function of an example, as it is written there instead of the library that has the original."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    return lambda name: runpy.run_path(str(ROOT / "examples" / f"from_{name}.py"))[name]


@pytest.fixture
def rows() -> list[Row]:
    """Return rows of many lengths, each length many times; their labels number them."""
    drawn = random.Random(0)
    lengths = [min(1 + int(drawn.lognormvariate(3, 1)), 256) for _ in range(11_000)]
    return [(torch.zeros(length, dtype=torch.int64), number) for number, length in enumerate(lengths)]


def numbers(batches: Iterable[list[Row]]) -> list[list[int]]:
    return [[number for _, number in batch] for batch in batches]


def test_bucket_iterator_is_torchtexts(peer: Callable[[str], Any], rows: list[Row]) -> None:
    """The batches of the example are those of torchtext, after the same seed; torchtext 0.6 runs on torch of today."""
    data = pytest.importorskip("torchtext.data", exc_type=ImportError)
    if not hasattr(data, "BucketIterator"):
        pytest.skip("this torchtext has no BucketIterator")
    longest = 0

    def padded_tokens(new: Any, count: int, _: int) -> int:
        nonlocal longest
        longest = max(longest if count > 1 else 0, len(new.ids))
        return count * longest

    dataset = data.Dataset(
        [SimpleNamespace(ids=ids, number=number) for ids, number in rows],
        [("number", data.Field(sequential=False, use_vocab=False))],
    )
    random.seed(1)
    options: dict[str, Any] = {"sort_key": lambda row: len(row.ids), "batch_size_fn": padded_tokens}
    original = data.BucketIterator(dataset, MAX_TOKENS, sort_within_batch=True, **options)
    expected = [batch.number.tolist() for batch in original]
    random.seed(1)
    assert numbers(peer("bucket_iterator")(rows, MAX_TOKENS)) == expected


def test_max_token_bucketize_is_torchdatas(peer: Callable[[str], Any], rows: list[Row]) -> None:
    """The batches of the example are those of torchdata, which has the data pipe up to 0.9."""
    pipes = pytest.importorskip("torchdata.datapipes.iter", exc_type=ImportError)
    options: dict[str, Any] = {"len_fn": lambda row: len(row[0]), "include_padding": True}
    original = pipes.IterableWrapper(rows, deepcopy=False).max_token_bucketize(MAX_TOKENS, **options)
    assert numbers(peer("max_token_bucketize")(rows, MAX_TOKENS)) == numbers(original)


def test_dynamic_bucketing_is_lhotses(peer: Callable[[str], Any], rows: list[Row]) -> None:
    """The batches of the example are those of lhotse, whose random numbers have seeds of its own."""
    pytest.importorskip("lhotse", exc_type=ImportError)
    from lhotse.cut.text import TextExample
    from lhotse.dataset.sampling import DynamicBucketingSampler
    from lhotse.dataset.sampling.base import TokenConstraint

    texts = [TextExample(str(number), tokens=ids.numpy()) for ids, number in rows]
    options: dict[str, Any] = {"constraint": TokenConstraint(max_tokens=MAX_TOKENS), "num_buckets": 30, "shuffle": True}
    original = DynamicBucketingSampler(texts, **options, buffer_size=5_000)
    expected = [[int(text.text) for text in batch] for batch in original]
    assert numbers(peer("dynamic_bucketing")(rows, MAX_TOKENS, buffer_size=5_000)) == expected
