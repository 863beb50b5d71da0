"""A Trainer as small as it gets, and what it did: alone, and run by torchrun with a folder, on ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from hf_trainer import StreamTrainer
from torch import Tensor, distributed
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

import seqstream as ss
from tests.frameworks.streams import MAX_LENGTH, make_loader

STEPS, SAVE_EVERY, ACCUMULATED = 14, 3, 2


class WatchedTrainer(StreamTrainer):
    """A Trainer that keeps the batches it trained on."""

    def __init__(self, loader: ss.Loader, **options: Any) -> None:
        super().__init__(loader, **options)
        self.trained: list[ss.Batch] = []

    def training_step(self, model: torch.nn.Module, inputs: ss.Batch, num_items_in_batch: Tensor | None = None) -> Tensor:
        self.trained.append(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def logged(self, name: str) -> list[float]:
        """Return a figure of each step, those before the checkpoint included."""
        return [entry[name] for entry in self.state.log_history if name in entry]


def make_model(dropout: float) -> GPT2LMHeadModel:
    """Make a model, always the same."""
    torch.manual_seed(0)
    size = {"vocab_size": 600, "n_positions": MAX_LENGTH, "n_embd": 16, "n_layer": 1, "n_head": 2}
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(**size, **drop, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM"))


def train(folder: Path, runs: Path, checkpoint: int | None = None, *, dropout: float) -> WatchedTrainer:
    """Train from the beginning, or from a checkpoint, and return the trainer."""
    arguments = TrainingArguments(
        str(runs),
        max_steps=STEPS,
        save_steps=SAVE_EVERY,
        gradient_accumulation_steps=ACCUMULATED,
        ignore_data_skip=True,
        learning_rate=1e-2,
        max_grad_norm=1e6,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
    )
    disable_progress_bar()
    trainer = WatchedTrainer(make_loader(folder, epochs=None), model=make_model(dropout), args=arguments)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(runs / f"checkpoint-{checkpoint}"))
    return trainer


def union_norm(batches: list[dict[str, Tensor]]) -> float:
    """Return the norm of the first gradient: of the sum of the losses of all batches, divided by all their labels."""
    model = make_model(dropout=0)
    count = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    for batch in batches:
        model(**batch, num_items_in_batch=count).loss.backward()
    return float(torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()]))


def watch(folder: Path) -> dict[str, Any]:
    """Train on this rank, go on from a checkpoint, and return what was seen, for JSON."""
    trainer = train(folder, folder / "ranks", dropout=0)
    first = [dict(batch) for batch in trainer.trained[:ACCUMULATED]]
    of_ranks = [first] * distributed.get_world_size()
    distributed.all_gather_object(of_ranks, first)
    resumed = train(folder, folder / "ranks", 2 * SAVE_EVERY, dropout=0)
    rows, rows_again = ([batch.row_ids[batch.weights > 0].tolist() for batch in each.trained] for each in (trainer, resumed))
    return {
        "rows": rows,
        "rows again": rows_again,
        "losses": trainer.logged("loss"),
        "losses again": resumed.logged("loss"),
        "norm": trainer.logged("grad_norm")[0],
        "union norm": union_norm([batch for batches in of_ranks for batch in batches]),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    distributed.init_process_group("gloo")
    seen = watch(folder)
    (folder / f"rank-{distributed.get_rank()}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()
