"""From `Trainer` with ``group_by_length`` to seqstream: the same Trainer, with the loader as its data.

``group_by_length`` needs a data set with all lengths known, tokenised before, and is ignored for streams. A loader needs
neither: `get_train_dataloader` returns it, and Trainer takes its batches as they are. ``max_steps`` ends the training, and the
learning rate follows it: `estimate_steps` gives it. ``hf_trainer.py`` adds exact resuming, and the loss of steps of several
batches.
"""

import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from shared.corpus import LABELS, tokenizer
from shared.moving import MAX_LENGTH, compare, labelled_texts
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

import seqstream as ss

GROUPED = "train_sampling_strategy" if hasattr(TrainingArguments, "train_sampling_strategy") else "group_by_length"
"""The option of transformers 5, and the one of earlier versions."""

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


class LoaderTrainer(Trainer):
    """A Trainer that trains on the batches of a loader."""

    def __init__(self, loader: ss.Loader, **options: Any) -> None:
        super().__init__(**options)
        self.loader = loader

    def get_train_dataloader(self) -> ss.Loader:
        return self.loader


def train(trainer: Trainer) -> None:
    """Train, and print the loss."""
    result = trainer.train()
    loss, seconds = (result.metrics[name] for name in ("train_loss", "train_runtime"))
    print(f"        trained for {result.global_step} steps in {seconds:.1f} s, mean loss {loss:.3f}", flush=True)


def main() -> None:
    """Train an epoch with 32 rows a batch, and one with batches of up to 4,096 tokens; compare their rows."""
    torch.set_num_threads(1)
    disable_progress_bar()
    dataset = Dataset.from_list(labelled_texts(2_000))
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer()), pad_token="<pad>")

    def tokenize(records: Mapping[str, Any]) -> Any:
        return fast(records["text"], truncation=True, max_length=MAX_LENGTH)

    def parts() -> dict[str, Any]:
        set_seed(0)
        config = BertConfig(vocab_size=8_192, num_labels=len(LABELS), max_position_embeddings=MAX_LENGTH, **SIZES)
        return {"model": BertForSequenceClassification(config)}

    loader = ss.Loader(dataset, ss.Tokenize(fast, max_length=MAX_LENGTH), ss.Bucket(max_tokens=4_096))
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
        grouped = {GROUPED: "group_by_length" if GROUPED != "group_by_length" else True}
        options = TrainingArguments(folder, num_train_epochs=1, per_device_train_batch_size=32, **grouped, **quiet)
        tokenized = dataset.map(tokenize, batched=True, remove_columns=["text"])
        before = Trainer(**parts(), args=options, train_dataset=tokenized, data_collator=DataCollatorWithPadding(fast))
        after = LoaderTrainer(loader, **parts(), args=TrainingArguments(folder, max_steps=loader.estimate_steps(), **quiet))
        train(before)
        train(after)
        loader.set_epoch(1)
        compare(before.get_train_dataloader(), loader)


if __name__ == "__main__":
    main()
