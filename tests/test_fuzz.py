"""Damaged files, tokenizers, states and options: each leads to the right result or a clear error, with no hang or crash.

Set ``SEQSTREAM_FUZZ_SECONDS`` for longer runs and ``SEQSTREAM_FUZZ_SEED`` for other inputs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECONDS = float(os.environ.get("SEQSTREAM_FUZZ_SECONDS", "16"))
SEED = os.environ.get("SEQSTREAM_FUZZ_SEED", "0")

SHARES = {
    "text": 1,
    "compressed": 1,
    "json lines": 2,
    "csv": 1,
    "parquet": 1,
    "tokenizers": 1,
    "states": 1,
    "loaders": 1,
    "options": 1,
}
"""Kinds of inputs, with the share of the time for each."""


@pytest.mark.parametrize("kind", SHARES)
def test_damaged_input(kind: str, tmp_path: Path) -> None:
    """Runs cases until the time is over; a failing case is printed with its input, seed and number."""
    log = tmp_path / "cases"
    seconds = SECONDS * SHARES[kind] / sum(SHARES.values())
    command = [sys.executable, "-m", "tests.fuzz.run", kind, "--seed", SEED, "--seconds", str(seconds), "--log", str(log)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds + 200, check=False
    )
    last = log.read_text(encoding="utf-8").splitlines()[-1:] if log.exists() else []
    assert done.returncode == 0, f"ended with {done.returncode} in {last}\n{done.stderr[-4000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cases"] > 0
    assert not found["problems"], "\n\n".join(found["problems"])
