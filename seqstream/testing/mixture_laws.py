"""Checks of a loader of a mixture: each source has its share at every window, in an order of its own."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.loading.reading_order import ReadingOrder
from seqstream.records import INPUT_IDS, ROW_ID
from seqstream.sources.mixture import Member, Mixture
from seqstream.testing.expectations import MakeLoader, expect
from seqstream.testing.rank_laws import in_turns
from seqstream.windows.block_reader import Cursor, blocks_of

MOST_BYTES = 64
"""Bytes of the entry of a source in a state."""


def check_mixture(make: MakeLoader, *, num_windows: int | None = None) -> None:
    """Check that each source of a mixture has its share of the tokens, in an order that does not depend on the others.

    Args:
        make: Makes a loader of a mixture, of records that no stage drops.
        num_windows: Number of windows to check; ``None`` for a whole epoch; it must be finite.

    Raises:
        AssertionError: A check fails.
    """
    check_shares(make, num_windows=num_windows)
    check_order_of_sources(make, num_windows=num_windows)
    check_mixture_state(make)
    if num_windows is None:
        check_end(make)


def check_shares(make: MakeLoader, *, num_windows: int | None = None) -> None:
    """Check that at the end of every window each source is within one row, of the longest length, of its quota of tokens.

    The quota is the sum over the windows of its weight times their tokens. Once a source has ended, whose share the others
    get, nothing is checked. The longest row may be one that a source gives only later: while it is next, the source lags.

    Args:
        make: Makes a loader of a mixture.
        num_windows: Number of windows to check; ``None`` for an epoch.

    Raises:
        AssertionError: A source is more than a row off its quota.
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
        # The last part of a pass is a whole number of records, and may have none.
        reached = (
            loader.stats.by_source[each.name].epochs + 1 / (each.source.num_records or math.inf) for each in mixture.members
        )
        if any(passes >= each.passes for passes, each in zip(reached, mixture.members, strict=True)):
            return
        quotas += mixture.schedule.mean(before, int(given.sum())) * (given.sum() - before)
        off = np.abs(given - quotas)
        worst = int(off.argmax())
        if off[worst] > longest + 1:
            longest = max(longest, _longest_row(loader, float(off[worst]) - 1))
        expect(
            off[worst] <= longest + 1,
            f"source {mixture.names[worst]!r} must be within {longest} tokens, the longest row, of its quota of "
            f"{quotas[worst]:,.0f} tokens after window {number}, got {given[worst]:,.0f}",
        )


