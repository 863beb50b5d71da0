"""How much do a few fixed shapes pad, and what does a compiled model gain from them?

First, lengths of whole corpora: 8 padded lengths are chosen by seqstream, at quantiles of the rows, and by the rule of lhotse's
`DynamicBucketingSampler`. Each row is padded to the shortest length that holds it, and the last length is that of the longest
row of the corpus. Waste is padding in tokens. Lengths chosen from the first 64 batches of a stream are also tried on the rest
of it.

Second, a small transformer encoder, forward and backward on one core, on equally many real tokens of docstrings: compiled for
each of 8 shapes, compiled once for batches of any shape, and with all batches padded to the longest shape. All batches are
made, and run once, before the clock starts, which counts processor time; the best pass counts. If corpora are cut, or there is
no C++ compiler, the model is traced and not compiled: graphs are counted, but times mean little.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.proven_engine import Proven, prove
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from seqstream.arrays import Lengths
from seqstream.planning.shape_choice import Histogram, choose_lengths
from seqstream.shuffling import EvenOrder
from seqstream.windows.block_reader import Cursor, read_blocks

NUM_SHAPES = 8
MAX_TOKENS = 4_096
SAMPLE_TOKENS = 64 * MAX_TOKENS

OURS, QUANTILES, EQUAL_TOKENS = "seqstream", "quantiles of rows", "lhotse's equal tokens"
MEAN_TARGETS = {QUANTILES: 0.75, EQUAL_TOKENS: 0.92}
EACH_TARGET = 1.0

FIXED, DYNAMIC, LONGEST = f"{NUM_SHAPES} shapes", "any shape", "longest shape only"
TOKENS = 50_000
"""About how many real tokens a pass of the model has."""

TRAINED_LENGTH = 256
"""Longest row of the model."""

_WARM = 16
"""Largest number of shapes for which the pass before the clock starts has a batch each."""

_BYTES_PER_TOKEN_OF_LESS = 20
"""If corpora are cut, a pass has one token for this many bytes of the limit."""

VOCABULARY, WIDTH, HEADS, LAYERS, LABELS = 8_192, 64, 4, 2, 16


def measure(settings: Settings) -> Iterator[Record]:
    """Measure lengths of each corpus, then the model."""
    proven = prove(corpora.tokenizer())
    whole: list[dict[str, float]] = []
    rest: list[dict[str, float]] = []
    for name in corpora.names():
        settings.show_progress(name)
        lengths = _stream_lengths(proven, settings.text(name))
        longest = int(lengths.max())
        whole.append(_wastes(lengths, lengths, longest))
        yield from _corpus_records(name, whole[-1], int(lengths.sum()))
        sampled = int(np.searchsorted(np.cumsum(lengths), SAMPLE_TOKENS)) + 1
        if lengths[sampled:].sum() >= SAMPLE_TOKENS:
            rest.append(_wastes(lengths[:sampled], lengths[sampled:], longest))
    yield from _mean_records(whole, rest)
    yield from _model_records(settings)


# Lengths


def quantile_lengths(counts: Histogram, num_shapes: int, *, multiple_of: int = 1) -> Lengths:
    """Return the quantiles of the lengths that cut rows into equal parts, and the longest possible length."""
    rows = np.cumsum(counts)
    ends = np.searchsorted(rows * num_shapes, rows[-1] * np.arange(1, num_shapes))
    return _with_the_longest(ends.tolist(), counts, multiple_of)


def equal_token_lengths(counts: Histogram, num_shapes: int, *, multiple_of: int = 1) -> Lengths:
    """Return lengths by lhotse's rule, and the longest possible length.

    Rows are put into a bucket, shortest first, until it has more than its part of all tokens; the next row begins another, and
    rows as long as that one go there, so a bucket is as long as the longest row below it.
    """
    seen = np.flatnonzero(counts)
    rows, tokens = counts[seen], np.cumsum(counts[seen] * seen)
    ends: list[int] = []
    taken = 0
    while len(seen) and (at := int(np.searchsorted(tokens, taken + tokens[-1] // num_shapes, side="right"))) < len(seen):
        before, length = int(tokens[at] - rows[at] * seen[at]), int(seen[at])
        used = (taken + int(tokens[-1]) // num_shapes - before) // length + 1
        taken = before + used * length
        following = at + (used == rows[at])
        if 0 < following < len(seen):
            ends.append(int(seen[following - 1]))
    return _with_the_longest(ends, counts, multiple_of)


def _with_the_longest(ends: Sequence[int], counts: Histogram, multiple_of: int) -> Lengths:
    lengths = np.maximum([*ends, len(counts) - 1], 1)
    return np.unique(-(-lengths // multiple_of) * multiple_of)


RULES = {OURS: choose_lengths, QUANTILES: quantile_lengths, EQUAL_TOKENS: equal_token_lengths}


def _wastes(sample: Lengths, rows: Lengths, longest: int) -> dict[str, float]:
    """Return the padding of rows in tokens, with the lengths that each rule chooses from a sample of them."""
    counts = np.bincount(sample, minlength=longest + 1)
    chosen = {rule: choose(counts, NUM_SHAPES) for rule, choose in RULES.items()}
    return {rule: float((ends[np.searchsorted(ends, rows)] - rows).sum()) for rule, ends in chosen.items()}


def _stream_lengths(proven: Proven, text: Path) -> Lengths:
    """Return the lengths of all rows, with blocks in the random order of a loader."""
    source = ss.TextFiles(str(text))
    stage = proven.open()
    tables = (
        stage([block.table])[0][0] for block in read_blocks(source, EvenOrder(source.num_shards, 0, 0, "shards"), Cursor())
    )
    columns = (table["input_ids"].combine_chunks() for table in tables)
    return np.concatenate([np.diff(column.offsets.to_numpy()).astype(np.int64) for column in columns])


def _corpus_records(name: str, wastes: dict[str, float], tokens: int) -> Iterator[Record]:
    def record(rule: str) -> Record:
        return Record(benchmark="shapes", corpus=name, what=f"waste, {rule}", value=wastes[rule], unit="tokens")

    share = 100 * wastes[OURS] / (tokens + wastes[OURS])
    yield dataclasses.replace(record(OURS), what=f"padding, {NUM_SHAPES} lengths by {OURS}", value=share, unit="%")
    for rule in MEAN_TARGETS:
        yield record(rule)
        yield record(OURS).against(record(rule), "<=", EACH_TARGET)


def _mean_records(whole: Sequence[dict[str, float]], rest: Sequence[dict[str, float]]) -> Iterator[Record]:
    for where, found in (("", whole), (f", lengths of {SAMPLE_TOKENS:,} tokens tried on the rest", rest)):
        for rule, limit in MEAN_TARGETS.items() if found else ():
            mean = statistics.fmean(wastes[OURS] / wastes[rule] for wastes in found)
            what = f"mean of waste of {OURS} / {rule}{where}"
            target = None if where else Target("<=", limit)
            yield Record(benchmark="shapes", corpus=f"{len(found)} corpora", what=what, value=mean, unit="", target=target)


# The model


@dataclasses.dataclass(frozen=True)
class Run:
    """The result of one way of choosing shapes for a compiled model.

    Attributes:
        seconds: Processor time of a pass.
        tokens: Real tokens in a pass.
        slots: Slots of a pass: real tokens, padding and made-up rows.
        batches: Steps of a pass.
        shapes: Number of different shapes in a whole epoch.
        graphs: Number of compiled graphs.
    """

    seconds: float
    tokens: int
    slots: int
    batches: int
    shapes: int
    graphs: int


class Encoder(nn.Module):
    """A transformer encoder over ids ``(B, L)`` and its loss, the mean over rows by their weights ``(B,)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, bias=False)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.linear = nn.Linear(WIDTH, LABELS)

    def forward(self, ids: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        hidden = self.layers(self.embedding(ids % VOCABULARY), src_key_padding_mask=~mask)
        losses = nn.functional.cross_entropy(self.linear(hidden[:, 0]), ids[:, 0] % LABELS, reduction="none")
        return (losses * weights).sum() / weights.sum()


def run_model(way: str, text: Path, tokens: int, repeats: int, backend: str) -> Run:
    """Compile the model, run every batch once, then time passes over them."""
    specs = {
        FIXED: ss.Bucket(MAX_TOKENS, shapes=NUM_SHAPES),
        DYNAMIC: ss.Bucket(MAX_TOKENS),
        LONGEST: ss.Bucket(MAX_TOKENS, shapes=[(MAX_TOKENS // TRAINED_LENGTH, TRAINED_LENGTH)]),
    }
    tokenize = ss.Tokenize(str(corpora.tokenizer()), max_length=TRAINED_LENGTH)
    epoch = list(ss.Loader(ss.TextFiles(str(text)), tokenize, specs[way]))
    batches = epoch[:: max(1, round(sum(batch.num_tokens for batch in epoch) / tokens))]  # some batches of every window
    shapes = {tuple(batch.input_ids.shape): batch for batch in epoch}
    warm = [*list(shapes.values())[:_WARM], *batches]
    with _alone():
        torch.manual_seed(0)
        model = Encoder()
        compiled = torch.compile(model, backend=backend, dynamic=way == DYNAMIC)
        _pass_seconds(model, compiled, warm)
        times = [_pass_seconds(model, compiled, batches) for _ in range(repeats)]
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return Run(
        seconds=min(times),
        tokens=sum(batch.num_tokens for batch in batches),
        slots=sum(batch.num_slots for batch in batches),
        batches=len(batches),
        shapes=len(shapes),
        graphs=graphs,
    )


def _pass_seconds(model: nn.Module, compiled: Callable[..., Any], batches: Sequence[ss.Batch]) -> float:
    begun = time.process_time()
    for batch in batches:
        model.zero_grad(set_to_none=True)
        compiled(batch.input_ids, batch.mask, batch.weights).backward()
    return time.process_time() - begun


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Reset the compiler before and afterwards, and compute on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch._dynamo.reset()


def _model_records(settings: Settings) -> Iterator[Record]:
    tokens = settings.max_bytes // _BYTES_PER_TOKEN_OF_LESS if settings.max_bytes else TOKENS
    backend = "inductor" if settings.max_bytes is None and shutil.which("g++") else "eager"
    text = settings.text(corpora.DOCSTRINGS)
    runs: dict[str, Run] = {}
    for way in (DYNAMIC, LONGEST, FIXED):
        settings.show_progress(f"encoder, {way}")
        runs[way] = settings.isolate(run_model, way, text, min(tokens, TOKENS), settings.repeats, backend)

    def record(way: str, what: str, value: float, unit: str = "", target: Target | None = None) -> Record:
        where = f"{corpora.DOCSTRINGS}, encoder, {backend}"
        return Record(benchmark="shapes", corpus=where, what=f"{way}, {what}", value=value, unit=unit, target=target)

    def speed(way: str) -> Record:
        return record(way, "real tokens", runs[way].tokens / runs[way].seconds, "tokens/s")

    for way, run in runs.items():
        yield record(way, "padding, rows made up included", 100 * (1 - run.tokens / run.slots), "%")
        yield record(way, "a step", 1e3 * run.seconds / run.batches, "ms")
        yield record(way, "graphs", run.graphs, target=Target("<=", NUM_SHAPES) if way == FIXED else None)
        yield speed(way)
    yield record(FIXED, "shapes in an epoch", runs[FIXED].shapes, target=Target("<=", NUM_SHAPES))
    for way in (DYNAMIC, LONGEST):
        yield speed(FIXED).against(speed(way))
