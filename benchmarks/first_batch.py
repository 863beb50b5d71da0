"""How long does the first batch take, with an engine that is loaded and proven, and in a process that begins with nothing?

With an engine that is loaded, each way in a fresh process: a loader of a large file gives its first batch, or the bare engine,
equally cold, encodes 1 MiB of the same file, which is in memory. They run in turn, and the median of each counts.

A corpus larger than a window begins with a small window. The file is smaller than the default window, so for this the window is
set to a part of it, and compared with the bare engine on 1 MiB. With default windows the file is one window, all of which is
read, tokenised and planned before the first batch; that is compared with the bare engine on the whole file.

The whole processes find a proof that an earlier one has stored, or make it. On the clock is everything after the imports, which
are a row of their own: the tokenizer is read, its engine is loaded, and proven where no proof is stored.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import seqstream as ss
from benchmarks.harness import corpora, peers
from benchmarks.harness.proven_engine import prove
from benchmarks.harness.records import Record
from benchmarks.harness.settings import Settings, first_lines
from benchmarks.harness.whole_process import ProcessTimes, run_process
from benchmarks.throughput import read_lines, run_encode

TARGET = 1.5
WHOLE_TARGET = 2.0
STORED_TARGET = {"several windows": 0.6, "one window": 0.6}
"""Of one window all of the file is tokenised as well, with or without a proof."""

MEBIBYTE = 1 << 20
PARTS = 8
"""The file is this many times as large as a window."""


def measure(settings: Settings) -> Iterator[Record]:
    """Measure both on the corpus of `throughput`."""
    text = settings.text(corpora.FIXED)
    yield from _loaded_engines(text, settings)
    yield from _whole_processes(text, settings)


def _loaded_engines(text: Path, settings: Settings) -> Iterator[Record]:
    """Compare the first batch with the bare engine, both loaded before the clock starts."""
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
    cold, first, cold_whole, whole = (_record(way, seconds) for way, seconds in found.items())
    yield cold
    yield first.against(cold, "<=", TARGET)
    yield cold_whole
    yield whole.against(cold_whole, "<=", WHOLE_TARGET)


def _whole_processes(text: Path, settings: Settings) -> Iterator[Record]:
    """Compare processes that find the proof of an earlier one with those that make it."""
    imports: list[float] = []
    for windows, target in STORED_TARGET.items():
        window_bytes = None if windows == "one window" else text.stat().st_size // PARTS
        found: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory() as stored:
            for repeat in range(settings.repeats + 1):
                for way, proof in (("made", None), ("stored", Path(stored))):
                    settings.show_progress(f"{windows}, turn {repeat}: a process, proof {way}")
                    times = _process_times(text, window_bytes, proof, settings)
                    if repeat:  # the first turn stores the proof
                        found.setdefault(f"a process, imports apart, proof {way}, {windows}", []).append(times.first_batch)
                        imports.append(times.imports)
        made, proven = (_record(way, seconds) for way, seconds in found.items())
        yield made
        yield proven.against(made, "<=", target)
    yield _record("start and imports of these processes", imports)


def _process_times(text: Path, window_bytes: int | None, stored: Path | None, settings: Settings) -> ProcessTimes:
    """Run a process up to its first batch, with the cache folder of earlier ones, or an empty one."""
    with tempfile.TemporaryDirectory() as empty:
        times: ProcessTimes = settings.isolate(
            run_process, text, corpora.tokenizer(), stored or Path(empty), window_bytes, False
        )
    return times


def _record(what: str, seconds: list[float]) -> Record:
    name = corpora.FIXED if corpora.data_folder() else corpora.DOCSTRINGS
    return Record(benchmark="first_batch", corpus=name, what=what, value=1000 * statistics.median(seconds), unit="ms")


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
