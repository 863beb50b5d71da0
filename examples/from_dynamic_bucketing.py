"""From lhotse's `DynamicBucketingSampler` to seqstream, for text.

lhotse is not needed to run this: what the sampler does is written here. It takes bounds of buckets from the first rows, such
that each bucket has as many tokens, keeps a buffer of rows in these buckets, and makes batches of random rows, from a random
bucket of those that can fill one.

    DynamicBucketingSampler(cuts, max_duration=4_096, num_buckets=30, shuffle=True)
    ss.Loader(source, ss.Bucket(max_tokens=4_096))

A window takes the place of ``num_buckets`` and ``buffer_size``: it holds 64 MiB of ids, and its rows are cut where padding is
least. Nothing is filled again on a resume but the window under way, and ranks have equal numbers of steps.
"""

import bisect
import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

from shared.corpus import tokenizer
from shared.moving import MAX_LENGTH, compare, labelled_texts, padded, tokenized
from torch import Tensor

import seqstream as ss

Row = tuple[Tensor, int]


def bounds_of(lengths: list[int], num_buckets: int) -> list[int]:
    """Return bounds between buckets that have as many tokens each."""
    ends = list(itertools.accumulate(sorted(lengths)))
    return [sorted(lengths)[bisect.bisect(ends, ends[-1] * number / num_buckets)] for number in range(1, num_buckets)]


def fill(bucket: list[Row], max_tokens: int) -> int:
    """Return how many of the first rows of a bucket are a full batch; 0 where there are too few."""
    longest = 0
    for number, (ids, _) in enumerate(bucket):
        longest = max(longest, len(ids))
        if (number + 1) * longest > max_tokens:
            return max(number, 1)
    return 0


def dynamic_bucketing(
    rows: Iterable[Row], max_tokens: int, num_buckets: int = 30, buffer_size: int = 10_000
) -> Iterator[list[Row]]:
    """Yield batches as the sampler does with ``shuffle=True``."""
    unread = iter(rows)
    first = list(itertools.islice(unread, buffer_size))
    bounds = bounds_of([len(ids) for ids, _ in first], num_buckets)
    buckets: list[list[Row]] = [[] for _ in range(num_buckets)]
    while True:
        for row in first:
            buckets[bisect.bisect(bounds, len(row[0]))].append(row)
        for bucket in buckets:
            random.shuffle(bucket)
        full = [(bucket, size) for bucket in buckets if (size := fill(bucket, max_tokens))]
        if not (choice := full or [(bucket, len(bucket)) for bucket in buckets if bucket]):
            return
        bucket, size = random.choice(choice)
        yield bucket[:size]
        del bucket[:size]
        first = list(itertools.islice(unread, size))


def before(records: list[dict[str, Any]]) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches of up to 4,096 tokens."""
    yield from map(padded, dynamic_bucketing(tokenized(records), 4_096))


def main() -> None:
    """Compare both, from texts to padded batches."""
    records = labelled_texts()
    after = ss.Loader(records, ss.Tokenize(tokenizer(), max_length=MAX_LENGTH), ss.Bucket(max_tokens=4_096))
    compare(before(records), after)


if __name__ == "__main__":
    main()
