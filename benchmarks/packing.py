"""How fast are sequences packed, and how full are rows?

First, lengths alone: those of whole corpora, each cut at the length of a row. seqstream sorts and packs them, and in a second
measurement also puts the ids into that order. TRL's `pack_dataset(..., strategy="bfd")` does both: with all sequences in one
call, which fills best, and with 1,000 a call, its default. It is measured if TRL is installed; ``pip install --no-deps trl
accelerate`` installs what is needed. The ways run in turn, and the median of several runs counts.

Second, a loader with `Pack` over an epoch: how full its rows are, the last batch included, and the share of processor time that
planning takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from seqstream.arrays import Lengths
from seqstream.planning.best_fit import pack_rows
from seqstream.planning.tie_order import longest_first

CORPORA = ("movie_reviews", "gsm8k")
ROW_LENGTHS = (2_048, 1_000)
ROWS = 8

OURS, MOVING = "seqstream", "seqstream, ids put in order too"
TRL_WHOLE, TRL_DEFAULT = "TRL, all in one call", "TRL, 1,000 a call"
TRL_CALLS = {TRL_WHOLE: None, TRL_DEFAULT: 1_000}

SPEED_TARGET = 10.0
FILL_TARGET = 1.0
LOADER_FILL_TARGET = Target(">=", 99.5)

Packing: TypeAlias = Callable[[], int]
"""Pack all sequences and return the number of rows."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The result of one way of packing: the median of its seconds, and the number of rows that it filled."""

    seconds: float
    num_rows: int


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The result of an epoch of a loader: seconds of processor time, those of planning, real tokens, and slots."""

    seconds: float
    planning: float
    tokens: int
    slots: int


def measure(settings: Settings) -> Iterator[Record]:
    """Measure the planner and TRL's, then a loader."""
    names = CORPORA if corpora.data_folder() else (corpora.DOCSTRINGS,)
    texts = [settings.text(name) for name in names]
    where = " + ".join(names)
    lengths = lengths_of(texts, max(ROW_LENGTHS))
    for row_length in ROW_LENGTHS:
        settings.show_progress(f"{where}, rows of {row_length}")
        yield from _planner_records(f"{where}, rows of {row_length}", np.minimum(lengths, row_length), row_length, settings)
    settings.show_progress(f"{where}, loader")
    yield from _loader_records(where, texts, settings.repeats)


def _source(texts: Sequence[Path]) -> ss.TextFiles:
    return ss.TextFiles([str(text) for text in texts])


def lengths_of(texts: Sequence[Path], max_length: int) -> Lengths:
    """Return the lengths of all texts, in the order in which they lie in their files."""
    tokenize = ss.Tokenize(str(corpora.tokenizer()), max_length=max_length)
    loader = ss.Loader(_source(texts), tokenize, ss.Unbucketed(1_000), shuffle=False)
    return np.concatenate([batch.lengths.numpy() for batch in loader])


# Lengths alone


def _planner_records(where: str, lengths: Lengths, row_length: int, settings: Settings) -> Iterator[Record]:
    runs = _runs(lengths, row_length, settings)

    def speed(way: str) -> Record:
        value = len(lengths) / runs[way].seconds
        return Record(benchmark="packing", corpus=where, what=f"{way}, speed", value=value, unit="sequences/s")

    def fill(way: str) -> Record:
        value = 100 * int(lengths.sum()) / (runs[way].num_rows * row_length)
        return Record(benchmark="packing", corpus=where, what=f"{way}, fill", value=value, unit="%")

    for way in runs:
        yield speed(way)
        yield from () if way == MOVING else (fill(way),)
    for peer in [way for way in TRL_CALLS if way in runs]:
        yield speed(OURS).against(speed(peer), ">=", SPEED_TARGET)
        yield speed(MOVING).against(speed(peer))
        yield fill(OURS).against(fill(peer), ">=", FILL_TARGET)


