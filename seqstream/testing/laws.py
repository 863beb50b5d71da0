"""The laws of a loader as checks: every record once, the budget, the same stream, resuming, refusing, fair samples."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.planning.bucket import Bucket
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

RUN = 16
FAIR_SHARE = 0.4
"""At worst even orders are off by 0.38, random ones by 0.5 or more; one of the two batches of an octile is a half of it."""
FEWEST_BATCHES = 64
FEWEST_ROWS = 4


def check_loader(make: MakeLoader) -> None:
    """Check laws 1 to 4, 9 and 11: every record once, the budget, the same stream, resuming, refusing, fair samples."""
    check_every_record_once(make)
    check_budget(make)
    check_same_stream(make)
    check_resume(make)
    check_refusal(make)
    check_fair_sample(make)


def check_source(source: Source) -> None:
    """Check a source: record numbers, states that survive JSON and resume, `locate`, `take`, and a fingerprint that is JSON."""
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
        expect(bool(source.locate(row_id)), f"locate({row_id}) must name a place")
    if source.num_records is not None:
        mixed = _row_ids(in_random_order(source, 0, 0), Cursor())
        expect(sorted(mixed) == sorted(whole), f"take() must give the {len(whole)} records that read() gives, got {len(mixed)}")


def _row_ids(source: Source, cursor: Cursor) -> list[int]:
    blocks = read_blocks(source, range(source.num_shards), cursor)
    return [row_id for block in blocks for row_id in block.table.column(ROW_ID).to_pylist()]


def check_every_record_once(make: MakeLoader) -> None:
    """Check law 1: each record of the source comes once an epoch, with its own values, or is counted as left out."""
    loader = make()
    first = rows_of(loader)
    stats = loader.stats
    records = _row_ids(loader.source, Cursor())
    unknown = {row_id for row_id, _ in first} - set(records)
    expect(not unknown, f"rows must come from the source, got {sorted(unknown)[:5]}")
    accounted = len({row_id for row_id, _ in first}) + stats.dropped + stats.empty
    expect(accounted == len(records), f"records must come or be counted, got {accounted} of {len(records)}")
    for _, piece in first:
        expect(piece == 0 or stats.split > 0, "pieces must be counted")
    if not stats.dropped:
        second = rows_of(loader)
        expect(first == second, f"another epoch must have the same rows, got {len(first)} and {len(second)}")


def check_budget(make: MakeLoader) -> None:
    """Check law 2: the budget of `Bucket` and the shapes that it or `Pack` has hold; lengths, mask and weights agree."""
    loader = make()
    shapes = fixed_shapes(loader)
    for number, batch in enumerate(loader):
        expect_in_budget(batch, loader.stages[-1], shapes, f"batch {number}")


def check_same_stream(make: MakeLoader) -> None:
    """Check law 3: the same seed gives the same batches, with any ``prefetch`` and after `set_epoch`; another epoch, others."""
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
    """Check law 4: a state saved after any batch, by a loader itself resumed, gives exactly the batches that follow."""
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
    """Check law 11: any 16 batches of `Bucket` that follow each other in a window are of all lengths, as the window is.

    Batches are sorted by their longest row and cut into octiles. Of the 16 each octile has its share within `FAIR_SHARE`, over
    all octiles together; none is off by more than two of the 16. Windows of less than 64 batches and budgets of less than
    four of the longest rows are too coarse to tell, and left out, as are batches without a budget of tokens, those planned by
    several columns, and those served in the order of their lengths.
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
    off = run_deviations(lengths, np.ones_like(lengths))
    worst = int(off.sum(axis=1).argmax())
    together, most = off[worst].sum(), off.max()
    expect(
        together <= FAIR_SHARE,
        f"batches {worst} to {worst + RUN - 1} of a window must hold each octile of its lengths as the window does, within "
        f"{FAIR_SHARE:.0%} over all octiles, got {together:.0%}",
    )
    expect(most <= 2 / RUN, f"no octile may be off by more than two batches, got {most:.1%} of {RUN}")


def run_deviations(lengths: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far any `RUN` batches that follow each other are from the window, for each octile by length.

    Args:
        lengths: ``float64 (n,)``, the longest row of each batch of a window, as served.
        tokens: ``float64 (n,)``, its tokens.

    Returns:
        ``float64 (n - 15, 8)``: the octile's share of the tokens of the run, less that of the window, without its sign.
    """
    octiles = _octiles_of(lengths) * tokens[:, None]
    share = octiles.sum(axis=0) / octiles.sum()
    sums = np.concatenate([np.zeros((1, 8)), octiles.cumsum(axis=0)])
    runs = sums[RUN:] - sums[:-RUN]
    off: npt.NDArray[np.float64] = np.abs(runs / runs.sum(axis=1, keepdims=True) - share)
    return off


def _octiles_of(lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how much of each batch is in each octile by length, ``float64 (n, 8)``; batches of one length share theirs."""
    rank = np.empty(len(lengths))
    rank[np.argsort(-lengths, kind="stable")] = np.arange(len(lengths))
    edges = np.arange(9) / 8 * len(lengths)
    own = np.clip(np.minimum(rank[:, None] + 1, edges[1:]) - np.maximum(rank[:, None], edges[:-1]), 0, None)
    _, number, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    shared = np.zeros((len(counts), 8))
    np.add.at(shared, number, own)
    found: npt.NDArray[np.float64] = (shared / counts[:, None])[number]
    return found


def check_refusal(make: MakeLoader) -> None:
    """Check law 9 for the seed: a loader of another one refuses the state and names both."""
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
