"""Mixtures: each source has its share of the tokens, none disturbs another, and a run resumes, also with other weights."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import seqstream as ss
from seqstream import testing
from seqstream.loading.loader import Loader
from seqstream.planning.token_quotas import SourceRows
from seqstream.records import Json
from seqstream.testing import mixture_laws
from seqstream.testing.expectations import through_json
from seqstream.testing.mixture_laws import sources_and_lengths
from seqstream.testing.rank_laws import check_steps, take

Make = Callable[..., Loader]
WEIGHTS = {"web": 0.6, "code": 0.3, "math": 0.1}
SPECS = {
    "bucket": ss.Bucket(1024, window_batches=8),
    "pack": ss.Pack(256, rows=4, window_batches=6),
    "rows": ss.Bucket(batch_size=8, window_batches=8),
    "unbucketed": ss.Unbucketed(8),
}


def items(num: int, low: int, high: int, seed: int) -> list[dict[str, Any]]:
    """Rows of ids of random lengths."""
    return [{"input_ids": np.full(length, seed)} for length in np.random.default_rng(seed).integers(low, high, num)]


WEB, CODE, MATH = items(300, 5, 100, 1), items(85, 20, 200, 2), items(13, 10, 60, 3)


def code_items() -> Iterator[dict[str, Any]]:
    """A generator, which is read front to back."""
    yield from CODE


def sources() -> dict[str, ss.Source]:
    """A list, which is shuffled as a whole, a generator function and a small list."""
    return {"web": ss.Generator(WEB), "code": ss.Generator(code_items, block_bytes=4096), "math": ss.Generator(MATH)}


def lists() -> dict[str, ss.Source]:
    """Lists only, whose sizes are known."""
    return {"web": ss.Generator(WEB), "code": ss.Generator(CODE), "math": ss.Generator(MATH)}


def mixed(spec: Any, weights: Any = None, options: Json = None, **loader: Any) -> Loader:
    """A loader of the three sources."""
    return Loader(ss.Mixture(sources(), weights or WEIGHTS, **(options or {})), spec, **{"seed": 7, **loader})


def rows_of(batch: ss.Batch) -> list[tuple[int, int, int, int]]:
    """Source, row id, piece and length of each row."""
    found, lengths = sources_and_lengths(batch)
    is_real = batch.weights > 0
    return list(
        zip(found.tolist(), batch.row_ids[is_real].tolist(), batch.pieces[is_real].tolist(), lengths.tolist(), strict=True)
    )


def tokens_of(batches: Iterator[ss.Batch] | list[ss.Batch] | Loader) -> np.ndarray:
    """Tokens of each of the three sources."""
    total = np.zeros(3)
    for batch in batches:
        found, lengths = sources_and_lengths(batch)
        total += np.bincount(found, weights=lengths, minlength=3)
    return total


OPTIONS: dict[str, Json] = {
    "endless": {"tokens": 20_000},
    "once": {},
    "math three times": {"epochs": {"math": 3}},
    "each once": {"epochs": {"math": 1, "code": 1, "web": 1}},
    "until one ends": {"epochs": {"math": 2.5, "code": 1}, "exhausted": "stop"},
}


LAWS = [("bucket", name) for name in OPTIONS] + [("pack", "once"), ("rows", "endless"), ("unbucketed", "until one ends")]


@pytest.mark.parametrize(("spec_name", "name"), LAWS, ids=map("-".join, LAWS))
def test_laws_of_mixtures(spec_name: str, name: str) -> None:
    """Each source has its share at every window, gives its records in its own order, and any state gives what follows."""
    spec, options = SPECS[spec_name], OPTIONS[name]
    make = functools.partial(mixed, spec, None, options)
    testing.check_mixture(make)
    testing.check_budget(make)
    testing.check_same_stream(make)
    testing.check_refusal(make)


@pytest.mark.parametrize("spec", [SPECS["bucket"], SPECS["pack"]], ids=["bucket", "pack"])
def test_any_state_of_a_mixture_resumes(spec: Any) -> None:
    """A state saved after any batch, also by a resumed loader, gives exactly what follows."""
    testing.check_resume(functools.partial(mixed, spec, None, {"tokens": 9_000}))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_epoch_reads_every_source_once(spec: Any) -> None:
    """By default an epoch ends when the last source was read once; others are read again meanwhile."""
    seen: list[Counter[int]] = [Counter() for _ in range(3)]
    for batch in mixed(spec):
        for source, row_id, *_ in rows_of(batch):
            seen[source][row_id] += 1
    assert [len(each) for each in seen] == [300, 85, 13]
    assert set(seen[1].values()) == {1}  # the code takes longest at its weight
    assert min(seen[2].values()) >= 3


def test_the_cap_of_a_source() -> None:
    """A source is read so often at most, in part too; its share goes to the others in proportion to their weights."""
    loader = mixed(SPECS["bucket"], None, {"epochs": {"math": 2.5}})
    web, code, math = tokens_of(loader)
    per_pass = sum(len(item["input_ids"]) for item in MATH)
    assert 2.4 * per_pass < math < 2.6 * per_pass
    assert web / code == pytest.approx(2, rel=0.02)
    assert loader.stats.by_source["math"].epochs == pytest.approx(2.5, abs=0.1)


def test_stop_ends_the_epoch() -> None:
    """With ``exhausted="stop"`` the epoch ends with the first source that may not be read again, and shares hold until then."""
    web, code, math = tokens_of(mixed(SPECS["bucket"], None, {"epochs": {"math": 2}, "exhausted": "stop"}))
    assert math == 2 * sum(len(item["input_ids"]) for item in MATH)
    assert [web / math, code / math] == pytest.approx([6, 3], rel=0.05)


def test_tokens_end_the_epoch() -> None:
    """An epoch has so many tokens, within one row."""
    assert tokens_of(mixed(SPECS["bucket"], None, {"tokens": 30_000})).sum() == pytest.approx(30_000, abs=200)


def test_other_weights_and_sources_in_the_middle() -> None:
    """A state goes on with other weights: what was planned is finished, and no record is lost or served twice."""
    changes = [(0.6, 0.3, 0.1), (0.1, 0.8, 0.1), (0.3, 0.3, 0.4), (0.9, 0.05, 0.05), (0, 0.5, 0.5), (0.2, 0.2, 0.6)]
    state: Json = None
    served: list[list[tuple[int, int]]] = [[], [], []]
    for number, weights in enumerate(changes):
        named = dict(zip(WEIGHTS, weights, strict=True))
        loader = mixed(SPECS["bucket"], named, {"tokens": 300_000})
        if state is not None:
            with pytest.raises(ValueError, match=r"mixture\.weights"):
                loader.load_state_dict(state)
            loader.load_state_dict(state, strict=False)
        for count, batch in enumerate(loader):
            for source, row_id, piece, _ in rows_of(batch):
                served[source].append((row_id, piece))
            state = through_json(batch.state)
            # The last loader stops where a window ends, the others in the middle of one.
            if count >= 17 + number and (number + 1 < len(changes) or not batch.state["position"]["window"]["served"]):
                break
        assert loader.stats.repeated_rows == 0
    members = mixed(SPECS["bucket"]).source.members  # type: ignore[attr-defined]
    for source, member in enumerate(members):
        order = testing.mixture_laws.records_in_order(mixed(SPECS["bucket"]), member)
        expected = Counter(itertools.islice(order, len(served[source])))
        assert Counter(row_id for row_id, _ in served[source]) == expected


def test_a_source_that_comes_later() -> None:
    """A source that is added begins at its beginning; one that was left out goes on where it was."""

    def loader(*names: str) -> Loader:
        own = {name: source for name, source in sources().items() if name in names}
        return Loader(ss.Mixture(own, {name: WEIGHTS[name] for name in names}, tokens=200_000), SPECS["bucket"], seed=7)

    def run(run: Loader, state: Json, num: int) -> tuple[list[tuple[str, int]], Json]:
        if state is not None:
            run.load_state_dict(state, strict=False)
        rows = []
        for count, batch in enumerate(run):
            names = run.source.names  # type: ignore[attr-defined]
            rows += [(names[source], row_id & 0xFFFFFFFF) for source, row_id, *_ in rows_of(batch)]
            if count >= num and not batch.state["position"]["window"]["served"]:
                return rows, through_json(batch.state)
        raise AssertionError("the epoch was too short")

    first, state = run(loader("web", "code"), None, 10)
    without, state = run(loader("web", "math"), state, 10)
    again, _ = run(loader("web", "code", "math"), state, 10)
    assert not [name for name, _ in without if name == "code"]
    code = [record for name, record in first + again if name == "code"]
    assert set(Counter(code).values()) == {1, 2}
    assert max(code) == 84
    math = [record for name, record in without + again if name == "math"]
    assert max(Counter(math).values()) - min(Counter(math).values()) <= 1


def test_sources_in_another_order_in_mid_window() -> None:
    """A window under way is finished as it was planned where sources are in another order, or another one is added."""
    batches = list(mixed(SPECS["bucket"], None, {"tokens": 6_000}))
    number = next(number for number, batch in enumerate(batches) if batch.state["position"]["window"]["served"])
    more = {"first": ss.Generator(items(10, 5, 6, 9)), **dict(reversed(sources().items()))}
    weights = {"first": 0.1, **WEIGHTS}
    loader = Loader(ss.Mixture(more, weights, tokens=6_000), SPECS["bucket"], seed=7)
    loader.load_state_dict(through_json(batches[number].state), strict=False)
    rest = itertools.takewhile(lambda batch: batch.window == batches[number].window, loader)
    expected = [batch for batch in batches[number + 1 :] if batch.window == batches[number].window]
    names = loader.source.names  # type: ignore[attr-defined]
    for one, other in zip(expected, rest, strict=True):
        assert one.input_ids.equal(other.input_ids)
        assert [list(WEIGHTS)[source] for source in one.source.tolist()] == [names[source] for source in other.source.tolist()]


def test_bad_states_of_mixtures() -> None:
    """A state of another form, of one source, or of other places is refused with the name of the entry."""
    loader = mixed(SPECS["bucket"], None, {"tokens": 6_000})
    state = through_json(next(iter(loader)).state)

    def changed(**entries: Json) -> Json:
        other = through_json(state)
        other["position"]["window"]["mixture"].update(entries)
        return other

    sources = state["position"]["window"]["mixture"]["sources"]
    for other, message in (
        (changed(tokens=-1), r"mixture\.tokens of the state must be a whole number from 0 up, got -1"),
        (changed(is_last=1), r"mixture\.is_last of the state must be true or false, got 1"),
        (changed(sources={"web": [0, 1]}), r"mixture\.sources of the state must be the starts of sources by name"),
        (changed(sources={**sources, "web": [0, 99, 0, 0, 0, 1]}), r"sources\.web\.position of the state must be at most"),
    ):
        with pytest.raises(ValueError, match=message):
            loader.load_state_dict(other)
    del state["position"]["window"]["mixture"]["tokens"]
    with pytest.raises(ValueError, match=r"one without position\.window\.mixture\.tokens"):
        loader.load_state_dict(state)
    one = Loader(ss.Generator(WEB), SPECS["bucket"], seed=7)
    with pytest.raises(ValueError, match="state was saved for source"):
        loader.load_state_dict(next(iter(one)).state)


def test_weights_that_change_with_the_tokens() -> None:
    """Weights of a schedule hold from their number of tokens on, or change linearly up to it."""
    points = [(0, {"web": 1, "code": 0, "math": 0}), (20_000, {"web": 0, "code": 1, "math": 0})]
    for ramp, shares in (("step", (1.0, 0.0)), ("linear", (0.75, 0.25))):
        given = np.zeros(3)
        for batch in mixed(SPECS["bucket"], points, {"tokens": 30_000, "ramp": ramp}):
            given += tokens_of([batch])
            if not batch.state["position"]["window"]["served"] and given.sum() >= 9_000:
                break
        assert given[0] / given.sum() == pytest.approx(1 - given.sum() / 40_000 if ramp == "linear" else shares[0], abs=0.02)
        testing.check_shares(functools.partial(mixed, SPECS["bucket"], points, {"tokens": 30_000, "ramp": ramp}))


def test_weights_that_change_within_a_window() -> None:
    """A window ends where weights change, also where a whole run would fit one window."""
    points = [(0, {"web": 0.9, "code": 0.1, "math": 0}), (3_000, {"web": 0.1, "code": 0.9, "math": 0})]
    given = np.zeros(3)
    for batch in mixed(ss.Bucket(1024), points, {"tokens": 12_000}):
        given += tokens_of([batch])
        if not batch.state["position"]["window"]["served"]:
            break
    assert given.sum() == pytest.approx(3_000, abs=200)
    assert given[0] / given.sum() == pytest.approx(0.9, abs=0.05)


def test_a_mixture_that_fits_a_window_is_one() -> None:
    """A mixture that is read about once and fits a window is planned as one window; one that is read often begins small."""
    large = {
        name: ss.Generator([{"input_ids": np.full(2_000, number)} for _ in range(150)]) for number, name in enumerate("ab")
    }
    windows = [batch.window for batch in Loader(ss.Mixture(large, {"a": 0.5, "b": 0.5}), ss.Bucket(8_000), seed=1)]
    assert len(windows) == 75
    assert set(windows) == {0}
    often = Loader(ss.Mixture(large, {"a": 0.5, "b": 0.5}, tokens=3_000_000), ss.Bucket(8_000), seed=1)
    assert max(batch.window for batch in often) > 0


def test_made_up_rows_count_for_no_source() -> None:
    """Rows that fill a batch up have weight 0, so that no sum with weights counts them, and no source has their padding."""
    loader = mixed(ss.Pack(256, rows=4), None, {"tokens": 9_000})
    for batch in loader:
        assert (batch.source[batch.row_ids == -1] == 0).all()
        assert (batch.weights[batch.row_ids == -1] == 0).all()
    slots = loader.stats.by_source.counts[2].sum()
    assert slots <= loader.stats.slots
    assert 1 - loader.stats.by_source.counts[1].sum() / slots == pytest.approx(loader.stats.padding, abs=0.02)


@pytest.mark.parametrize("spec", [SPECS["bucket"], SPECS["pack"]], ids=["bucket", "pack"])
def test_ranks_share_a_mixture(spec: Any) -> None:
    """Ranks take the same rows together as one process does: shares are those of the window of all ranks."""
    make = functools.partial(mixed, spec, None, {"tokens": 40_000})
    testing.check_resume_on_ranks(make, world_size=2)
    taken = testing.run_ranks(3, lambda options: take(make(**options)))
    check_steps(taken, make())
    given = sum(tokens_of(each.batches) for each in taken)
    assert np.abs(given - given.sum() * np.array([0.6, 0.3, 0.1])).max() <= 200


@pytest.mark.parametrize("spec", [SPECS["bucket"], SPECS["rows"]], ids=["bucket", "rows"])
def test_an_elastic_chain(spec: Any) -> None:
    """A window that one rank began is finished by four, and then by two: every source goes on in its order."""
    testing.check_elastic_mixture(functools.partial(mixed, spec, None, {"tokens": 20_000}))


def test_workers_change_nothing() -> None:
    """Two worker processes give the same batches."""
    alone = [rows_of(batch) for batch in mixed(SPECS["bucket"], None, {"tokens": 15_000})]
    assert [rows_of(batch) for batch in mixed(SPECS["bucket"], None, {"tokens": 15_000}, num_workers=2)] == alone


def test_a_small_state() -> None:
    """A state has at most 64 bytes for each source besides its name."""
    many = {f"s{number:03}": ss.Generator(items(50, 5, 50, number)) for number in range(200)}
    loader = Loader(ss.Mixture(many, dict.fromkeys(many, 1.0), tokens=100_000), ss.Bucket(2048, window_batches=8), seed=0)
    state = next(iter(loader)).state
    entries = state["position"]["window"]["mixture"]["sources"]
    assert max(len(json.dumps(entry)) for entry in entries.values()) <= 64
    assert len(json.dumps(state)) < 200 * 100 + 2000


def test_any_few_batches_hold_the_mix() -> None:
    """Any 16 consecutive batches of `Bucket` have each source's tokens within a quarter of its share, though lengths differ."""
    loader = mixed(ss.Bucket(1024), None, {"tokens": 20_000})
    tokens = np.array([tokens_of([batch]) for batch in loader])
    for source, weight in enumerate(WEIGHTS.values()):
        runs = np.convolve(tokens[:, source], np.ones(16), "valid") / np.convolve(tokens.sum(axis=1), np.ones(16), "valid")
        assert np.abs(runs - weight).max() <= 0.25 * weight


