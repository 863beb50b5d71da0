"""``Bucket(group=...)``: consecutive records with one key stay in one batch."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import seqstream as ss
from seqstream import testing

SIZES = (2, 1, 5, 3, 7, 4)


def completions(num: int = 70) -> list[dict[str, Any]]:
    """Prompts with several answers each, and some records of their own."""
    rows: list[dict[str, Any]] = []
    while len(rows) < num:
        number = len(rows)
        key = None if number % 11 == 0 else f"q{number}"
        size = SIZES[number % len(SIZES)]
        rows += [{"text": "word " * (1 + (7 * number + 5 * each) % 23), "key": key, "reward": each % 2} for each in range(size)]
    return rows


SPECS = {
    "budget": ss.Bucket(320, window_batches=3, group="key"),
    "rows": ss.Bucket(batch_size=8, window_batches=2, group="key"),
    "alike": ss.Bucket(480, batch_size=10, window_batches=3, group="key", multiple_of=8, step="alike"),
}


@pytest.mark.parametrize(("name", "kind"), [("budget", "files"), ("rows", "list"), ("alike", "stream")])
def test_laws_of_groups(name: str, kind: str, tmp_path: Path, wordpiece_tokenizer: Tokenizer) -> None:
    """No group is split, in one process, on ranks and after resuming with other ranks; the laws of loaders hold."""
    rows = completions()
    source: ss.Source = ss.Generator(rows if kind == "list" else lambda: iter(rows), block_bytes=900)
    if kind == "files":
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = ss.JsonLines(tmp_path / "rows.jsonl", block_bytes=900)
    tokenize = ss.Tokenize(wordpiece_tokenizer, max_length=40)
    make = functools.partial(ss.Loader, source, tokenize, SPECS[name], accumulate=1 + (kind == "list"))
    testing.check_groups(make)
    testing.check_loader(make)
    testing.check_ranks(functools.partial(make, uneven="drop" if kind == "list" else "repeat"), 2)
    testing.check_elastic(make)


def test_groups_after_stages(tmp_path: Path, wordpiece_tokenizer: Tokenizer) -> None:
    """Pieces of a record, and what a filter leaves of a group, stay together; workers and the cache change nothing."""
    rows = completions()
    stages = (
        ss.Filter(lambda table: [number % 5 > 0 for number in range(len(table))]),
        ss.Tokenize(wordpiece_tokenizer, max_length=9, overflow="split"),
        ss.Bucket(400, window_batches=3, group="key", balance="reward"),
    )
    make = functools.partial(ss.Loader, ss.Generator(rows, block_bytes=900), *stages)
    testing.check_groups(make, (1, 2))
    expected = [batch.row_ids.tolist() for batch in make()]
    for options in ({"num_workers": 1}, {"cache": tmp_path / "cache"}, {"cache": tmp_path / "cache"}):
        assert [batch.row_ids.tolist() for batch in make(**options)] == expected, options


def test_groups_of_one_size_fill_batches() -> None:
    """Sixteen groups of four rows of one length are four batches of four groups; nothing is padded."""
    rows = [{"input_ids": [1] * 5, "key": number // 4} for number in range(64)]
    loader = ss.Loader(ss.Generator(rows), ss.Bucket(80, group="key"))
    batches = list(loader)
    assert [batch.input_ids.shape for batch in batches] == [(16, 5)] * 4
    assert all(batch.key.view(4, 4).float().std(1).eq(0).all() for batch in batches)
    assert loader.stats.padding == 0
    assert loader.estimate_steps() == loader.count_steps() == 4
    tokenize = ss.Tokenize(lambda texts: [[1] * 5 for _ in texts], max_length=5)
    texts = ss.Generator([{"text": "a", "key": 1}])
    assert ss.Loader(texts, tokenize, ss.Bucket(80, group="key")).worst_batch().input_ids.shape == (16, 5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            ss.Bucket(100, group="key"),
            r"^group of 3 rows of up to 50 tokens cannot fit max_tokens=100; raise .* the group is 'q7' in column 'key'",
        ),
        (
            ss.Bucket(batch_size=2, group="key"),
            r"^group of 3 rows cannot fit batch_size=2; raise batch_size or .*; the group is 'q7' in column 'key'",
        ),
    ],
)
def test_a_group_that_is_larger_than_a_batch(spec: ss.Bucket, message: str) -> None:
    """The error names the group, the limit and the place."""
    rows = [{"input_ids": [1] * length, "key": key} for length, key in [(9, "a"), (4, "q7"), (50, "q7"), (3, "q7"), (60, "b")]]
    with pytest.raises(ValueError, match=message) as caught:
        list(ss.Loader(ss.Generator(rows), spec))
    assert caught.value.__notes__ == ["while reading item 1 of list"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": ""}, r"^group must be the name of a column, got ''$"),
        (
            {"group": "k", "rows_multiple_of": 2},
            r"^shapes, rows_multiple_of and cost cannot be given for groups; leave them out$",
        ),
        (
            {"group": "k", "max_tokens": None, "batch_size": 4, "drop_last": True},
            r"^drop_last cannot be given with group, whose",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    """What cannot be kept with groups is refused."""
    with pytest.raises(ValueError, match=message):
        ss.Bucket(**{"max_tokens": 100, **options})


def test_groups_of_a_mixture_are_refused() -> None:
    """A mixture cuts its sources at rows."""
    mixture = ss.Mixture({"a": ss.Generator([{"input_ids": [1], "key": 1}])}, {"a": 1})
    with pytest.raises(ValueError, match=r"^group='key' cannot be kept together in a Mixture"):
        ss.Loader(mixture, ss.Bucket(100, group="key"))


def test_the_law_notices_a_group_that_is_split() -> None:
    """The check can fail: here the key of the batch spec is not that of the groups as the law reads them."""
    rows = [{"input_ids": [1] * (1 + number % 7), "key": number // 4, "other": number} for number in range(64)]

    class Renamed(ss.Source):
        """Gives a key of its own to the loader, and the true one to others."""

        num_shards = 1
        reads = 0

        def read(self, shard: int, state: Any = None) -> Any:
            import pyarrow as pa

            Renamed.reads += 1
            table = pa.Table.from_pylist(rows)
            key = "key" if Renamed.reads == 1 else "other"
            yield pa.table({"input_ids": table["input_ids"], "key": table[key]}), None

    with pytest.raises(AssertionError, match=r"group .* must be in one batch with 1 ranks|must be next to each other"):
        testing.check_groups(functools.partial(ss.Loader, Renamed(), ss.Bucket(20, group="key")), (1,))
