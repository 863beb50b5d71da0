"""Optimiser steps of several batches in one process: planned as one, numbered, and known in all from their first batch on."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream import testing
from seqstream.planning.batch_spec import BatchSpec
from seqstream.testing.expectations import through_json
from tests.helpers.own_source import JsonArrays, write_arrays

SPECS: dict[str, BatchSpec] = {
    "tokens": ss.Bucket(200, window_batches=7),
    "alike": ss.Bucket(200, window_batches=7, step="alike"),
    "both": ss.Bucket(200, batch_size=6, window_batches=7, multiple_of=8),
    "rows": ss.Bucket(batch_size=5, window_batches=7),
    "given": ss.Bucket(shapes=[(4, 40), (9, 20)], window_batches=7),
    "pack": ss.Pack(64, rows=2, window_batches=7),
    "in-order": ss.Unbucketed(5, window_batches=7),
    "in-order-full": ss.Unbucketed(5, drop_last=True, window_batches=7),
    "rows-full": ss.Bucket(batch_size=5, drop_last=True, window_batches=7),
}
BY_TOKENS = ("tokens", "alike", "both", "given")

ORDERS = [*((spec, True) for spec in SPECS.values()), *((SPECS[name], False) for name in ("tokens", "pack", "in-order"))]
"""Batch specs with random orders, and one of each kind with the order of the data."""

Make = Callable[..., ss.Loader]


@pytest.fixture
def source(tmp_path: Path) -> JsonArrays:
    """Twelve files of 30 to 41 rows of 1 to 40 ids."""
    return write_arrays(tmp_path / "arrays")


def steps_of(batches: list[ss.Batch]) -> list[list[ss.Batch]]:
    """Return the batches of each step."""
    return [[*step] for _, step in itertools.groupby(batches, key=lambda batch: batch.step)]


@pytest.mark.parametrize(("spec", "shuffle"), ORDERS, ids=repr)
def test_laws(source: JsonArrays, spec: BatchSpec, shuffle: bool) -> None:
    """Every law holds for steps of several batches, whatever makes them."""
    for path in source.files[3:]:
        path.unlink()
    testing.check_loader(functools.partial(ss.Loader, source, spec, shuffle=shuffle, accumulate=3))


@pytest.mark.parametrize("accumulate", [2, 3, 8])
@pytest.mark.parametrize("name", BY_TOKENS)
def test_every_step_has_as_many_batches(source: JsonArrays, name: str, accumulate: int) -> None:
    """Of batches with a budget of tokens every step has exactly ``accumulate``, over windows, and each epoch begins at 0."""
    loader = ss.Loader(source, SPECS[name], accumulate=accumulate)
    for _ in range(2):
        batches = [*loader]
        assert len({batch.window for batch in batches}) > 1
        assert len(batches) % accumulate == 0
        assert [batch.step for batch in batches] == [number // accumulate for number in range(len(batches))]
        assert [batch.is_step_end for batch in batches] == [
            number % accumulate == accumulate - 1 for number in range(len(batches))
        ]


@pytest.mark.parametrize("name", ["rows", "pack", "in-order", "in-order-full"])
def test_only_the_last_step_has_fewer_batches(source: JsonArrays, name: str) -> None:
    """Where batches are to be full, the last step of an epoch alone may have fewer; it ends with the last batch."""
    batches = [*ss.Loader(source, SPECS[name], accumulate=4)]
    assert len({batch.window for batch in batches}) > 1
    assert [batch.step for batch in batches] == [number // 4 for number in range(len(batches))]
    ends = [batch.is_step_end for batch in batches]
    assert ends == [number % 4 == 3 or number == len(batches) - 1 for number in range(len(batches))]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=20), min_size=1, max_size=40),
    st.integers(20, 90),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_few_rows_make_as_many_batches_as_they_can(
    rows: list[list[int]], max_tokens: int, accumulate: int, window: int
) -> None:
    """Whatever the rows are: steps have ``accumulate`` batches, and one that has fewer has as many as rows."""
    spec = ss.Bucket(max_tokens, window_batches=window)
    loader = ss.Loader(ss.Generator(rows, block_bytes=64), spec, accumulate=accumulate, prefetch=0)
    steps = steps_of([*loader])
    assert [step[0].step for step in steps] == [*range(len(steps))]
    for step in steps:
        assert [batch.is_step_end for batch in step] == [False] * (len(step) - 1) + [True]
        assert len(step) == accumulate or [batch.num_rows for batch in step] == [1] * len(step)
        assert {batch.step_num_tokens for batch in step} == {sum(batch.num_tokens for batch in step)}
    assert loader.stats.steps == len(steps)


def test_a_step_by_hand() -> None:
    """Four lengths twice, one row a batch: a step has a batch of either half, and its first batch has the totals of both."""
    rows = [[1] * length for length in (8, 8, 6, 6, 4, 4, 2, 2)]
    batches = [*ss.Loader(ss.Generator(rows), ss.Bucket(batch_size=2), accumulate=2, prefetch=0, on_batch=ss.CausalLabels())]
    for step in (batches[:2], batches[2:]):
        lengths = sorted(int(batch.lengths[0]) for batch in step)
        assert lengths[0] <= 4
        assert lengths[1] >= 6
        assert [batch.step_num_tokens for batch in step] == [2 * sum(lengths)] * 2
        assert [batch.step_num_label_tokens for batch in step] == [2 * sum(lengths) - 4] * 2
    assert [batch.step for batch in batches] == [0, 0, 1, 1]


def test_a_step_is_a_fair_sample_of_its_window() -> None:
    """The batches of a step are one of each eighth of the window by length."""
    rng = np.random.default_rng(0)
    rows = [[1] * int(length) for length in rng.integers(1, 60, 1500)]
    for _, window in itertools.groupby(ss.Loader(ss.Generator(rows), ss.Bucket(240), accumulate=8), lambda batch: batch.window):
        longest = [[int(batch.lengths.max()) for batch in step] for step in steps_of([*window])]
        octiles = np.sort(np.ravel(longest))[::-1].reshape(8, -1)
        for step in longest:
            assert (np.sort(step)[::-1] <= octiles[:, 0]).all()
            assert (np.sort(step)[::-1] >= octiles[:, -1]).all()


# --- What is known of a step ---


def plain_labels(batch: ss.Batch) -> ss.Batch:
    """Label every second token, which is not known before it runs."""
    labels = torch.where(batch.mask, batch.input_ids, -100)
    labels[:, ::2] = -100
    return batch.with_columns("input_ids", labels=labels)


def records(num: int = 150) -> list[dict[str, Any]]:
    """Make records of ids, tags of them, and a class; some tags and classes are -100."""
    rng = np.random.default_rng(5)
    rows = []
    for number, length in enumerate(rng.integers(1, 30, num).tolist()):
        tags = [-100 if (number + at) % 4 == 0 else at % 3 for at in range(length)]
        rows.append({"input_ids": [number + 1] * length, "labels": tags, "label": -100 if number % 5 == 0 else number % 2})
    return rows


def without(*names: str) -> list[dict[str, Any]]:
    """Make records without some columns."""
    return [{name: value for name, value in row.items() if name not in names} for row in records()]


LABELLED: dict[str, Make] = {
    "tags": lambda **options: ss.Loader(ss.Generator(without("label")), ss.Bucket(100), **options),
    "classes": lambda **options: ss.Loader(ss.Generator(without("labels")), ss.Bucket(100), **options),
    "none": lambda **options: ss.Loader(ss.Generator(without("label", "labels")), ss.Bucket(100), **options),
    "causal": lambda **options: ss.Loader(
        ss.Generator(without("label", "labels")), ss.Bucket(100), on_batch=ss.CausalLabels(), **options
    ),
    "causal-flat": lambda **options: ss.Loader(
        ss.Generator(without("label", "labels")), ss.Bucket(100), on_batch=ss.CausalLabels(), layout="jagged", **options
    ),
    "pack": lambda **options: ss.Loader(ss.Generator(without("label", "labels")), ss.Pack(64, rows=2), **options),
    "pack-tags": lambda **options: ss.Loader(ss.Generator(without("label")), ss.Pack(64, rows=2), **options),
    "pack-classes": lambda **options: ss.Loader(ss.Generator(without("labels")), ss.Pack(64, rows=2, causal=False), **options),
    "pack-split": lambda **options: ss.Loader(
        ss.Generator(without("label", "labels")), ss.Pack(16, rows=3, overflow="split"), **options
    ),
    "named-classes": lambda **options: ss.Loader(
        ss.Generator([{**row, "label": "ab"[number % 2]} for number, row in enumerate(without("labels"))]),
        ss.ClassLabels(["a", "b"]),
        ss.Bucket(100),
        **options,
    ),
    "shapes": lambda **options: ss.Loader(
        ss.Generator(without("label")), ss.Bucket(shapes=[(3, 30), (8, 12)], rows_multiple_of=1), **options
    ),
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("make", LABELLED.values(), ids=LABELLED)
def test_totals_are_sums_over_the_step(make: Make, accumulate: int) -> None:
    """Tokens and labels of a step, as each of its batches tells them, are what its batches have together."""
    batches = [*make(accumulate=accumulate)]
    for step in steps_of(batches):
        for name in ("num_tokens", "num_label_tokens"):
            total = sum(getattr(batch, name) for batch in step)
            assert [getattr(batch, f"step_{name}") for batch in step] == [total] * len(step), name
            assert [getattr(batch, f"global_{name}") for batch in step] == [getattr(batch, name) for batch in step]
    has_labels = sum(batch.num_label_tokens for batch in batches) > 0
    assert has_labels == (make is not LABELLED["none"])


def test_labels_that_nobody_can_know() -> None:
    """The sum of labels is not known before a function without a label rule has run: asking for it raises, with what to do."""
    make = functools.partial(ss.Loader, ss.Generator(without("label", "labels")), ss.Bucket(100), on_batch=plain_labels)
    batch = next(iter(make(accumulate=2)))
    assert batch.step_num_tokens > batch.num_tokens
    assert batch.num_label_tokens > 0
    with pytest.raises(
        RuntimeError, match=r"^step_num_label_tokens cannot be known for labels that on_batch adds without a label_rule"
    ):
        batch.step_num_label_tokens  # noqa: B018 - it raises
    alone = next(iter(make()))
    assert alone.step_num_label_tokens == alone.num_label_tokens > 0


# --- State ---


@pytest.mark.parametrize("make", LABELLED.values(), ids=LABELLED)
def test_resuming_after_any_batch(make: Make) -> None:
    """On the border of a step and within one: the batches that follow are the same, and so is what they tell of their step."""
    expected = [facts_of(batch) for batch in make(accumulate=4)]
    assert len(expected) > 8
    for number, batch in enumerate(make(accumulate=4)):
        if number in (0, 1, 2, 3, 4, len(expected) // 2, len(expected) - 2):
            loader = make(accumulate=4)
            loader.load_state_dict(through_json(batch.state))
            assert [facts_of(other) for other in loader] == expected[number + 1 :]


def facts_of(batch: ss.Batch) -> tuple[Any, ...]:
    """Return what a batch is, and what it tells of its step."""
    totals = (batch.step_num_tokens, batch.step_num_label_tokens)
    return batch.row_ids.tolist(), batch.step, batch.is_step_end, *totals, json.dumps(batch.state)


@pytest.mark.parametrize(("spec", "shuffle"), ORDERS, ids=repr)
def test_resuming_over_windows(source: JsonArrays, spec: BatchSpec, shuffle: bool) -> None:
    """Wherever it is resumed, step numbers go on where they were, and over the end of the epoch they begin anew."""
    make = functools.partial(ss.Loader, source, spec, accumulate=3, shuffle=shuffle, epochs=2, prefetch=0)
    batches = [*make()]
    expected = [facts_of(batch) for batch in batches]
    for number in range(1, len(batches), len(batches) // 4):
        loader = make()
        loader.load_state_dict(through_json(batches[number].state))
        assert [facts_of(batch) for batch in loader] == expected[number + 1 :]


def test_another_number_of_batches_is_refused(source: JsonArrays) -> None:
    """A state of a loader whose steps have other batches is refused, and both numbers are named."""
    batch = next(iter(ss.Loader(source, SPECS["tokens"], accumulate=3)))
    for other in (1, 4):
        with pytest.raises(ValueError, match=f"state was saved for accumulate 3, this loader has {other}"):
            ss.Loader(source, SPECS["tokens"], accumulate=other).load_state_dict(batch.state)


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, "2", True])
def test_accumulate_must_be_a_number_of_batches(source: JsonArrays, accumulate: Any) -> None:
    """Only a positive whole number is one."""
    with pytest.raises((TypeError, ValueError), match="accumulate must be a positive whole number, got"):
        ss.Loader(source, SPECS["tokens"], accumulate=accumulate)


# --- Counting steps ---


@pytest.mark.parametrize("name", ["tokens", "alike", "rows", "pack", "in-order"])
def test_steps_are_estimated_and_counted(name: str) -> None:
    """`estimate_steps` is close to the steps of an epoch, which ``stats`` counts; the last may have fewer batches."""
    rng = np.random.default_rng(0)
    rows = [[1] * int(length) for length in rng.integers(2, 40, 900)]
    spec = dataclasses.replace(SPECS[name], window_batches=64)  # type: ignore[type-var]
    loader = ss.Loader(ss.Generator(rows), spec, accumulate=4)
    estimated = loader.estimate_steps()
    batches = [*loader]
    steps = steps_of(batches)
    assert estimated is not None
    assert abs(estimated - len(steps)) <= 1 + len(steps) // 20
    stats = loader.stats
    assert (stats.batches, stats.steps, stats.rows) == (len(batches), len(steps), 900)
    assert stats.rows_per_step == 900 / len(steps)
    assert stats.rows_per_batch == 900 / len(batches)


def test_a_step_is_counted_at_its_end(source: JsonArrays) -> None:
    """Steps whose batches were not all handed out are not counted; a batch of its own is a step."""
    loader = ss.Loader(source, SPECS["tokens"], accumulate=3)
    iterator = iter(loader)
    counted = []
    for _ in range(7):
        next(iterator)
        counted.append(loader.stats.steps)
    iterator.close()
    assert counted == [0, 0, 1, 1, 1, 2, 2]
    alone = ss.Loader(source, SPECS["tokens"])
    assert [batch.step for batch in alone] == [*range(alone.stats.batches)]
    assert alone.stats.steps == alone.stats.batches