def test_each_source_has_its_stages(bpe_file: Path, texts: list[str]) -> None:
    """Stages of one source run over its records alone, and a tokenizer of its own takes the place of the loader's."""
    short = (ss.Generator(texts[:80]), ss.Tokenize(bpe_file, max_length=5))
    upper = (ss.Generator(texts[80:200]), ss.MapRecords(lambda record: {"text": record["text"].upper()}))
    mixture = ss.Mixture(
        {"short": short, "upper": upper, "all": ss.Generator(texts[200:400])}, {"short": 1, "upper": 1, "all": 1}
    )
    loader = Loader(mixture, ss.Tokenize(bpe_file, max_length=64), ss.Bucket(512), seed=0)
    longest = [0, 0, 0]
    tokenizer = Tokenizer.from_file(str(bpe_file))
    for batch in loader:
        for row, (source, length) in enumerate(zip(batch.source.tolist(), batch.lengths.tolist(), strict=True)):
            longest[source] = max(longest[source], length)
            record = mixture.record(int(batch.row_ids[row]))
            text = record["text"].upper() if source == 1 else record["text"]
            expected = tokenizer.encode(text).ids[: 5 if source == 0 else 64]
            assert batch.input_ids[row, :length].tolist() == expected
    assert longest[0] == 5
    assert longest[1] > 5
    assert longest[2] > 5
    resumed = Loader(mixture, ss.Tokenize(bpe_file, max_length=64), ss.Bucket(512), seed=0)
    batches = list(loader)
    resumed.load_state_dict(through_json(batches[1].state))
    assert [rows_of(batch) for batch in resumed] == [rows_of(batch) for batch in batches[2:]]
    with_workers = Loader(mixture, ss.Tokenize(bpe_file, max_length=64), ss.Bucket(512), seed=0, num_workers=1)
    with_workers.set_epoch(1)
    assert [rows_of(batch) for batch in with_workers] == [rows_of(batch) for batch in batches]


