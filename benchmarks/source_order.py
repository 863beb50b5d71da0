"""What does the order of the default settings cost if the data is sorted by class?

A bag of embeddings learns to classify rows of a file that is sorted by class, as many data sets are. Each way shows it every
row equally often, in batches of equally many rows; only the order differs. The reference is
``torch.utils.data.DataLoader(shuffle=True)`` on a list, which shuffles everything. It is compared with all kinds of sources
with default settings: sources whose records can be read one by one; plain files, which are visited block by block; and
compressed files, single row groups and generator functions, which can only be read front to back and are mixed within a window.

The docstrings are sorted by library. If ``SEQSTREAM_DATA`` has them, there are banking77, sorted by its 77 classes, and movie
reviews, as a compressed file of JSON lines and as a plain one. Accuracies are of held-out rows, as means over seeds; a lead is
the mean of the differences of each seed. A run repeats exactly, so leads differ between machines only by rounding.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import json
import random
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.corpora import DOCSTRINGS
from benchmarks.harness.learning import one_thread
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from examples.shared import corpus as docstring_corpus
from seqstream.sources.source import Source

SEEDS = (0, 1, 2)
BATCH_SIZE = 32
RATE = 5e-3
WIDTH = 32
HELD_OUT = 0.2
"""Share of the rows that is held out if a corpus has no test set."""

LEAD_TARGET = Target(">=", -1)
DATA_LOADER = "DataLoader(shuffle=True)"
SPECS: dict[str, ss.Unbucketed | ss.Bucket] = {
    f"Unbucketed({BATCH_SIZE})": ss.Unbucketed(BATCH_SIZE),
    f"Bucket(batch_size={BATCH_SIZE})": ss.Bucket(batch_size=BATCH_SIZE),
}

BANKING, REVIEWS = "banking77", "movie_reviews"

_REVIEWS_HELD_OUT = 0.5
"""The share for movie reviews: there are only 2,000, and a fifth of them would be too noisy."""

_FEW_ROWS = 600
"""Number of rows if corpora are cut."""

Row: TypeAlias = dict[str, str]
"""A text and its label."""

Labelled: TypeAlias = tuple[Tensor, int]
"""Ids and the number of the label."""

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Ids ``(B, L)`` and numbers of labels ``(B,)``."""

PADDING = 0
"""The id of padding in the tokenizers that are used here."""


