"""How much faster is a slow Python tokenizer with two worker processes?

The tokenizer sleeps for a millisecond a record, so that the result shows whether workers wait for each other or for the loader,
and not the number of cores. The second epoch is timed: workers run by then, and windows are full.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.records import Record
from benchmarks.harness.settings import Settings
from examples.shared.corpus import made_once

SECONDS_PER_RECORD = 1e-3
RECORDS = 6_000
FEW_RECORDS = 400
"""Number of records if corpora are cut."""

NUM_BLOCKS = 64
TARGET = 1 / 1.7


def slow_lengths(texts: list[str]) -> list[list[int]]:
    """Tokenise into characters, and take a millisecond for each text."""
    time.sleep(SECONDS_PER_RECORD * len(texts))
    return [[ord(letter) % 128 for letter in text[:16]] for text in texts]


def measure(settings: Settings) -> Iterator[Record]:
    """Measure one worker, then two."""
    text = _lines(settings.text(corpora.FIXED), RECORDS if settings.max_bytes is None else FEW_RECORDS)
    name = corpora.FIXED if corpora.data_folder() else corpora.DOCSTRINGS
    found = []
    for workers in (1, 2):
        settings.show_progress(f"{workers} workers")
        value = _seconds(text, workers)
        what = f"an epoch, 1 ms a record, workers={workers}"
        found.append(Record(benchmark="workers", corpus=name, what=what, value=value, unit="s"))
    one, two = found
    yield one
    yield two.against(one, "<=", TARGET)


def _lines(text: Path, num: int) -> Path:
    """Return a file of the first lines of a text."""

    def first() -> list[str]:
        with text.open(encoding="utf-8") as lines:
            return [line.removesuffix("\n") for line in itertools.islice(lines, num)]

    return made_once(f"beginnings/{text.stem}-{text.stat().st_size}-{num}-lines.txt", first)


def _seconds(text: Path, workers: int) -> float:
    """Return the seconds of an epoch whose windows are full and whose workers run when it begins."""
    source = ss.TextFiles(str(text), block_bytes=max(1, text.stat().st_size // NUM_BLOCKS))
    loader = ss.Loader(source, ss.Tokenize(slow_lengths), ss.Bucket(batch_size=32, window_batches=64), num_workers=workers)
    for _ in loader:
        pass
    begun = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - begun