def test_columns_that_a_source_lacks() -> None:
    """A column that only some sources have is an error that names both, or is filled in."""
    parts = {
        "a": ss.Generator([{"input_ids": [1, 2], "label": number % 2} for number in range(20)]),
        "b": ss.Generator([{"input_ids": [3]} for _ in range(20)]),
    }
    equal = {"a": 1.0, "b": 1.0}
    with pytest.raises(ValueError, match=r"same columns, got 'label' in 'a' and not in 'b'; set Mixture\(fill="):
        list(Loader(ss.Mixture(parts, equal), ss.Bucket(64)))
    for batch in Loader(ss.Mixture(parts, equal, fill={"label": -100}), ss.Bucket(64)):
        assert batch.label.dtype == torch.int64
        assert (batch.label == -100).equal(batch.source == 1)
    with pytest.raises(ValueError, match=r"fill=\.\.\.\) must have a value of type int64 for 'label', got 'x'"):
        list(Loader(ss.Mixture(parts, equal, fill={"label": "x"}), ss.Bucket(64)))
    named = {"a": ss.Generator([{"input_ids": [1], "source": 3}] * 5), "b": parts["b"]}
    with pytest.raises(ValueError, match="source 'a' has a column 'source'"):
        list(Loader(ss.Mixture(named, equal, fill={"source": 0}), ss.Bucket(64)))
    (batch, *_) = Loader(ss.Mixture(named, equal, fill={"source": 0}, column="corpus"), ss.Bucket(64))
    assert set(batch["corpus"].tolist()) == {0, 1}


