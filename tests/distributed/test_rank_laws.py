"""The laws of ranks for all kinds of sources and batch specs: mostly in threads, and in processes over gloo."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream import testing
from seqstream.arrays import ranges
from seqstream.loading.stage_lists import open_stages
from seqstream.loading.state import read_state
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.length_counts import LengthCounts, sorted_order
from seqstream.planning.rank_shares import schedule_turns
from seqstream.shuffling import EvenOrder
from seqstream.stages.label_filter import LabelFilter, LabelRule
from seqstream.testing.expectations import rows_of
from seqstream.testing.rank_laws import Taken, check_steps, expect_all_rows, take
from seqstream.testing.rank_threads import Options, run_ranks
from seqstream.windows.block_reader import read_blocks
from seqstream.windows.building import read_windows
from seqstream.windows.processing import run_here
from seqstream.windows.settings import WindowSettings
from seqstream.windows.window import WindowStart
from tests.helpers import rank_corpora, rank_jobs
from tests.helpers.rank_corpora import (
    PAIRS,
    ROWS,
    SOURCES,
    SPECS,
    MakeSource,
    any_spec,
    make_ids,
    make_loader,
    make_pairs,
    some_texts,
)
from tests.helpers.rank_processes import Pool

WORLD_SIZES = [1, 2, 3, 4]

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def epoch_of(make: Any, world_size: int) -> list[Taken]:
    """Take an epoch on threads."""
    return run_ranks(world_size, lambda options: take(make(**options)))


MET = [
    pytest.param(make_source, name, 2 + (at + number // 3) % 3, id=f"{make_source.__name__}-{name}")
    for at, make_source in enumerate(SOURCES)
    for number, name in enumerate(SPECS)
    if (at + number) % 3 == 0
]
"""Each source with some batch specs, each batch spec with some sources, and numbers of ranks."""


@pytest.mark.parametrize(("make_source", "name", "world_size"), MET)
def test_sources(make_source: MakeSource, name: str, world_size: int, tmp_path: Path) -> None:
    """Ranks share the data of every kind of source, in step, with every spec."""
    testing.check_ranks(functools.partial(make_loader, make_source(tmp_path, some_texts()), SPECS[name]), world_size)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_world_sizes(spec: BatchSpec, world_size: int, tmp_path: Path) -> None:
    """Any number of ranks share the data in step, with any prefetching; as many ranks resume exactly."""
    source = rank_corpora.text_files(tmp_path, some_texts())
    make = functools.partial(make_loader, source, spec, prefetch=world_size % 3)
    testing.check_ranks(make, world_size)
    testing.check_resume_on_ranks(make, world_size, num_stops=2)


@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
@pytest.mark.parametrize("spec", PAIRS.values(), ids=PAIRS)
def test_pairs(spec: BatchSpec, world_size: int) -> None:
    """Ranks share rows of two sides too."""
    make = functools.partial(make_pairs, some_texts(60), spec)
    testing.check_ranks(make, world_size)
    testing.check_resume_on_ranks(make, world_size, num_stops=2)


@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
@pytest.mark.parametrize("uneven", ["repeat", "drop"])
@pytest.mark.parametrize("spec", ["in-order", "tokens", "rows", "shapes", "multiple", "pack-split"])
def test_uneven_steps(spec: str, uneven: str, world_size: int, tmp_path: Path) -> None:
    """Where a turn has fewer rows than ranks, rows are repeated with weight 0, or dropped; both are counted."""
    source = rank_corpora.text_files(tmp_path, some_texts(26))
    make = functools.partial(make_loader, source, SPECS[spec], uneven=uneven)
    testing.check_ranks(make, world_size)
    taken = epoch_of(make, world_size)
    repeated = sum(each.stats.repeated_rows for each in taken)
    if uneven == "drop":
        assert repeated == 0
        records = {row_id for each in taken for row_id, _ in rows_of(each.batches)}
        dropped = sum(each.stats.dropped for each in taken)
        assert len(records) + dropped == len({row_id for row_id, _ in rows_of(make())})


@pytest.mark.parametrize(("uneven", "seen", "repeated", "dropped"), [("repeat", 2, 2, 0), ("drop", 0, 0, 2)])
def test_fewer_rows_than_ranks(uneven: str, seen: int, repeated: int, dropped: int) -> None:
    """Two rows for four ranks: the other two ranks repeat them with weight 0 and no labels; or no batch is served."""

    def job(options: Options) -> Any:
        loader = make_ids([[1, 2, 3], [4, 5]], ss.Bucket(100), uneven=uneven, on_batch=ss.CausalLabels(), **options)
        return take(loader) if uneven == "repeat" else [*loader], loader.stats

    if uneven == "drop":
        with pytest.raises(ValueError, match=r"source must give at least one row, got none.*2 were dropped"):
            run_ranks(4, job)
        return
    found = run_ranks(4, job)
    batches = [taken.batches for taken, _ in found]
    given = sorted((own[0].input_ids.tolist(), own[0].weights.tolist()) for own in batches)
    assert given == [([[1, 2, 3]], [0]), ([[1, 2, 3]], [1]), ([[4, 5]], [0]), ([[4, 5]], [1])]
    assert [len(own) for own in batches] == [1] * 4
    assert all((own[0].labels == -100).all() for own in batches if not own[0].weights.any())
    assert [own[0].global_num_tokens for own in batches] == [5] * 4
    assert [own[0].global_num_label_tokens for own in batches] == [3] * 4
    assert sum(stats.rows for _, stats in found) == seen
    assert sum(stats.repeated_rows for _, stats in found) == repeated
    assert sum(stats.dropped for _, stats in found) == dropped


@quick
@given(
    rows=ROWS,
    spec=any_spec,
    world_size=st.integers(1, 5),
    block_bytes=st.sampled_from([1, 40, 400]),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_any_rows(
    rows: list[list[int]], spec: BatchSpec, world_size: int, block_bytes: int, *, shuffle: bool, seed: int
) -> None:
    """Ranks share any rows: fewer than ranks, one block, parts with none."""
    make = functools.partial(make_ids, rows, spec, block_bytes, shuffle=shuffle, seed=seed, prefetch=0)
    testing.check_ranks(make, world_size)
    testing.check_resume_on_ranks(make, world_size, num_stops=2)


@settings(quick, max_examples=20)
@given(ROWS, any_spec, st.integers(2, 4), st.sampled_from([1, 40]))
def test_any_rows_with_threads(rows: list[list[int]], spec: BatchSpec, world_size: int, block_bytes: int) -> None:
    """Prefetched windows and batches are the same as those of the caller's thread, on all ranks."""
    make = functools.partial(make_ids, rows, spec, block_bytes)
    expected = epoch_of(functools.partial(make, prefetch=0), world_size)
    for options in ({"prefetch": 1}, {"prefetch": 3}, {"prefetch": 2, "on_batch": lambda batch: batch}):
        got = epoch_of(functools.partial(make, **options), world_size)
        for one, other in zip(expected, got, strict=True):
            assert [batch.row_ids.tolist() for batch in one.batches] == [batch.row_ids.tolist() for batch in other.batches]
            assert [batch.state for batch in one.batches] == [batch.state for batch in other.batches]


