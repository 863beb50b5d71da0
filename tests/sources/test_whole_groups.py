"""`WholeGroups`: blocks that hold whole groups of consecutive records with one key."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream import testing
from seqstream.sources.whole_groups import WholeGroups, group_starts
from seqstream.windows.block_reader import Cursor, read_blocks

GROUPS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(1, 7)), max_size=9)


def sources_of(folder: Path, rows: list[dict[str, Any]], block_bytes: int) -> list[ss.Source]:
    """Records in shards of one block, in one shard of many blocks, read by their numbers, and read front to back."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    paths = folder / "rows.jsonl", folder / "rows.jsonl.gz"
    files = [ss.JsonLines(path, block_bytes=block_bytes) for path in paths] if rows else []
    return [*files, *(ss.Generator(make, block_bytes=block_bytes) for make in (rows, lambda: iter(rows)))]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=GROUPS, block_bytes=st.sampled_from([60, 150, 5000]))
def test_no_group_is_in_two_blocks(tmp_path: Path, groups: list[tuple[str | None, int]], block_bytes: int) -> None:
    """Records keep their order and their row ids, from any state on, and two neighbours with one key are in one block."""
    keys = [key for key, size in groups for _ in range(size)]
    rows = [{"key": key, "number": number} for number, key in enumerate(keys)]
    for source in sources_of(tmp_path, rows, block_bytes):
        grouped = WholeGroups.of(source, "key")
        testing.check_source(grouped)
        numbers = []
        for block in read_blocks(grouped, range(grouped.num_shards), Cursor(), num_open=1):
            numbers += block.table.column("number").to_pylist() if len(block.table) else []
            is_end = not numbers or len(numbers) == len(keys) or keys[len(numbers) - 1] != keys[len(numbers)]
            assert is_end or keys[len(numbers)] is None, f"records {len(numbers) - 1} and {len(numbers)} must be together"
            for row_id, number in zip(block.table.column("row_id").to_pylist()[:2], numbers[-len(block.table) :], strict=False):
                assert source.record(row_id) == grouped.record(row_id) == rows[number]
        assert numbers == list(range(len(keys)))


@pytest.mark.parametrize(
    ("keys", "starts"),
    [
        (pa.array(["a", "a", "b", None, None, "a"]), [0, 2, 3, 4, 5]),
        (pa.array([1, 1, 2]), [0, 2]),
        (pa.array([0.5, 0.5]), [0]),
        (pa.array([True, False, False]), [0, 1]),
        (pa.array([None, None]), [0, 1]),
        (pa.array(["x", "x", "y"]).dictionary_encode(), [0, 2]),
        (pa.array([], pa.string()), []),
    ],
)
def test_where_groups_begin(keys: pa.Array, starts: list[int]) -> None:
    """A group is a run of equal keys of any type; a record without a key is one."""
    assert group_starts(pa.chunked_array([keys.slice(0, 1), keys.slice(1)])).tolist() == starts


def test_keys_that_do_not_fit() -> None:
    """A column that is missing, or holds lists, is named."""
    rows = [{"text": "a", "key": [1]}]
    with pytest.raises(ValueError, match=r"^Bucket\(group=...\) must name a column of strings, numbers or booleans, got list"):
        list(WholeGroups.of(ss.Generator(rows), "key").read(0))
    with pytest.raises(ValueError, match=r"^Bucket\(group=...\) must name a column of the data, which has text, key, got 'y'$"):
        list(WholeGroups.of(ss.Generator(rows), "y").read(0))
