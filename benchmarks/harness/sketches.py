"""Count sketches of the gradients of single rows.

A sketch adds the numbers of a gradient, with random signs, to a few random places: the expectation of an inner product of
sketches is that of the gradients. Sketches are linear, so that of a batch is the sum of those of its rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.harness.learning import HIDDEN, Network, Task, losses_of, sorted_parts

SIZE = 1_024

_BATCH_TOKENS = 12_288
_FEW_TOKENS = 4_096
"""Batches of a language model are smaller, since it has a logit for each token and word."""


def sketch_rows(task: Task, network: Network) -> npt.NDArray[np.float32]:
    """Return the sketches of the gradients of all rows, ``float32 (N, SIZE)``."""
    sketch, lengths = Sketch(network), task.lengths
    found = np.empty((len(lengths), SIZE), dtype=np.float32)
    for rows in sorted_parts(lengths, _FEW_TOKENS if network.is_language_model else _BATCH_TOKENS):
        found[rows] = sketch.of_rows(*task.padded(rows)).numpy()
    return found


class Sketch:
    """Sketches of gradients of one network with its current weights.

    A pass over a batch keeps the gradients of the inputs of the gates of the LSTM at each token, and those of the logits. The
    gradients of weights are products of these with the inputs of the weights, row by row.

    Args:
        network: The model.
        size: Number of numbers of a sketch.
        seed: Seed of places and signs.
    """

    def __init__(self, network: Network, size: int = SIZE, seed: int = 0) -> None:
        self.network, self.size = network, size
        draw = torch.Generator().manual_seed(seed)
        shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        self._places = {name: torch.randint(0, size, shape, generator=draw) for name, shape in shapes.items()}
        self._signs = {name: torch.randint(0, 2, shape, generator=draw) * 2.0 - 1 for name, shape in shapes.items()}

    def of_rows(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """Return the sketches of the gradients of a batch's rows, ``(B, size)``."""
        network, lstm = self.network, self.network.lstm
        with torch.no_grad():
            embedded = network.embedding(ids)
            entering = embedded @ lstm.weight_ih_l0.T + (lstm.bias_ih_l0 + lstm.bias_hh_l0)
        entering.requires_grad_(True)
        outputs = unrolled(entering, lstm.weight_hh_l0.detach())
        features, targets = network.predictions(outputs, ids, lengths, labels)
        logits = features @ network.linear.weight.detach().T + network.linear.bias.detach()
        at_gates, at_logits = torch.autograd.grad(losses_of(logits, targets).sum(), (entering, logits))
        with torch.no_grad():
            before = torch.nn.functional.pad(outputs[:, :-1], (0, 0, 1, 0))
            gradients = {
                "lstm.weight_ih_l0": at_gates.mT @ embedded,
                "lstm.weight_hh_l0": at_gates.mT @ before,
                "lstm.bias_ih_l0": at_gates.sum(1),
                "lstm.bias_hh_l0": at_gates.sum(1),
                "linear.weight": at_logits.mT @ features,
                "linear.bias": at_logits.sum(1),
            }
            found = torch.zeros(len(ids), self.size)
            for name, gradient in gradients.items():
                found.index_add_(1, self._places[name].flatten(), (gradient * self._signs[name]).flatten(1))
            at_tokens = at_gates @ lstm.weight_ih_l0 * self._signs["embedding.weight"][ids]
            return found.scatter_add_(1, self._places["embedding.weight"][ids].flatten(1), at_tokens.flatten(1))


def unrolled(entering: Tensor, recurrent: Tensor) -> Tensor:
    """Return the states of an LSTM, ``(B, L, HIDDEN)``, from the inputs of its gates, ``(B, L, 4 * HIDDEN)``."""
    state = memory = entering.new_zeros(len(entering), HIDDEN)
    states = []
    for gates in entering.unbind(1):
        gates = torch.addmm(gates, state, recurrent.T)
        opening, keeping, _, showing = gates.sigmoid().chunk(4, 1)
        memory = keeping * memory + opening * gates[:, 2 * HIDDEN : 3 * HIDDEN].tanh()
        state = showing * memory.tanh()
        states.append(state)
    return torch.stack(states, 1)
