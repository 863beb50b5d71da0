"""The examples of one task each, run as a reader would run them, on a part of the corpus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.examples import keep_part, run, run_afresh

PERCENT = r"(\d+\.\d)%"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep_part(tmp_path_factory.mktemp("cache"), 3_000)


def test_summarise_plans_by_source_and_target(cache: Path, tmp_path: Path) -> None:
    """Batches planned by both sides keep the budget and pad least; planned by the source alone they exceed it; loss falls."""
    printed = run("summarise.py", "--steps", "10", cache=cache, cwd=tmp_path)
    rows = re.findall(rf"^(\w[\w ]+\w) +{PERCENT} padding; *([\d,]+) tokens in the largest", printed, re.MULTILINE)
    assert [name for name, _, _ in rows] == ["random", "planned by source", "planned by both"]
    random, by_source, by_both = (float(padding) for _, padding, _ in rows)
    assert random > 40
    assert by_both < by_source / 2 < random / 2
    budget = 2_048
    assert int(rows[2][2].replace(",", "")) <= budget < int(rows[1][2].replace(",", ""))
    before, after = map(float, re.findall(r"loss of a held-out token (\d+\.\d+)", printed))
    assert after < before - 0.5
    assert len(re.findall(r"^    ['\"].* for ['\"].*\.['\"]$", printed, re.MULTILINE)) == 2


def test_tag_words_beats_the_most_frequent_tag(cache: Path, tmp_path: Path) -> None:
    """A tagger that sees the neighbours of a word is better than the most frequent tag, on every word of other modules."""
    printed = run("tag_words.py", "--modules", "16", "--steps", "40", cache=cache, cwd=tmp_path)
    rows = re.findall(rf": {PERCENT} of ([\d,]+) words right, {PERCENT} of names$", printed, re.MULTILINE)
    (baseline, all_words, baseline_names), (tagger, tagged, tagger_names) = rows
    assert all_words == tagged, "no word may be lost"
    assert float(tagger) > float(baseline) + 5
    assert float(tagger_names) > float(baseline_names) + 10


def shown_graphs(printed: str) -> dict[str, tuple[int, int, float]]:
    """Return for each row of the table the graphs of warm-up and epoch, and the padding in percent."""
    rows = re.findall(rf"^(\w[\w ,=]+\w) +(\d+) +(\d+) +[\d.]+ s +\d+ +{PERCENT} ", printed, re.MULTILINE)
    return {name: (int(warm), int(epoch), float(padding)) for name, warm, epoch, padding in rows}


def test_compile_shapes_compiles_nothing_after_warm_up(cache: Path, tmp_path: Path) -> None:
    """There is a graph for each shape and no other; they pad less than one shape, and more than batches of any shape.

    Where no C++ compiler is found the example says so, and counts the graphs all the same.
    """
    nothing = {"CXX": str(tmp_path / "nothing"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    printed = run_afresh("compile_shapes.py", "--shapes", "5", cache=cache, cwd=tmp_path, **nothing)
    assert printed.startswith("no code can be compiled here (")
    assert "backend eager" in printed
    assert len(re.findall(r"\(\d+, \d+\)", printed)) == 5
    graphs = shown_graphs(printed)
    few, one, any_shape = graphs["as many as asked for"], graphs["one, the longest"], graphs["any, dynamic=True"]
    assert few[:2] == (5, 0)
    assert one[:2] == (1, 0)
    assert any_shape[1] == 0
    assert any_shape[2] < few[2] < one[2]
