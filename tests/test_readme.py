"""The code of the README runs, its links lead somewhere, and its figures and its picture are those that commands give."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import seqstream as ss
from benchmarks.harness.result_tables import TABLES, with_tables
from tests.helpers.examples import ROOT, keep_part, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PICTURE = ROOT / "examples" / "padding.svg"
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md"]


def blocks_of(language: str) -> list[str]:
    return [code for name, code in BLOCKS if name == language]


@pytest.fixture
def folder(tmp_path: Path, texts: list[str], bpe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README takes for granted: a corpus and a tokenizer."""
    (tmp_path / "corpus").mkdir()
    for number in range(3):
        (tmp_path / "corpus" / f"{number}.txt").write_text("\n".join(texts[number:240:3]) + "\n")
    (tmp_path / "tokenizer.json").write_text(bpe_file.read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_is_short() -> None:
    """The README has at most 220 lines."""
    assert len(README.splitlines()) <= 220


def test_the_python_blocks_run(folder: Path) -> None:
    """The Python blocks run one after the other, as a reader would run them."""
    blocks = blocks_of("python")
    assert len(blocks) >= 6
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks):
        exec(compile(code, f"README.md, Python block {number}", "exec", dont_inherit=True), names)


def test_both_sides_of_the_change_give_the_same_rows() -> None:
    """What the README removes and what it puts in its place train on the same rows."""
    (diff,) = blocks_of("diff")
    dataset = [(torch.arange(1, number % 40 + 2), number % 3) for number in range(200)]
    names = {"torch": torch, "ss": ss, "DataLoader": DataLoader, "pad_sequence": pad_sequence, "dataset": dataset}
    for sign in "-+":
        rows: list[tuple[list[int], int]] = []
        code = "\n".join(line[1:] for line in diff.splitlines() if line[:1] in (sign, " "))
        exec(compile(code, f"README.md, {sign}", "exec"), {**names, "train_step": partial(keep_rows, rows)})
        assert sorted(rows) == sorted((row.tolist(), label) for row, label in dataset)


def keep_rows(rows: list[tuple[list[int], int]], ids: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor) -> None:
    """Add the rows of a batch, without padding, and their labels."""
    rows += [(row[:length], label) for row, length, label in zip(ids.tolist(), lengths.tolist(), labels.tolist(), strict=True)]


@pytest.mark.parametrize(
    "command", [line.split(" # ")[0].strip() for code in blocks_of("console") for line in code.splitlines()]
)
def test_the_commands_run(folder: Path, command: str) -> None:
    """Each command runs; those of make are looked up only, since they would run these tests again."""
    if command.startswith("make "):
        argv = [*shlex.split(command), "--dry-run", "--directory", str(ROOT)]
    else:
        program, *arguments = shlex.split(command)
        files = [
            str(path) for argument in arguments for path in (sorted(folder.glob(argument)) if "*" in argument else [argument])
        ]
        assert program == "seqstream"
        argv = [sys.executable, "-m", "seqstream", *files]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Each link names a file of the project, and if it has a fragment, a heading of that file."""
    links = re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8"))
    assert links
    for link in links:
        name, _, fragment = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not fragment or fragment in headings_of(target), link


def headings_of(document: Path) -> list[str]:
    """Return the fragments by which GitHub names the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_examples_and_benchmarks_are_named() -> None:
    """The README names every example, and benchmarks/README.md shows every table that is made of results."""
    examples = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert {name for name in examples if name not in README} == set()
    assert {*re.findall(r"<!-- table (\w+) -->", BENCHMARKS)} == {*TABLES}


def test_tables_are_those_of_the_results() -> None:
    """The tables of benchmarks/README.md are what ``python -m benchmarks.harness.result_tables`` makes of the results."""
    assert with_tables(BENCHMARKS) == BENCHMARKS


def test_figures_of_the_readme_are_measured() -> None:
    """Each percentage of the README is in the picture, and each ratio, rounded, in a table of benchmarks/README.md."""
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    title = re.findall(r"<title>(.*)</title>", PICTURE.read_text(encoding="utf-8"))[0]
    assert {*re.findall(r"\d+%", prose)} == {*re.findall(r"\d+%", title)}
    measured = [float(figure.replace(",", "")) for figure in re.findall(r"([\d.,]+)x", BENCHMARKS)]
    ratios = re.findall(r"([\d.]+) times", prose)
    assert ratios
    for ratio in ratios:
        decimals = len(ratio.partition(".")[2])
        assert float(ratio) in [round(figure, decimals) for figure in measured]


def test_the_picture_is_what_its_command_draws(tmp_path: Path) -> None:
    """The committed picture is drawn anew byte for byte of the same docstrings; of those of other versions it looks alike."""
    (tmp_path / "cache").mkdir()
    run("draw_padding.py", "padding.svg", cache=keep_part(tmp_path / "cache", 500), cwd=tmp_path)
    committed, drawn = (path.read_text(encoding="utf-8") for path in (PICTURE, tmp_path / "padding.svg"))
    inputs = [re.findall(r"<desc>(.*)</desc>", text) for text in (committed, drawn)]
    assert inputs[0] != inputs[1] or committed == drawn
    random, similar = (int(share) for share in re.findall(r"(\d+)%</tspan>", drawn))
    assert 40 < random < 95
    assert 0 < similar < 25
    for text in (committed, drawn):
        assert len(text) < 60_000
        assert text.count('class="real"') == text.count('<rect class="pad"') - 1  # one is in the key
        assert len(re.findall(r"M\d+ [\d.]+H", text)) == 2 * 96
