"""Train a language model with Hugging Face's Trainer, from a stream, on batches of similar lengths, and resume exactly.

`StreamTrainer` takes loaders where Trainer takes data sets: to train, to evaluate between the steps, and to predict. The loader
plans the four batches of an optimiser step, and ``eval_loss`` is the mean over all labels.
"""

import sys
import tempfile
from pathlib import Path

import torch
from huggingface_stream import load_dataset, write_files
from shared.corpus import docstring_texts, tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

import seqstream as ss
from seqstream.transformers import StreamTrainer

STEPS, SAVED = 12, 5


def make_trainer(folder: str) -> StreamTrainer:
    """Return a trainer with a new model, a stream to train on, and a file to evaluate on."""
    stream = load_dataset("json", data_files=write_files(folder), split="train", streaming=True).select_columns("text")
    stages = ss.Tokenize(tokenizer(), max_length=128), ss.Bucket(256)
    train = ss.Loader(ss.HFDataset(stream), *stages, accumulate=4, on_batch=ss.CausalLabels())
    held_out = Path(folder, "valid.txt")
    held_out.write_text("".join(f"{line}\n" for line in docstring_texts().read_text().splitlines()[:100]))
    valid = ss.Loader(ss.TextFiles(held_out), *stages, on_batch=ss.CausalLabels())
    torch.manual_seed(0)
    size = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, vocab_size=8_192, bos_token_id=0, eos_token_id=0)
    steps = {"max_steps": STEPS, "save_steps": SAVED, "eval_strategy": "steps", "eval_steps": 6, "logging_steps": 1}
    output = {"disable_tqdm": True, "report_to": "none", "use_cpu": True, "log_level": "error"}
    args = TrainingArguments(folder, learning_rate=3e-3, **steps, **output)
    trainer = StreamTrainer(model=GPT2LMHeadModel(size), args=args, train_dataset=train, eval_dataset=valid)
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    """Train, resume from the middle in a new trainer, and compare."""
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder)
        trainer.train()
        resumed = make_trainer(folder)
        resumed.train(resume_from_checkpoint=f"{folder}/checkpoint-{SAVED}")
    losses, again = (
        [entry.get("loss", entry.get("eval_loss")) for entry in each.state.log_history[:-1]] for each in (trainer, resumed)
    )
    evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    print(f"loss of step 1 {losses[0]:.3f}, of step {STEPS} {losses[-2]:.3f}; evaluated {evaluated[-1]:.3f}")
    if again != losses:
        sys.exit("the resumed run has other losses")
    print(f"resumed after step {SAVED}: {STEPS - SAVED} more steps have the same losses, to the last bit")


if __name__ == "__main__":
    main()
