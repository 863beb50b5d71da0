"""From torchdata's `max_token_bucketize` to seqstream.

torchdata has removed its data pipes; what this one did is written here. A heap of 10,000 rows gives the shortest again and
again, and a batch ends where its padded tokens would be more than ``max_token_count``. So long rows leave the heap last:
batches come sorted by length, unless they are shuffled again.

    datapipe.max_token_bucketize(max_token_count=4_096, include_padding=True)
    ss.Loader(source, ss.Bucket(max_tokens=4_096))

Batches of `Bucket` come in an order in which lengths alternate, and the loader resumes in the middle of an epoch.
"""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from shared.corpus import tokenizer
from shared.moving import MAX_LENGTH, compare, labelled_texts, padded, tokenized
from torch import Tensor

import seqstream as ss

Row = tuple[Tensor, int]


def max_token_bucketize(rows: Iterable[Row], max_token_count: int, buffer_size: int = 10_000) -> Iterator[list[Row]]:
    """Yield batches as the data pipe did with ``include_padding=True``."""
    held: list[Row] = []
    for row in by_length(rows, buffer_size):
        if held and (len(held) + 1) * max(len(ids) for ids, _ in (*held, row)) > max_token_count:
            yield held
            held = []
        held.append(row)
    yield held


def by_length(rows: Iterable[Row], buffer_size: int) -> Iterator[Row]:
    """Yield the shortest of the rows in a heap, which is then filled up."""
    heap: list[tuple[int, int, Row]] = []
    for number, row in enumerate(rows):
        heapq.heappush(heap, (len(row[0]), number, row))
        if len(heap) == buffer_size:
            yield heapq.heappop(heap)[2]
    yield from (heapq.heappop(heap)[2] for _ in itertools.repeat(None, len(heap)))


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