def _runs(lengths: Lengths, row_length: int, settings: Settings) -> dict[str, Run]:
    """Run all ways in turn, several times."""
    ids = _made_up_ids(lengths)
    ways: dict[str, Packing] = {
        OURS: lambda: len(_packed(lengths, row_length)[1]) - 1,
        MOVING: lambda: len(_packed_ids(ids, lengths, row_length)),
    }
    if importlib.util.find_spec("trl") is None:
        settings.show_progress("TRL is not installed, so there is nothing to compare with")
    else:
        ways |= {way: _trl(ids, row_length, sequences or len(ids)) for way, sequences in TRL_CALLS.items()}
    rows = {way: pack() for way, pack in ways.items()}  # the first run imports and compiles, and does not count
    times = [{way: _seconds(pack) for way, pack in ways.items()} for _ in range(settings.repeats)]
    return {way: Run(statistics.median(found[way] for found in times), rows[way]) for way in ways}


def _seconds(pack: Packing) -> float:
    begun = time.perf_counter()
    pack()
    return time.perf_counter() - begun


def _made_up_ids(lengths: Lengths) -> pa.ListArray:
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.arange(offsets[-1], dtype=np.int32)))


def _packed(lengths: Lengths, row_length: int) -> tuple[Lengths, Lengths]:
    """Return the sequences row after row, and where rows begin, from lengths in any order."""
    by_length = longest_first(lengths, None)
    order, cuts = pack_rows(lengths[by_length], row_length)
    return by_length[order], cuts


def _packed_ids(ids: pa.ListArray, lengths: Lengths, row_length: int) -> pa.ListArray:
    """Return the ids of each row."""
    order, cuts = _packed(lengths, row_length)
    ends = np.append(0, np.cumsum(lengths[order]))[cuts]
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), ids.take(pa.array(order)).values)


def _trl(ids: pa.ListArray, row_length: int, sequences: int) -> Packing:
    """Return the rows of TRL's packing, with a number of sequences in each call."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from trl.data_utils import pack_dataset

    disable_progress_bar()
    dataset = Dataset(pa.table({"input_ids": ids}))

    def packed() -> Dataset:
        return pack_dataset(dataset, row_length, strategy="bfd", map_kwargs={"batch_size": sequences})

    if (found := sum(map(len, packed()["input_ids"]))) != len(ids.values):
        raise ValueError(f"TRL must pack {len(ids.values):,} tokens, got {found:,}")
    return lambda: len(packed())


# A loader


def _loader_records(where: str, texts: Sequence[Path], repeats: int) -> Iterator[Record]:
    """Run epochs, each the first of a loader whose engine was checked before."""
    row_length = ROW_LENGTHS[0]
    tokenize = ss.Tokenize(str(corpora.tokenizer()), max_length=row_length)
    engines = dict(tokenize.choose_engines())
    loaders = [ss.Loader(_source(texts), tokenize, ss.Pack(row_length, rows=ROWS)) for _ in range(repeats)]
    for loader in loaders:
        state = loader.state_dict()
        state["calibration"]["engines"] = engines
        loader.load_state_dict(state)
    epochs = [_epoch(loader) for loader in loaders]

    def record(what: str, value: float, target: Target | None = None) -> Record:
        return Record(benchmark="packing", corpus=f"{where}, loader", what=what, value=value, unit="%", target=target)

    yield record(f"fill, Pack({row_length}, rows={ROWS})", 100 * epochs[0].tokens / epochs[0].slots, LOADER_FILL_TARGET)
    share = statistics.median(epoch.planning / epoch.seconds for epoch in epochs)
    yield record("planning, of the processor time of an epoch", 100 * share)


def _epoch(loader: ss.Loader) -> Epoch:
    with _clocked(ss.Pack, "plan_global", "_num_rows") as calls:
        begun = time.process_time()
        sizes = [(batch.num_tokens, batch.num_slots) for batch in loader]
        seconds = time.process_time() - begun
    tokens, slots = map(sum, zip(*sizes, strict=True))
    return Epoch(seconds, sum(calls), tokens, slots)


@contextlib.contextmanager
def _clocked(owner: type, *names: str) -> Iterator[list[float]]:
    """Yield a list to which each call of some methods adds its processor time; none of them may call another."""
    calls: list[float] = []

    def clocked(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begun = time.thread_time()
            try:
                return method(*args, **options)
            finally:
                calls.append(time.thread_time() - begun)

        return call

    methods = {name: getattr(owner, name) for name in names}
    try:
        for name, method in methods.items():
            setattr(owner, name, clocked(method))
        yield calls
    finally:
        for name, method in methods.items():
            setattr(owner, name, method)
