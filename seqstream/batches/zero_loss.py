"""The loss of a batch that weighs nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def zero_loss(parameters: Iterable[Tensor]) -> Tensor:
    """Return 0 as a loss of which every parameter has the gradient 0, as ranks that synchronise gradients expect one.

    It takes the place of the mean over no label, where a rank has only rows that another has too: that is NaN, and so are
    its gradients, also times 0.
    """
    parts = [(parameter * 0).sum() for parameter in parameters if parameter.requires_grad]
    return torch.stack([part.float() for part in parts]).sum()
