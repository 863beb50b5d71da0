"""Train a language model with Hugging Face's Trainer, from a stream, on batches of similar lengths, and resume exactly.

Trainer cannot group a stream by length: it would have to know all lengths beforehand. Here a loader makes its batches.
Gradient accumulation is as ever: the losses of all batches of a step, divided by all their labels.
"""

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from corpus import tokenizer
from huggingface_stream import write_files

import seqstream as ss

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    from datasets import load_dataset
    from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import ExportableState
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error
except ImportError:
    sys.exit("this example needs transformers and accelerate; pip install transformers accelerate")

STEPS, SAVED = 24, 10


class Stream(TrainerCallback, ExportableState):
    """The batches of a loader, for Trainer, which keeps in each checkpoint where they are: in ``trainer_state.json``."""

    def __init__(self, loader: ss.Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[ss.Batch]:
        return iter(self.loader)  # not given to Trainer itself, which would send it to epoch 0 whenever it resumes

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": self.loader.state_dict()}  # asked for when all batches taken have been used

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step:
            self.loader.load_state_dict(state.stateful_callbacks[type(self).__name__]["attributes"])


class StreamTrainer(Trainer):
    """A Trainer for which a loader makes the batches: one with ``epochs=None``, since ``max_steps`` says when to stop."""

    def __init__(self, loader: ss.Loader, **options: Any) -> None:
        self.stream = Stream(loader)
        super().__init__(**options, callbacks=[self.stream])

    def get_train_dataloader(self) -> Stream:
        return self.stream


def make_loader(files: list[str], spec: ss.Bucket | ss.InOrder) -> ss.Loader:
    """Make batches of a stream, over and over."""
    stream = load_dataset("json", data_files=files, split="train", streaming=True).select_columns("text")
    tokenize = ss.Tokenize(tokenizer(), max_length=128)
    return ss.Loader(ss.HFDataset(stream), tokenize, spec, epochs=None, on_batch=ss.CausalLabels())


def train(loader: ss.Loader, folder: str, checkpoint: str | None = None) -> list[float]:
    """Train in a new trainer, from the beginning or from a checkpoint, and return the loss of each step."""
    wanted = {"max_steps": STEPS, "learning_rate": 3e-3, "gradient_accumulation_steps": 2}
    resumed = {"save_steps": SAVED, "ignore_data_skip": True}  # Trainer skips nothing: the loader goes on by itself
    shown = {"logging_steps": 1, "disable_tqdm": True, "report_to": "none", "use_cpu": True}
    torch.manual_seed(0)
    size = GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=128, vocab_size=8_192, bos_token_id=0, eos_token_id=0)
    trainer = StreamTrainer(loader, model=GPT2LMHeadModel(size), args=TrainingArguments(folder, **wanted, **resumed, **shown))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Train, go on from the middle in a new trainer, and compare."""
    torch.set_num_threads(1)
    set_verbosity_error()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(folder)
        similar, random = make_loader(files, ss.Bucket(1_024)), make_loader(files, ss.InOrder(8))
        losses = train(similar, folder)
        resumed = train(make_loader(files, ss.Bucket(1_024)), folder, f"{folder}/checkpoint-{SAVED}")
        batches = list(itertools.islice(random, similar.stats.batches))
    print(f"padding {similar.stats.waste:.1%}; {random.stats.waste:.1%} in {len(batches)} batches of the stream as it comes")
    print(f"loss of step 1 {losses[0]:.3f}, of step {STEPS} {losses[-1]:.3f}")
    if resumed != losses:
        sys.exit("the resumed run has other losses")
    print(f"resumed after step {SAVED}: {STEPS - SAVED} more steps have the same losses, to the last bit")


if __name__ == "__main__":
    main()
