"""Runs examples as a reader would run them, on a part of the corpus."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from examples.shared import corpus
from tests.helpers import forked
from tests.helpers.forked import ROOT, Program


def keep_part(folder: Path, num_docstrings: int) -> Path:
    """Make a cache folder of the first docstrings, where examples find them as if they had made them."""
    with contextlib.redirect_stdout(io.StringIO()):  # the first test to ask for the corpus makes it, and making it prints
        wholes = corpus.docstrings(), corpus.docstring_texts(), corpus.tokenizer()
    (folder / "seqstream").mkdir()
    for whole, num_lines in zip(wholes, (num_docstrings, num_docstrings, None), strict=True):
        lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)[:num_lines]
        (folder / "seqstream" / whole.name).write_text("".join(lines), encoding="utf-8")
    return folder


def run(name: str, *options: str, cache: Path, cwd: Path) -> str:
    """Run an example in a forked process, in which torch and seqstream are imported, and return what it printed."""
    environment = {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": _path()}
    with Program(ROOT / "examples" / name, options, cwd=cwd, environment=environment) as program:
        return _printed(program.wait())


def run_forking(
    module: ModuleType,
    main: Callable[[], None],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """Run an example in this process and return what it printed; the programs that it starts are forked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(module, "subprocess", forked)
    main()
    return capsys.readouterr().out


def run_afresh(name: str, *options: str, cache: Path, cwd: Path, **environment: str) -> str:
    """Run an example in a new interpreter and return what it printed."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": _path(), **environment}
    command = [sys.executable, str(ROOT / "examples" / name), *options]
    return _printed(subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False))


def _path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    assert "Warning:" not in done.stderr
    return done.stdout