class Bag(nn.Module):
    """The mean of embeddings of ids ``(B, L)``, 0 left out, and a linear layer."""

    def __init__(self, num_tokens: int, num_labels: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(num_tokens, WIDTH, mode="mean", padding_idx=PADDING)
        self.linear = nn.Linear(WIDTH, num_labels)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores of the labels, ``(B, num_labels)``."""
        scores: Tensor = self.linear(self.embedding(ids))
        return scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A corpus, and how it is learnt.

    Attributes:
        name: Its name.
        rows: Rows to train on, and rows to test on.
        tokenizer: The file of the tokenizer.
        max_length: Largest number of tokens of a row.
        epochs: Number of epochs.
        sources: Writes rows to a folder and returns sources of them; by default in all formats.
    """

    name: str
    rows: tuple[list[Row], list[Row]]
    tokenizer: Path
    max_length: int
    epochs: int
    sources: Callable[[list[Row], Path], dict[str, Source]]


def measure(settings: Settings) -> Iterator[Record]:
    """Train on each corpus, read by every kind of source."""
    is_whole = settings.max_bytes is None
    seeds = SEEDS if is_whole else SEEDS[: settings.repeats]
    with one_thread():
        for name in (BANKING, REVIEWS, DOCSTRINGS) if corpora.data_folder() else (DOCSTRINGS,):
            setting = _setting(name)
            if not is_whole:
                train, test = (part[:: -(-len(part) // _FEW_ROWS)] for part in setting.rows)
                setting = dataclasses.replace(setting, rows=(train, test), epochs=1)
            yield from _records(setting, seeds, settings)


# The rows, class after class


def _setting(name: str) -> Setting:
    if name == BANKING:
        return Setting(
            name=name,
            rows=_banking(),
            tokenizer=corpora.tokenizer("bert_uncased"),
            max_length=64,
            epochs=4,
            sources=_all_sources,
        )
    lines = corpora.labelled()[name] if name == REVIEWS else corpora.grouped_docstrings()
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    if name == REVIEWS:
        tokenizer = corpora.tokenizer("bert_uncased")
        return Setting(name=name, rows=_split(rows), tokenizer=tokenizer, max_length=512, epochs=8, sources=_json_lines_sources)
    rows = rows[::4]  # some thousands
    return Setting(
        name=name, rows=_split(rows), tokenizer=docstring_corpus.tokenizer(), max_length=64, epochs=3, sources=_all_sources
    )


def _banking() -> tuple[list[Row], list[Row]]:
    parts = []
    for part in ("train", "test"):
        with gzip.open(f"{corpora.data_folder()}/banking77/{part}.csv.gz", "rt", encoding="utf-8", newline="") as lines:
            rows = [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(lines)]
        parts.append(sorted(rows, key=lambda row: row["label"]))
    return parts[0], parts[1]


def _split(rows: Sequence[Row], share: float = HELD_OUT) -> tuple[list[Row], list[Row]]:
    """Hold out some random rows, and leave the others in their order."""
    held_out = set(random.Random(0).sample(range(len(rows)), round(share * len(rows))))
    train, test = ([rows[n] for n in range(len(rows)) if (n in held_out) == out] for out in (False, True))
    return train, test


def _all_sources(rows: list[Row], folder: Path) -> dict[str, Source]:
    from datasets import Dataset

    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "rows.parquet", row_group_size=len(rows))
    with gzip.open(folder / "rows.csv.gz", "wt", encoding="utf-8", newline="", compresslevel=1) as file:
        written = csv.DictWriter(file, list(rows[0]))
        written.writeheader()
        written.writerows(rows)
    return {
        "HFDataset": ss.HFDataset(Dataset(table)),
        **_json_lines_sources(rows, folder),
        "Csv, .gz": ss.Csv(str(folder / "rows.csv.gz")),
        "Parquet of one row group": ss.Parquet(str(folder / "rows.parquet")),
        "Generator(list)": ss.Generator(rows),
        "Generator(function)": ss.Generator(functools.partial(iter, rows)),
    }


def _json_lines_sources(rows: list[Row], folder: Path) -> dict[str, Source]:
    lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    (folder / "rows.jsonl").write_bytes(lines)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines, 1))
    return {
        "JsonLines": ss.JsonLines(str(folder / "rows.jsonl")),
        "JsonLines, .gz": ss.JsonLines(str(folder / "rows.jsonl.gz")),
    }


# Training


@dataclasses.dataclass(frozen=True)
class Task:
    """The data of a training, in any order.

    Attributes:
        labels: All labels.
        train: Ids and labels of the rows to train on.
        test: Those of the rows held out, ``(N, L)`` and ``(N,)``.
        numbers: From ids to the numbers of those that occur; 0 is padding, and 1 stands for all others.
        epochs: Number of epochs.
    """

    labels: list[str]
    train: list[Labelled]
    test: Batch
    numbers: Tensor
    epochs: int

    @classmethod
    def of(cls, setting: Setting) -> Task:
        """Encode the rows."""
        labels = sorted({row["label"] for row in setting.rows[0]})
        tokenizer = Tokenizer.from_file(str(setting.tokenizer))
        tokenizer.no_padding()
        tokenizer.enable_truncation(setting.max_length)
        train, test = (_encode(tokenizer, rows, labels) for rows in setting.rows)
        used = torch.cat([ids for ids, _ in train]).unique()
        numbers = torch.ones(tokenizer.get_vocab_size(), dtype=torch.int64)
        numbers[used] = torch.arange(2, 2 + len(used))
        numbers[PADDING] = 0
        return cls(labels, train, pad(test), numbers, setting.epochs)

    def accuracy(self, batches: Iterable[Batch], seed: int) -> float:
        """Train on batches, epoch after epoch, and return the accuracy on held-out rows, in percent."""
        torch.manual_seed(seed)
        model = Bag(int(self.numbers.max()) + 1, len(self.labels))
        optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)
        for _ in range(self.epochs):
            for ids, labels in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(self.numbers[ids]), labels).backward()
                optimizer.step()
        ids, labels = self.test
        with torch.inference_mode():
            return 100 * float((model(self.numbers[ids]).argmax(1) == labels).float().mean())


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The batches of a loader as ids and labels; each iteration is an epoch."""

    loader: ss.Loader

    def __iter__(self) -> Iterator[Batch]:
        return ((batch.input_ids, batch["label"]) for batch in self.loader)


def pad(rows: Sequence[Labelled]) -> Batch:
    """Make a batch of rows."""
    ids, labels = zip(*rows, strict=True)
    return nn.utils.rnn.pad_sequence(list(ids), batch_first=True, padding_value=PADDING), torch.tensor(labels)


def _encode(tokenizer: Tokenizer, rows: Sequence[Row], labels: Sequence[str]) -> list[Labelled]:
    encoded = tokenizer.encode_batch([row["text"] for row in rows])
    numbers = {label: number for number, label in enumerate(labels)}
    return [(torch.tensor(one.ids), numbers[row["label"]]) for one, row in zip(encoded, rows, strict=True) if one.ids]


def _records(setting: Setting, seeds: Sequence[int], settings: Settings) -> Iterator[Record]:
    task = Task.of(setting)
    stages = ss.ClassLabels(task.labels), ss.Tokenize(str(setting.tokenizer), max_length=setting.max_length)

    def record(what: str, values: Sequence[float], target: Target | None = None) -> Record:
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        value = statistics.mean(values)
        return Record(
            benchmark="source_order", corpus=setting.name, what=what, value=value, unit="%", target=target, error=error
        )

    settings.show_progress(f"{setting.name}, {DATA_LOADER}")
    theirs = [
        task.accuracy(DataLoader(task.train, BATCH_SIZE, shuffle=True, collate_fn=pad), seed)  # type: ignore[arg-type]
        for seed in seeds
    ]
    yield record(f"accuracy, {DATA_LOADER}", theirs)
    with tempfile.TemporaryDirectory() as folder:
        for source_name, source in setting.sources(setting.rows[0], Path(folder)).items():
            for spec_name, spec in SPECS.items():
                way = f"{source_name}, {spec_name}"
                settings.show_progress(f"{setting.name}, {way}")
                ours = [task.accuracy(Pairs(ss.Loader(source, *stages, spec, seed=seed)), seed) for seed in seeds]
                leads = [one - other for one, other in zip(ours, theirs, strict=True)]
                yield record(f"lead over it, {way}", leads, LEAD_TARGET)
