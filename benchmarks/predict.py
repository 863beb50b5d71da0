"""What do predictions cost, in the order of the source?

A small encoder of the size of BERT-Tiny, two layers of width 128 with random weights, gives the mean of its last states for
each text. Three ways to the same embeddings, from the lines of a file to a tensor for each line:

- as ``SentenceTransformer.encode``: all texts in memory, sorted by characters, and then tokenised, padded and encoded 32 at a
  time. Its algorithm is written here, with the tokenizer of transformers that it calls: sentence-transformers 6.2 gives the
  same embeddings, in 0.94 to 1.02 of the CPU time;
- a sorted list: all texts tokenised, sorted by tokens, and padded and encoded 32 at a time;
- `seqstream.predict` over a `Bucket`.

The ways take turns in one process, with one thread for the encoder, and their CPU time counts, that of all threads. The memory
of `predict` is that of a fresh process after its imports, for a text and for ten copies of it, in small windows. There the
encoder's own memory is held constant: malloc returns what is freed, and oneDNN does not keep what it compiles for each of up to
1,024 shapes. Without these settings a process grows until it has seen most shapes, and no more after that, presumably since
what oneDNN keeps lies between tensors in the heap and leaves holes that malloc cannot return. Another process is killed in the
middle of an epoch, and its successor writes the rest.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.peers import pretrained
from benchmarks.harness.records import Record, Target
from benchmarks.harness.resident import forget_peak, peak_bytes
from benchmarks.harness.settings import Settings, first_lines
from examples.shared.corpus import made_once

MAX_LENGTH = 512
BATCH_SIZE = 32
MAX_TOKENS = 2_048
WINDOW_BATCHES = 128
NUM_BYTES = 1_000_000

SMALL_BATCHES, SMALL_SHARE = 8, 0.4
"""Batches of a window, and the share of the text, where memory and resuming are measured: a text has several windows there."""

SAVE_EVERY = 10
"""Lines between two states that are saved."""
TIMES = 10

ENCODE, SORTED, OURS = "as SentenceTransformer.encode", "a list sorted by tokens", "predict"
TARGETS = {ENCODE: 2.0, SORTED: 1.2}
SAME = 1e-6
MEMORY = 1.05

Encoder: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Ids and mask, ``(B, L)`` -> embeddings ``(B, width)``."""

_MEBIBYTE = 1 << 20

