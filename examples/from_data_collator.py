"""From ``DataLoader`` with `DataCollatorWithPadding` to seqstream: ``map`` goes, and the model still takes ``**batch``.

A `datasets.Dataset` of texts is passed to `ss.Loader` with the tokenizer of transformers: rows are tokenised while the model
trains, and ``label`` is ``labels`` to the model. A stream, ``load_dataset(..., streaming=True)``, goes in the same way.
"""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from shared.corpus import tokenizer
from shared.moving import MAX_LENGTH, compare, labelled_texts
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

import seqstream as ss


def main() -> None:
    """Compare 32 rows a batch with batches of up to 4,096 tokens of similar lengths."""
    disable_progress_bar()
    dataset = Dataset.from_list(labelled_texts())
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer()), pad_token="<pad>")

    def tokenize(records: Mapping[str, Any]) -> Any:
        return fast(records["text"], truncation=True, max_length=MAX_LENGTH)

    tokenized = dataset.map(tokenize, batched=True, remove_columns=["text"])
    before = DataLoader(tokenized, batch_size=32, shuffle=True, collate_fn=DataCollatorWithPadding(fast))
    after = ss.Loader(dataset, ss.Tokenize(fast, max_length=MAX_LENGTH), ss.Bucket(max_tokens=4_096))
    compare(before, after)


if __name__ == "__main__":
    main()
