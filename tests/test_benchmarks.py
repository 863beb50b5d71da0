"""Every benchmark runs from end to end in a tiny setting, and returns records in the form of the files of results."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import imports, waste
from benchmarks.harness import printing, records
from benchmarks.harness.fresh_process import in_fresh_process
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings, first_lines


def here(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in this process, which has imported everything already."""
    return function(*args)


TINY = Settings(repeats=1, seeds=2, max_bytes=100_000, isolate=here)


@pytest.mark.parametrize("name", command.NAMES)
@pytest.mark.filterwarnings("default")  # what other libraries warn of when they are imported is not ours
def test_every_benchmark_makes_records(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records belong to their benchmark, hold finite numbers, survive JSON, and at least one has a target."""
    if name == "device" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    monkeypatch.delenv("SEQSTREAM_DATA", raising=False)
    monkeypatch.setattr(imports, "TURNS_PER_REPEAT", 1)
    found: list[Record] = list(importlib.import_module(f"benchmarks.{name}").measure(TINY))
    written = [json.loads(json.dumps(record.to_json())) for record in found]
    assert {line["benchmark"] for line in written} == {name}
    assert all(math.isfinite(line["value"]) and line["corpus"] and line["what"] for line in written)
    assert all((line["ratio"] is None) == (line["ratio_to"] is None) for line in written)
    assert any(line["target"] is not None and line["reached"] in (True, False) for line in written)
    assert printing.table_of(name, found).row_count == len(found)


def test_a_ratio_is_what_the_target_is_about() -> None:
    """A record is compared by dividing, and its target then bounds the ratio; without a ratio it bounds the value."""
    ours = Record(benchmark="b", corpus="c", what="ours", value=2.0, unit="s")
    theirs = Record(benchmark="b", corpus="c", what="theirs", value=9.0, unit="s").against(ours, ">=", 4)
    assert (theirs.ratio, theirs.ratio_to, theirs.reached) == (4.5, "ours", True)
    assert not theirs.against(ours, ">=", 5).reached
    assert theirs.against(ours).reached is None
    assert Target("<=", 2).holds(ours.value)
    assert not Target("<=", 2).holds(math.nan)
    assert printing.summary([ours, theirs, theirs.against(ours, "<=", 4)]) == (
        "1 of 2 targets reached\nmissed: b, c, theirs: 4.5x of ours, <= 4"
    )


def test_results_are_json_lines(tmp_path: Path) -> None:
    """The first line of a file is the machine, with versions; then one object a measurement."""
    file = tmp_path / "results" / "today.jsonl"
    record = Record(benchmark="b", corpus="c", what="w", value=1.0, unit="s", target=Target(">=", 0.5))
    records.write_lines(file, [{"machine": records.machine()}, record.to_json()])
    first, second = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert {"cpu", "cores", "load", "python", "torch", "numpy", "pyarrow", "tokenizers", "fastokens"} <= set(first["machine"])
    assert (second["target"], second["reached"]) == (">= 0.5", True)


def test_first_lines_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus is cut after the line in which the limit falls."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "text.txt"
    file.write_text("one\ntwo é\nthree\nfour\n", encoding="utf-8")
    assert first_lines(file, 6).read_text(encoding="utf-8") == "one\ntwo é\n"
    assert first_lines(file, 7).read_bytes().decode() == "one\ntwo é\n"


def test_errors_of_a_fresh_process_come_back() -> None:
    """An error of the other process is raised here."""
    assert in_fresh_process(math.sqrt, 4.0) == 2.0
    with pytest.raises(ValueError, match="math domain error"):
        in_fresh_process(math.sqrt, -1.0)


def test_padding_by_hand() -> None:
    """Two batches of 2 and 3 rows: 4 + 3 and 2 + 2 + 1 tokens in 8 and 6 slots, worked out on paper."""
    batches = [np.array([4, 3]), np.array([2, 2, 1])]
    assert waste._percent(batches) == pytest.approx(100 * (1 - 12 / 14))
    assert [rows.tolist() for rows in waste._fill(np.array([4, 3, 2, 2, 1]), 8)] == [[4, 3], [2, 2, 1]]


def test_unknown_benchmarks_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name is an error that lists the known ones."""
    with pytest.raises(SystemExit):
        command.app(["nonsense"])
    assert "must be one of imports, throughput" in " ".join(capsys.readouterr().err.replace("│", " ").split())
