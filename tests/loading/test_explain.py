"""Where the time of a loader goes: the parts of a profile, its table, and what it advises."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

import seqstream as ss
from seqstream.loading.profile import Clock
from seqstream.loading.profile_table import Finding

SLOW = 0.05


@dataclasses.dataclass(frozen=True)
class Slowly:
    """A function of a table, or of a batch, that takes its time."""

    def __call__(self, given: Any) -> Any:
        time.sleep(SLOW)
        return given


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str], bpe_tokenizer: Tokenizer) -> tuple[ss.TextFiles, ss.Tokenize]:
    (tmp_path / "corpus.txt").write_text("\n".join(texts[:300]), encoding="utf-8")
    return ss.TextFiles(tmp_path / "corpus.txt"), ss.Tokenize(bpe_tokenizer, max_length=32)


def test_the_slow_part_is_found(corpus: tuple[ss.TextFiles, ss.Tokenize]) -> None:
    """A function that sleeps is counted where it runs, stages apart from ``on_batch``, and the advice is about it."""
    source, tokenize = corpus
    profile = ss.Loader(source, ss.Map(Slowly()), tokenize, ss.Bucket(512)).explain()
    assert list(profile.seconds) == ["read", "tokenize", "plan", "collate"]
    assert SLOW <= profile.seconds["tokenize"] > sum(profile.seconds.values()) / 2
    assert "num_workers=... runs functions of Python in several processes; cache='FOLDER'" in profile.advice
    profile = ss.Loader(source, tokenize, ss.Bucket(2_048), on_batch=Slowly()).explain()
    assert profile.seconds["on_batch"] >= SLOW * profile.batches > 0
    assert profile.advice.startswith("Most of the time goes to on_batch")


def test_it_counts_what_an_epoch_has(corpus: tuple[ss.TextFiles, ss.Tokenize]) -> None:
    """A corpus of one window is profiled as a whole; the loader stays where it is, and a run under way goes on."""
    loader = ss.Loader(*corpus, ss.Bucket(512))
    iterator = iter(loader)
    first = next(iterator)
    state = loader.state_dict()
    profile = loader.explain()
    assert loader.state_dict() == state
    batches = [first, *iterator]
    assert (profile.windows, profile.batches) == (1, len(batches))
    assert profile.tokens == sum(batch.num_tokens for batch in batches)
    assert profile.waited == pytest.approx(profile.stats.seconds_waited / profile.stats.seconds)


def test_sources_of_a_mixture_are_read_by_the_clock(corpus: tuple[ss.TextFiles, ss.Tokenize]) -> None:
    """Their reading is a part too."""
    source, tokenize = corpus
    items = ss.Generator([{"text": "some words"}] * 99)
    mixture = ss.Mixture({"files": source, "items": items}, weights={"files": 1, "items": 1})
    profile = ss.Loader(mixture, tokenize, ss.Bucket(512)).explain(0)
    assert profile.windows == 1
    assert 0 < profile.seconds["read"] < sum(profile.seconds.values())


def test_the_table(corpus: tuple[ss.TextFiles, ss.Tokenize]) -> None:
    """Every part has a line, and so has waiting once a batch was taken; the numbers are there for a logger too."""
    loader = ss.Loader(*corpus, ss.Bucket(512), on_batch=ss.CausalLabels(), device="cpu")
    names = ["read", "tokenize", "plan", "collate", "on_batch", "device"]
    assert [line.split()[0] for line in str(loader.explain()).split("\n\n")[0].splitlines()] == ["part", *names]
    list(loader)
    profile = loader.explain()
    table, rest = str(profile).split("\n\n")
    assert [line.split()[0] for line in table.splitlines()] == ["part", *names, "wait"]
    assert rest.splitlines()[1] == profile.advice
    assert max(map(len, table.splitlines())) <= 100
    shown = profile.to_dict()
    assert json.loads(json.dumps(shown)) == shown
    assert [name for name in shown if "/" in name] == [f"seconds/{name}" for name in names]
    assert shown["waited"] == profile.waited


def test_records_that_come_once_are_refused() -> None:
    """They are left for the training."""
    with pytest.raises(ValueError, match=r"^explain\(\) cannot look at records that a generator gives only once"):
        ss.Loader(ss.Generator([number] for number in range(9)), ss.Bucket(60)).explain()


def test_parts_within_parts() -> None:
    """The time of an inner part is not that of the outer one."""
    clock = Clock()

    def outer() -> Any:
        for _ in clock.each("inner", iter([pa.table({}), pa.table({})])):
            with clock.part("inner"):
                time.sleep(SLOW)
            yield 1

    start = time.perf_counter()
    assert list(clock.each("outer", outer())) == [1, 1]
    elapsed = time.perf_counter() - start
    assert clock.seconds["inner"] >= 2 * SLOW
    assert clock.seconds["outer"] < SLOW
    assert sum(clock.seconds.values()) == pytest.approx(elapsed, abs=SLOW / 2)


BASE = Finding(
    seconds={"read": 1, "tokenize": 8, "plan": 1, "collate": 1},
    tokens=1_000,
    num_workers=0,
    engines=("fastokens",),
    is_cached=False,
    has_functions=False,
    waited=0.3,
)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({}, "tokenised by fastokens; cache='FOLDER' keeps"),
        ({"is_cached": True}, "tokenised by fastokens; the cache has them"),
        ({"engines": ("tokenizers",)}, "tokenised by tokenizers: pip install 'seqstream"),
        ({"engines": ("function",)}, "num_workers=... runs functions of Python"),
        ({"engines": ("function",), "num_workers": 2}, "raise num_workers"),
        ({"waited": 0.001}, "fast enough, change nothing"),
        ({"seconds": {**BASE.seconds, "read": 9}}, "goes to reading: write_tokens"),
        ({"seconds": {**BASE.seconds, "plan": 9}}, "a smaller window"),
        ({"seconds": {**BASE.seconds, "collate": 9}}, "layout='jagged'"),
        ({"seconds": {**BASE.seconds, "device": 9}}, "copies to the device"),
    ],
)
def test_advice(change: dict[str, Any], advice: str) -> None:
    """It is about the part that takes longest, and is given only where the consumer waits."""
    assert advice in dataclasses.replace(BASE, **change).advice


def test_speed_is_that_of_the_slower_thread() -> None:
    """Workers share reading and tokenising; planning and batches are one thread each."""
    assert BASE.tokens_per_second == pytest.approx(100)
    assert dataclasses.replace(BASE, num_workers=3).tokens_per_second == pytest.approx(250)
    slow_batches = {**BASE.seconds, "on_batch": 19}
    assert dataclasses.replace(BASE, seconds=slow_batches).tokens_per_second == pytest.approx(50)
