"""Warnings of data whose batches hold one class each."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import seqstream as ss


def records(num: int = 600) -> list[dict[str, Any]]:
    """Make records of two classes, one after the other."""
    return [
        {"input_ids": [1 + i % 9] * (2 + i % 7), "label": int(i >= num // 2), "name": "ab"[i >= num // 2]} for i in range(num)
    ]


def warnings_of(loader: ss.Loader, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log messages about classes in an epoch."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "seqstream"):
        for _ in loader:
            pass
    return [record.getMessage() for record in caplog.records if "one class at a time" in record.getMessage()]


@pytest.mark.parametrize("spec", [ss.Bucket(batch_size=8, window_batches=4), ss.Unbucketed(8, window_batches=4)], ids=repr)
def test_windows_of_one_class_are_reported(spec: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Small windows of a compressed file that is grouped by class: the first that differs from others is reported, once."""
    path = tmp_path / "grouped.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, records(80))).encode()))
    found = warnings_of(ss.Loader(ss.JsonLines(str(path), block_bytes=500), spec), caplog)
    assert len(found) == 1
    assert found[0].startswith("a window holds label=0 alone, a later one 1; a model that sees one class at a time"), found


def test_batches_of_one_class_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Classes that go with the length, so that batches of like lengths hold one: the numbers are in the message."""
    rows = [{"input_ids": [1] * (20 * (1 + i % 3)), "label": i % 3} for i in range(300)]
    found = warnings_of(ss.Loader(ss.Generator(rows), ss.Bucket(batch_size=10)), caplog)
    assert [text.split(";")[0] for text in found] == [
        "30 of the first 30 batches hold one value of 'label' each, of 3 that there are"
    ]


def rows_once() -> Iterator[dict[str, Any]]:
    yield from records()


@pytest.mark.parametrize(
    "loader",
    [
        ss.Loader(ss.Generator(records()), ss.Bucket(batch_size=8)),
        ss.Loader(ss.Generator(rows_once), ss.Bucket(batch_size=8)),
        ss.Loader(ss.Generator(rows_once), ss.Bucket(batch_size=8, window_batches=4), shuffle=False),
        ss.Loader(ss.Generator([{**row, "label": 3, "name": "x"} for row in records()]), ss.Bucket(batch_size=8)),
        ss.Loader(
            ss.Generator([{**row, "label": i, "name": str(i)} for i, row in enumerate(records())]), ss.Bucket(batch_size=8)
        ),
    ],
    ids=["a list", "one window", "in order", "a column of one value", "a number for each record"],
)
def test_mixed_data_is_not_reported(loader: ss.Loader, caplog: pytest.LogCaptureFixture) -> None:
    """Of data that the defaults mix, of columns that are no classes, and where the order was asked for."""
    assert warnings_of(loader, caplog) == []
