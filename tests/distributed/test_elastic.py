"""Stop with some ranks and resume with others: no row is repeated, none is lost."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream import testing
from seqstream.planning.batch_spec import BatchSpec
from seqstream.testing.expectations import expect_same, rows_of, through_json
from seqstream.testing.rank_laws import State, Taken, check_steps, take
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers import rank_corpora, rank_jobs
from tests.helpers.rank_corpora import PAIRS, ROWS, SPECS, any_spec, make_ids, make_loader, make_pairs, some_texts
from tests.helpers.rank_processes import Pool
from tests.helpers.rank_resume import Make, go_on

TURNS = [(1, 3), (2, 1), (4, 1), (3, 2), (1, 2), (2, 1), (4, 2)]
"""Numbers of ranks and of steps, repeated."""


@pytest.mark.parametrize("spec", [name for name in SPECS if name != "in-order-full"])
def test_each_row_once(spec: str, tmp_path: Path) -> None:
    """One rank, two, four, three, one and so on, stopped in the middle of windows, some of them twice."""
    source = rank_corpora.text_files(tmp_path, some_texts(160))
    make = functools.partial(make_loader, source, SPECS[spec])
    testing.check_elastic(make, (1, 2, 4, 3, 1), num_steps=1 if spec in ("tokens", "shapes", "pack") else 2)


@pytest.mark.parametrize("kind", ["json_lines", "compressed", "generator", "split"])
def test_sources_of_every_kind(kind: str, tmp_path: Path) -> None:
    """Streams resume where they stopped, with any number of ranks."""
    source = getattr(rank_corpora, kind)(tmp_path, some_texts(120))
    testing.check_elastic(functools.partial(make_loader, source, SPECS["tokens"]), (2, 1, 4, 3))
    testing.check_elastic(functools.partial(make_loader, source, SPECS["pack-split"], shuffle=False), (4, 1, 2))


@pytest.mark.parametrize("spec", PAIRS.values(), ids=PAIRS)
def test_pairs(spec: BatchSpec) -> None:
    """Rows of two sides are neither repeated nor lost."""
    testing.check_elastic(functools.partial(make_pairs, some_texts(80), spec), (1, 2, 4, 3))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, any_spec, st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 3), st.sampled_from([1, 40, 400]))
def test_any_rows(rows: list[list[int]], spec: BatchSpec, sizes: list[int], num_steps: int, block_bytes: int) -> None:
    """Any rows, any specs, and any numbers of ranks one after the other."""
    testing.check_elastic(functools.partial(make_ids, rows, spec, block_bytes, prefetch=0), sizes, num_steps)


def test_two_stops_in_one_window(tmp_path: Path) -> None:
    """A window planned for four ranks is served by four, two and three: the state keeps the four, and counts served rows."""
    source = rank_corpora.text_files(tmp_path, some_texts(300))
    make = functools.partial(make_loader, source, ss.Bucket(240, window_batches=12))
    state = go_on(make, None, 4, 8)[0].state
    window = state["position"]["window"]
    assert window["served"] > 0, "the stop must be in the middle of a window"
    whole = [row for each in go_on(make, None, 4) for row in rows_of(each.batches)]
    seen: list[Any] = [row for each in go_on(make, None, 4, 8) for row in rows_of(each.batches)]
    place = (window["cursor"], window["blocks"], window["skip"])
    served = [window["served"]]
    for world_size in (2, 3):
        taken = go_on(make, through_json(state), world_size, 1)
        seen += [row for each in taken for row in rows_of(each.batches)]
        state = taken[0].state
        window = state["position"]["window"]
        assert (window["cursor"], window["blocks"], window["skip"]) == place
        assert window["planned_world_size"] == 4
        served.append(window["served"])
    assert served == sorted(set(served))
    seen += [row for each in go_on(make, through_json(state), 4) for row in rows_of(each.batches)]
    assert len(seen) == len(set(seen))
    assert sorted(seen) == sorted(whole)


@pytest.mark.parametrize("spec", ["tokens", "rows", "shapes", "pack-split", "in-order"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_as_many_ranks_resume_exactly(spec: str, world_size: int, tmp_path: Path) -> None:
    """In the first epoch, at its end, and in the second, as many ranks resume with the batches of an uninterrupted run."""
    source = rank_corpora.text_files(tmp_path, some_texts(60))
    make = functools.partial(make_loader, source, SPECS[spec])

    def two(options: Options) -> list[Taken]:
        loader = make(**options)
        return [take(loader), take(loader)]

    first, second = (list(epoch) for epoch in zip(*run_ranks(world_size, two), strict=True))
    steps = len(first[0].batches)
    for epoch, number in ((first, 0), (first, steps // 2), (first, steps - 2), (second, 0), (second, 1)):
        rest = go_on(make, through_json(epoch[0].batches[number].state), world_size)
        for rank, (expected, got) in enumerate(zip(epoch, rest, strict=True)):
            expect_same(expected.batches[number + 1 :], got.batches, f"rank {rank} after step {number}")
            assert [batch.weights.tolist() for batch in expected.batches[number + 1 :]] == [
                batch.weights.tolist() for batch in got.batches
            ]
    after_last = through_json(first[0].batches[-1].state)
    assert [each.batches for each in go_on(make, after_last, world_size)] == [[]] * world_size
    for expected, got in zip(second, go_on(make, through_json(first[0].state), world_size), strict=True):
        expect_same(expected.batches, got.batches, "the epoch after")


def test_other_ranks_resume_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    """After the last batch any number of ranks get no batch, and then the next epoch, with each row once."""
    source = rank_corpora.text_files(tmp_path, some_texts(60))
    make = functools.partial(make_loader, source, SPECS["tokens"])
    whole = sorted(rows_of(make()))
    last = through_json(go_on(make, None, 3)[0].batches[-1].state)

    def ends_then_begins(options: Options) -> tuple[list[ss.Batch], Taken]:
        loader = make(**options)
        loader.load_state_dict(last)
        return [*loader], take(loader)

    for world_size in (1, 2, 4):
        found = run_ranks(world_size, ends_then_begins)
        assert [none for none, _ in found] == [[]] * world_size
        check_steps([taken for _, taken in found], make())
        assert sorted(row for _, taken in found for row in rows_of(taken.batches)) == whole
        assert found[0][1].state["position"]["epoch"] == 2


def test_in_the_second_epoch(tmp_path: Path) -> None:
    """Other ranks resume in an epoch whose windows differ from those of the first."""
    source = rank_corpora.text_files(tmp_path, some_texts(60))
    make = functools.partial(make_loader, source, SPECS["pack"])
    state: State = go_on(make, None, 3)[0].state
    assert state["position"]["epoch"] == 1
    rows: list[Any] = []
    for world_size, num_steps in itertools.cycle(TURNS):
        taken = go_on(make, through_json(state), world_size, num_steps)
        rows += [row for each in taken for row in rows_of(each.batches)]
        state = taken[0].state
        if state["position"]["epoch"] == 2:
            break
    assert sorted(rows) == sorted(rows_of(make()))


def test_over_several_epochs_in_one_iteration(tmp_path: Path) -> None:
    """With ``epochs=2`` one iteration continues over the end of an epoch; other ranks resume before and after it."""
    source = rank_corpora.text_files(tmp_path, some_texts(40))
    make = functools.partial(make_loader, source, SPECS["rows"], epochs=2)
    rows: list[Any] = []
    state: State | None = None
    for world_size in itertools.cycle([2, 3, 1]):
        taken = go_on(make, None if state is None else through_json(state), world_size, 2)
        rows += [row for each in taken for batch in each.batches for row in rows_of([batch])]
        state = taken[0].state
        if state["position"]["epoch"] >= 2:
            break
    assert sorted(rows) == sorted([*rows_of(make_loader(source, SPECS["rows"]))] * 2)


def in_turns(pool: Pool, makes: Sequence[Make], turns: Sequence[tuple[int, int]]) -> list[Any]:
    """Take an epoch in processes, with alternating ranks, steps and makers; return all rows."""
    rows: list[Any] = []
    state: State | None = None
    for make, (world_size, num_steps) in zip(itertools.cycle(makes), itertools.cycle(turns), strict=False):
        found = pool.run(world_size, rank_jobs.epochs, make, 1, state, num_steps)
        taken = [each[0] for each in found]
        check_steps(taken, make())
        rows += [row for each in taken for row in rows_of(each.batches)]
        state = json.loads(json.dumps(taken[0].state))
        assert state is not None
        if state["position"]["epoch"] > 0:
            return rows
    raise AssertionError("unreachable")


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
@pytest.mark.parametrize("spec", ["tokens", "shapes", "pack-split", "in-order"])
def test_processes(pool: Pool, spec: str, tmp_path: Path) -> None:
    """In 1, 2, 4, 3 and 1 processes over gloo, each row appears once."""
    rank_corpora.compressed(tmp_path, some_texts())
    make = rank_jobs.maker("files", spec, tmp_path)
    rows = in_turns(pool, [make], TURNS)
    assert len(rows) == len(set(rows))
    assert sorted(rows) == sorted(rows_of(make()))


def test_processes_with_other_workers(pool: Pool, tmp_path: Path) -> None:
    """The number of worker processes may change between stop and resume, as the number of ranks may."""
    rank_corpora.compressed(tmp_path, some_texts())
    makes = [
        rank_jobs.maker("files", "tokens", tmp_path, num_workers=workers, multiprocessing_context="fork")
        for workers in (0, 1, 2)
    ]
    rows = in_turns(pool, makes, [(1, 3), (2, 2), (2, 2), (3, 9)])
    assert sorted(rows) == sorted(rows_of(makes[0]()))
