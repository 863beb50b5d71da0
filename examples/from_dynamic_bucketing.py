"""From lhotse's `DynamicBucketingSampler` to seqstream, for text.

lhotse is not needed to run this: what the sampler does is written here. It takes bounds of buckets from the first rows, such
that each bucket has about as many tokens, keeps a buffer of rows in these buckets, and makes batches of random rows of a random
bucket, or of the nearest that can fill one. A batch may exceed the budget, by a last row that is longer than those before it.

    DynamicBucketingSampler(texts, constraint=TokenConstraint(max_tokens=4_096), num_buckets=30, shuffle=True)
    ss.Loader(source, ss.Bucket(max_tokens=4_096))

A window takes the place of ``num_buckets`` and ``buffer_size``: it holds 64 MiB of ids, and its rows are cut where padding is
least. Nothing is filled again on a resume but the window under way, and ranks have equal numbers of steps.
"""

import bisect
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from shared.corpus import tokenizer
from shared.moving import MAX_LENGTH, compare, labelled_texts, length_of, padded, tokenized
from torch import Tensor

import seqstream as ss

Row = tuple[Tensor, int]


def bounds_of(lengths: Iterable[int], num_buckets: int) -> list[int]:
    """Return the upper bounds of all buckets but the last: each takes a little more than its share of the tokens."""
    lengths = sorted(lengths)
    share, tokens, bounds = sum(lengths) / num_buckets, 0, []
    for length in lengths:
        if tokens > share:
            bounds.append(length)
            tokens = 0
        tokens += length
    return bounds


def fill(rows: Sequence[Row], max_tokens: int) -> int:
    """Return how many of the first rows are full: one more as long as the longest would be too much. 0 if they are too few."""
    longest = 0
    for number, row in enumerate(rows, start=1):
        longest = max(longest, length_of(row))
        if (number + 1) * longest > max_tokens:
            return number
    return 0


def dynamic_bucketing(
    rows: Sequence[Row], max_tokens: int, num_buckets: int = 30, buffer_size: int = 20_000
) -> Iterator[list[Row]]:
    """Yield batches as the sampler does with ``shuffle=True``, in its first epoch on one rank."""
    random_rows, random_buckets = random.Random(0), random.Random(1_234)
    bounds = bounds_of(map(length_of, rows[:10_000]), num_buckets)
    buckets: list[list[Row]] = [[] for _ in range(len(bounds) + 1)]
    unread, size = iter(rows), buffer_size
    while True:
        for row in itertools.islice(unread, size):
            buckets[bisect.bisect_left(bounds, length_of(row))].append(row)
        drawn = random_buckets.randrange(len(buckets))
        nearest = sorted((abs(number - drawn), number) for number, bucket in enumerate(buckets) if bucket)
        if not nearest:
            return
        chosen = next((number for _, number in nearest if fill(buckets[number], max_tokens)), nearest[0][1])
        places = list(range(len(buckets[chosen])))
        random_rows.shuffle(places)
        shuffled = [buckets[chosen][place] for place in places]
        size = fill(shuffled, max_tokens) or len(shuffled)
        yield shuffled[:size]
        buckets[chosen] = [buckets[chosen][place] for place in sorted(places[size:])]


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
