"""Train with Lightning, from a stream of unknown length, and resume in mid-epoch with exactly the next batch.

Lightning reads one batch ahead, so `Stream` saves the state at the end of the optimiser step that the weights belong to. A
step has several batches, and the loader says which is the last; Lightning would count them, so the module steps by hand.
"""

import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from shared.corpus import docstring_texts, tokenizer
from shared.transformer import Transformer, padded

import seqstream as ss

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
except ImportError:
    sys.exit("this example needs lightning; pip install lightning")

STEPS, SAVED, ACCUMULATE = 24, 10, 4


class Stream(Callback):
    """The batches of a loader, and the state after the last step of the training: pass it as callback and as data."""

    def __init__(self, loader: ss.Loader) -> None:
        self.loader, self.trained = loader, loader.state_dict()

    def __iter__(self) -> Iterator[ss.Batch]:
        return iter(self.loader)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: ss.Batch, batch_idx: int) -> None:
        if batch.is_step_end:  # gradients are not saved, so within a step training resumes at its first batch
            self.trained = self.loader.state_dict() if trainer.is_last_batch else batch.state  # after the last: the next epoch

    def state_dict(self) -> dict[str, Any]:
        return self.trained

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trained = state
        self.loader.load_state_dict(state)


class LanguageModel(LightningModule):
    """A small transformer, and the share of each batch in the mean loss of its step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.losses = Transformer(num_blocks=1), []

    def training_step(self, batch: ss.Batch) -> None:
        share = self.model(padded(batch)) / batch.step_num_label_tokens  # of the mean loss of the step, of all ranks
        with contextlib.nullcontext() if batch.is_step_end or self.trainer.world_size == 1 else self.trainer.model.no_sync():
            self.manual_backward(share * self.trainer.world_size)  # the gradients of ranks are averaged, not summed
        self.losses.append(self.trainer.strategy.reduce(share.detach(), reduce_op="sum").item())
        if batch.is_step_end:
            self.optimizers().step()
            self.optimizers().zero_grad()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(folder: str, checkpoint: str | None = None) -> list[float]:
    """Train with new objects, from the beginning or from a checkpoint, and return the losses."""
    torch.manual_seed(0)
    model = LanguageModel()
    stages = ss.Tokenize(tokenizer(), max_length=128), ss.Bucket(256)
    stream = Stream(ss.Loader(ss.TextFiles(docstring_texts()), *stages, accumulate=ACCUMULATE, on_batch=ss.CausalLabels()))
    save = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=SAVED, save_top_k=-1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=STEPS, callbacks=[stream, save], accelerator="cpu", **quiet)
    trainer.fit(model, stream, ckpt_path=checkpoint)
    return model.losses


def main() -> None:
    """Train, resume from the middle with new objects, and compare."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.captureWarnings(True)  # about checkpoints that the folder already has
    with tempfile.TemporaryDirectory() as folder:
        losses = train(folder)
        resumed = train(folder, f"{folder}/step={SAVED}.ckpt")
    if resumed != losses[SAVED * ACCUMULATE :]:
        sys.exit("the resumed run has other losses")
    print(f"loss of step 1 {sum(losses[:ACCUMULATE]):.3f}, of step {STEPS} {sum(losses[-ACCUMULATE:]):.3f}")
    print(f"resumed after step {SAVED}: {STEPS - SAVED} more steps have the same losses, to the last bit")


if __name__ == "__main__":
    main()
