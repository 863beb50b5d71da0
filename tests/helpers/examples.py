"""Runs examples as a reader would run them, on a part of the corpus."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from examples.shared import corpus

ROOT = Path(__file__).parents[2]


def keep_part(folder: Path, num_docstrings: int) -> Path:
    """Make a cache folder of the first docstrings, where examples find them as if they had made them."""
    (folder / "seqstream").mkdir()
    for whole, num_lines in (
        (corpus.docstrings(), num_docstrings),
        (corpus.docstring_texts(), num_docstrings),
        (corpus.tokenizer(), None),
    ):
        lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)[:num_lines]
        (folder / "seqstream" / whole.name).write_text("".join(lines), encoding="utf-8")
    return folder


def run(name: str, *options: str, cache: Path, cwd: Path, **environment: str) -> str:
    """Run an example in a process of its own and return what it printed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": path, **environment}
    command = [sys.executable, str(ROOT / "examples" / name), *options]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning:" not in done.stderr
    return done.stdout
