"""How long does the first batch take, once the engine is loaded and checked?

In a fresh process each: a loader is made on a large file and gives its first batch; or the bare engine, as cold, encodes 1
MiB of the same file that is in memory. All in turn, the median of each.

A corpus larger than a window begins with a little of it, as any corpus did before windows were so large. The file is smaller
than the default window, so for that the window is set to a part of it. Beside it stands the same file as it is by default: one
window, all of which is read, tokenised and planned before the first batch; that stands beside the bare engine on all of it.
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
"""The file is larger than a window by so much."""


def measure(settings: Settings) -> Iterator[Record]:
    """Measure both on the corpus of the throughput figures."""
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
            settings.say(f"turn {repeat + 1}: {way}")
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
