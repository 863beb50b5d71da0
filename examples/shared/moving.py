"""What the examples ``from_*.py`` share: labelled texts, their rows as tensors, and the comparison of two ways to batch them.

Both ways give one epoch of batches, with ``input_ids`` and ``attention_mask``, ``(B, L)``, and ``labels``, ``(B,)``.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from shared.corpus import LABELS, docstrings, tokenizer
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

MAX_LENGTH = 256


def labelled_texts(num_texts: int = 8_000) -> list[dict[str, Any]]:
    """Return records of a docstring, ``text``, and the number of its library, ``label``."""
    with docstrings().open(encoding="utf-8") as lines:
        records = [json.loads(line) for line, _ in zip(lines, range(num_texts), strict=False)]
    return [{"text": record["text"], "label": LABELS.index(record["label"])} for record in records]


def tokenized(records: Sequence[Mapping[str, Any]]) -> list[tuple[Tensor, int]]:
    """Return the ids and the label of each record, by the library ``tokenizers``."""
    library = Tokenizer.from_file(str(tokenizer()))
    library.enable_truncation(MAX_LENGTH)
    encodings = library.encode_batch([record["text"] for record in records])
    return [(torch.tensor(encoding.ids), record["label"]) for encoding, record in zip(encodings, records, strict=True)]


def padded(rows: Sequence[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """Return a batch of rows: a ``collate_fn`` as many have written it."""
    ids = pad_sequence([ids for ids, _ in rows], batch_first=True)
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": torch.tensor([label for _, label in rows])}


def length_of(row: tuple[Tensor, int]) -> int:
    """Return the number of tokens of a row."""
    return len(row[0])


def cut(rows: Iterable[tuple[Tensor, int]], max_tokens: int) -> Iterator[list[tuple[Tensor, int]]]:
    """Yield lists of rows, in their order, each of as many as fit in ``max_tokens`` padded tokens."""
    held: list[tuple[Tensor, int]] = []
    for row in rows:
        if held and (len(held) + 1) * max(map(length_of, (*held, row))) > max_tokens:
            yield held
            held = []
        held.append(row)
    yield held


class Classifier(nn.Module):
    """A small GRU that classifies rows, with weights of seed 0."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding = nn.Embedding(8_192, 24)
            self.gru = nn.GRU(24, 24, batch_first=True)
            self.linear = nn.Linear(24, len(LABELS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits ``(B, labels)`` of the state at the last real token."""
        states = self.gru(self.embedding(ids))[0]
        return self.linear(states[torch.arange(len(ids)), mask.sum(1) - 1])


def compare(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> None:
    """Print batches, rows, padding, loss and CPU time of both ways, and exit with an error unless rows and losses are equal.

    The loss is the mean over the rows, of one model that does not learn here, so that it does not depend on the order.
    """
    torch.set_num_threads(1)
    model = Classifier()
    rows: list[Counter[Any]] = []
    losses: list[float] = []
    for name, batches in (("before", before), ("after", after)):
        counted: Counter[Any] = Counter()
        loss, slots, num_batches, begun = 0.0, 0, 0, time.process_time()
        for batch in batches:
            ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
            with torch.inference_mode():
                loss += float(cross_entropy(model(ids, mask), labels, reduction="sum"))
            seen = zip(ids.tolist(), mask.sum(1).tolist(), labels.tolist(), strict=True)
            counted.update((tuple(row[:length]), label) for row, length, label in seen)
            slots, num_batches = slots + ids.numel(), num_batches + 1
        seconds, num_rows = time.process_time() - begun, counted.total()
        padding = 1 - sum(len(row) * count for (row, _), count in counted.items()) / slots
        line = f"{num_rows:,} rows in {num_batches} batches, {padding:.1%} padding, loss {loss / num_rows:.5f}"
        print(f"{name + ':':7} {line}, {seconds:.2f} s of CPU time", flush=True)
        rows.append(counted)
        losses.append(loss / num_rows)
    if rows[0] != rows[1] or abs(losses[0] - losses[1]) > 1e-5:
        sys.exit("rows or losses are not the same")
    print("the same rows, and the same loss")
