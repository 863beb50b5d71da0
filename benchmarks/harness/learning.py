"""The tasks of the benchmarks that train: rows as ids, an LSTM, and training on the rows of one step after another.

The docstrings are in random order; every other corpus is sorted by label or by source in its file. A tenth of the rows of each
corpus is held out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.settings import Settings
from examples.shared import corpus as docstring_corpus
from seqstream.planning.bucket_cuts import plan_batches
from seqstream.records import RECORD_BITS
from seqstream.sources.source import Source

Rows: TypeAlias = "npt.NDArray[np.int64]"
"""Indices of rows of a `Task`."""

Ids: TypeAlias = "npt.NDArray[np.int32]"
Padded: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Ids ``(B, L)``, lengths and labels."""

WIDTH, HIDDEN = 32, 64
RATE = 0.01

_TEST_TOKENS = 16_384
_PART_TOKENS = 4_096
"""Padded tokens of a part of a step: parts have similar lengths, which gives the same gradient in less time."""


class Network(nn.Module):
    """An LSTM over ids ``(B, L)``: that of the example, which classifies rows, or without labels a language model."""

    def __init__(self, num_tokens: int, num_labels: int | None) -> None:
        super().__init__()
        self.is_language_model = num_labels is None
        self.embedding = nn.Embedding(num_tokens, WIDTH)
        self.lstm = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.linear = nn.Linear(HIDDEN, num_labels or num_tokens)

    def losses(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each row, ``(B,)``: for a language model the sum over all tokens but the first."""
        features, targets = self.predictions(self.outputs(ids), ids, lengths, labels)
        return losses_of(self.linear(features), targets)

    def outputs(self, ids: Tensor) -> Tensor:
        """Return the state at each token, ``(B, L, HIDDEN)``."""
        outputs: Tensor = self.lstm(self.embedding(ids))[0]
        return outputs

    def predictions(self, outputs: Tensor, ids: Tensor, lengths: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states that predict, ``(B, P, HIDDEN)``, and their targets, ``int64 (B, P)``, -100 for none."""
        if not self.is_language_model:
            return outputs[torch.arange(len(ids)), lengths - 1][:, None], labels[:, None]
        following = torch.arange(1, ids.shape[1]) < lengths[:, None]
        return outputs[:, :-1], ids[:, 1:].masked_fill(~following, -100)


def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the losses of each row, ``(B,)``."""
    each = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(targets.shape).sum(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Rows to train on and to test on, in the order of the file.

    Attributes:
        name: The corpus.
        source: The source of the records.
        stages: The stages that make rows of them.
        ids: Tokens of each row.
        labels: ``int64 (N,)``, the label of each row, or for a language model its source.
        row_ids: ``int64 (N,)``.
        tests: Batches to test on.
        num_tokens: Size of the vocabulary.
        is_language_model: Whether tokens are predicted, not labels.
    """

    name: str
    source: Source
    stages: tuple[Any, ...]
    ids: list[Ids]
    labels: Rows
    row_ids: Rows
    tests: list[Padded]
    num_tokens: int
    is_language_model: bool

    @functools.cached_property
    def lengths(self) -> Rows:
        """Tokens of each row, ``int64 (N,)``."""
        return np.array([len(row) for row in self.ids], dtype=np.int64)

    @property
    def units(self) -> Rows:
        """Number of losses of each row, ``int64 (N,)``: one, or one for each token but the first."""
        return self.lengths - 1 if self.is_language_model else np.ones_like(self.lengths)

    @property
    def shards(self) -> Rows:
        """The shard of each row, ``int64 (N,)``, ascending."""
        return self.row_ids >> RECORD_BITS

    def network(self, seed: int) -> Network:
        """Return an untrained model."""
        torch.manual_seed(seed)
        return Network(self.num_tokens, None if self.is_language_model else int(self.labels.max()) + 1)

    def steps_of(self, loader: ss.Loader) -> list[Rows]:
        """Return the rows of each step of a loader of the task, all batches of a step in one array."""
        steps: list[list[Rows]] = [[]]
        for batch in loader:
            steps[-1].append(np.searchsorted(self.row_ids, batch.row_ids.numpy()))
            if batch.is_step_end:
                steps.append([])
        return [np.concatenate(step) for step in steps if step]

    def parts(self, rows: Rows) -> Iterator[Padded]:
        """Yield ids, lengths and labels of some rows, in parts of similar lengths."""
        return (self.padded(rows[part]) for part in sorted_parts(self.lengths[rows], _PART_TOKENS))

    def padded(self, rows: Rows) -> Padded:
        """Return ids, lengths and labels of some rows, in the given order."""
        return padded([self.ids[row] for row in rows], self.labels[rows])

    def test(self, network: Network) -> tuple[float, float]:
        """Return the mean of the held-out losses, and the accuracy."""
        loss, right, count = 0.0, 0, 0
        with torch.inference_mode():
            for ids, lengths, labels in self.tests:
                features, targets = network.predictions(network.outputs(ids), ids, lengths, labels)
                logits = network.linear(features)
                loss += losses_of(logits, targets).sum().item()
                right += int((logits.argmax(2) == targets).sum())
                count += int((targets >= 0).sum())
        return loss / count, right / count


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: two threads of a small model wait for each other, very long if a core is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def names() -> list[str]:
    """Return the tasks that this machine has."""
    return [corpora.DOCSTRINGS, *corpora.grouped()]


def load(name: str, settings: Settings) -> Task:
    """Return the task of a corpus, cut to the limit of the settings."""
    if name == corpora.DOCSTRINGS:
        file, tokenizer, max_length = docstring_corpus.docstrings(), docstring_corpus.tokenizer(), 256
    else:
        kind = "spm_unigram_1k" if name == corpora.SOURCES else "bert_uncased"
        file, tokenizer, max_length = corpora.grouped()[name], corpora.tokenizer(kind), 512
    stages = (ss.Map(_number_labels), ss.Tokenize(str(tokenizer), max_length=max_length))
    source, held_out = ss.JsonLines(str(settings.cut(file))).split(valid=0.1, seed=0)
    ids, labels, row_ids = _rows(source, stages)
    return Task(
        name=name,
        source=source,
        stages=stages,
        ids=ids,
        labels=labels,
        row_ids=row_ids,
        tests=[
            (batch.input_ids, batch.lengths, batch["label"]) for batch in ss.Loader(held_out, *stages, ss.Bucket(_TEST_TOKENS))
        ],
        num_tokens=Tokenizer.from_file(str(tokenizer)).get_vocab_size(),
        is_language_model=name == corpora.SOURCES,
    )


def train(
    task: Task,
    network: Network,
    steps: Sequence[Rows],
    *,
    rate: float = RATE,
    clip: float | None = None,
    num_steps: int | None = None,
) -> Iterator[int]:
    """Train on the rows of each step, and yield the number of steps after each.

    Gradients are divided by a constant, the mean number of losses a step.

    Args:
        task: The task of the rows.
        network: The model.
        steps: The rows of each step.
        rate: Learning rate of Adam.
        clip: Norm at which gradients are clipped.
        num_steps: Number of the steps that are taken.
    """
    constant = task.units[np.concatenate(steps)].sum() / len(steps)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
    for number, rows in enumerate(steps[:num_steps], 1):
        optimizer.zero_grad(set_to_none=True)
        for part in task.parts(rows):
            (network.losses(*part).sum() / constant).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        yield number


def _rows(source: Source, stages: tuple[Any, ...]) -> tuple[list[Ids], Rows, Rows]:
    """Return ids, labels and row ids of all rows, in the order of the file."""
    batches = list(ss.Loader(source, *stages, ss.Unbucketed(256), shuffle=False))
    ids = [
        row[:length].astype(np.int32)
        for batch in batches
        for row, length in zip(batch.input_ids.numpy(), batch.lengths.tolist(), strict=True)
    ]
    labels = np.concatenate([batch["label"].numpy() for batch in batches])
    row_ids = np.concatenate([batch.row_ids.numpy() for batch in batches])
    return ids, labels.astype(np.int64), row_ids


def _number_labels(table: pa.Table) -> pa.Table:
    """Replace the names of the libraries by numbers, if labels are names."""
    if not pa.types.is_string(table["label"].type):
        return table
    numbers = pc.index_in(table["label"], value_set=pa.array(docstring_corpus.LABELS))
    return table.drop_columns("label").append_column("label", numbers)


def sorted_parts(lengths: Rows, max_tokens: int) -> list[Rows]:
    """Cut rows into parts of similar lengths, longest first, within a budget of padded tokens."""
    order = np.argsort(-lengths, kind="stable")
    return np.split(order, plan_batches(lengths[order], max_tokens=max_tokens)[1:-1])


def padded(ids: Sequence[Ids], labels: Rows) -> Padded:
    """Return rows as tensors: ids ``(B, L)``, padded with 0, lengths and labels."""
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    found = np.zeros((len(ids), lengths.max()), dtype=np.int64)
    found[np.arange(found.shape[1]) < lengths[:, None]] = np.concatenate(ids)
    return torch.from_numpy(found), torch.from_numpy(lengths), torch.from_numpy(labels)
