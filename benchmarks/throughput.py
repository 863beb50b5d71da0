"""How long does it take from a text file to padded batches?

Every way runs in a fresh process. Not on the clock: imports, loading the tokenizer and its engine, and the proof of the engine.
The engines of seqstream and the bare engines have then encoded a few unusual texts, none of the corpus. On the clock: listing,
fingerprinting and reading files, tokenising, planning and padding, up to the last batch; the consumer does nothing. Bare
engines read a list of texts in memory, and return the ids in one array. The slowest way runs once and the others several times
in turn; the median counts.

The rows of whole processes have everything on the clock, in two parts: the start of the interpreter with the imports, and all
that follows, with a proof that is made or that an earlier process has stored.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import seqstream as ss
from benchmarks.harness import corpora, peers
from benchmarks.harness.proven_engine import prove, strange_texts
from benchmarks.harness.records import Record
from benchmarks.harness.settings import Settings
from benchmarks.harness.whole_process import ProcessTimes, run_process
from seqstream.tokenizing.engines import EngineName

SEQSTREAM = "seqstream"
WITH_TOKENIZERS = "seqstream, engine=tokenizers"
HF_STREAM = "HF stream, DataLoader, DataCollatorWithPadding"
BY_HAND = "by hand: encode_batch_fast, sorted windows, pad_sequence"
BARE = "bare fastokens"
BARE_TOKENIZERS = "bare encode_batch_fast, ids in one array"

HF_TARGET = {corpora.FIXED: 50, corpora.DOCSTRINGS: 50, "tatoeba": 15}
BY_HAND_TARGET = {corpora.FIXED: 15, corpora.DOCSTRINGS: 15, "tatoeba": 8}
BARE_TARGET = 0.5
BARE_TOKENIZERS_TARGET = 0.85

SLOW_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Run:
    """The result of one way: its seconds, and the number of its real tokens and rows."""

    seconds: float
    tokens: int
    rows: int


def measure(settings: Settings) -> Iterator[Record]:
    """Measure each way on each corpus."""
    for name in (corpora.FIXED, "tatoeba") if corpora.data_folder() else (corpora.DOCSTRINGS,):
        text = settings.text(name)
        runs = {way: _median(found) for way, found in _runs(text, name, settings).items()}
        _check_same_job(runs)
        yield from _records(name, runs, text.stat().st_size)
        yield from _whole_processes(name, text, settings)


def _runs(text: Path, name: str, settings: Settings) -> dict[str, list[Run]]:
    """Run all ways in turn, each as often as it needs."""
    found: dict[str, list[Run]] = {way: [] for way in _WAYS}
    for repeat in range(settings.repeats):
        for way, (run, most) in _WAYS.items():
            if repeat < most:
                settings.show_progress(f"{name}: {way}, {repeat + 1} of {min(most, settings.repeats)}")
                found[way].append(settings.isolate(run, text, corpora.tokenizer()))
    return found


def _whole_processes(name: str, text: Path, settings: Settings) -> Iterator[Record]:
    """Measure whole processes: the first one proves the engine, and those after it find the proof."""
    times: list[ProcessTimes] = []
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(1 + min(settings.repeats, SLOW_REPEATS)):
            settings.show_progress(f"{name}: a process, {'proof stored' if turn else 'proof made'}")
            times.append(settings.isolate(run_process, text, corpora.tokenizer(), Path(cache), None, True))
    for what, found in {
        "start and imports": [each.imports for each in times],
        "all that follows, proof made": [each.all_batches for each in times[:1]],
        "all that follows, proof stored": [each.all_batches for each in times[1:]],
    }.items():
        shown = f"{SEQSTREAM}, a whole process: {what}"
        yield Record(benchmark="throughput", corpus=name, what=shown, value=statistics.median(found), unit="s")


def _median(runs: list[Run]) -> Run:
    return dataclasses.replace(runs[0], seconds=statistics.median(run.seconds for run in runs))


def _check_same_job(runs: dict[str, Run]) -> None:
    ours = runs[SEQSTREAM]
    for way in (WITH_TOKENIZERS, HF_STREAM, BY_HAND):
        if (runs[way].tokens, runs[way].rows) != (ours.tokens, ours.rows):
            raise ValueError(f"{way} must give the tokens and rows that seqstream gives, {ours}, got {runs[way]}")


def _records(name: str, runs: dict[str, Run], num_bytes: int) -> Iterator[Record]:
    def record(way: str) -> Record:
        return Record(benchmark="throughput", corpus=name, what=way, value=runs[way].seconds, unit="s")

    ours, with_tokenizers = record(SEQSTREAM), record(WITH_TOKENIZERS)
    yield ours
    tokens = runs[SEQSTREAM].tokens
    yield dataclasses.replace(ours, what=f"{SEQSTREAM}, text read", value=num_bytes / 1e6 / ours.value, unit="MB/s")
    yield dataclasses.replace(ours, what=f"{SEQSTREAM}, real tokens", value=tokens / ours.value, unit="tokens/s")
    yield record(HF_STREAM).against(ours, ">=", HF_TARGET[name])
    yield record(BY_HAND).against(ours, ">=", BY_HAND_TARGET[name])
    yield record(BARE).against(ours, ">=", BARE_TARGET)
    yield with_tokenizers
    yield record(BARE_TOKENIZERS).against(with_tokenizers, ">=", BARE_TOKENIZERS_TARGET)


def _run_seqstream(text: Path, tokenizer: Path, engine: EngineName = "auto") -> Run:
    proven = prove(tokenizer, engine)
    begun = time.perf_counter()
    loader = proven.loader(ss.TextFiles(str(text)), ss.Bucket(max_tokens=peers.MAX_TOKENS))
    for _ in loader:
        pass
    return Run(time.perf_counter() - begun, loader.stats.tokens, loader.stats.rows)


def _run_with_tokenizers(text: Path, tokenizer: Path) -> Run:
    return _run_seqstream(text, tokenizer, "tokenizers")


def _run_hf_stream(text: Path, tokenizer: Path) -> Run:
    return _consume(peers.hf_stream(text, tokenizer))


def _run_by_hand(text: Path, tokenizer: Path) -> Run:
    return _consume(peers.by_hand(text, tokenizer))


def _consume(batches: Iterable[peers.TorchBatch]) -> Run:
    tokens = rows = 0
    begun = time.perf_counter()
    for batch in batches:
        tokens += int(batch["attention_mask"].sum())
        rows += len(batch["input_ids"])
    return Run(time.perf_counter() - begun, tokens, rows)


def _run_bare(text: Path, tokenizer: Path) -> Run:
    return run_encode(peers.bare_fastokens(tokenizer), read_lines(text))


def _run_bare_tokenizers(text: Path, tokenizer: Path) -> Run:
    return run_encode(peers.bare_tokenizers(tokenizer), read_lines(text))


def run_encode(encode: Callable[[list[str]], Any], texts: list[str]) -> Run:
    """Encode texts in memory with a fresh engine, which has encoded the unusual ones before."""
    encode(strange_texts())
    begun = time.perf_counter()
    ids = encode(texts)
    return Run(time.perf_counter() - begun, len(ids), len(texts))


def read_lines(text: Path) -> list[str]:
    """Return the lines of a text file."""
    with text.open(encoding="utf-8", newline="\n") as file:
        return [line.removesuffix("\n") for line in file]


_WAYS: dict[str, tuple[Callable[[Path, Path], Run], int]] = {
    SEQSTREAM: (_run_seqstream, 99),
    BARE: (_run_bare, 99),
    WITH_TOKENIZERS: (_run_with_tokenizers, SLOW_REPEATS),
    BARE_TOKENIZERS: (_run_bare_tokenizers, SLOW_REPEATS),
    BY_HAND: (_run_by_hand, SLOW_REPEATS),
    HF_STREAM: (_run_hf_stream, 1),
}
"""Each way, and how often it runs at most."""
