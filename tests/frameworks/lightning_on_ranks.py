"""A module of Lightning as small as it gets, and what it saw: alone, and run by torchrun with a folder, on ranks."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_fit import Stream
from torch import Tensor, nn

import seqstream as ss
from tests.frameworks.streams import make_loader


class Words(LightningModule):
    """Guesses the next token from a token alone, and remembers the epoch, the rows and the loss of each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Embedding(600, 8), nn.Linear(8, 600))
        self.seen: list[tuple[int, list[int], float]] = []

    def training_step(self, batch: ss.Batch) -> Tensor:
        logits = self.model(batch.input_ids[:, :-1]).flatten(0, 1)
        share = (
            nn.functional.cross_entropy(logits, batch.labels[:, 1:].flatten(), reduction="sum") / batch.global_num_label_tokens
        )
        total = self.trainer.strategy.reduce(share.detach(), reduce_op="sum").item()
        self.seen.append((self.current_epoch, batch.row_ids[batch.weights > 0].tolist(), total))
        return share * self.trainer.world_size

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def fit(folder: Path, runs: Path, checkpoint: Path | None = None, **options: Any) -> Words:
    """Fit from the beginning, or from a checkpoint, and return what was fitted; each step and each epoch is saved."""
    module, stream = Words(), Stream(make_loader(folder))
    each_step = ModelCheckpoint(
        runs, filename="step-{step:02}", auto_insert_metric_name=False, every_n_train_steps=1, save_top_k=-1
    )
    each_epoch = ModelCheckpoint(
        runs, filename="epoch-{epoch}", auto_insert_metric_name=False, save_on_train_epoch_end=True, save_top_k=-1
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[stream, each_step, each_epoch], **{**quiet, **options})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # that the folder has checkpoints, and of its own use of torch
        trainer.fit(module, stream, ckpt_path=checkpoint)
    assert trainer.train_dataloader is stream
    return module


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    options = {"devices": int(os.environ["WORLD_SIZE"]), "strategy": "ddp", "max_epochs": 2}
    whole = fit(folder, folder / "ranks", **options)
    resumed = fit(folder, folder / "ranks", folder / "ranks" / "step-03.ckpt", **options)
    seen = {"whole": whole.seen, "resumed": resumed.seen}
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(seen))