def test_ranks_with_other_functions_of_one_source() -> None:
    """Ranks compare what the functions of each source's own stages do, and what is filled in."""

    def make(factor: int, **options: Any) -> Loader:
        def scale(table: pa.Table) -> pa.Table:
            return table.append_column("factor", pa.array([factor] * len(table)))

        parts = {"web": (ss.Generator(WEB), ss.Map(scale)), "math": ss.Generator(MATH)}
        return Loader(ss.Mixture(parts, {"web": 1, "math": 1}, fill={"factor": 0}), SPECS["bucket"], **options)

    def job(options: Any) -> str:
        try:
            next(iter(make(options["rank"], **options)))
        except RuntimeError as error:
            return str(error)
        return ""

    assert all("1/stage 1.function" in message for message in testing.run_ranks(2, job))
    other = mixed(SPECS["bucket"], None, {"tokens": 6_000, "fill": {"label": 1}})
    with pytest.raises(ValueError, match=r"mixture\.fill"):
        other.load_state_dict(mixed(SPECS["bucket"], None, {"tokens": 6_000}).state_dict())


def test_empty_sources() -> None:
    """A source without records, one of which all are dropped, and one of weight 0 leave their share to the others."""

    def nothing() -> Iterator[dict[str, Any]]:
        yield from ()

    parts = {
        "web": ss.Generator(WEB),
        "none": ss.Generator(nothing),
        "math": ss.Generator(MATH),
        "code": ss.Generator(code_items),
    }
    dropped = (parts["math"], ss.Filter(lambda table: np.zeros(len(table), dtype=bool)))
    mixture = ss.Mixture({**parts, "math": dropped}, {"web": 1, "none": 1, "math": 1, "code": 0})
    seen = Counter(source for batch in Loader(mixture, ss.Bucket(1024), seed=0) for source in batch.source.tolist())
    assert seen == {0: 300}
    alone = ss.Mixture({"none": parts["none"]}, {"none": 1})
    with pytest.raises(ValueError, match="source must have at least one record"):
        list(Loader(alone, ss.Bucket(64)))


