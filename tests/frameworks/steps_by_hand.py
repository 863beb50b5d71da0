"""Training as it should come out: for each optimiser step one backward over the union of its rows, on one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.nn.utils.rnn import pad_sequence

from tests.frameworks.streams import make_loader, rows_of

LEARNING_RATE = 0.5

Loss = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""The sum of the losses of a model on ids and labels, ``(B, L)`` each, over a number of labels."""


def make_words() -> nn.Module:
    """Make a model that guesses the next token from a token alone, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(600, 8), nn.Linear(8, 600)).double()


def loss_of_words(model: nn.Module, ids: Tensor, labels: Tensor, count: int = 1) -> Tensor:
    """Return the sum of the losses of all labels, over a number of labels."""
    logits = model(ids[:, :-1]).flatten(0, 1)
    return nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / count


def weights(model: nn.Module) -> list[float]:
    """Return all parameters, one after the other."""
    return parameters_to_vector(model.parameters()).tolist()


def train_by_hand(folder: Path, model: nn.Module, steps: Iterable[Sequence[int]], loss: Loss = loss_of_words) -> list[float]:
    """Take a step of plain gradient descent for the rows of each, all at once, and return the weights after the last."""
    ids = {row: ids for batch in make_loader(folder) for row, ids in zip(rows_of(batch), batch.nested().unbind(), strict=True)}
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for rows in steps:
        assert len(set(rows)) == len(rows) > 0
        labels = [ids[row].index_fill(0, torch.tensor(0), -100) for row in rows]  # nothing predicts the first token
        union = pad_sequence([ids[row] for row in rows], batch_first=True)
        count = sum(len(label) - 1 for label in labels)
        loss(model, union, pad_sequence(labels, batch_first=True, padding_value=-100), count).backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)
