"""How long does the first batch take, once the engine is loaded and checked?

Each in a fresh process: a loader of a large file gives its first batch, or the bare engine, equally cold, encodes 1 MiB of the
same file, which is in memory. They run in turn, and the median of each counts.

A corpus larger than a window begins with a small window. The file is smaller than the default window, so for this the window is
set to a part of it, and compared with the bare engine on 1 MiB. With default windows the file is one window, all of which is
read, tokenised and planned before the first batch; that is compared with the bare engine on the whole file.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import seqstream as ss
from benchmarks.harness import corpora, peers
from benchmarks.harness.proven_engine import prove
from benchmarks.harness.records import Record
from benchmarks.harness.settings import Settings, first_lines
from benchmarks.throughput import read_lines, run_encode

TARGET = 1.5
WHOLE_TARGET = 2.0
MEBIBYTE = 1 << 20
PARTS = 8
"""The file is this many times as large as a window."""


def measure(settings: Settings) -> Iterator[Record]:
    """Measure both on the corpus of `throughput`."""
    text = settings.text(corpora.FIXED)
    mebibyte = first_lines(text, MEBIBYTE)
    window_bytes = text.stat().st_size // PARTS
    ways: dict[str, Callable[[], float]] = {
        "bare fastokens, 1 MiB": lambda: settings.isolate(_bare_seconds, mebibyte, corpora.tokenizer()),
        "first batch, several windows": lambda: settings.isolate(_first_batch_seconds, text, corpora.tokenizer(), window_bytes),
        "bare fastokens, all of it": lambda: settings.isolate(_bare_seconds, text, corpora.tokenizer()),
        "first batch, one window": lambda: settings.isolate(_first_batch_seconds, text, corpora.tokenizer(), None),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(settings.repeats):
        for way, seconds in ways.items():
            settings.show_progress(f"turn {repeat + 1}: {way}")
            found[way].append(seconds())
    name = corpora.FIXED if corpora.data_folder() else corpora.DOCSTRINGS
    cold, first, cold_whole, whole = (
        Record(benchmark="first_batch", corpus=name, what=way, value=1000 * statistics.median(seconds), unit="ms")
        for way, seconds in found.items()
    )
    yield cold
    yield first.against(cold, "<=", TARGET)
    yield cold_whole
    yield whole.against(cold_whole, "<=", WHOLE_TARGET)


def _first_batch_seconds(text: Path, tokenizer: Path, window_bytes: int | None) -> float:
    proven = prove(tokenizer)
    begun = time.perf_counter()
    spec = ss.Bucket(max_tokens=peers.MAX_TOKENS, window_bytes=window_bytes)
    batches = iter(proven.loader(ss.TextFiles(str(text)), spec))
    next(batches)
    seconds = time.perf_counter() - begun
    batches.close()
    return seconds


def _bare_seconds(text: Path, tokenizer: Path) -> float:
    return run_encode(peers.bare_fastokens(tokenizer), read_lines(text)).seconds
