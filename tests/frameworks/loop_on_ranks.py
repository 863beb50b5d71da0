"""A training loop of PyTorch alone that stops anywhere, in the middle of a step as well: alone, and on ranks by torchrun."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tests.frameworks.steps_by_hand import LEARNING_RATE, loss_of_words, make_words, weights
from tests.frameworks.streams import make_loader, rows_of

STOPS = {"inside": 6, "border": 8}
"""After how many batches a run is stopped: two steps of four batches, less two."""


class Run:
    """A model and a loader, made anew or as they were saved."""

    def __init__(self, folder: Path, accumulate: int, saved: dict[str, Any] | None = None) -> None:
        self.model, self.loader = make_words(), make_loader(folder, accumulate=accumulate)
        self.steps: list[list[int]] = [[]]
        if saved is not None:
            self.model.load_state_dict(saved["model"])
            for parameter, gradient in zip(self.model.parameters(), saved["gradients"], strict=True):
                parameter.grad = gradient  # on every rank: their mean is what it was
            self.loader.load_state_dict(saved["loader"])
            self.steps = saved["steps"]

    def train(self, batches: int | None = None) -> Run:
        """Take so many batches, or all of the epoch; ``steps`` are the rows that this rank had in each."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)
        is_alone = not distributed.is_initialized()
        model: nn.Module = self.model if is_alone else DistributedDataParallel(self.model)
        world_size = 1 if is_alone else distributed.get_world_size()
        for number, batch in enumerate(self.loader, 1):
            with contextlib.nullcontext() if batch.is_step_end or is_alone else model.no_sync():
                loss = loss_of_words(model, batch.input_ids, batch.labels, batch.step_num_label_tokens)
                (loss * world_size).backward()
            self.steps[-1] += rows_of(batch)
            if batch.is_step_end:
                optimizer.step()
                optimizer.zero_grad()
                self.steps.append([])
            if number == batches:
                break
        return self

    def save(self) -> dict[str, Any]:
        """Return what to go on from, the gradients of the step under way included, on any number of ranks."""
        gradients = [None if parameter.grad is None else parameter.grad.clone() for parameter in self.model.parameters()]
        if distributed.is_initialized():
            for gradient in gradients:
                if gradient is not None:
                    distributed.all_reduce(gradient)
                    gradient /= distributed.get_world_size()
        return {
            "model": self.model.state_dict(),
            "gradients": gradients,
            "loader": self.loader.state_dict(),
            "steps": [list(rows) for rows in self.steps],
        }


def watch(folder: Path, accumulate: int) -> dict[str, Any]:
    """Train for an epoch, and again from each place where it was stopped, and return what was seen, for JSON."""
    whole = Run(folder, accumulate).train()
    seen = {"steps": whole.steps, "weights": weights(whole.model), "num_steps": whole.loader.stats.steps}
    for name, batches in STOPS.items():
        saved = Run(folder, accumulate).train(batches).save()
        torch.save(saved, folder / f"{name}-{distributed.get_rank() if distributed.is_initialized() else 0}.pt")
        resumed = Run(folder, accumulate, saved).train()
        seen[name] = {"steps": resumed.steps, "weights": weights(resumed.model)}
    return seen


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    distributed.init_process_group("gloo")
    seen = watch(folder, int(sys.argv[2]))
    (folder / f"rank-{distributed.get_rank()}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()
