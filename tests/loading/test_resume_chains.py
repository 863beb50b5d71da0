"""Many resumes in one process: the batches of an unbroken run, and nothing that stays behind."""

from __future__ import annotations

import gc
import gzip
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import seqstream as ss

NUM_RESUMES = int(os.environ.get("SEQSTREAM_RESUMES", "13"))
LINES = [f"line {number} " + "word " * (number * 7 % 23) for number in range(500)]


def mixed_text(folder: Path) -> ss.Source:
    """Plain and compressed files."""
    (folder / "a.txt").write_text("\n".join(LINES[:250]))
    (folder / "b.txt.gz").write_bytes(gzip.compress("\n".join(LINES[250:]).encode()))
    return ss.TextFiles(folder / "*", block_bytes=600)


def json_lines(folder: Path) -> ss.Source:
    """Objects, one a line, with a label."""
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": line, "label": len(line)}) for line in LINES))
    return ss.JsonLines(folder / "a.jsonl", block_bytes=600)


def csv_file(folder: Path) -> ss.Source:
    """A file that is read from its front."""
    (folder / "a.csv").write_text("text,label\n" + "\n".join(f"{line},{len(line)}" for line in LINES))
    return ss.Csv(folder / "a.csv", block_bytes=600)


def parquet(folder: Path) -> ss.Source:
    """Row groups of several blocks each."""
    pq.write_table(pa.table({"text": LINES}), folder / "a.parquet", row_group_size=90)
    return ss.Parquet(folder / "a.parquet", block_bytes=600)


def items(folder: Path) -> ss.Source:
    """A list, read by numbers in a random order."""
    return ss.Generator(LINES, block_bytes=600)


def letters(texts: list[str]) -> list[list[int]]:
    """Return the letters of texts as ids."""
    return [list(text.encode()) for text in texts]


SPECS = {
    "bucket": ss.Bucket(600, window_batches=3),
    "pack": ss.Pack(200, rows=3, window_batches=3),
    "in order": ss.Unbucketed(5, window_batches=3),
}


def left_behind(most_threads: int) -> dict[str, int]:
    """Count threads, open files and child processes, once there are no more threads than that, or after some seconds."""
    gc.collect()
    end = time.monotonic() + 10
    while time.monotonic() < end and threading.active_count() > most_threads:
        time.sleep(0.01)
    files = Path("/proc/self/fd")
    return {
        "threads": threading.active_count(),
        "files": len(list(files.iterdir())) if files.exists() else 0,
        "processes": len(multiprocessing.active_children()),
    }


@pytest.mark.parametrize(
    ("make_source", "spec", "workers"),
    [
        (mixed_text, "bucket", 0),
        (json_lines, "in order", 0),
        (csv_file, "bucket", 0),
        (parquet, "pack", 0),
        (items, "in order", 0),
        (mixed_text, "pack", 2),
        (items, "bucket", 2),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_chain_of_resumes(make_source: Callable[[Path], ss.Source], spec: str, workers: int, tmp_path: Path) -> None:
    """Each loader takes one to three batches and is left where it is; the next goes on from there, over the epoch's end too."""
    source = make_source(tmp_path)

    def make(**options: Any) -> ss.Loader:
        return ss.Loader(source, ss.Tokenize(letters, max_length=200), SPECS[spec], epochs=None, **options)

    num_threads = threading.active_count()
    taken: list[ss.Batch] = []
    state = make().state_dict()
    before: dict[str, int] = {}
    for number in range(NUM_RESUMES if workers == 0 else NUM_RESUMES // 2):  # processes take long to start
        loader = make(num_workers=workers)
        loader.load_state_dict(json.loads(json.dumps(state)))
        iteration = iter(loader)
        taken += [next(iteration) for _ in range(1 + number % 3)]
        state = taken[-1].state
        if number % 2:
            iteration.close()
        del iteration, loader
        if number == 4:
            before = left_behind(num_threads)
    after = left_behind(num_threads)
    compare(taken, iter(make()))
    assert all(after[name] <= before[name] for name in after), (before, after)


def compare(taken: list[ss.Batch], whole: Any) -> None:
    """Raise unless some batches are those of an unbroken run."""
    for number, batch in enumerate(taken):
        expected = next(whole)
        assert batch.row_ids.tolist() == expected.row_ids.tolist(), number
        assert batch.input_ids.tolist() == expected.input_ids.tolist(), number
        assert batch.state == expected.state, number
    whole.close()