def check_order_of_sources(make: MakeLoader, *, num_windows: int | None = None) -> None:
    """Check that after every window each source has given its first records, in the order in which it alone is read.

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


def check_mixture_state(make: MakeLoader, *, num_batches: int = 20) -> None:
    """Check that a state has at most 64 bytes for each source, besides its name and the states of shards that are open.

    Args:
        make: Makes a loader of a mixture.
        num_batches: Number of batches whose states are checked.

    Raises:
        AssertionError: A source has more.
    """
    for batch in itertools.islice(make(), num_batches):
        mixture = batch.state["position"]["window"].get("mixture", {"sources": {}})
        for name, entry in mixture["sources"].items():
            text = json.dumps(entry[:6])
            expect(len(text) <= MOST_BYTES, f"the state of source {name!r} must have at most {MOST_BYTES} bytes, got {text}")


def check_end(make: MakeLoader) -> None:
    """Check that an epoch has its tokens, within one row; or else every source once, or as often as it may be read.

    The row may be one that a source would give next, longer than any row of the epoch.

    Args:
        make: Makes a loader of a mixture that has enough tokens, of records that no stage drops, each a row.

    Raises:
        AssertionError: It ends elsewhere.
    """
    loader = make()
    mixture = _mixture_of(loader)
    seen, total, longest = [set[int]() for _ in mixture.names], 0, 0
    for batch in loader:
        sources, lengths = sources_and_lengths(batch, mixture.column)
        total, longest = total + int(lengths.sum()), max(longest, int(lengths.max(initial=0)))
        for source, row_id in zip(sources.tolist(), batch.row_ids[batch.weights > 0].tolist(), strict=True):
            seen[source].add(row_id)
    if mixture.exhausted == "stop":
        return
    if mixture.tokens is not None and all(not each.is_limited for each in mixture.members):
        off = abs(total - mixture.tokens)
        if off > longest:
            longest = max(longest, _longest_row(loader, off))
        expect(off <= longest, f"the epoch must have {mixture.tokens:,} tokens, got {total:,}")
    elif mixture.tokens is None:
        for member, weight, ids in zip(mixture.members, mixture.schedule.points[-1][1], seen, strict=True):
            first = ReadingOrder(loader.seed, loader.shuffle).blocks(member.source, 0, Cursor(), member.share_of(0))
            num = sum(len(block.table) for block in blocks_of(first)) if weight else 0
            expect(len(ids) >= num, f"source {member.name!r} must be read once, {num:,} records, got {len(ids):,}")


def check_elastic_mixture(make: MakeLoader, world_sizes: Sequence[int] = (1, 4, 2), num_steps: int = 3) -> None:
    """Check that an epoch that is resumed with another number of ranks again and again has what each source gives first.

    Args:
        make: Makes the loader of one rank, of records that no stage drops, each a row.
        world_sizes: Numbers of ranks, in turn until the epoch ends.
        num_steps: Steps until each stop; few, so that there is more than one stop in some windows.

    Raises:
        AssertionError: A record is missing or occurs too often.
    """
    loader = make()
    mixture = _mixture_of(loader)
    served: list[Counter[int]] = [Counter() for _ in mixture.names]
    state = make().state_dict()
    for taken in in_turns(make, state, itertools.cycle(world_sizes), num_steps):
        for batch in (batch for each in taken for batch in each.batches):
            sources, _ = sources_and_lengths(batch, mixture.column)
            for source, row_id in zip(sources.tolist(), batch.row_ids[batch.weights > 0].tolist(), strict=True):
                served[source][row_id] += 1
    for member, own in zip(mixture.members, served, strict=True):
        expected = Counter(itertools.islice(records_in_order(loader, member), own.total()))
        others = sum((own - expected).values())
        expect(own == expected, f"source {member.name!r} must give its first {own.total():,} records, got {others:,} others")


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
    """Return source and tokens of each row of a batch, or of each sequence of packed rows, without those of weight 0.

    Where rows have several texts, in columns such as ``source_ids`` and ``target_ids``, all of them count.
    """
    layout = batch.layout
    lengths = (batch.lengths if layout.packing is None else layout.packing.lengths).numpy()
    texts = [name for name in layout.column_lengths if name.endswith("_ids") and INPUT_IDS not in layout]
    if len(texts) > 1:
        lengths = np.sum([layout.column_lengths[name].numpy() for name in texts], axis=0)
    is_real = batch.weights.numpy() > 0
    return np.asarray(batch[column])[is_real], lengths[is_real]


def _longest_row(loader: Loader, enough: float) -> int:
    """Return the tokens of the longest row, or of the first that has ``enough``, of one pass over every source."""
    once = dataclasses.replace(_mixture_of(loader), tokens=None, epochs={}, exhausted="redistribute")
    longest = 0
    for batch in Loader(once, *loader.stages, seed=loader.seed, shuffle=loader.shuffle):
        longest = max(longest, int(sources_and_lengths(batch, once.column)[1].max(initial=0)))
        if longest >= enough:
            break
    return longest


def _windows(batches: Iterable[Batch]) -> Iterator[Sequence[Batch]]:
    for _, window in itertools.groupby(batches, key=lambda batch: batch.window):
        yield list(window)


def _mixture_of(loader: Loader) -> Mixture:
    expect(isinstance(loader.source, Mixture), f"the source must be a Mixture, got {type(loader.source).__name__}")
    mixture: Mixture = loader.source  # type: ignore[assignment]
    return mixture
