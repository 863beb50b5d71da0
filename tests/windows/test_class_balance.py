"""Batches balanced by a class: by how much, of which columns, what is counted, and what is refused."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import seqstream as ss
from seqstream import testing
from seqstream.distributed.collectives import CallbackCollectives, Ranks, SingleProcess
from seqstream.planning.length_counts import LengthCounts
from seqstream.testing.rank_threads import Options, run_ranks, try_ranks
from seqstream.windows.class_balance import length_edges, number_classes
from seqstream.windows.collectives import WindowCollectives

SOURCES = ["books", "chats", "code", "mail"]

Record = dict[str, Any]
MakeClass = Callable[[int], Any]

CLASSES: dict[str, MakeClass] = {
    "strings": lambda number: SOURCES[number % 4],
    "ints": lambda number: number % 3 - 100,
    "bools": lambda number: number % 2 == 0,
    "some missing": lambda number: SOURCES[number % 4] if number % 3 else None,
    "all alike": lambda _: "one",
    "all missing": lambda _: None,
}


def grouped(num: int = 6000, seed: int = 0) -> list[Record]:
    """Make records grouped by source, whose lengths depend on it."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.concatenate([rng.lognormal(mean, 0.8, num // 4) for mean in (3, 3.1, 3.2, 3.4)]), 1, 256).astype(int)
    return [{"input_ids": [1] * length, "source": SOURCES[4 * at // num]} for at, length in enumerate(lengths.tolist())]


def records(make_class: MakeClass = CLASSES["strings"], num: int = 100) -> list[Record]:
    """Make records of different lengths, on which their classes depend a little."""
    lengths = np.random.default_rng(1).integers(1, 30, num).tolist()
    return [{"input_ids": [1] * length, "label": make_class(at + length // 15)} for at, length in enumerate(lengths)]


@pytest.fixture
def source_of(tmp_path: Path) -> Callable[[str], ss.Source]:
    """Make a source of records with classes of some kind."""

    def make(kind: str) -> ss.Source:
        rows = records(CLASSES[kind])
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return ss.JsonLines(tmp_path / "rows.jsonl", block_bytes=1000)

    return make


def make_loader(rows: list[Record], spec: ss.Bucket, block_bytes: int = 400, **options: Any) -> ss.Loader:
    return ss.Loader(ss.Generator(lambda: iter(rows), block_bytes=block_bytes), spec, **options)


def distance_of_runs(turns: list[list[ss.Batch]], num: int) -> tuple[float, float]:
    """Return how far the sources of ``num`` turns that follow each other are from those of all, by rows and by tokens.

    It is the mean of total variations.
    """
    counts = np.zeros((2, len(turns), len(SOURCES)))
    for number, turn in enumerate(turns):
        for batch in turn:
            at = [SOURCES.index(name) for name in batch.source]
            counts[0, number] += np.bincount(at, minlength=len(SOURCES))
            counts[1, number] += np.bincount(at, batch.lengths.numpy(), len(SOURCES))
    found = []
    for each in counts:
        sums = np.array([each[begin : begin + num].sum(axis=0) for begin in range(0, len(each) - num + 1, num)])
        shares, overall = sums / sums.sum(axis=1, keepdims=True), each.sum(axis=0) / each.sum()
        found.append(float(np.abs(shares - overall).sum(axis=1).mean() / 2))
    return found[0], found[1]


@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("step", ["mixed", "alike"])
def test_a_few_batches_are_like_all_of_them(world_size: int, step: Any) -> None:
    """Of a corpus grouped by source, 16 consecutive batches of all ranks are nearer to the whole than without ``balance``."""
    rows = grouped()

    def epochs(balance: str | None) -> list[list[ss.Batch]]:
        spec = ss.Bucket(1024 // world_size, window_batches=500, step=step, balance=balance)
        ranks = run_ranks(world_size, lambda options: [*make_loader(rows, spec, 1 << 20, epochs=2, **options)])
        return [[*turn] for turn in zip(*ranks, strict=True)]

    num = 16 if step == "alike" else 16 // world_size
    plain, balanced = (distance_of_runs(epochs(balance), num) for balance in (None, "source"))
    assert balanced[0] < plain[0], f"rows: {plain} without, {balanced} with"
    assert balanced[1] < 0.75 * plain[1], f"tokens: {plain} without, {balanced} with"


@pytest.mark.parametrize("kind", CLASSES)
def test_laws(kind: str, source_of: Callable[[str], ss.Source]) -> None:
    """Every record once, the same stream, resuming anywhere: for classes of any kind, with one process."""
    testing.check_loader(functools.partial(ss.Loader, source_of(kind), ss.Bucket(90, window_batches=6, balance="label")))


@pytest.mark.parametrize(
    "spec",
    [
        ss.Bucket(batch_size=4, window_batches=6, balance="label"),
        ss.Bucket(90, window_batches=6, rows_multiple_of=2, balance="label"),
        ss.Bucket(shapes=[(3, 30), (6, 12)], window_batches=6, balance="label"),
        ss.Bucket(90, window_batches=6, step="alike", balance="label"),
    ],
    ids=repr,
)
def test_laws_of_other_buckets(spec: ss.Bucket) -> None:
    """Whatever else a bucket asks for, and with several batches a step."""
    make = functools.partial(make_loader, records(), spec)
    testing.check_loader(make)
    make = functools.partial(make, accumulate=3)
    testing.check_ranks(make, 3)
    testing.check_elastic(make)


def test_laws_of_pairs() -> None:
    """Rows of two sides are balanced by both lengths together."""
    rows = [{**row, "target_ids": [2] * (1 + 7 * at % 20)} for at, row in enumerate(records())]
    spec = ss.Bucket(160, window_batches=5, columns=("input_ids", "target_ids"), balance="label")
    make = functools.partial(make_loader, rows, spec)
    testing.check_loader(make)
    testing.check_ranks(make, 2)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", CLASSES)
def test_laws_on_ranks(kind: str, world_size: int, source_of: Callable[[str], ss.Source]) -> None:
    """Ranks share the data, in step; as many go on exactly at any state."""
    make = functools.partial(ss.Loader, source_of(kind), ss.Bucket(90, window_batches=4, balance="label"))
    testing.check_ranks(make, world_size)
    testing.check_resume_on_ranks(make, world_size, num_stops=2)


@pytest.mark.parametrize("kind", ["strings", "ints", "some missing"])
def test_any_number_of_ranks_goes_on(kind: str, source_of: Callable[[str], ss.Source]) -> None:
    """A window that some ranks began is finished by others, which find the same order."""
    make = functools.partial(ss.Loader, source_of(kind), ss.Bucket(90, window_batches=8, balance="label"))
    testing.check_elastic(make)
    testing.check_elastic(functools.partial(make, accumulate=2), world_sizes=(4, 1, 2), num_steps=3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
def test_workers_give_the_same_batches() -> None:
    """However many processes run the stages."""
    spec = ss.Bucket(90, window_batches=6, balance="label")
    alone, *others = ([batch.row_ids.tolist() for batch in make_loader(records(), spec, num_workers=num)] for num in (0, 1, 3))
    assert others == [alone, alone]


def test_only_the_order_changes() -> None:
    """The batches of a window are those that there are without, in another order; with ``shuffle=False`` the order stays."""
    found = [
        [batch.row_ids.tolist() for batch in make_loader(records(), ss.Bucket(90, balance=balance), shuffle=shuffle)]
        for shuffle in (True, False)
        for balance in (None, "label")
    ]
    assert sorted(found[0]) == sorted(found[1])
    assert found[0] != found[1]
    assert found[2] == found[3]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_of_ranks_with_groups_of_their_own_stay(accumulate: int) -> None:
    """The optimiser steps are those that there are without, in another order."""

    def epoch(balance: str | None) -> list[list[list[int]]]:
        spec = ss.Bucket(60, balance=balance)
        ranks = run_ranks(3, lambda options: [*make_loader(records(), spec, accumulate=accumulate, **options)])
        steps: dict[int, list[list[int]]] = {}
        for batch in (batch for batches in zip(*ranks, strict=True) for batch in batches):
            steps.setdefault(batch.step, []).append(batch.row_ids.tolist())
        return [*steps.values()]

    plain, balanced = epoch(None), epoch("label")
    assert sorted(plain) == sorted(balanced)
    assert plain != balanced


def test_nothing_is_sent_without_balance() -> None:
    """A balanced window takes two more gathers; one that is not, or whose rows are not shuffled, takes none."""

    def count(spec: ss.Bucket, *, shuffle: bool) -> int:
        def job(options: Options) -> int:
            times = 0

            def all_gather(data: bytes) -> Any:
                nonlocal times
                times += 1
                return options["all_gather"](data)

            list(make_loader(records(), spec, shuffle=shuffle, **{**options, "all_gather": all_gather}))
            return times

        first, second = run_ranks(2, job)
        assert first == second
        return first

    plain, balanced = ss.Bucket(90), ss.Bucket(90, balance="label")
    assert count(balanced, shuffle=True) == count(plain, shuffle=True) + 2
    assert count(balanced, shuffle=False) == count(plain, shuffle=False)


# --- Classes and ranges ---


def numbers_of(tables: list[pa.Table], column: str = "label") -> list[tuple[list[int], int]]:
    """Return the numbers of the classes of each rank's rows, and the number of classes; one rank for each table."""

    def job(options: Options) -> tuple[list[int], int]:
        ranks: Ranks = (
            SingleProcess()
            if len(tables) == 1
            else CallbackCollectives(options["rank"], options["world_size"], options["all_gather"])
        )
        codes, num = number_classes(tables[options["rank"]], column, WindowCollectives(ranks))
        return codes.tolist(), num

    return run_ranks(len(tables), job)


def test_classes_of_three_ranks_by_hand() -> None:
    """The most frequent of all ranks is 0; equally frequent ones are in the order of their JSON; a rank may have no rows."""
    tables = [pa.table({"label": ["b", "a", "b"]}), pa.table({}), pa.table({"label": ["c", "b", None]})]
    assert numbers_of(tables) == [([0, 1, 0], 4), ([], 4), ([2, 0, 3], 4)]
    assert numbers_of(tables[:1]) == [([0, 1, 0], 2)]


def test_a_column_that_part_of_the_data_lacks() -> None:
    """Rows without it have no value, as they would in one table."""
    assert numbers_of([pa.table({"label": [7, 8, 8]}), pa.table({"text": ["x", "y"]})]) == [([2, 0, 0], 3), ([1, 1], 3)]
    assert numbers_of([pa.table({"label": pa.nulls(2)})]) == [([0, 0], 1)]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int64(), pa.uint8()])
@pytest.mark.parametrize("values", [[5, 6, 5, 7, 7, 7], [0, 100, 0, 3, 3, 3], [90, 20, 90, 127, 127, 127]])
def test_numbers_are_classes_like_texts(kind: pa.DataType, values: list[int]) -> None:
    """Numbers near each other or not, of any type, are numbered by how often they occur."""
    assert numbers_of([pa.table({"label": pa.array(values, kind)})]) == [([1, 2, 1, 0, 0, 0], 3)]
    far = [-(1 << 62), 1 << 62, -(1 << 62)]
    assert numbers_of([pa.table({"label": far})]) == [([0, 1, 0], 2)]


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["x", "y", "x"], pa.large_string()),
        pa.array(["x", "y", "x"]).dictionary_encode(),
        pa.array([5, 1 << 63, 5], pa.uint64()),
        pa.array([True, False, True]),
        pa.chunked_array([pa.array(["x"]), pa.array(["y", "x"])]),
    ],
    ids=lambda values: str(values.type),
)
def test_types_of_classes(values: Any) -> None:
    """Strings of any kind, whole numbers, true and false."""
    assert numbers_of([pa.table({"label": values})]) == [([0, 1, 0], 2)]


def test_the_rarest_of_many_classes_are_one() -> None:
    """The 255 most frequent are counted by themselves."""
    ((codes, num),) = numbers_of([pa.table({"label": [*range(300), *range(200)]})])
    assert num == 256
    assert sorted(codes[:200]) == [*range(200)]
    assert codes[:200] == codes[300:]
    assert codes.count(255) == 45


def test_ranges_of_lengths_by_hand() -> None:
    """Of 64 rows with lengths 1 to 64 a range has two lengths, after the first; few lengths are ranges by themselves."""
    assert length_edges(LengthCounts.of(np.arange(1, 65))).tolist() == [*range(2, 64, 2)]
    assert length_edges(LengthCounts.of(np.array([5, 9, 5, 5, 7]))).tolist() == [5, 7]
    assert length_edges(LengthCounts.of(np.array([[5, 1], [3, 3], [3, 3]]))).tolist() == [6]
    assert length_edges(LengthCounts.of(np.array([], dtype=np.int64))).tolist() == []


# --- What is refused ---

NO_CLASSES = (
    "Bucket(balance=...) must name a column of classes, which are strings, whole numbers, or true and false, got {}; "
    "name another, or make one in a Map"
)


@pytest.mark.parametrize(
    ("make_class", "column", "message"),
    [
        (
            CLASSES["ints"],
            "sorce",
            "Bucket(balance=...) must name a column of the data, which has input_ids, label, got 'sorce'",
        ),
        (
            lambda number: number / 2,
            "label",
            NO_CLASSES.format("'label' of type double"),
        ),
        (
            CLASSES["ints"],
            "input_ids",
            NO_CLASSES.format("'input_ids' of type list<element: int64>"),
        ),
    ],
)
@pytest.mark.parametrize("world_size", [1, 3])
def test_columns_that_are_none_of_classes(make_class: MakeClass, column: str, message: str, world_size: int) -> None:
    """They are refused with the reason, the same on all ranks."""

    def job(options: Options) -> None:
        list(make_loader(records(make_class), ss.Bucket(90, balance=column), **options))

    for error in try_ranks(world_size, job):
        assert isinstance(error, ValueError)
        assert re.sub(r"list<\w+: int\d+>", "list<element: int64>", str(error)) == message


@pytest.mark.parametrize("world_size", [1, 2])
def test_columns_of_too_many_values(world_size: int) -> None:
    """Text is no class: the error says how many values there are, on one rank or on all together."""
    tables = [pa.table({"label": [f"{rank} {number}" for number in range(6000 // world_size)]}) for rank in range(world_size)]
    message = (
        "Bucket(balance=...) must name a column of classes, at most 4,096 different ones in a window, got 'label' with 6,000; "
        "name another, or make one in a Map"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        numbers_of(tables)


@pytest.mark.parametrize("balance", ["", 3, ["label"]])
def test_balance_is_a_name(balance: Any) -> None:
    """Anything else is an error."""
    with pytest.raises(ValueError, match=rf"^balance must be the name of a column, got {re.escape(repr(balance))}$"):
        ss.Bucket(100, balance=balance)


def test_balance_is_part_of_the_state() -> None:
    """A loader without it, or by another column, refuses the state; it prints where it is given."""
    assert repr(ss.Bucket(100, balance="label")) == "Bucket(max_tokens=100, balance='label')"
    state = make_loader(records(), ss.Bucket(90, balance="label")).state_dict()
    make_loader(records(), ss.Bucket(90, balance="label")).load_state_dict(json.loads(json.dumps(state)))
    for other in (ss.Bucket(90), ss.Bucket(90, balance="source")):
        with pytest.raises(ValueError, match="balance"):
            make_loader(records(), other).load_state_dict(state)
