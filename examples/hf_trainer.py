"""Train a language model with Hugging Face's Trainer, from a stream, on batches of similar lengths, and resume exactly.

The loader plans several batches for an optimiser step, and knows which is the last and how many labels they have in all. So
Trainer receives a whole step as if it were one batch, and ``gradient_accumulation_steps`` stays 1.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from huggingface_stream import load_dataset, write_files
from shared.corpus import tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils.logging import disable_progress_bar

import seqstream as ss

STEPS, SAVED = 24, 10


class Stream(TrainerCallback, ExportableState):
    """The steps of a loader, whose state Trainer saves in each checkpoint, in ``trainer_state.json``."""

    def __init__(self, loader: ss.Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[ss.Batch]]:
        step = []
        for batch in self.loader:  # Trainer itself would call the loader's set_epoch(0) whenever it resumes
            step.append(batch)
            if batch.is_step_end:
                yield step
                step = []

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": self.loader.state_dict()}  # Trainer calls it when it has used all steps it took

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step:
            self.loader.load_state_dict(state.stateful_callbacks[type(self).__name__]["attributes"])


class StreamTrainer(Trainer):
    """A Trainer that reads a loader with ``epochs=None``, since ``max_steps`` ends the training."""

    def __init__(self, loader: ss.Loader, **options: Any) -> None:
        self.stream = Stream(loader)
        super().__init__(**options, callbacks=[self.stream])

    def get_train_dataloader(self) -> Stream:
        return self.stream

    def training_step(self, model: torch.nn.Module, step: list[ss.Batch], num_items_in_batch: None = None) -> torch.Tensor:
        losses = []
        for batch in step:
            with contextlib.nullcontext() if batch.is_step_end else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, batch, batch.step_num_label_tokens))
        return torch.stack(losses).sum()


def make_loader(folder: str) -> ss.Loader:
    """Return a loader of a stream, without end, with steps of four batches."""
    stream = load_dataset("json", data_files=write_files(folder), split="train", streaming=True).select_columns("text")
    stages = ss.Tokenize(tokenizer(), max_length=128), ss.Bucket(512)
    return ss.Loader(ss.HFDataset(stream), *stages, epochs=None, accumulate=4, on_batch=ss.CausalLabels())


def train(loader: ss.Loader, folder: str, checkpoint: str | None = None) -> list[float]:
    """Train in a new trainer, from the beginning or from a checkpoint, and return the loss of each step."""
    steps = {"max_steps": STEPS, "save_steps": SAVED, "ignore_data_skip": True}  # the loader resumes by itself
    output = {"logging_steps": 1, "disable_tqdm": True, "report_to": "none", "use_cpu": True, "log_level": "error"}
    torch.manual_seed(0)
    size = GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=128, vocab_size=8_192, bos_token_id=0, eos_token_id=0)
    options = TrainingArguments(folder, learning_rate=3e-3, **steps, **output)
    trainer = StreamTrainer(loader, model=GPT2LMHeadModel(size), args=options)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Train, resume from the middle in a new trainer, and compare."""
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        losses = train(make_loader(folder), folder)
        resumed = train(make_loader(folder), folder, f"{folder}/checkpoint-{SAVED}")
    print(f"loss of step 1 {losses[0]:.3f}, of step {STEPS} {losses[-1]:.3f}")
    if resumed != losses:
        sys.exit("the resumed run has other losses")
    print(f"resumed after step {SAVED}: {STEPS - SAVED} more steps have the same losses, to the last bit")


if __name__ == "__main__":
    main()
