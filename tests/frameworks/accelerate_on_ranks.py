"""What ranks do with a loader in accelerate: run by torchrun with a folder, each writes what it saw there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import accelerate_loop
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import seqstream as ss
from seqstream.accelerate import StreamAccelerator
from tests.frameworks.steps_by_hand import LEARNING_RATE, loss_of_words, make_words, weights
from tests.frameworks.streams import make_loader, rows_of

ACCUMULATED = 3
STOPS = {"inside": 7, "border": 6}


def gather_epoch(accelerator: Accelerator, folder: Path) -> list[tuple[list[int], list[int], int]]:
    """Return of each step the ids of the rows of all ranks, the tokens of each rank, and how many tokens they are in all."""
    steps = []
    for batch in accelerator.prepare(make_loader(folder)):
        ids = batch.row_ids.masked_fill(batch.weights == 0, -1)
        gathered = accelerator.gather_for_metrics(accelerator.pad_across_processes(ids, pad_index=-1))
        tokens = accelerator.gather(torch.tensor(batch.num_tokens))
        steps.append((gathered[gathered >= 0].tolist(), tokens.tolist(), batch.global_num_tokens))
    return steps


class Gradients:
    """The gradients of a step under way, for accelerate to save: their mean over ranks, which each of them goes on with."""

    def __init__(self, accelerator: Accelerator, model: nn.Module) -> None:
        self.accelerator, self.model = accelerator, model

    def state_dict(self) -> dict[str, Tensor]:
        known = {name: each.grad for name, each in self.model.named_parameters() if each.grad is not None}
        return {name: self.accelerator.reduce(gradient.clone(), "mean") for name, gradient in known.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.grad = state.get(name)


def train(
    folder: Path, *, save_after: int | None = None, resume: bool = False, spec: ss.Unbucketed | None = None
) -> dict[str, Any]:
    """Train for an epoch, or the rest of one, and return the rows of each step and the weights."""
    accelerator = StreamAccelerator(cpu=True)
    loader, model = make_loader(folder, spec, accumulate=1 if spec else ACCUMULATED), make_words()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    accelerator.register_for_checkpointing(Gradients(accelerator, model))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    model, optimizer, schedule, loader = accelerator.prepare(model, optimizer, schedule, loader)
    if resume:
        accelerator.load_state(str(folder / "state"))
    steps: list[list[int]] = [[]]
    losses, total = [], 0.0
    for number, batch in enumerate(loader, 1):
        with accelerator.accumulate(model, batch=batch):
            loss = loss_of_words(model, batch.input_ids, batch.labels, batch.num_label_tokens)
            total += accelerator.backward(loss, batch=batch).item()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        steps[-1] += rows_of(batch)
        if batch.is_step_end:
            steps.append([])
            losses.append(accelerator.reduce(torch.tensor(total)).item())
            total = 0.0
        if number == save_after:
            accelerator.save_state(str(folder / "state"))
    assert schedule.scheduler.last_epoch == loader.stats.steps or resume
    valid = make_loader(folder, ss.Bucket(120))
    predicted = accelerator.predict(lambda batch: batch.lengths, valid)
    evaluated = accelerator.evaluate(
        lambda batch: loss_of_words(model, batch.input_ids, batch.labels, batch.num_label_tokens), valid
    )
    return {
        "steps": steps[:-1],
        "losses": losses,
        "weights": weights(model),
        "num_steps": loader.stats.steps,
        "evaluated": evaluated,
        "predicted": [(row, int(length)) for row, _, length in predicted],
    }


def train_again(folder: Path) -> dict[str, Any]:
    """Train, and again from a border of steps and from inside of one."""
    seen = train(folder)
    for name, batches in STOPS.items():
        train(folder, save_after=batches)
        seen[name] = train(folder, resume=True)
    return seen


if __name__ == "__main__":
    accelerator, folder = Accelerator(cpu=True), Path(sys.argv[1])
    seen = {
        "epoch": gather_epoch(accelerator, folder),
        "trained": train_again(folder),
        "few": train(folder / "few", spec=ss.Unbucketed(4)),
    }
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(seen))
    accelerate_loop.main()
