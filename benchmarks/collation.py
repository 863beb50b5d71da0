"""How long does it take to make a batch of the rows of a window?

seqstream gathers the rows from the window, where they are in the order of reading, pads them, and computes the mask, the
lengths and the rest of a `Batch`. It is compared with `pad_sequence` alone, on the rows of the same batches as ready int64
tensors. Both make all batches of a window in turn, several times. The best time of each counts, since a window takes
milliseconds and other work of the machine only adds to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.proven_engine import Proven, prove
from benchmarks.harness.records import Record
from benchmarks.harness.settings import Settings
from seqstream.batches.batch import Batch
from seqstream.batches.collate import collate
from seqstream.batches.padding import Padding
from seqstream.shuffling import EvenOrder
from seqstream.windows.block_reader import Cursor, read_blocks
from seqstream.windows.building import read_windows
from seqstream.windows.columns import Ragged
from seqstream.windows.processing import run_here
from seqstream.windows.settings import WindowSettings, WindowStart
from seqstream.windows.window import Window

BUDGETS = (4_096, 16_384)
TARGETS = {("peps", 4_096): 5.0, ("gsm8k", 16_384): 2.5}
LOWEST_TARGET = 0.8
TURNS_PER_REPEAT = 4


def measure(settings: Settings) -> Iterator[Record]:
    """Measure each corpus at each budget."""
    proven = prove(corpora.tokenizer())
    for name in corpora.names():
        for max_tokens in BUDGETS:
            settings.show_progress(f"{name}, {max_tokens} tokens")
            window = largest_window(settings.text(name), proven, max_tokens)
            ours, theirs = _seconds(window, settings.repeats)
            tokens = window.length_counts.num_tokens
            where = f"{name}, max_tokens={max_tokens}"
            made, padded = (
                Record(benchmark="collation", corpus=where, what=what, value=1e9 * seconds / tokens, unit="ns a token")
                for what, seconds in (("seqstream, whole batch", ours), ("pad_sequence alone", theirs))
            )
            yield made
            yield padded.against(made, ">=", TARGETS.get((name, max_tokens), LOWEST_TARGET))


def _seconds(window: Window, repeats: int) -> tuple[float, float]:
    """Return the shortest times of both ways for all batches of the window."""
    rows = tensors_of(window)
    batches = [[rows[row] for row in window.plan.rows(turn)] for turn in range(len(window.plan))]

    def ours(turn: int) -> torch.Tensor:
        if turn == 0:
            window.__dict__.pop("planned", None)  # rows are put in plan order once a window, and that counts
        batch: Batch = collate(window, turn, Padding(), {}, 0)
        ids: torch.Tensor = batch.input_ids
        return ids

    def theirs(turn: int) -> torch.Tensor:
        return pad_sequence(batches[turn], batch_first=True)

    if not all(torch.equal(ours(turn), theirs(turn)) for turn in range(len(batches))):
        raise ValueError("both ways must make the same tensors, got others")
    found = [(_time(ours, len(batches)), _time(theirs, len(batches))) for _ in range(TURNS_PER_REPEAT * repeats)]
    return min(seconds for seconds, _ in found), min(seconds for _, seconds in found)


def _time(make: Callable[[int], torch.Tensor], num_batches: int) -> float:
    begun = time.perf_counter()
    for turn in range(num_batches):
        make(turn)
    return time.perf_counter() - begun


def tensors_of(window: Window) -> list[torch.Tensor]:
    """Return the rows of a window as int64 tensors."""
    column = window.columns["input_ids"]
    if not isinstance(column, Ragged):
        raise TypeError(f"input_ids must be ragged, got {type(column).__name__}")
    flat = column.values[:, 0]
    places = zip(column.starts.tolist(), column.lengths.tolist(), strict=True)
    return [torch.from_numpy(flat[start : start + length].astype(np.int64)) for start, length in places]


def largest_window(text: Path, proven: Proven, max_tokens: int) -> Window:
    """Return the window of the first epoch that has the most batches."""
    source = ss.TextFiles(str(text))
    blocks = read_blocks(source, EvenOrder(source.num_shards, 0, 0, "shards"), Cursor())
    recipe = WindowSettings(run_here(((proven.open(),),)), ss.Bucket(max_tokens=max_tokens), key=(0, 0))
    return max(read_windows(blocks, WindowStart(), recipe), key=lambda window: len(window.plan))
