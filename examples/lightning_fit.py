"""Train with Lightning, from a stream of unknown length, and resume in mid-epoch with exactly the next batch.

`StreamData` gives the loaders to Lightning, saves their state with the weights, and ends optimiser steps where the loader says
so. The module returns the mean loss of a batch, as anywhere; `log_loss` logs the mean over all labels of the validation.
"""

import logging
import sys
import tempfile
from typing import Any

import torch
from shared.corpus import docstring_texts, tokenizer
from shared.transformer import Transformer, padded
from torch import Tensor

import seqstream as ss

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
except ImportError:
    sys.exit("this example needs lightning; pip install lightning")

from seqstream.lightning import StreamData, log_loss

STEPS, SAVED, ACCUMULATE = 12, 5, 4


class LanguageModel(LightningModule):
    """A small transformer that keeps its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.losses = Transformer(num_blocks=1), []

    def training_step(self, batch: ss.Batch) -> Tensor:
        loss = self.model(padded(batch)) / batch.num_label_tokens
        self.losses.append(loss.item() * batch.step_share)
        return loss

    def validation_step(self, batch: ss.Batch) -> None:
        log_loss(self, "val_loss", self.model(padded(batch)) / batch.num_label_tokens, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(folder: str, checkpoint: str | None = None) -> tuple[list[float], Any]:
    """Train with new objects, from the beginning or from a checkpoint, and return the losses and the loss of validation."""
    torch.manual_seed(0)
    model = LanguageModel()
    stages = ss.Tokenize(tokenizer(), max_length=128), ss.Bucket(256)
    source, held_out = ss.TextFiles(docstring_texts()).split(valid=0.002)
    loader = ss.Loader(source, *stages, accumulate=ACCUMULATE, on_batch=ss.CausalLabels())
    data = StreamData(train=loader, valid=ss.Loader(held_out, *stages, on_batch=ss.CausalLabels()))
    save = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=SAVED, save_top_k=-1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(max_steps=STEPS, val_check_interval=STEPS * ACCUMULATE, callbacks=[save], accelerator="cpu", **quiet)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model.losses, trainer.validate(model, datamodule=data, verbose=False)[0]["val_loss"]


def main() -> None:
    """Train, resume from the middle with new objects, and compare."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.captureWarnings(True)  # about checkpoints that the folder already has
    with tempfile.TemporaryDirectory() as folder:
        losses, validated = train(folder)
        resumed, again = train(folder, f"{folder}/step={SAVED}.ckpt")
    if resumed != losses[SAVED * ACCUMULATE :] or again != validated:
        sys.exit("the resumed run has other losses")
    print(f"loss of step 1 {sum(losses[:ACCUMULATE]):.3f}, of step {STEPS} {sum(losses[-ACCUMULATE:]):.3f}")
    print(f"validated {validated:.3f}")
    print(f"resumed after step {SAVED}: {STEPS - SAVED} more steps have the same losses, to the last bit")


if __name__ == "__main__":
    main()