_CONSTANT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""Variables with which the memory of PyTorch does not depend on how many shapes it has seen."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """CPU seconds of each way, run after run, and the largest difference of an embedding from that of the first way."""

    seconds: dict[str, list[float]]
    differences: dict[str, float]
    num_texts: int


def measure(settings: Settings) -> Iterator[Record]:
    """Measure the ways on each corpus, then memory and resuming on one."""
    num_bytes = min(NUM_BYTES, settings.max_bytes or NUM_BYTES)
    texts = {name: first_lines(text, num_bytes) for name, text in _corpora().items()}
    for name, text in texts.items():
        settings.show_progress(name)
        measured: Measured = settings.isolate(_measure, text, corpora.tokenizer(), min(3, settings.repeats))
        yield from _records(name, measured)
    name, text = next(iter(texts.items()))
    text = first_lines(text, int(SMALL_SHARE * num_bytes))
    settings.show_progress("memory")
    yield from _memory(name, text, settings)
    settings.show_progress("kill and resume")
    with tempfile.TemporaryDirectory() as folder:
        value = _num_wrong(text, Path(folder), settings)
    what = "lines that differ, or are missing or repeated, after a kill"
    yield Record(benchmark="predict", corpus=name, what=what, value=value, unit="", target=Target("<=", 0))


def _corpora() -> dict[str, Path]:
    """Return three corpora of texts of very different lengths, or only the docstrings."""
    found = {corpora.DOCSTRINGS: corpora.text(corpora.DOCSTRINGS)}
    if corpora.data_folder() is not None:
        sources = corpora.grouped()[corpora.SOURCES]
        found[corpora.FIXED] = corpora.text(corpora.FIXED)
        found["five sources"] = made_once(f"{sources.parent.name}/{sources.stem}-shuffled.txt", lambda: _lines_of(sources))
    return found


def _lines_of(rows: Path) -> list[str]:
    """Return the texts of JSON lines, in a random order of seed 0."""
    lines = [json.loads(line)["text"] for line in rows.read_text(encoding="utf-8").splitlines()]
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).tolist()
    return [lines[number] for number in order]


def _records(name: str, measured: Measured) -> Iterator[Record]:
    seconds = {way: statistics.median(times) for way, times in measured.seconds.items()}
    what = f"{measured.num_texts:,} texts, {OURS}"
    ours = Record(benchmark="predict", corpus=name, what=what, value=seconds[OURS], unit="CPU s")
    yield ours
    for way, limit in TARGETS.items():
        other = Record(benchmark="predict", corpus=name, what=way, value=seconds[way], unit="CPU s")
        yield other.against(ours, ">=", limit)
        difference = measured.differences[way]
        what = f"largest difference of an embedding from {way}"
        yield Record(benchmark="predict", corpus=name, what=what, value=difference, unit="", target=Target("<=", SAME))


def _measure(text: Path, tokenizer: Path, repeats: int) -> Measured:
    torch.set_num_threads(1)
    encoder = _encoder(tokenizer)
    fast = pretrained(tokenizer)
    ways: dict[str, Callable[[Path], Sequence[Tensor]]] = {
        OURS: lambda path: [result for _, result in _predictions(path, tokenizer, encoder)],
        ENCODE: lambda path: _encode(path, fast, encoder),
        SORTED: lambda path: _encode_sorted(path, fast, encoder),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    differences = {}
    embeddings: dict[str, Tensor] = {}
    for number in range(repeats + 1):
        path = text if number else first_lines(text, 10_000)  # the first run warms up
        for way, function in ways.items():
            begun = time.process_time()
            found = function(path)
            if number:
                seconds[way].append(time.process_time() - begun)
                embeddings[way] = torch.stack(list(found))
    for way in TARGETS:
        differences[way] = float((embeddings[way] - embeddings[OURS]).abs().max())
    return Measured(seconds, differences, len(embeddings[OURS]))


def _encoder(tokenizer: Path) -> Encoder:
    """Return a small BERT with random weights, and the mean of its last states, as sentence-transformers takes it."""
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    size = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    vocabulary = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    model = BertModel(BertConfig(vocab_size=vocabulary, max_position_embeddings=MAX_LENGTH, **size)).eval()

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        real = mask[..., None].to(states.dtype)
        return normalize((states * real).sum(1) / real.sum(1), dim=1)

    return encode


def _predictions(text: Path, tokenizer: Path, encoder: Encoder, window_batches: int = WINDOW_BATCHES) -> ss.Predictions:
    tokenize = ss.Tokenize(tokenizer, max_length=MAX_LENGTH)
    loader = ss.Loader(text, tokenize, ss.Bucket(MAX_TOKENS, window_batches=window_batches), shuffle=False)
    return ss.predict(lambda batch: encoder(batch.input_ids, batch.attention_mask), loader)


def _read(text: Path) -> list[str]:
    return text.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _in_order(order: list[int], embeddings: list[Tensor]) -> list[Tensor]:
    restored: list[Tensor] = [torch.empty(0)] * len(order)
    for number, embedding in zip(order, embeddings, strict=True):
        restored[number] = embedding
    return restored


def _encode(text: Path, fast: Any, encoder: Encoder) -> list[Tensor]:
    """Encode as ``SentenceTransformer.encode`` does, with its default of 32 texts a batch."""
    texts = _read(text)
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    embeddings: list[Tensor] = []
    for start in range(0, len(order), BATCH_SIZE):
        part = [texts[number] for number in order[start : start + BATCH_SIZE]]
        tokens = fast(part, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            embeddings.extend(encoder(tokens["input_ids"], tokens["attention_mask"]).cpu())
    return _in_order(order, embeddings)


def _encode_sorted(text: Path, fast: Any, encoder: Encoder) -> list[Tensor]:
    """Encode a list that was tokenised at once and sorted by tokens, a fixed number of rows at a time."""
    rows = [torch.tensor(ids) for ids in fast(_read(text), truncation=True, max_length=MAX_LENGTH)["input_ids"]]
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    embeddings: list[Tensor] = []
    for start in range(0, len(order), BATCH_SIZE):
        part = [rows[number] for number in order[start : start + BATCH_SIZE]]
        lengths = torch.tensor([len(row) for row in part])
        ids = pad_sequence(part, batch_first=True)
        with torch.inference_mode():
            embeddings.extend(encoder(ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()))
    return _in_order(order, embeddings)


def _memory(name: str, text: Path, settings: Settings) -> Iterator[Record]:
    """Measure a text and ten copies of it, in turn; the median counts."""
    copies = made_once(f"beginnings/{text.stem}-{TIMES}-times.txt", lambda: _read(text) * TIMES)
    paths = {"memory, the text once": text, f"memory, the text {TIMES} times over": copies}
    found: dict[str, list[int]] = {what: [] for what in paths}
    for _ in range(min(3, settings.repeats)):
        for what, path in paths.items():
            with mock.patch.dict(os.environ, _CONSTANT):
                found[what].append(settings.isolate(_peak, path, corpora.tokenizer()))
    records = [
        Record(benchmark="predict", corpus=name, what=what, value=statistics.median(peaks) / _MEBIBYTE, unit="MiB")
        for what, peaks in found.items()
    ]
    yield records[0]
    yield records[1].against(records[0], "<=", MEMORY)


def _peak(text: Path, tokenizer: Path) -> int:
    """Return the peak of the resident bytes while a text is embedded, without those of the imports and the model."""
    import fastokens  # noqa: F401 - so that it is not counted

    torch.set_num_threads(1)
    encoder = _encoder(tokenizer)
    before = forget_peak()
    for _ in _predictions(text, tokenizer, encoder, SMALL_BATCHES):
        pass
    return peak_bytes() - before


def _num_wrong(text: Path, folder: Path, settings: Settings) -> int:
    """Embed a text in a process that is killed, and in another that goes on; compare with one that is left alone."""
    num_lines = len(_read(text))
    killed, alone = folder / "killed", folder / "alone"
    arguments = (text, corpora.tokenizer(), killed, num_lines // 3)
    process = multiprocessing.get_context("forkserver").Process(target=_write, args=arguments)
    process.start()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the process must be killed, it ended with {process.exitcode}")
    settings.isolate(_write, text, corpora.tokenizer(), killed)
    settings.isolate(_write, text, corpora.tokenizer(), alone)
    one, other = (path.read_text(encoding="ascii").splitlines() for path in (killed, alone))
    return abs(len(one) - num_lines) + sum(first != second for first, second in zip(one, other, strict=False))


def _write(text: Path, tokenizer: Path, out: Path, kill_after: int | None = None) -> None:
    """Write row ids and embeddings, and after every few the state; go on after the lines that the saved state knows."""
    torch.set_num_threads(1)
    predictions = _predictions(text, tokenizer, _encoder(tokenizer), SMALL_BATCHES)
    checkpoint = out.with_suffix(".json")
    num_lines = 0
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text(encoding="ascii"))
        predictions.load_state_dict(saved["state"])
        num_lines = saved["num_lines"]
    lines = out.read_text(encoding="ascii").splitlines(keepends=True) if out.exists() else []
    with out.open("w", encoding="ascii") as file:
        file.writelines(lines[:num_lines])
        for record, embedding in predictions:
            num_lines += 1
            file.write(f"{record['row_id']} {embedding.tolist()}\n")
            if num_lines % SAVE_EVERY == 0:
                file.flush()
                checkpoint.write_text(json.dumps({"state": predictions.state_dict(), "num_lines": num_lines}), encoding="ascii")
            if num_lines == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
