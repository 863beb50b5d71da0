"""Optimiser steps of several batches of each rank: the laws of ranks, and totals that are known before a step."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream import testing
from seqstream.planning.batch_spec import BatchSpec
from seqstream.testing.expectations import rows_of, through_json
from seqstream.testing.rank_laws import State, check_steps, take
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers import rank_corpora
from tests.helpers.rank_corpora import PAIRS, ROWS, any_spec, make_ids, make_loader, make_pairs, some_texts
from tests.helpers.rank_resume import go_on

SPECS: dict[str, BatchSpec] = {
    "mixed": ss.Bucket(160, window_batches=6),
    "alike": ss.Bucket(160, window_batches=6, step="alike"),
    "rows": ss.Bucket(batch_size=3, window_batches=6),
    "mixed-rows": ss.Bucket(batch_size=3, window_batches=6, step="mixed"),
    "shapes": ss.Bucket(160, shapes=3, window_batches=6),
    "shapes-alike": ss.Bucket(160, shapes=3, window_batches=6, step="alike"),
    "pack": ss.Pack(64, rows=1, window_batches=6),
    "pack-split": ss.Pack(24, rows=2, window_batches=6, overflow="split"),
    "in-order": ss.Unbucketed(3),
    "in-order-full": ss.Unbucketed(3, drop_last=True),
    "rows-full": ss.Bucket(batch_size=3, window_batches=6, drop_last=True),
    "pack-full": ss.Pack(64, rows=1, window_batches=6, drop_last=True),
}


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_laws(spec: BatchSpec, world_size: int, tmp_path: Path) -> None:
    """Ranks share the data in step and know the totals of steps; as many ranks resume exactly, even within steps."""
    source = rank_corpora.text_files(tmp_path, some_texts(120))
    make = functools.partial(make_loader, source, spec, accumulate=3 + world_size % 2, prefetch=world_size % 3)
    testing.check_ranks(make, world_size)
    testing.check_resume_on_ranks(make, world_size, num_stops=3)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("name", ["mixed", "alike", "rows", "mixed-rows", "shapes-alike", "pack", "in-order"])
def test_steps_with_dropped_rows(name: str, world_size: int, tmp_path: Path) -> None:
    """With ``uneven="drop"`` the totals of a step are those of its remaining rows, wherever it is resumed."""
    source = rank_corpora.text_files(tmp_path, some_texts(45))
    make = functools.partial(make_loader, source, SPECS[name], accumulate=4, uneven="drop")
    testing.check_ranks(make, world_size)
    testing.check_resume_on_ranks(make, world_size, num_stops=6)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_other_ranks_resume(spec: BatchSpec, tmp_path: Path) -> None:
    """Each row appears once where the number of ranks changes after every batch, or every second, within steps."""
    source = rank_corpora.text_files(tmp_path, some_texts(80))
    make = functools.partial(make_loader, source, spec, accumulate=4)
    testing.check_elastic(make, (2, 1, 4, 3), num_steps=1)
    testing.check_elastic(make, (3, 1, 2), num_steps=2)


@pytest.mark.parametrize("spec", PAIRS.values(), ids=PAIRS)
def test_pairs(spec: BatchSpec) -> None:
    """Ranks share rows of two sides in steps of several batches, and other ranks resume."""
    make = functools.partial(make_pairs, some_texts(60), spec, accumulate=3)
    testing.check_ranks(make, 2)
    testing.check_elastic(make, (1, 3, 2))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ROWS,
    any_spec,
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.integers(2, 5),
    st.integers(1, 3),
)
def test_any_rows(rows: list[list[int]], spec: BatchSpec, world_sizes: list[int], accumulate: int, num_steps: int) -> None:
    """Any rows, any specs, and any numbers of ranks one after the other."""
    make = functools.partial(make_ids, rows, spec, 40, accumulate=accumulate, prefetch=0)
    testing.check_elastic(make, world_sizes, num_steps)
    testing.check_ranks(make, world_sizes[0])


def every_second(batch: ss.Batch) -> ss.Batch:
    """Label every second token, which cannot be known before."""
    labels = batch.input_ids.clone()
    labels[:, ::2] = -100
    return batch.with_columns("input_ids", labels=labels)


def test_labels_of_other_functions(tmp_path: Path) -> None:
    """No rank knows the labels of other functions, at the beginning of a step or within it; tokens are known."""
    source = rank_corpora.text_files(tmp_path, some_texts(60))
    make = functools.partial(make_loader, source, SPECS["mixed"], accumulate=4, on_batch=every_second)
    begun = go_on(make, None, 2, 1)
    step = [*begun, *go_on(make, begun[0].state, 2, 3)]
    total = sum(batch.num_tokens for each in step for batch in each.batches)
    for each in step:
        for batch in each.batches:
            assert batch.step_num_tokens == total
            with pytest.raises(RuntimeError, match=r"^step_num_label_tokens cannot be known .* and of all batches of a step"):
                batch.step_num_label_tokens  # noqa: B018 - it raises


def test_steps_are_estimated_for_all_ranks() -> None:
    """`estimate_steps` returns on each rank the number of steps of all ranks, of several batches each."""
    rows = [[1] * int(length) for length in np.random.default_rng(0).integers(1, 40, 900)]

    def job(options: Options) -> tuple[int | None, ss.Loader]:
        loader = make_ids(rows, ss.Bucket(160), 1 << 20, accumulate=4, **options)
        estimated = loader.estimate_steps()
        take(loader)
        return estimated, loader

    for estimated, loader in run_ranks(2, job):
        assert estimated is not None
        assert abs(estimated - loader.stats.steps) <= 1
        assert loader.stats.batches == 4 * loader.stats.steps


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["mixed", "alike", "rows", "shapes", "pack", "pack-split", "in-order"])
def test_a_step_begun_by_other_ranks_has_all_its_totals(name: str, causal: bool, tmp_path: Path) -> None:
    """Ranks that resume within a step know its tokens and labels, with those that were served before."""
    source = rank_corpora.json_lines(tmp_path, some_texts(160))
    labels = {"on_batch": ss.CausalLabels()} if causal and "pack" not in name else {}
    make = functools.partial(make_loader, source, SPECS[name], accumulate=4, **labels)
    whole = go_on(make, None, 2)[0].batches
    totals = {batch.step: (batch.step_num_tokens, batch.step_num_label_tokens) for batch in whole}
    inside = [batch for batch in whole[:-1] if not batch.is_step_end]
    assert len(totals) > 4
    assert len(inside) > 8
    for batch in inside[1 :: len(inside) // 3]:
        for world_size in (1, 3):
            taken = go_on(make, through_json(batch.state), world_size, 2)
            for each in taken:
                first = each.batches[0]
                assert first.step == batch.step
                assert (first.step_num_tokens, first.step_num_label_tokens) == totals[batch.step]


def test_the_totals_of_a_step_by_hand() -> None:
    """The worked example: twelve rows, one a batch; two ranks take a turn, three resume, with the totals of all twelve."""
    rows = [[number] * number for number in range(2, 14)]
    make = functools.partial(make_ids, rows, ss.Bucket(batch_size=1), accumulate=6, on_batch=ss.CausalLabels())
    begun = go_on(make, None, 2, 1)
    for taken in (begun, go_on(make, begun[0].state, 3)):
        for each in taken:
            assert {batch.step for batch in each.batches} == {0}
            assert {batch.step_num_tokens for batch in each.batches} == {90}
            assert {batch.step_num_label_tokens for batch in each.batches} == {78}


def test_two_changes_of_ranks_within_a_step(tmp_path: Path) -> None:
    """Two ranks begin a step, one resumes, three end it: all have the same totals, and its rows appear once."""
    source = rank_corpora.text_files(tmp_path, some_texts(120))
    make = functools.partial(make_loader, source, SPECS["mixed"], accumulate=4)
    step = [batch for each in go_on(make, None, 2) for batch in each.batches if batch.step == 0]
    expected, totals = rows_of(step), {sum(batch.num_tokens for batch in step)}
    state: State | None = None
    rows: dict[Any, Any] = {}
    turns = itertools.cycle([2, 1, 3])
    while rows.keys() != expected.keys():
        taken = go_on(make, state, next(turns), 1)
        check_steps(taken, make())
        more = rows_of(each.batches[0] for each in taken)
        assert rows.keys().isdisjoint(more)
        assert more.keys() <= expected.keys()
        rows.update(more)
        assert {each.batches[0].step_num_tokens for each in taken} == totals
        state = through_json(taken[0].state)
    assert taken[0].batches[0].is_step_end


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_ranks_have_equally_many_batches_in_every_step(world_size: int, tmp_path: Path) -> None:
    """Of ``Bucket(max_tokens)`` every step has exactly ``accumulate`` batches of each rank, over windows and epochs."""
    source = rank_corpora.text_files(tmp_path, some_texts(600))
    make = functools.partial(make_loader, source, ss.Bucket(160, window_batches=3), accumulate=3)

    def two_epochs(options: Options) -> list[list[ss.Batch]]:
        loader = make(**options)
        return [[*loader], [*loader]]

    for epochs in run_ranks(world_size, two_epochs):
        for batches in epochs:
            assert len({batch.window for batch in batches}) > 1
            steps = [batch.step for batch in batches]
            assert steps == [number // 3 for number in range(len(batches))]
            assert len(batches) % 3 == 0
            assert [batch.is_step_end for batch in batches] == [number % 3 == 2 for number in range(len(batches))]


def test_a_mixed_step_has_lengths_of_every_stratum(tmp_path: Path) -> None:
    """The batches of a step, of all ranks, are one of each eighth of their window by length."""
    rng = np.random.default_rng(0)
    rows = [[1] * int(length) for length in rng.integers(1, 60, 3000)]
    make = functools.partial(make_ids, rows, ss.Bucket(240), accumulate=4)
    taken = go_on(make, None, 2)
    windows = itertools.groupby(zip(*(each.batches for each in taken), strict=True), key=lambda batches: batches[0].window)
    for _, window in windows:
        by_step = np.array([[int(batch.lengths.max()) for batch in batches] for batches in window]).reshape(-1, 8)
        octiles = np.sort(by_step.ravel())[::-1].reshape(8, -1)
        for step in np.sort(by_step, axis=1)[:, ::-1]:
            assert (step <= octiles[:, 0]).all()
            assert (step >= octiles[:, -1]).all()
