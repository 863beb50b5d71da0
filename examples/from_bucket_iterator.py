"""From torchtext's `BucketIterator` to seqstream.

torchtext has removed the class, so what it did is written here: the data is shuffled, cut into pools of 100 budgets, and each
pool is sorted by ``sort_key`` and cut into batches, which are shuffled. ``batch_size_fn`` made a batch a budget of padded
tokens. Without ``sort_within_batch=True`` torchtext did not sort the pool: batches were of random rows.

    BucketIterator(data, batch_size=4_096, sort_key=len, batch_size_fn=..., sort_within_batch=True)
    ss.Loader(data, ss.Bucket(max_tokens=4_096))

`Bucket` plans the pool as a whole, so that batches have the least padding, and rows are longest first, as
`pack_padded_sequence` wants them; ``batch.packed_sequence()`` is what it returns. ``Field`` and ``Vocab`` are a tokenizer now.
"""

import random
from collections.abc import Iterator
from typing import Any

from shared.corpus import tokenizer
from shared.moving import MAX_LENGTH, compare, cut, labelled_texts, length_of, padded, tokenized
from torch import Tensor

import seqstream as ss

Row = tuple[Tensor, int]


def bucket_iterator(rows: list[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Yield batches as `BucketIterator` did in training."""
    for pool in cut(random.sample(rows, len(rows)), 100 * max_tokens):
        batches = list(cut(sorted(pool, key=length_of), max_tokens))
        for batch in random.sample(batches, len(batches)):
            yield sorted(batch, key=length_of, reverse=True)


def before(records: list[dict[str, Any]]) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches of up to 4,096 tokens."""
    yield from map(padded, bucket_iterator(tokenized(records), 4_096))


def main() -> None:
    """Compare both, from texts to padded batches."""
    records = labelled_texts()
    after = ss.Loader(records, ss.Tokenize(tokenizer(), max_length=MAX_LENGTH), ss.Bucket(max_tokens=4_096))
    compare(before(records), after)


if __name__ == "__main__":
    main()
