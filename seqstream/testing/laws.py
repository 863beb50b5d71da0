"""Checks of a loader in one process: every record once, the budget, the same stream, resuming, refusing, fair samples."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.planning.bucket import Bucket
from seqstream.planning.run_shares import RUN, run_deviations
from seqstream.records import ROW_ID
from seqstream.sources.random_order import in_random_order
from seqstream.sources.source import Source
from seqstream.testing.expectations import (
    MakeLoader,
    expect,
    expect_event,
    expect_in_budget,
    expect_same,
    fixed_shapes,
    rows_of,
    through_json,
)
from seqstream.windows.block_reader import Cursor, read_blocks

FAIR_SHARE = 0.4
"""The largest deviation that is allowed: the worst of even orders is 0.38, and random orders have 0.5 or more."""

FEWEST_BATCHES = 64
"""Smaller windows are not checked."""

FEWEST_ROWS = 4
"""Budgets of fewer of the longest rows are not checked."""


def check_loader(make: MakeLoader) -> None:
    """Run all checks of a loader in one process, those of this module.

    Raises:
        AssertionError: A check fails.
    """
    check_every_record_once(make)
    check_budget(make)
    check_same_stream(make)
    check_resume(make)
    check_refusal(make)
    check_fair_sample(make)


def check_source(source: Source) -> None:
    """Check that a source numbers its records once, resumes from states in JSON, locates records, and has a JSON fingerprint.

    Raises:
        AssertionError: One of these does not hold.
    """
    whole = _row_ids(source, Cursor())
    expect(len(set(whole)) == len(whole), "row ids must be unique")
    expect(source.fingerprint() == json.loads(json.dumps(source.fingerprint())), "fingerprint() must survive JSON unchanged")
    seen = 0
    for block in read_blocks(source, range(source.num_shards), Cursor()):
        seen += len(block.table)
        saved = json.loads(json.dumps([block.after.position, block.after.source_json()]))
        rest = _row_ids(source, Cursor.from_json(*saved))
        expect(
            rest == whole[seen:], f"reading on after {seen} records must give the other {len(whole) - seen}, got {len(rest)}"
        )
    for row_id in whole[:: max(1, len(whole) // 5)]:
        expect(bool(source.locate(row_id)), f"locate({row_id}) must name a location, got an empty text")
    if source.num_records is not None:
        mixed = _row_ids(in_random_order(source, 0, 0), Cursor())
        expect(sorted(mixed) == sorted(whole), f"take() must give the {len(whole)} records that read() gives, got {len(mixed)}")


def _row_ids(source: Source, cursor: Cursor) -> list[int]:
    blocks = read_blocks(source, range(source.num_shards), cursor)
    return [row_id for block in blocks for row_id in block.table.column(ROW_ID).to_pylist()]


def check_every_record_once(make: MakeLoader) -> None:
    """Check that each record of the source occurs once an epoch, with the same values, or is counted as dropped or empty."""
    loader = make()
    first = rows_of(loader)
    stats = loader.stats
    records = _row_ids(loader.source, Cursor())
    unknown = {row_id for row_id, _ in first} - set(records)
    expect(not unknown, f"rows must come from the source, got {sorted(unknown)[:5]}")
    accounted = len({row_id for row_id, _ in first}) + stats.dropped + stats.empty
    expect(accounted == len(records), f"records must occur or be counted, got {accounted} of {len(records)}")
    for _, piece in first:
        expect(piece == 0 or stats.split > 0, "stats.split must count records in pieces, got 0")
    if not stats.dropped:
        second = rows_of(loader)
        expect(first == second, f"another epoch must have the same rows, got {len(first)} and {len(second)}")


def check_budget(make: MakeLoader) -> None:
    """Check that batches keep the budget and the shapes of `Bucket` or `Pack`, and that lengths, mask and weights agree."""
    loader = make()
    shapes = fixed_shapes(loader)
    for number, batch in enumerate(loader):
        expect_in_budget(batch, loader.stages[-1], shapes, f"batch {number}")


def check_same_stream(make: MakeLoader) -> None:
    """Check that one seed gives the same batches with any ``prefetch`` and after `set_epoch`, and another epoch other ones."""
    loader = make()
    first, second = list(loader), list(loader)
    for prefetch in (0, 1, 5):
        expect_same(first, make(prefetch=prefetch), f"prefetch={prefetch}")
    straight = make()
    straight.set_epoch(1)
    expect_same(second, straight, "set_epoch(1)")
    endless = iter(make(epochs=2))
    expect_same(first + second, endless, "epochs=2")
    if loader.shuffle and len(first) > 8:
        orders = [[batch.row_ids.tolist() for batch in epoch] for epoch in (first, second)]
        expect(orders[0] != orders[1], "another epoch must have another order")


def check_resume(make: MakeLoader) -> None:
    """Check that a state saved after any batch, also by a resumed loader, gives exactly the batches that follow."""
    loader = make()
    events = [*_events(loader, 2)]
    state = make().state_dict()
    epoch = 0
    for number, event in enumerate(events):
        resumed = make()
        resumed.load_state_dict(through_json(state))
        got = next(iter(resumed), None)
        expect_event(event, got, f"event {number} after resuming {number} times")
        if got is not None:
            expect(got.state == resumed.state_dict(), f"batch {number} must carry the state after it")
        else:
            epoch += 1
            expect(resumed.epoch == epoch, f"epoch must be {epoch} after event {number}, got {resumed.epoch}")
        state = resumed.state_dict()
    for number in range(0, len(events) - 1, max(1, len(events) // 5)):
        saved = events[number]
        if saved is not None:
            resumed = make()
            resumed.load_state_dict(through_json(saved.state))
            rest = [*_events(resumed, 2 - sum(event is None for event in events[: number + 1]))]
            expect(len(rest) == len(events) - number - 1, f"resuming after event {number} must give the events that follow")
            for offset, (expected, got) in enumerate(zip(events[number + 1 :], rest, strict=True)):
                expect_event(expected, got, f"event {number + 1 + offset} after resuming at {number}")


def check_fair_sample(make: MakeLoader) -> None:
    """Check that any 16 consecutive batches of `Bucket` are a fair sample of their window by length.

    Batches are sorted by their longest row and cut into octiles. Over all octiles, their shares of the 16 batches deviate from
    those of the window by at most `FAIR_SHARE`, and each octile by at most two of the 16. Not checked are windows of less than
    64 batches and budgets of less than four of the longest rows, which are too coarse; nor batches without a budget of tokens,
    batches planned by several columns, and batches that are served in the order of their lengths.
    """
    loader = make()
    spec = loader.stages[-1]
    if not isinstance(spec, Bucket) or spec.max_tokens is None or not loader.shuffle:
        return
    for _, window in itertools.groupby(loader, key=lambda batch: batch.window):
        longest = [int(batch.lengths.max()) for batch in window if len(batch.layout.column_lengths) == 1]
        if len(longest) >= FEWEST_BATCHES and FEWEST_ROWS * max(longest) <= spec.max_tokens:
            _expect_fair(np.array(longest, dtype=np.float64))


def _expect_fair(lengths: npt.NDArray[np.float64]) -> None:
    deviations = run_deviations(lengths, np.ones_like(lengths))
    worst = int(deviations.sum(axis=1).argmax())
    total, largest = deviations[worst].sum(), deviations.max()
    expect(
        total <= FAIR_SHARE,
        f"batches {worst} to {worst + RUN - 1} of a window must hold each octile of its lengths as the window does, within "
        f"{FAIR_SHARE:.0%} over all octiles, got {total:.0%}",
    )
    expect(largest <= 2 / RUN, f"an octile must deviate by at most two batches of {RUN}, got {largest:.1%} of them")


def check_refusal(make: MakeLoader) -> None:
    """Check that a loader with another seed refuses a state, and that the message names both seeds."""
    state = make(seed=1).state_dict()
    try:
        make(seed=2).load_state_dict(state)
    except ValueError as error:
        expect("seed 1, this loader has 2" in str(error), f"the message must name both seeds, got: {error}")
    else:
        raise AssertionError("a state of another seed must be refused")


def _events(loader: Loader, num_epochs: int) -> Iterator[Batch | None]:
    """Yield the batches of some epochs, and ``None`` at the end of each."""
    for _ in range(num_epochs):
        yield from loader
        yield None
