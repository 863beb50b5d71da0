"""How long does ``import seqstream`` take, compared with ``import torch``, which it needs?

A new interpreter runs each import, the two in turn; only the import is timed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.records import Record
from benchmarks.harness.settings import Settings

TARGET = 1.15
TURNS_PER_REPEAT = 2
ROOT = Path(__file__).parent.parent


def measure(settings: Settings) -> Iterator[Record]:
    """Import each several times, and take medians."""
    seconds: dict[str, list[float]] = {"torch": [], "seqstream": []}
    for module in seconds if settings.repeats > 1 else ():
        _import_seconds(module)  # from here on modules are compiled and files cached
    for turn in range(TURNS_PER_REPEAT * settings.repeats):
        settings.show_progress(f"turn {turn + 1}")
        for module, found in seconds.items():
            found.append(_import_seconds(module))
    torch, seqstream = (
        Record(benchmark="imports", corpus="-", what=f"import {module}", value=statistics.median(found), unit="s")
        for module, found in seconds.items()
    )
    yield torch
    yield seqstream.against(torch, "<=", TARGET)


def _import_seconds(module: str) -> float:
    code = f"import time; begun = time.perf_counter(); import {module}; print(time.perf_counter() - begun)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)
