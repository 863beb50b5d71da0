"""Rows that are sent to other ranks arrive unchanged and in order, with columns of any type."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from seqstream.arrow import join_tables
from seqstream.distributed.collectives import CallbackCollectives, SingleProcess
from seqstream.distributed.transport import send_array, send_rows
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers import rank_processes
from tests.helpers.rank_processes import Pool

WORLD_SIZE = 3

ROWS = 20

COLUMNS: dict[str, Callable[[np.random.Generator], pa.Array]] = {
    "int": lambda random: pa.array(random.integers(-9, 9, ROWS)),
    "byte": lambda random: pa.array(random.integers(0, 255, ROWS), pa.uint8()),
    "half": lambda random: pa.array(random.random(ROWS).astype(np.float16)),
    "lists": lambda random: pa.array([random.integers(0, 9, size).tolist() for size in range(ROWS)], pa.list_(pa.int32())),
    "large lists": lambda random: pa.array([[0.5] * size for size in random.integers(0, 4, ROWS)], pa.large_list(pa.float32())),
    "vectors": lambda random: pa.array(random.random((ROWS, 3)).tolist(), pa.list_(pa.float64(), 3)),
    "bool": lambda random: pa.array((random.random(ROWS) < 0.5).tolist()),
    "text": lambda random: pa.array([str(number) * 3 for number in random.integers(0, 99, ROWS)]),
    "nested": lambda random: pa.array([[[1, 2], [int(number)]] for number in random.integers(0, 99, ROWS)]),
    "dictionary": lambda random: pa.array([str(number) for number in random.integers(0, 3, ROWS)]).dictionary_encode(),
    "missing": lambda random: pa.array([None if number < 5 else int(number) for number in random.integers(0, 9, ROWS)]),
    "missing steps": lambda random: pa.array([[None, int(number)] for number in random.integers(0, 9, ROWS)]),
}


def table_of(seed: int, names: list[str], chunks: int = 1) -> pa.Table:
    """Return a table of columns by name."""
    random = np.random.default_rng(seed)
    table = pa.table({name: COLUMNS[name](random) for name in names})
    cuts = np.linspace(0, ROWS, chunks + 1).astype(int).tolist()
    return pa.concat_tables([table.slice(begin, end - begin) for begin, end in itertools.pairwise(cuts)])


def sent_and_received(tables: list[pa.Table], seed: int = 0) -> tuple[list[pa.Table], list[pa.Table]]:
    """Send random rows of each table to random ranks; return the received and the expected rows of each rank."""
    random = np.random.default_rng(seed)
    sent = [np.sort(random.integers(0, len(tables), len(table))) for table in tables]
    rows = [random.permutation(len(table)) for table in tables]

    def job(options: Options) -> pa.Table:
        rank = options["rank"]
        sizes = np.bincount(sent[rank], minlength=len(tables))
        return send_rows(tables[rank], rows[rank], sizes, CallbackCollectives(**options))

    received = run_ranks(len(tables), job)
    expected = [
        join_tables([table.take(each[to == rank]) for table, each, to in zip(tables, rows, sent, strict=True)])
        for rank in range(len(tables))
    ]
    return received, expected


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("name", COLUMNS)
def test_each_kind_of_column(name: str, chunks: int) -> None:
    """Columns of numbers and of lists of numbers are sent as raw memory, others as Arrow streams, alone and together."""
    for names in ([name], ["int", name, "lists"] if name not in ("int", "lists") else ["int", "lists"]):
        received, expected = sent_and_received([table_of(seed, names, chunks) for seed in range(WORLD_SIZE)])
        assert [table.to_pydict() for table in received] == [table.to_pydict() for table in expected]
        assert {table.schema for table in received} == {expected[0].schema}
        assert sum(map(len, received)) == WORLD_SIZE * ROWS


def test_a_rank_without_rows() -> None:
    """A rank without rows may lack columns, and gets those of the others."""
    tables = [
        table_of(0, ["int", "lists", "text"]),
        pa.table({"int": pa.array([], pa.int64())}),
        table_of(2, ["int", "lists", "text"]),
    ]
    received, expected = sent_and_received(tables)
    assert [table.to_pydict() for table in received] == [table.to_pydict() for table in expected]
    assert all(table.schema == tables[0].schema for table in received)


def test_no_rows_anywhere() -> None:
    """Without any rows all ranks get the columns of one of them."""
    known = table_of(0, ["int", "lists", "text"])
    received, _ = sent_and_received([known.slice(0, 0), pa.table({"int": pa.array([], pa.int64())})])
    assert [(len(table), table.schema) for table in received] == [(0, known.schema)] * 2


def test_ranks_with_other_columns() -> None:
    """With other types of numbers, or a missing column, rows get a common schema, as on one process."""
    first, second = table_of(0, ["int", "lists"]), table_of(1, ["int", "lists", "text"])
    narrow = second.set_column(0, "int", second.column("int").cast(pa.int8()))
    received, expected = sent_and_received([first, narrow])
    assert [table.sort_by("int").to_pydict() for table in received] == [table.sort_by("int").to_pydict() for table in expected]
    assert {str(table.schema.field("int").type) for table in received} == {"int64"}


def test_one_rank_has_missing_values() -> None:
    """A column that is plain on one rank only is sent as a stream by all."""
    whole, missing = table_of(0, ["int"]), table_of(1, ["missing"]).rename_columns(["int"])
    received, expected = sent_and_received([whole, missing])
    assert [table.to_pydict() for table in received] == [table.to_pydict() for table in expected]


def test_numbers_alone() -> None:
    """A single rank receives what it sends."""
    values = np.arange(5, dtype=np.int16)
    received, sizes = send_array(values, np.array([5]), SingleProcess())
    assert (received.tolist(), received.dtype, sizes.tolist()) == ([0, 1, 2, 3, 4], np.int16, [5])


def over_gloo(names: list[str]) -> dict[str, Any]:
    """Send 0 rows to rank 0, 1 to rank 1, and so on; return the received rows."""
    from seqstream.distributed.collectives import GlooCollectives

    rank, world_size = rank_processes.rank_and_size()
    sizes = np.arange(world_size)
    return dict(send_rows(table_of(rank, names), np.arange(sizes.sum()), sizes, GlooCollectives()).to_pydict())


def test_over_gloo(pool: Pool) -> None:
    """Rows arrive between processes too, from read-only memory and with empty parts."""
    names = [name for name in COLUMNS if name != "half"]  # NaN is none of them, and floats are compared
    received = pool.run(WORLD_SIZE, over_gloo, names)
    for rank, found in enumerate(received):
        first = sum(range(rank))
        expected = join_tables([table_of(sender, names).slice(first, rank) for sender in range(WORLD_SIZE)])
        assert found == expected.to_pydict()
