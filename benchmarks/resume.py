"""How long does a loader take to resume at 10, 50 and 90 % of an epoch, and how much does it tokenise for that?

States are saved in the second epoch, whose windows are alike; in the first they grow. The clock starts before a new loader is
made, which loads the state and gives its first batch; its engine is loaded before. The states are measured in turn, several
times, and the median of each counts. A `Map` after the tokenizer counts the records that are tokenised, which are compared with
those of the window of the state.

Windows have 128 batches here, so that the texts are several windows. With default windows they would be one window, all of
which is tokenised again before the first batch: this is measured as well, in the middle of the epoch. A smaller
``window_bytes`` makes it less.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.proven_engine import Proven, prove
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings, first_lines
from benchmarks.throughput import read_lines
from seqstream.records import Json
from seqstream.sources.source import Source

MAX_TOKENS = 4_096
WINDOW_BATCHES = 128
MAX_BYTES = 12_000_000
PERCENTS = (10, 50, 90)
MIDDLE = 50
DEFAULT_SOURCE = "TextFiles"
"""The source that is also measured with default windows."""

TIME_TARGET = 1.5
WINDOWS_TARGET = Target("<=", 1)
BYTE_RANGES = ("TextFiles", "JsonLines")
"""Sources that resume at a byte; the others read from the beginning of a shard."""

_ROWS_PER_GROUP = 1_000
_BUCKET = ss.Bucket(max_tokens=MAX_TOKENS, window_batches=WINDOW_BATCHES)


@dataclasses.dataclass(frozen=True)
class Saved:
    """A state in the middle of an epoch, and the number of records of its window."""

    state: dict[str, Json]
    records: int


@dataclasses.dataclass
class Counting:
    """A function for `Map` that counts records and changes nothing."""

    records: int = 0

    def __call__(self, table: pa.Table) -> pa.Table:
        self.records += len(table)
        return table


def measure(settings: Settings) -> Iterator[Record]:
    """Measure every kind of source on the same texts."""
    whole = settings.text(corpora.FIXED)
    text = first_lines(whole, MAX_BYTES) if whole.stat().st_size > MAX_BYTES else whole
    proven = prove(corpora.tokenizer())
    with tempfile.TemporaryDirectory() as folder:
        for name, source in _sources(text, Path(folder)).items():
            settings.show_progress(name)
            yield from _records(name, source, proven, settings.repeats)
            if name == DEFAULT_SOURCE:
                settings.show_progress(f"{name}, one window")
                yield _one_window(name, source, proven, settings.repeats)


def _one_window(name: str, source: Source, proven: Proven, repeats: int) -> Record:
    """Measure resuming with default windows."""
    saved = _save(source, proven, ss.Bucket(MAX_TOKENS))[MIDDLE]
    seconds = statistics.median(_seconds(source, proven, saved.state, ss.Bucket(MAX_TOKENS)) for _ in range(repeats))
    what = f"at {MIDDLE} % of an epoch of one window"
    return Record(benchmark="resume", corpus=name, what=what, value=1000 * seconds, unit="ms")


def _sources(text: Path, folder: Path) -> dict[str, Source]:
    """Write the texts in every format."""
    from datasets import Dataset

    lines = read_lines(text)
    packed, json_lines, parquet = (folder / name for name in ("text.txt.gz", "text.jsonl", "text.parquet"))
    packed.write_bytes(gzip.compress(text.read_bytes(), 1))
    json_lines.write_text("".join(f"{json.dumps({'text': line})}\n" for line in lines), encoding="utf-8")
    pq.write_table(pa.table({"text": lines}), parquet, row_group_size=_ROWS_PER_GROUP)
    return {
        "TextFiles": ss.TextFiles(str(text)),
        "JsonLines": ss.JsonLines(str(json_lines)),
        "Parquet": ss.Parquet(str(parquet)),
        "HFDataset": ss.HFDataset(Dataset.from_dict({"text": lines})),
        "TextFiles, gzip": ss.TextFiles(str(packed)),
        "Generator": ss.Generator(lines),
    }


def _records(name: str, source: Source, proven: Proven, repeats: int) -> Iterator[Record]:
    saved = _save(source, proven)
    found: dict[int, list[float]] = {percent: [] for percent in PERCENTS}
    for _ in range(repeats):
        for percent, seconds in found.items():
            seconds.append(_seconds(source, proven, saved[percent].state))
    times = {
        percent: Record(
            benchmark="resume",
            corpus=name,
            what=f"at {percent} % of an epoch",
            value=1000 * statistics.median(seconds),
            unit="ms",
        )
        for percent, seconds in found.items()
    }
    target = ("<=", TIME_TARGET) if name in BYTE_RANGES else ()
    first = times[PERCENTS[0]]
    yield first
    yield from (times[percent].against(first, *(target if percent == PERCENTS[-1] else ())) for percent in PERCENTS[1:])
    windows = max(_tokenised(source, proven, saved[percent]) for percent in PERCENTS)
    what = "windows tokenised before the first batch, at most"
    yield Record(benchmark="resume", corpus=name, what=what, value=windows, unit="", target=WINDOWS_TARGET)


def _save(source: Source, proven: Proven, bucket: ss.Bucket = _BUCKET) -> dict[int, Saved]:
    """Run an epoch and keep the states."""
    loader = proven.loader(source, ss.Map(Counting()), bucket)
    loader.set_epoch(1)
    served = [(batch.state, batch.window, batch.num_rows) for batch in loader]
    records = Counter[int]()
    for _, window, num_rows in served:
        records[window] += num_rows
    places = {percent: max(1, len(served) * percent // 100) for percent in PERCENTS}
    return {percent: Saved(served[place - 1][0], records[served[place][1]]) for percent, place in places.items()}


def _seconds(source: Source, proven: Proven, state: dict[str, Json], bucket: ss.Bucket = _BUCKET) -> float:
    begun = time.perf_counter()
    batches = iter(_resumed(source, proven, state, Counting(), bucket=bucket))
    next(batches)
    seconds = time.perf_counter() - begun
    del batches
    return seconds


def _tokenised(source: Source, proven: Proven, saved: Saved) -> float:
    """Return how many times the window's records were tokenised."""
    counting = Counting()
    next(iter(_resumed(source, proven, saved.state, counting, prefetch=0)))
    return counting.records / saved.records


def _resumed(
    source: Source,
    proven: Proven,
    state: dict[str, Json],
    counting: Counting,
    *,
    bucket: ss.Bucket = _BUCKET,
    prefetch: int = 2,
) -> ss.Loader:
    loader = ss.Loader(source, proven.tokenize, ss.Map(counting), bucket, prefetch=prefetch)
    loader.load_state_dict(state)
    return loader
