"""Damaged files, tokenizers, states and options: each leads to the right result or a clear error, with no hang or crash.

Set ``SEQSTREAM_FUZZ_SECONDS`` for longer runs and ``SEQSTREAM_FUZZ_SEED`` for other inputs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SECONDS = float(os.environ.get("SEQSTREAM_FUZZ_SECONDS", "6"))
SEED = os.environ.get("SEQSTREAM_FUZZ_SEED", "0")

KINDS = ("text", "compressed", "json lines", "csv", "parquet", "tokenizers", "states", "loaders", "options")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run cases of all kinds in one process, and return the number of cases and the problems of each kind."""
    log = tmp_path_factory.mktemp("fuzz") / "cases"
    seconds = SECONDS / len(KINDS)
    command = [sys.executable, "-m", "tests.fuzz.run", *KINDS, "--seed", SEED, "--seconds", str(seconds), "--log", str(log)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=5 * SECONDS + 200, check=False
    )
    last = log.read_text(encoding="utf-8").splitlines()[-1:] if log.exists() else []
    assert done.returncode == 0, f"ended with {done.returncode} in {last}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input(kind: str, found: dict[str, dict[str, Any]]) -> None:
    """Runs cases until the time is over; a failing case is printed with its input, seed and number."""
    assert found[kind]["cases"] > 0
    assert not found[kind]["problems"], "\n\n".join(found[kind]["problems"])
