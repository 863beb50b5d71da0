"""How long do the views of a batch take, compared with functions that make the same form of a list of rows?

The rows are those of the batches of one window, as int64 tensors, or lists of ids for the collator of transformers, which are
made before the clock starts. seqstream starts with a batch of the loader, padded or flat; the flat one is also timed with its
collation, from the window. Each way makes all batches of the window, in turn, several times; the best time counts, as in
`collation`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.utils.rnn import pack_sequence

from benchmarks.collation import largest_window, tensors_of
from benchmarks.harness import corpora
from benchmarks.harness.proven_engine import prove
from benchmarks.harness.records import Record
from benchmarks.harness.settings import Settings
from seqstream.batches.batch import Batch
from seqstream.batches.collate import collate
from seqstream.batches.padding import Padding
from seqstream.windows.window import Window

MAX_TOKENS = 16_384
TURNS_PER_REPEAT = 3

PACKED = "packed_sequence()"
"""The view that starts at the same point as the other function; those after it include collation."""

Way = Callable[[int], Any]


def measure(settings: Settings) -> Iterator[Record]:
    """Measure each corpus."""
    proven = prove(corpora.tokenizer())
    for name in corpora.names():
        settings.show_progress(name)
        window = largest_window(settings.text(name), proven, MAX_TOKENS)
        tokens = window.length_counts.num_tokens
        for pair in _pairs(window):
            seconds = _shortest(pair, len(window.plan), TURNS_PER_REPEAT * settings.repeats)
            made = [
                Record(benchmark="views", corpus=name, what=what, value=1e9 * each / tokens, unit="ns a token")
                for what, each in zip(pair, seconds, strict=True)
            ]
            yield made[0]
            yield made[1].against(made[0], ">=", 1.0) if PACKED in pair else made[1].against(made[0])


def _pairs(window: Window) -> Iterator[dict[str, Way]]:
    """Yield the names and the functions of seqstream's way and the other way, for each form."""
    from transformers import DataCollatorWithFlattening

    tensors = tensors_of(window)
    rows = [[tensors[row] for row in window.plan.rows(turn)] for turn in range(len(window.plan))]
    padded = [_batch(window, turn, "padded") for turn in range(len(rows))]
    yield {
        PACKED: lambda turn: padded[turn].packed_sequence(),
        "pack_sequence": lambda turn: pack_sequence(rows[turn]),
    }
    yield {
        "collated flat, nested()": lambda turn: _batch(window, turn, "jagged").nested(),
        "nested_tensor of a list": lambda turn: torch.nested.nested_tensor(rows[turn], layout=torch.jagged),
    }
    features = [[{"input_ids": row.tolist()} for row in batch] for batch in rows]
    flatten = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    yield {
        "collated flat, varlen()": lambda turn: _batch(window, turn, "jagged").varlen(),
        "DataCollatorWithFlattening": lambda turn: flatten(features[turn]),
    }


def _batch(window: Window, turn: int, layout: str) -> Batch:
    return collate(window, turn, Padding(), {}, 0, layout=layout)


def _shortest(pair: dict[str, Way], num_batches: int, num_turns: int) -> list[float]:
    """Return the shortest time of each way for all batches; the ways run in turn."""
    times = [[_time(way, num_batches) for way in pair.values()] for _ in range(num_turns)]
    return [min(found) for found in zip(*times, strict=True)]


def _time(way: Way, num_batches: int) -> float:
    begun = time.perf_counter()
    for turn in range(num_batches):
        way(turn)
    return time.perf_counter() - begun