def test_one_row(tmp_path: Path) -> None:
    """One record for three ranks, over two epochs."""
    for spec in (SPECS["tokens"], SPECS["in-order"], SPECS["pack"], SPECS["given"]):
        testing.check_ranks(functools.partial(make_loader, rank_corpora.text_files(tmp_path, ["only"]), spec), 3)


@pytest.mark.parametrize("name", ["tokens", "rows", "in-order", "given", "pack-split", "attention"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_plan_is_that_of_one_process(name: str, world_size: int, tmp_path: Path) -> None:
    """All ranks together take at each turn the rows that follow from the plan of one process with the same window."""
    spec = SPECS[name]
    source = rank_corpora.text_files(tmp_path, some_texts(160))
    taken = epoch_of(functools.partial(make_loader, source, spec), world_size)
    found = [sorted(row for each in taken for row in rows_in(each.batches[step])) for step in range(len(taken[0].batches))]
    assert found == [step for window in windows_alone(source, spec, world_size, taken[0]) for step in window]


def rows_in(batch: ss.Batch) -> list[tuple[int, int]]:
    """Return the rows of a batch whose weight is not 0."""
    rows = zip(batch.row_ids.tolist(), batch.pieces.tolist(), batch.weights.tolist(), strict=True)
    return [(row_id, piece) for row_id, piece, weight in rows if weight]


def windows_alone(source: ss.Source, spec: BatchSpec, world_size: int, taken: Taken) -> list[list[list[tuple[int, int]]]]:
    """Return the rows of each turn of each window, read by one process and planned directly."""
    first = read_state(taken.batches[0].state).position.window  # of the window that begins there
    start = WindowStart(first.cursor, first.blocks)
    assert first.served, "the first window must have more than one step"
    tokenize = ss.Tokenize(rank_corpora.letters, max_length=rank_corpora.MAX_LENGTH)
    packed = (spec.causal, spec.row_length, spec.overflow) if isinstance(spec, ss.Pack) else ()
    process = run_here((open_stages([tokenize], tokenize.choose_engines()),), labels=LabelFilter(LabelRule(), *packed))
    blocks = read_blocks(source, EvenOrder(source.num_shards, 0, 0, "shards"), start.cursor)
    found = []
    for window in read_windows(blocks, start, WindowSettings(process, spec, (0, 0), world_size=world_size)):
        column = window.columns["input_ids"]
        keys = spec.sort_keys(column.lengths)  # type: ignore[union-attr]  # sequences of ids
        global_plan = spec.plan_global(LengthCounts.of(keys), key=(0, 0, int(window.row_ids[0])), world_size=world_size)
        steps = schedule_turns(global_plan, 0, world_size)
        by_number = sorted_order(keys)
        window_steps = []
        for step in range(len(steps)):
            parts = slice(step * steps.parts_per_turn, (step + 1) * steps.parts_per_turn)
            places = ranges(steps.first_places[parts], steps.sizes[parts])
            ids = window.row_ids[by_number[global_plan.row_numbers(places)]].tolist()
            pieces = getattr(global_plan, "pieces", None)
            own = [0] * len(ids) if pieces is None else pieces[global_plan._items_at(places)].tolist()  # type: ignore[attr-defined]
            window_steps.append(sorted(zip(ids, own, strict=True)))
        found.append(window_steps)
    return found


def test_labels_of_all_ranks(tmp_path: Path) -> None:
    """Every rank knows the label tokens of a step: for labels of the data, of `Pack`, and of label functions."""
    texts = some_texts(60)
    rows = rank_corpora.json_lines(tmp_path, texts)
    pair = functools.partial(make_pairs, texts, PAIRS["tokens"])
    cases = [
        functools.partial(make_loader, rows, SPECS["tokens"]),
        functools.partial(make_loader, rows, SPECS["pack"]),
        functools.partial(make_loader, rows, SPECS["tokens"], on_batch=ss.CausalLabels()),
        functools.partial(make_loader, rows, SPECS["shapes"], on_batch=ss.CausalLabels(), padding_side="left"),
        functools.partial(pair, on_batch=ss.TeacherForcing(0)),
        functools.partial(pair, on_batch=ss.TeacherForcing(0, source="target_ids", target="source_ids"), layout="jagged"),
    ]
    for make in cases:
        for world_size in (2, 4):
            taken = epoch_of(make, world_size)
            total = 0
            for batches in zip(*(each.batches for each in taken), strict=True):
                own = sum(batch.num_label_tokens for batch in batches)
                assert [batch.global_num_label_tokens for batch in batches] == [own] * world_size
                total += own
            assert total == sum(batch.num_label_tokens for batch in make())
            assert total > 0


def test_labels_of_other_functions() -> None:
    """Labels of other functions cannot be counted before; the error has the remedy."""

    def add_labels(batch: ss.Batch) -> ss.Batch:
        return batch.with_columns("input_ids", labels=batch.input_ids.clone())

    make = functools.partial(make_ids, [[1, 2, 3]] * 9, ss.Bucket(12), on_batch=add_labels)
    taken = epoch_of(make, 2)
    for each in taken:
        with pytest.raises(RuntimeError, match=r"global_num_label_tokens cannot be known.*all_reduce"):
            _ = each.batches[0].global_num_label_tokens
        assert each.batches[0].global_num_tokens == sum(other.batches[0].num_tokens for other in taken)


def test_labels_are_left_out_of_repeated_rows(tmp_path: Path) -> None:
    """Repeated rows have no labels, with any kind of labels."""
    rows = [{"input_ids": [1, 2, 3], "label": 1, "labels": [7, 8, 9]}, {"input_ids": [4], "label": 0, "labels": [5]}]
    source = ss.Generator(rows)
    for spec in (ss.Bucket(100), ss.Pack(8, rows=1), ss.Pack(8, rows=2, causal=False)):
        taken = epoch_of(functools.partial(ss.Loader, source, spec), 4)
        repeated = [each.batches[0] for each in taken if each.batches[0].layout.num_repeated]
        assert repeated
        for batch in repeated:
            assert batch.weights.eq(0).all()
            assert batch.labels.eq(-100).all()
            assert torch.as_tensor(batch.label).eq(-100).all()
            assert batch.num_label_tokens == batch.num_tokens == 0


def test_layouts_and_seeds(tmp_path: Path) -> None:
    """Jagged batches on ranks have the same tokens as padded ones; each batch of each rank has its own seed."""
    source = rank_corpora.text_files(tmp_path, some_texts())
    make = functools.partial(make_loader, source, SPECS["tokens"])
    padded, flat = epoch_of(make, 3), epoch_of(functools.partial(make, layout="jagged"), 3)
    for one, other in zip(padded, flat, strict=True):
        for expected, got in zip(one.batches, other.batches, strict=True):
            assert torch.equal(expected.flat(), got.flat())
    seeds = [batch.layout.seed for each in padded for batch in each.batches]
    assert len(set(seeds)) == len(seeds)


def in_processes(pool: Pool, make: Any, world_size: int, **options: Any) -> list[list[Taken]]:
    """Take epochs on ranks in processes; return for each epoch what each rank has taken."""
    taken = pool.run(world_size, functools.partial(rank_jobs.epochs, make, **options))
    return [[*epoch] for epoch in zip(*taken, strict=True)]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_processes(pool: Pool, world_size: int, tmp_path: Path) -> None:
    """In processes over gloo the laws hold as in threads, with the same streams, states and counts of two epochs."""
    rank_corpora.compressed(tmp_path, some_texts())
    names = ["tokens", "shapes", "pack-split"] if world_size == 1 else [*SPECS][world_size % 2 :: 2]
    for kind, name in [*(("files", name) for name in names), ("generator", "rows"), ("split", "pack"), ("pairs", "tokens")]:
        make = rank_jobs.maker(kind, name, tmp_path)
        loader = make()
        alone = rows_of(loader)
        found = in_processes(pool, make, world_size, num=1 + (kind != "files"))
        for epoch, taken in enumerate(found):
            check_steps(taken, loader)
            expect_all_rows(taken, alone, loader, counted=epoch == 0)
        for one, other in zip(found[0], epoch_of(make, world_size), strict=True):
            assert [batch.layout.seed for batch in one.batches] == [batch.layout.seed for batch in other.batches], (kind, name)
            assert [batch.row_ids.tolist() for batch in one.batches] == [batch.row_ids.tolist() for batch in other.batches]
            assert json.dumps(one.state) == json.dumps(other.state)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_processes_with_workers(pool: Pool, workers: int, tmp_path: Path) -> None:
    """Ranks with worker processes give the same stream as without."""
    rank_corpora.compressed(tmp_path, some_texts())
    (expected,) = in_processes(pool, rank_jobs.maker("files", "tokens", tmp_path), 2)
    (got,) = in_processes(
        pool, rank_jobs.maker("files", "tokens", tmp_path, num_workers=workers, multiprocessing_context="fork"), 2
    )
    check_steps(got, rank_jobs.loader_of("files", "tokens", str(tmp_path)))
    for one, other in zip(expected, got, strict=True):
        assert [batch.input_ids.tolist() for batch in one.batches] == [batch.input_ids.tolist() for batch in other.batches]


def test_single_ranks_in_several_processes(pool: Pool, tmp_path: Path) -> None:
    """With ``rank=0, world_size=1`` a loader has all the data in each of several processes."""
    rank_corpora.compressed(tmp_path, some_texts(30))
    make = rank_jobs.maker("files", "tokens", tmp_path, rank=0, world_size=1)
    (taken,) = in_processes(pool, make, 3)
    alone = rows_of(make()).keys()
    assert all(rows_of(each.batches).keys() == alone for each in taken)
