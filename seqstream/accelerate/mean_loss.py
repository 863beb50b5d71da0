"""The mean loss of an evaluation on all ranks."""

from __future__ import annotations

import torch
from accelerate.utils import gather_object
from torch import Tensor


class MeanLoss:
    """The mean of a loss over all labels of an evaluation, from the means of batches."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._weights: list[int] = []

    def add(self, loss: Tensor, weight: int) -> None:
        """Add the mean loss of a batch that has a number of labels."""
        if weight:  # else it is the mean of nothing
            self._losses.append(loss.detach())
            self._weights.append(weight)

    def value(self) -> float | None:
        """Return the mean over the labels of all ranks, which call it together; ``None`` where there was none."""
        losses = torch.stack(self._losses).double().cpu() if self._losses else torch.zeros(0, dtype=torch.double)
        weights = torch.tensor(self._weights, dtype=torch.double)
        sums = gather_object([(float(losses @ weights), float(weights.sum()))])
        total, count = (sum(parts) for parts in zip(*sums, strict=True))
        return total / count if count else None
