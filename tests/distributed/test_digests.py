"""Digests of tables and functions: the same for the same values, however they lie in memory, and others for others."""

from __future__ import annotations

import datetime
import functools
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest

from seqstream.distributed.digests import describe_function, digest_table

COLUMNS: dict[str, tuple[list[Any], pa.DataType]] = {
    "texts": (["a", "", "bc", None, "ü", "d"], pa.string()),
    "large texts": (["a", "", "bc", None, "ü", "d"], pa.large_string()),
    "ids": ([[1, 2], [], None, [3], [4, 5, 6], [7]], pa.list_(pa.int32())),
    "vectors": ([[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0], [7.0, 8.0], [9.0, 0.0]], pa.list_(pa.float32(), 2)),
    "words": ([["a", None], ["bc"], [], None, ["d", "e"], ["f"]], pa.list_(pa.string())),
    "chats": ([[{"role": "user", "n": 1}], [], None, [{"role": "b", "n": None}] * 2, [None], []], None),
    "numbers": ([1, None, 3, 4, 5, 6], pa.int64()),
    "floats": ([1.0, None, 3.0, -0.5, 5.0, 6.0], pa.float64()),
    "bools": ([True, False, None, True, True, False], pa.bool_()),
    "days": ([datetime.date(2026, 1, day) for day in range(1, 7)], pa.date32()),
    "classes": (["x", "y", "x", None, "y", "y"], pa.dictionary(pa.int8(), pa.string())),
    "maps": ([[("a", 1)], [], None, [("b", 2)], [("c", 3)], []], pa.map_(pa.string(), pa.int64())),
    "nothing": ([None] * 6, pa.null()),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_where_values_lie_does_not_matter(kind: str) -> None:
    """A table of several chunks, a slice of a longer one, and what lies under missing values: the digest is of the values."""
    values, arrow = COLUMNS[kind]
    table = pa.table({"x": pa.array(values, arrow)})
    expected = digest_table(table)
    longer = pa.table({"x": pa.array([*values[3:], *values, *values[:2]], arrow)})
    assert digest_table(longer.slice(3, 6)) == expected
    assert digest_table(pa.concat_tables([longer.slice(3, 2), longer.slice(5, 4)]).unify_dictionaries()) == expected
    assert digest_table(pa.concat_tables([table.slice(0, 0), table])) == expected


@pytest.mark.parametrize("kind", [kind for kind in COLUMNS if kind != "nothing"])
def test_other_values_have_another_digest(kind: str) -> None:
    """Rows in another order, one less, one missing, another name."""
    values, arrow = COLUMNS[kind]
    whole = pa.table({"x": pa.array(values, arrow)})
    others = [[values[1], values[0], *values[2:]], values[:-1], [None, *values[1:]], [*values[:-1], values[0]]]
    digests = [digest_table(pa.table({"x": pa.array(other, whole.column(0).type)})) for other in others]
    digests.append(digest_table(whole.rename_columns(["y"])))
    assert digest_table(whole) not in digests


def test_missing_values_hide_nothing() -> None:
    """What lies under a missing value is no part of the digest."""
    first, second = (
        pa.Array.from_buffers(pa.int32(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(bytes([1, 0, 0, 0, under, 0, 0, 0]))])
        for under in (7, 9)
    )
    assert digest_table(pa.table({"x": first})) == digest_table(pa.table({"x": second}))


def adds(number: int, other: Any = None) -> Any:
    return lambda table: (table, number, other)


class Callable:
    """Is called, and counts that."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, table: Any) -> Any:
        self.count += 1
        return table


def test_functions_by_what_they_do() -> None:
    """The code, closures and defaults count, in plain values; names, places in files and counters do not."""
    assert describe_function(adds(1)) == describe_function(adds(1))
    assert describe_function(adds(1))["number"] == "1"
    assert describe_function(adds(1)) != describe_function(adds(2))
    assert describe_function(adds(1, adds(2))) != describe_function(adds(1, adds(3)))
    assert describe_function(adds(1, [1, "a", None])) != describe_function(adds(1, [1, "b", None]))
    assert describe_function(adds(1, object())) == describe_function(adds(1, object()))
    assert describe_function(functools.partial(adds, 1)) != describe_function(functools.partial(adds, 2))
    assert describe_function(lambda table, by=1: table) != describe_function(lambda table, by=2: table)
    assert describe_function(lambda table: table) == describe_function(lambda table: table)
    assert describe_function(lambda table: table) != describe_function(lambda table: table[0])
    used = Callable()
    before = describe_function(used)
    used(None)
    assert describe_function(used) == before != {}
    assert describe_function(len) == {}


def test_functions_are_the_same_in_every_process() -> None:
    """Sets in code come in an order of each process's own."""
    code = (
        "from seqstream.distributed.digests import describe_function\n"
        "print(describe_function(lambda text: text in {'a', 'b', 'c', 'dd', 'eee'} and [n for n in text]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
