"""The examples, each run as a reader would run it, on a part of the corpus."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import pytest
import resume

from tests.helpers.examples import keep_part, run, run_afresh, run_forking
from tests.helpers.forked import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NUM_DOCSTRINGS = 8_000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep_part(tmp_path_factory.mktemp("cache"), NUM_DOCSTRINGS)


def test_examples_are_short() -> None:
    """An example has fewer than 100 lines."""
    long = {file.name: lines for file in EXAMPLES if (lines := len(file.read_text(encoding="utf-8").splitlines())) >= 100}
    assert long == {}


def test_train_lstm_compares_both_ways_of_batching(cache: Path, tmp_path: Path) -> None:
    """The demo trains in both ways, prints a table and a summary in three lines, and draws a plot."""
    printed = run("train_lstm.py", "--seconds", "0.1", cache=cache, cwd=tmp_path)
    table = {line[:38].strip(): line[38:].split() for line in printed.splitlines() if line[38:].split()}
    random, similar = (float(share.rstrip("%")) for share in table["padding"])
    assert random > 60
    assert similar < 10
    for row in ("real tokens a second", "seconds an epoch"):
        assert all(float(number.replace(",", "")) > 0 for number in table[row])
    assert len([row for row in table if row.startswith("test accuracy after")]) == 2
    assert len([row for row in table if row.startswith("test loss after")]) == 2
    lines = (
        "Similar lengths: .* times as many real tokens a second",
        "Test accuracy: after equal tokens",
        "One run is one seed",
    )
    assert re.search("^" + "\n".join(f"{line}.*" for line in lines) + "$", printed, re.MULTILINE)
    assert (tmp_path / "train_lstm.png").read_bytes().startswith(b"\x89PNG")
    assert f"plot: {tmp_path.resolve() / 'train_lstm.png'}" in printed


def test_resume_goes_on_after_sigkill(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A training that is killed twice has the steps of one that is not, and repeats those after a checkpoint."""
    printed = run_forking(resume, resume.main, cache, monkeypatch, capsys)
    kills = re.findall(r"^killed after step (\d+); the last checkpoint is of step (\d+)$", printed, re.MULTILINE)
    (finished,) = re.findall(r"^finished: (\d+) steps, (\d+) of them done again; (\d+) steps", printed, re.MULTILINE)
    steps, again, left_alone = map(int, finished)
    assert len(kills) == 2
    assert again == sum(int(step) - int(saved) for step, saved in kills) > 0
    assert all(0 < int(saved) <= int(step) < left_alone for step, saved in kills)
    assert steps == left_alone + again
    assert printed.endswith("every step had the same batch and the same loss, to the last bit\n")


def test_huggingface_stream_trains_and_resumes(cache: Path, tmp_path: Path) -> None:
    """A model of transformers learns from a stream, and a new loader resumes with the same batches."""
    printed = run("huggingface_stream.py", cache=cache, cwd=tmp_path)
    assert "HFDataset(IterableDataset" in printed
    first, last = map(float, re.findall(r"first ten steps (\d\.\d+), of the last ten (\d\.\d+)", printed)[0])
    assert last < first
    assert "20 of the 20 batches after it are the same" in printed


def test_evaluate_in_order_gives_every_line_its_prediction(cache: Path, tmp_path: Path) -> None:
    """Similar lengths give the predictions of consecutive lines, line by line, also where they stop and go on."""
    printed = run("evaluate_in_order.py", cache=cache, cwd=tmp_path)
    lines = re.findall(r"^    ([\d,]+) lines in .* resumed after ([\d,]+), (\S+)% padding in the rest$", printed, re.MULTILINE)
    assert [(count, stop) for count, stop, _ in lines] == [(f"{NUM_DOCSTRINGS:,}", f"{NUM_DOCSTRINGS // 3:,}")] * 2
    assert float(lines[1][2]) < float(lines[0][2]) / 5
    assert f"{NUM_DOCSTRINGS:,} of {NUM_DOCSTRINGS:,} lines have the same prediction" in printed


def test_generators_shows_three_uses(cache: Path, tmp_path: Path) -> None:
    """Generators reach torch's DataLoader with no item twice, and a seqstream loader with less padding."""
    printed = run("generators.py", cache=cache, cwd=tmp_path)
    assert "100 images, none of them twice" in printed
    padded, bucketed = map(int, re.findall(r"batches, (\d+)% of the slots are padding", printed))
    assert bucketed < padded


def test_tokenize_once_trains_both_ways(cache: Path, tmp_path: Path) -> None:
    """Tokens that were written have the rows of the text, the loss falls either way, and a second run finds them."""
    options = ("--folder", str(tmp_path / "tokens"))
    printed = run("tokenize_once.py", *options, cache=cache, cwd=tmp_path)
    assert re.search(rf"^wrote {NUM_DOCSTRINGS:,} rows of [\d,]+ tokens in ", printed, re.MULTILINE)
    pattern = r"^(?:tokenised|from) .*loss (\S+), .* loss (\S+); without a model .* s; (\S+) tokens in all$"
    ways = re.findall(pattern, printed, re.MULTILINE)
    assert [float(second) < float(first) for first, second, _ in ways] == [True, True]
    assert ways[0][2] == ways[1][2]


def test_tokenize_on_ray_has_the_same_batches(cache: Path, tmp_path: Path) -> None:
    """Training with actors of Ray, one of which is killed, has the batches of a loader without them."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'seqstream[ray]'")
    printed = run_afresh("tokenize_on_ray.py", "--steps", "12", cache=cache, cwd=tmp_path, RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert "step 6: killed the actor of process" in printed
    assert "12 of 12 batches are, to the last bit, those of a loader without Ray" in printed


def test_tokenize_on_ray_without_ray(cache: Path, tmp_path: Path) -> None:
    """Where Ray is not installed, the example says how to install it, and that is no failure."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.abc, importlib.util, sys\nreal = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *package: None if name == 'ray' else real(name, *package)\n"
    )
    printed = run_afresh(
        "tokenize_on_ray.py", cache=cache, cwd=tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])
    )
    assert printed == "this example needs Ray; install it with: pip install 'seqstream[ray]'\n"
