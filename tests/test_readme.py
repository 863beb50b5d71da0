"""Every code block of the README runs, in the order in which it stands, in a folder with the files it speaks of."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, texts: list[str], bpe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the README takes for granted: a corpus, a tokenizer, arrays."""
    (tmp_path / "corpus").mkdir()
    for number in range(3):
        (tmp_path / "corpus" / f"{number}.txt").write_text("\n".join(texts[number::3]) + "\n")
    (tmp_path / "tokenizer.json").write_text(bpe_file.read_text())
    (tmp_path / "arrays").mkdir()
    for number in range(4):
        rows = [[number + 1] * (row % 30 + 1) for row in range(50)]
        (tmp_path / "arrays" / f"{number}.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_blocks_run(folder: Path) -> None:
    """The Python blocks run one after the other, as a reader would run them."""
    blocks = [code for language, code in BLOCKS if language == "python"]
    assert len(blocks) >= 6
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks):
        exec(compile(code, f"README.md, Python block {number}", "exec", dont_inherit=True), names)


@pytest.mark.parametrize(
    "command",
    [line.split(" # ")[0].strip() for language, code in BLOCKS if language == "console" for line in code.splitlines()],
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
