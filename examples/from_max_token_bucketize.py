"""From torchdata's `max_token_bucketize` to seqstream.

torchdata has removed its data pipes; what this one did is written here. A heap of 1,000 rows, ``buffer_size``, gives the
shortest again and again, and a batch ends where its padded tokens would exceed ``max_token_count``. So the heap fills with
the longest rows, which come last and sorted, and all others pass it in the order of the data: much is padding. With a buffer as
large as the data there is little padding, and the whole epoch is sorted by length.

    datapipe.max_token_bucketize(max_token_count=4_096, include_padding=True)
    ss.Loader(source, ss.Bucket(max_tokens=4_096))

Batches of `Bucket` come in an order in which lengths alternate, and the loader resumes in the middle of an epoch.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from shared.corpus import tokenizer
from shared.moving import MAX_LENGTH, compare, cut, labelled_texts, padded, tokenized
from torch import Tensor

import seqstream as ss

Row = tuple[Tensor, int]


@dataclass(order=True, frozen=True)
class Held:
    """A row in the heap, compared by its length alone."""

    length: int
    row: Row = field(compare=False)


def by_length(rows: Iterable[Row], buffer_size: int) -> Iterator[Row]:
    """Yield the shortest of the rows in a heap, which is then filled up."""
    heap: list[Held] = []
    for row in rows:
        heapq.heappush(heap, Held(len(row[0]), row))
        if len(heap) == buffer_size:
            yield heapq.heappop(heap).row
    while heap:
        yield heapq.heappop(heap).row


def max_token_bucketize(rows: Iterable[Row], max_token_count: int, buffer_size: int = 1_000) -> Iterator[list[Row]]:
    """Yield batches as the data pipe did with ``include_padding=True``."""
    yield from cut(by_length(rows, buffer_size), max_token_count)


def before(records: list[dict[str, Any]]) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches of up to 4,096 tokens."""
    yield from map(padded, max_token_bucketize(tokenized(records), 4_096))


def main() -> None:
    """Compare both, from texts to padded batches."""
    records = labelled_texts()
    after = ss.Loader(records, ss.Tokenize(tokenizer(), max_length=MAX_LENGTH), ss.Bucket(max_tokens=4_096))
    compare(before(records), after)


if __name__ == "__main__":
    main()
