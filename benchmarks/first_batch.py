"""How long does the first batch take, once the engine is loaded and checked?

In a fresh process each: a loader is made on a large file and gives its first batch; or the bare engine, as cold, encodes 1
MiB of the same file that is in memory. The two in turn, the median of each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import seqstream as ss
from benchmarks import corpus, peers
from benchmarks.proven import prove
from benchmarks.records import Record
from benchmarks.settings import Settings, first_lines
from benchmarks.throughput import read_lines, run_encode

TARGET = 1.5
MEBIBYTE = 1 << 20


def measure(settings: Settings) -> Iterator[Record]:
    """Measure both on the corpus of the throughput figures."""
    text = settings.text(corpus.FIXED)
    mebibyte = first_lines(text, MEBIBYTE)
    ours, bare = [], []
    for repeat in range(settings.repeats):
        settings.say(f"turn {repeat + 1}")
        ours.append(settings.isolate(_first_batch_seconds, text, corpus.tokenizer()))
        bare.append(settings.isolate(_bare_seconds, mebibyte, corpus.tokenizer()))
    name = corpus.FIXED if corpus.data_folder() else corpus.DOCSTRINGS
    first, cold = (
        Record(benchmark="first_batch", corpus=name, what=what, value=1000 * statistics.median(seconds), unit="ms")
        for what, seconds in (("seqstream, first batch", ours), ("bare fastokens, 1 MiB", bare))
    )
    yield cold
    yield first.against(cold, "<=", TARGET)


def _first_batch_seconds(text: Path, tokenizer: Path) -> float:
    proven = prove(tokenizer)
    begun = time.perf_counter()
    batches = iter(proven.loader(ss.TextFiles(str(text)), ss.Bucket(max_tokens=peers.MAX_TOKENS)))
    next(batches)
    seconds = time.perf_counter() - begun
    batches.close()
    return seconds


def _bare_seconds(text: Path, tokenizer: Path) -> float:
    return run_encode(peers.bare_fastokens(tokenizer), read_lines(text)).seconds
