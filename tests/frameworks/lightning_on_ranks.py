"""A module of Lightning as small as it gets, and what it saw: alone, and run by torchrun with a folder, on ranks."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

import seqstream as ss
from seqstream.lightning import StreamData
from tests.frameworks.steps_by_hand import LEARNING_RATE, loss_of_words, make_words, weights
from tests.frameworks.streams import make_loader, rows_of


class Words(LightningModule):
    """Guesses the next token from a token alone, and remembers the epoch, the rows and the loss of each batch.

    Args:
        is_automatic: Whether Lightning takes the steps, of mean losses of batches; else the module itself.
    """

    def __init__(self, *, is_automatic: bool) -> None:
        super().__init__()
        self.automatic_optimization = is_automatic
        self.model = make_words()
        self.seen: list[tuple[int, list[int], float]] = []
        self.steps: list[list[int]] = [[]]

    def training_step(self, batch: ss.Batch) -> Tensor | None:
        world_size = self.trainer.world_size
        share = loss_of_words(self.model, batch.input_ids, batch.labels, batch.step_num_label_tokens)
        total = self.trainer.strategy.reduce(share.detach(), reduce_op="sum").item()
        self.seen.append((self.current_epoch, rows_of(batch), total))
        self.steps[-1] += rows_of(batch)
        if batch.is_step_end:
            self.steps.append([])
        if self.automatic_optimization:
            return loss_of_words(self.model, batch.input_ids, batch.labels, batch.num_label_tokens)
        with contextlib.nullcontext() if batch.is_step_end or world_size == 1 else self.trainer.model.no_sync():
            self.manual_backward(share * world_size)
        if batch.is_step_end:
            self.optimizers().step()
            self.optimizers().zero_grad()
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


class SaveInside(Callback):
    """Saves after each batch that does not end a step."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: ss.Batch, batch_idx: int) -> None:
        if not batch.is_step_end:
            trainer.save_checkpoint(self.runs / f"inside-{trainer.current_epoch}-{batch_idx:02}.ckpt")


def fit(
    folder: Path,
    runs: Path,
    checkpoint: Path | None = None,
    *,
    accumulate: int = 1,
    is_automatic: bool = True,
    spec: ss.Unbucketed | None = None,
    **options: Any,
) -> Words:
    """Fit from the beginning, or from a checkpoint, and return what was fitted; each step and each epoch is saved."""
    module = Words(is_automatic=is_automatic)
    loader = make_loader(folder, spec, accumulate=accumulate)
    each_step = ModelCheckpoint(
        runs, filename="step-{step:02}", auto_insert_metric_name=False, every_n_train_steps=1, save_top_k=-1
    )
    each_epoch = ModelCheckpoint(
        runs, filename="epoch-{epoch}", auto_insert_metric_name=False, save_on_train_epoch_end=True, save_top_k=-1
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[SaveInside(runs), each_step, each_epoch], **{**quiet, **options})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # that the folder has checkpoints, and of its own use of torch
        trainer.fit(module, datamodule=StreamData(train=loader), ckpt_path=checkpoint)
    if trainer.max_steps < 0 and checkpoint is None:  # else it has read a batch more
        assert trainer.global_step == loader.stats.steps
    return module


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    options = {"devices": int(os.environ["WORLD_SIZE"]), "strategy": "ddp", "max_epochs": 2}
    whole = fit(folder, folder / "ranks", accumulate=2, **options)
    seen = {"whole": whole.seen, "steps": whole.steps, "weights": weights(whole)}
    for name in ("step-01", "inside-0-02"):
        resumed = fit(folder, folder / "again", folder / "ranks" / f"{name}.ckpt", accumulate=2, **options)
        seen[name] = resumed.seen, weights(resumed)
    few = fit(folder / "few", folder / "few" / "runs", spec=ss.Unbucketed(4), **options)
    seen["few"] = few.steps[:-1], weights(few)
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(seen))