def test_nested_mixtures_multiply() -> None:
    """A mixture in a mixture has its weight, divided by its own weights."""
    own = sources()
    inner = ss.Mixture({"code": own["code"], "math": own["math"]}, {"code": 3, "math": 1})
    mixture = ss.Mixture({"web": own["web"], "rest": inner}, {"web": 0.6, "rest": 0.4}, tokens=50_000)
    assert mixture.names == ["web", "rest/code", "rest/math"]
    given = tokens_of(Loader(mixture, SPECS["bucket"], seed=0))
    assert given / given.sum() == pytest.approx([0.6, 0.3, 0.1], abs=0.005)


def test_weights_by_size() -> None:
    """Proportional weights follow the sizes of the sources, to the power of the temperature."""
    small, large = ss.Generator(items(100, 10, 11, 1)), ss.Generator(items(1600, 10, 11, 2))
    for temperature, ratio in ((1.0, 16.0), (0.5, 4.0)):
        mixture = ss.Mixture({"small": small, "large": large}, "proportional", temperature=temperature)
        first, second = mixture.schedule.points[0][1]
        assert second / first == pytest.approx(ratio, rel=0.01)
    with pytest.raises(ValueError, match="must know the size of every source, got none for 'code'"):
        list(Loader(ss.Mixture(sources(), "proportional"), SPECS["bucket"]))


