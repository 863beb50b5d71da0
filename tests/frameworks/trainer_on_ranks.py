"""A Trainer as small as it gets, and what it did: alone, and run by torchrun with a folder, on ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

import seqstream as ss
from seqstream.transformers import StreamTrainer
from tests.frameworks.classes import Classifier, class_loader
from tests.frameworks.steps_by_hand import LEARNING_RATE, weights
from tests.frameworks.streams import MAX_LENGTH, make_loader, rows_of

STEPS, SAVE_EVERY, ACCUMULATED = 11, 3, 3


class WatchedTrainer(StreamTrainer):
    """A Trainer that keeps the steps it trained on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.trained: list[list[ss.Batch]] = []

    def training_step(self, model: nn.Module, step: list[ss.Batch], num_items_in_batch: None = None) -> Tensor:
        self.trained.append(step)
        return super().training_step(model, step, num_items_in_batch)

    def rows(self) -> list[list[int]]:
        """Return the rows of each step."""
        return [[row for batch in step for row in rows_of(batch)] for step in self.trained]

    def logged(self, name: str) -> list[float]:
        """Return a figure of each step, those before the checkpoint included."""
        return [entry[name] for entry in self.state.log_history if name in entry]


def make_model(dropout: float) -> GPT2LMHeadModel:
    """Make a model, always the same."""
    torch.manual_seed(0)
    size = {"vocab_size": 600, "n_positions": MAX_LENGTH, "n_embd": 16, "n_layer": 1, "n_head": 2}
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(**size, **drop, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM"))


def loss_of_gpt2(model: nn.Module, ids: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the sum of the losses of all labels, over a number of labels."""
    return model(input_ids=ids, labels=labels, num_items_in_batch=count).loss


def arguments(runs: Path, **options: Any) -> TrainingArguments:
    """Return the arguments of a training by plain gradient descent, each step of which is logged."""
    return TrainingArguments(
        str(runs),
        max_steps=STEPS,
        save_steps=SAVE_EVERY,
        optim="sgd",
        lr_scheduler_type="constant",
        learning_rate=LEARNING_RATE,
        max_grad_norm=1e6,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
        **options,
    )


def train(folder: Path, runs: Path, checkpoint: int | None = None, *, dropout: float) -> WatchedTrainer:
    """Train from the beginning, or from a checkpoint, and return the trainer."""
    disable_progress_bar()
    loader = make_loader(folder, accumulate=ACCUMULATED)
    trainer = WatchedTrainer(train_dataset=loader, model=make_model(dropout), args=arguments(runs))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(runs / f"checkpoint-{checkpoint}"))
    return trainer


def train_classes(folder: Path, runs: Path, texts: list[str]) -> dict[str, Any]:
    """Train for three steps on rows that ranks cannot share evenly, and predict the class of each."""
    args = arguments(runs, save_strategy="no")
    args.max_steps = 3
    trainer = WatchedTrainer(model=Classifier(), args=args, train_dataset=class_loader(folder, texts, ss.Unbucketed(4)))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    output = trainer.predict(class_loader(folder, texts, ss.Unbucketed(4), shuffle=False))
    return {
        "steps": trainer.rows(),
        "weights": weights(trainer.model),
        "row_ids": output.row_ids.tolist(),
        "predictions": output.predictions.tolist(),
        "labels": output.label_ids.tolist(),
        "loss": output.metrics["test_loss"],
    }


def watch(folder: Path) -> dict[str, Any]:
    """Train on this rank, go on from a checkpoint, and return what was seen, for JSON."""
    trainer = train(folder, folder / "ranks", dropout=0)
    resumed = train(folder, folder / "ranks", 2 * SAVE_EVERY, dropout=0)
    evaluated = trainer.predict(make_loader(folder, ss.Bucket(120)))
    texts = (folder / "corpus.txt").read_text(encoding="utf-8").splitlines()[:9]
    return {
        "eval_loss": evaluated.metrics["test_loss"],
        "eval_rows": evaluated.row_ids.tolist(),
        "eval_labels": (evaluated.label_ids != -100).sum(1).tolist(),
        "classes": train_classes(folder, folder / "classes", texts),
        "rows": trainer.rows(),
        "rows again": resumed.rows(),
        "losses": trainer.logged("loss"),
        "losses again": resumed.logged("loss"),
        "weights": weights(trainer.model),
        "weights again": weights(resumed.model),
        "num_steps": trainer.train_dataset.stats.steps,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    distributed.init_process_group("gloo")
    seen = watch(folder)
    (folder / f"rank-{distributed.get_rank()}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()
