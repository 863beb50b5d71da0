"""Checks of a loader of a mixture: each source has its share at every window, and none disturbs another."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.loading.reading_order import ReadingOrder
from seqstream.records import ROW_ID
from seqstream.sources.mixture import Member, Mixture
from seqstream.testing.expectations import MakeLoader, expect
from seqstream.windows.block_reader import Cursor, blocks_of

Numbers = npt.NDArray[np.float64]


def check_mixture(make: MakeLoader, *, num_windows: int | None = None) -> None:
    """Check that each source of a mixture has its share of the tokens, and that its records come in an order of its own.

    Args:
        make: Makes a loader of a mixture, of records that no stage drops.
        num_windows: Number of windows to check; ``None`` for an epoch, which must end then.

    Raises:
        AssertionError: One of these does not hold.
    """
    check_shares(make, num_windows=num_windows)
    check_order_of_sources(make, num_windows=num_windows)


def check_shares(make: MakeLoader, *, num_windows: int | None = None) -> None:
    """Check that at the end of every window each source is within one row, of the longest length, of its quota of tokens.

    The quota is the sum over the windows of its weight times their tokens. Once a source has ended, whose share the others
    get, nothing is checked.

    Args:
        make: Makes a loader of a mixture.
        num_windows: Number of windows to check; ``None`` for an epoch.

    Raises:
        AssertionError: A source is further off.
    """
    loader = make()
    mixture = _mixture_of(loader)
    num = len(mixture.names)
    given, quotas, longest = np.zeros(num), np.zeros(num), 0
    for number, window in enumerate(itertools.islice(_windows(loader), num_windows)):
        before = int(given.sum())
        for batch in window:
            sources, lengths = sources_and_lengths(batch, mixture.column)
            given += np.bincount(sources, weights=lengths, minlength=num)
            longest = max(longest, int(lengths.max(initial=0)))
        if any(loader.stats.by_source[each.name].epochs >= each.passes for each in mixture.members):
            return
        quotas += mixture.schedule.mean(before, int(given.sum())) * (given.sum() - before)
        off = np.abs(given - quotas)
        worst = int(off.argmax())
        expect(
            off[worst] <= longest + 1,
            f"source {mixture.names[worst]!r} must be within {longest} tokens, the longest row, of its quota of "
            f"{quotas[worst]:,.0f} tokens after window {number}, got {given[worst]:,.0f}",
        )


def check_order_of_sources(make: MakeLoader, *, num_windows: int | None = None) -> None:
    """Check that the windows up to each have the first records of each source, in the order in which it alone is read.

    Args:
        make: Makes a loader of a mixture, of records that no stage drops.
        num_windows: Number of windows to check; ``None`` for an epoch.

    Raises:
        AssertionError: A source has other records.
    """
    loader = make()
    mixture = _mixture_of(loader)
    orders = [records_in_order(loader, member) for member in mixture.members]
    expected: list[Counter[int]] = [Counter() for _ in orders]
    seen: list[Counter[int]] = [Counter() for _ in orders]
    for number, window in enumerate(itertools.islice(_windows(loader), num_windows)):
        for batch in window:
            sources, _ = sources_and_lengths(batch, mixture.column)
            is_real = batch.weights.numpy() > 0
            ids, pieces = batch.row_ids.numpy()[is_real], batch.pieces.numpy()[is_real]
            for source, row_id, piece in zip(sources.tolist(), ids.tolist(), pieces.tolist(), strict=True):
                if not piece:
                    seen[source][row_id] += 1
        for source, order in enumerate(orders):
            expected[source].update(itertools.islice(order, seen[source].total() - expected[source].total()))
            expect(
                seen[source] == expected[source],
                f"source {mixture.names[source]!r} must have given its first {seen[source].total():,} records after window "
                f"{number}, got {sum((seen[source] - expected[source]).values()):,} others",
            )


def records_in_order(loader: Loader, member: Member) -> Iterator[int]:
    """Yield the row ids of a source of a mixture in the order in which it alone is read in epoch 0, pass after pass."""
    order = ReadingOrder(loader.seed, loader.shuffle)
    mixture = _mixture_of(loader)
    first = int(mixture.first_shards[mixture.members.index(member)]) << 32
    for number in itertools.count():
        if number >= member.num_passes:
            return
        for block in blocks_of(order.blocks(member.source, number, Cursor(), member.share_of(number))):
            yield from (first + row_id for row_id in block.table.column(ROW_ID).to_pylist())


def sources_and_lengths(batch: Batch, column: str = "source") -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return source and length of each row of a batch, or of each sequence of packed rows, but of none that weighs nothing."""
    packing = batch.layout.packing
    lengths = (batch.lengths if packing is None else packing.lengths).numpy()
    is_real = batch.weights.numpy() > 0
    return np.asarray(batch[column])[is_real], lengths[is_real]


def _windows(batches: Iterable[Batch]) -> Iterator[Sequence[Batch]]:
    for _, window in itertools.groupby(batches, key=lambda batch: batch.window):
        yield list(window)


def _mixture_of(loader: Loader) -> Mixture:
    expect(isinstance(loader.source, Mixture), f"the source must be a Mixture, got {type(loader.source).__name__}")
    mixture: Mixture = loader.source  # type: ignore[assignment]
    return mixture