def test_a_proxy() -> None:
    """A proxy has the same share of each source, whatever the others are, and scales tokens and points."""
    texts = ss.Generator([f"text number {number}" for number in range(4_000)])
    other = ss.Generator([f"another {number}" for number in range(2_000)])
    points = [(0, {"a": 1, "b": 1}), (8_000, {"a": 1, "b": 3})]
    mixture = ss.Mixture({"a": texts, "b": other}, points, tokens=16_000)
    proxy = mixture.proxy(1 / 16)
    assert (proxy.tokens, [point for point, _ in proxy.schedule.points]) == (1_000, [0, 500])
    counts = [sum(1 for _ in source.records()) for source in proxy.parts]
    assert counts == pytest.approx([250, 125], rel=0.25)
    assert [*proxy.parts[0].records()] == [*ss.Mixture({"a": texts}, {"a": 1}).proxy(1 / 16).parts[0].records()]
    with pytest.raises(ValueError, match="share must be between 0 and 1, got 2"):
        mixture.proxy(2)


def test_what_an_epoch_will_be_like(caplog: pytest.LogCaptureFixture) -> None:
    """Tokens and passes of each source are logged once, about as they come; what cannot be is an error at the beginning."""
    loader = Loader(ss.Mixture({"web": ss.Generator(WEB), "math": ss.Generator(MATH)}, {"web": 3, "math": 1}), SPECS["bucket"])
    list(loader)
    list(loader)
    (message,) = [record.getMessage() for record in caplog.records if "an epoch of the mixture" in record.getMessage()]
    expected = re.fullmatch(
        r".*about ([\d,]+) tokens of 2 sources: web 75.0% \((.*) epochs\), math 25.0% \((.*) epochs\)", message
    )
    assert expected is not None
    tokens, web, math = (float(number.replace(",", "")) for number in expected.groups())
    assert tokens == pytest.approx(loader.stats.tokens / 2, rel=0.1)
    assert web == pytest.approx(1, abs=0.02)
    assert math == pytest.approx(loader.stats.by_source["math"].epochs, rel=0.2)
    limits = {"web": 1, "math": 2, "code": 1}
    impossible = Loader(ss.Mixture(lists(), WEIGHTS, epochs=limits, tokens=10_000_000), SPECS["bucket"])
    with pytest.raises(
        ValueError, match=r"tokens must be what the sources can give, about [\d,]+ as epochs allows, got 10,000,000"
    ):
        next(iter(impossible))


