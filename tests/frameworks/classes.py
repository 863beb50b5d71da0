"""A model that sorts texts into classes, whose loss is a mean over each batch, and its training by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import seqstream as ss
from tests.frameworks.steps_by_hand import LEARNING_RATE, weights

CLASSES = ("good", "bad", "neither")
BUCKET = ss.Bucket(192)


class Classifier(nn.Module):
    """Sorts rows into classes by the mean of their embeddings; its loss is the mean over the batch, whatever Trainer counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.out = nn.Embedding(600, 8), nn.Linear(8, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, weight: Tensor) -> dict[str, Tensor]:
        mask = attention_mask[..., None]
        logits = self.out((self.embedding(input_ids) * mask).sum(1) / mask.sum(1)) + weight[:, None]
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def class_loader(folder: Path, texts: list[str], spec: ss.Bucket | ss.Unbucketed = BUCKET, **options: Any) -> ss.Loader:
    """Return a loader of texts with a column of classes, and one of numbers that the model names."""
    items = [{"text": text, "mood": CLASSES[len(text) % 3], "weight": len(text) / 100} for text in texts]
    stages = ss.ClassLabels(CLASSES, "mood"), ss.Tokenize(folder / "tokenizer.json", max_length=24), spec
    return ss.Loader(ss.Generator(items), *stages, **options)


def steps_of(batches: Iterable[ss.Batch]) -> list[list[ss.Batch]]:
    """Return the batches of each optimiser step."""
    steps: list[list[ss.Batch]] = [[]]
    for batch in batches:
        steps[-1].append(batch)
        if batch.is_step_end:
            steps.append([])
    return steps[:-1]


def train_classes_by_hand(steps: Iterable[Sequence[ss.Batch]]) -> tuple[list[float], list[float]]:
    """Take a step of plain gradient descent for the mean loss over the rows of each; return the weights and the losses."""
    model, losses = Classifier(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for step in steps:
        parts = [
            model(each.input_ids, each.mask.long(), each.mood, each.weight.float())["loss"] * each.num_rows for each in step
        ]
        loss = torch.stack(parts).sum() / sum(each.num_rows for each in step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return weights(model), losses