def test_stats_by_source() -> None:
    """Rows, tokens, share, passes and padding of each source, in a table, a flat dict and a state."""
    loader = mixed(SPECS["bucket"], None, {"tokens": 30_000})
    given = tokens_of(loader)
    by_source = loader.stats.by_source
    assert [by_source[name].tokens for name in WEIGHTS] == given.tolist()
    assert sum(each.share for each in by_source.values()) == pytest.approx(1)
    assert sum(each.rows for each in by_source.values()) == loader.stats.rows
    assert all(0 <= each.padding < 0.5 for each in by_source.values())
    assert by_source["math"].epochs == pytest.approx(given[2] / sum(len(item["input_ids"]) for item in MATH), rel=0.1)
    assert str(by_source).splitlines()[0].split() == ["source", "rows", "tokens", "share", "epochs", "padding"]
    assert loader.stats.to_dict()["source/web/tokens"] == given[0]
    other = mixed(SPECS["bucket"], None, {"tokens": 30_000})
    other.load_state_dict(through_json(loader.state_dict(stats=True)))
    assert other.stats.by_source == by_source
    assert loader.stats.since(loader.stats).by_source["web"].tokens == 0


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown name": (
        lambda: ss.Mixture(sources(), {**WEIGHTS, "wib": 1}),
        "weights must name sources of the mixture, which are",
    ),
    "a name without weight": (
        lambda: ss.Mixture(sources(), {"web": 1}),
        "weights must have one for each source, got none for 'code'",
    ),
    "a negative weight": (lambda: ss.Mixture(sources(), {**WEIGHTS, "web": -1}), "from 0 up, got -1 for 'web'"),
    "a weight that is none": (
        lambda: ss.Mixture(sources(), {**WEIGHTS, "web": "1"}),
        "weights must be numbers, got '1' for 'web'",
    ),
    "no weight": (lambda: ss.Mixture(sources(), dict.fromkeys(WEIGHTS, 0)), "must have one above 0"),
    "weights that are none": (lambda: ss.Mixture(sources(), [0.6, 0.3, 0.1]), "weights must be a dict of shares by name"),
    "points without a beginning": (lambda: ss.Mixture(sources(), [(5, WEIGHTS)]), "must begin at 0 tokens served"),
    "an unknown name in epochs": (lambda: ss.Mixture(sources(), WEIGHTS, epochs={"x": 2}), "epochs must name sources"),
    "no epochs": (lambda: ss.Mixture(sources(), WEIGHTS, epochs={"web": 0}), "epochs must be above 0, got 0 for 'web'"),
    "a source twice": (lambda: ss.Mixture({"a": (s := ss.Generator(WEB)), "b": s}, {"a": 1, "b": 1}), "same for 'a' and 'b'"),
    "no source": (lambda: ss.Mixture({}, {}), "must have at least one source"),
    "something else": (lambda: ss.Mixture({"a": 3}, {"a": 1}), "source must be a path, a glob or a folder of files"),
    "one path": (lambda: ss.Concat("a.txt"), "got the path 'a.txt'; write ['a.txt']"),
    "a list": (lambda: ss.Mixture([ss.Generator(WEB)], {"a": 1}), "dict of sources by name, got list"),
    "a generator that is used up": (
        lambda: ss.Mixture({"a": ss.Generator(code_items())}, {"a": 1}, epochs={"a": 2}),
        "at most 1 for 'a', whose records a generator gives only once",
    ),
    "another end": (lambda: ss.Mixture(sources(), WEIGHTS, exhausted="last"), "exhausted must be"),
    "temperature": (lambda: ss.Mixture(sources(), WEIGHTS, temperature=0.7), "temperature must be 1"),
    "part of one shard": (
        lambda: mixed(SPECS["bucket"], None, {"epochs": {"code": 0.5}}),
        "whole number for 'code', whose 1 shards are read as a whole, got 0.5",
    ),
    "a stage that is none": (
        lambda: Loader(ss.Mixture({"a": (ss.Generator(WEB), ss.Bucket(5))}, {"a": 1}), SPECS["bucket"]),
        "stages must be Map, Filter, ClassLabels or Tokenize",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_no_mixture_can_be(make: Callable[[], Any], message: str) -> None:
    """Mistakes are errors when the mixture or the loader is made, before anything is read."""
    with pytest.raises((TypeError, ValueError)) as error:
        make()
    assert message in str(error.value)


def test_sources_are_what_a_loader_takes(tmp_path: Path, texts: list[str]) -> None:
    """Paths, lists and data sets are read as a loader reads them, with stages of their own too; errors name the source."""
    (tmp_path / "a.txt").write_text("\n".join(texts[:40]))
    rows = datasets.Dataset.from_dict({"text": texts[40:60]})
    files, letters = ss.TextFiles(tmp_path / "a.txt"), ss.Tokenize(lambda each: [[len(text)] for text in each])
    weights = {"files": 1, "rows": 2, "list": 1}
    mixture = ss.Mixture({"files": str(tmp_path / "a.txt"), "rows": (rows, letters), "list": texts[60:80]}, weights)
    made = ss.Mixture({"files": files, "rows": (ss.HFDataset(rows), letters), "list": ss.Generator(texts[60:80])}, weights)
    assert mixture.fingerprint() == made.fingerprint()
    assert [type(part) for part in mixture.parts] == [ss.TextFiles, ss.HFDataset, ss.Generator]
    assert len(mixture.members[1].stages) == 1
    concat = ss.Concat([tmp_path / "a.txt", texts[60:80]])
    assert concat.fingerprint() == ss.Concat([files, ss.Generator(texts[60:80])]).fingerprint()
    with pytest.raises(FileNotFoundError) as error:
        ss.Mixture({"gone": str(tmp_path / "gone.txt")}, {"gone": 1})
    assert error.value.__notes__ == ["in source 'gone' of Mixture"]


def test_concat_shuffles_sources_together(tmp_path: Path, texts: list[str]) -> None:
    """Every record of each source once an epoch, from all of them in each window; lists are shuffled as one."""
    (tmp_path / "a.txt").write_text("\n".join(texts[:60]))
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("\n".join(texts[60:90]))
    parts = [ss.TextFiles(tmp_path / "a.txt", block_bytes=256), ss.TextFiles(tmp_path / "b.txt.gz"), ss.Generator(texts[90:99])]
    concat = ss.Concat(parts)
    testing.check_source(concat)
    assert [record["text"] for record in concat.records()] == [text.rstrip() for text in texts[:99]]
    lists = ss.Concat([ss.Generator(WEB), ss.Generator(MATH)])
    testing.check_source(lists)
    assert lists.num_records == 313
    make = functools.partial(Loader, lists, SPECS["bucket"])
    testing.check_loader(make)
    (first, *_) = make(seed=0)
    assert len(set(first["input_ids"][:, 0].tolist())) == 1 or len(first.row_ids) > 1
    with pytest.raises(ValueError, match="Concat must have at least one source"):
        ss.Concat([])


def test_a_source_waits_for_its_longest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source may be as far from its share as its next row is long, also where no row served so far is that long."""
    parts = {"long": ss.Generator([{"input_ids": np.zeros(200)}] * 20), "short": ss.Generator(items(900, 1, 4, 5))}
    mixture = ss.Mixture(parts, {"long": 0.05, "short": 0.95}, tokens=6_000)
    make = functools.partial(Loader, mixture, ss.Bucket(256, window_batches=4), seed=1)
    testing.check_shares(make)
    monkeypatch.setattr(SourceRows, "first_tokens", lambda rows, num: rows.ended(num) * [0, 1])
    with pytest.raises(AssertionError, match="source 'long' must be within 200 tokens"):
        testing.check_shares(make)


def test_an_epoch_ends_before_its_longest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch may lack as many tokens as its next row is long, also where no row of the epoch is that long."""
    short, long = ({"input_ids": np.zeros(length)} for length in (1, 200))
    mixture = ss.Mixture({"only": ss.Generator([short] * 40 + [long] * 20)}, {"only": 1}, tokens=70)
    make = functools.partial(Loader, mixture, ss.Unbucketed(8), shuffle=False)
    mixture_laws.check_end(make)
    assert sum(int(batch.lengths.sum()) for batch in make()) == 40
    monkeypatch.setattr(mixture_laws, "_longest_row", lambda loader, enough: 29)
    with pytest.raises(AssertionError, match="the epoch must have 70 tokens, got 40"):
        mixture_laws.check_end(make)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_mixture_keeps_its_shares(data: st.DataObject) -> None:
    """Shares, orders and resumes hold for random sources, weights, budgets and limits."""
    num = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    parts = {}
    for number in range(num):
        own = [
            {"input_ids": np.full(int(length), number)} for length in rng.integers(2, rng.integers(3, 80), rng.integers(1, 100))
        ]
        parts[f"s{number}"] = ss.Generator(own, block_bytes=int(rng.integers(1_000, 20_000)))
    weights = {name: float(weight) for name, weight in zip(parts, rng.random(num) ** 3 + 0.01, strict=True)}
    options: Json = {"tokens": int(rng.integers(500, 8_000))}
    if num > 1 and data.draw(st.booleans()):
        options["epochs"] = {"s0": float(rng.integers(1, 8)) / 2}
    spec = data.draw(
        st.sampled_from([ss.Bucket(256, window_batches=4), ss.Pack(128, rows=2, window_batches=4), ss.Unbucketed(4)])
    )

    def make(**more: Any) -> Loader:
        return Loader(ss.Mixture(parts, weights, **options), spec, **{"seed": 1, **more})

    testing.check_mixture(make)
    batches = list(make())
    at = data.draw(st.integers(0, len(batches) - 1))
    resumed = make()
    resumed.load_state_dict(through_json(batches[at].state))
    assert [rows_of(batch) for batch in resumed] == [rows_of(batch) for batch in batches[at + 1 :]]
