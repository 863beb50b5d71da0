"""The laws of a loader as checks, for our tests and for sources and stages of your own.

Each takes a function that makes a loader anew, as a new process would: ``make(**options)`` passes options on to `Loader`. A
check raises `AssertionError` that says what was expected and where it failed.

    from seqstream import testing

    def make(**options):
        return ss.Loader(MySource(...), ss.Tokenize(...), ss.Bucket(4096, window_batches=4), **options)

    testing.check_loader(make)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeAlias

import torch

from seqstream.batch import Batch
from seqstream.loader import Loader
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.reading import Place, read_blocks
from seqstream.sources.protocol import ROW_ID, Json, Source

Row: TypeAlias = tuple[int, int]
"""Row id and piece."""


class MakeLoader(Protocol):
    """Makes a loader anew, with more options."""

    def __call__(self, **options: Any) -> Loader:
        """Return a loader that has not moved."""


def check_loader(make: MakeLoader) -> None:
    """Check laws 1 to 4 and 9: every record once, the budget, the same stream, resuming anywhere, refusing another seed."""
    check_every_record_once(make)
    check_budget(make)
    check_same_stream(make)
    check_resume(make)
    check_refusal(make)


def check_source(source: Source) -> None:
    """Check a source: record numbers, states that survive JSON and resume, `locate`, and a fingerprint that is JSON."""
    whole = _row_ids(source, Place())
    _expect(len(set(whole)) == len(whole), "row ids must be unique")
    _expect(source.fingerprint() == json.loads(json.dumps(source.fingerprint())), "fingerprint() must survive JSON unchanged")
    seen = 0
    for block in read_blocks(source, range(source.num_shards), Place()):
        seen += len(block.table)
        saved = json.loads(json.dumps([block.after.position, block.after.source_json()]))
        rest = _row_ids(source, Place.from_json(*saved))
        _expect(
            rest == whole[seen:], f"reading on after {seen} records must give the other {len(whole) - seen}, got {len(rest)}"
        )
    for row_id in whole[:: max(1, len(whole) // 5)]:
        _expect(bool(source.locate(row_id)), f"locate({row_id}) must name a place")


def _row_ids(source: Source, place: Place) -> list[int]:
    blocks = read_blocks(source, range(source.num_shards), place)
    return [row_id for block in blocks for row_id in block.table.column(ROW_ID).to_pylist()]


def check_every_record_once(make: MakeLoader) -> None:
    """Check law 1: each record of the source comes once an epoch, with its own values, or is counted as left out."""
    loader = make()
    first = rows_of(loader)
    stats = loader.stats
    records = _row_ids(loader.source, Place())
    unknown = {row_id for row_id, _ in first} - set(records)
    _expect(not unknown, f"rows must come from the source, got {sorted(unknown)[:5]}")
    accounted = len({row_id for row_id, _ in first}) + stats.dropped + stats.empty
    _expect(accounted == len(records), f"records must come or be counted, got {accounted} of {len(records)}")
    for _, piece in first:
        _expect(piece == 0 or stats.split > 0, "pieces must be counted")
    if not stats.dropped:
        second = rows_of(loader)
        _expect(first == second, f"another epoch must have the same rows, got {len(first)} and {len(second)}")


def check_budget(make: MakeLoader) -> None:
    """Check law 2: the budget of `Bucket` and the shapes that it or `Pack` has hold; lengths, mask and weights agree."""
    loader = make()
    spec = loader.stages[-1]
    for number, batch in enumerate(loader):
        _expect(batch.num_rows > 0, f"batch {number} must have rows")
        _expect(bool((batch.lengths > 0).all()), f"rows of batch {number} must have steps, got {batch.lengths.tolist()}")
        _expect(torch.equal(batch.mask.sum(1), batch.lengths), f"mask of batch {number} must agree with its lengths")
        made_up = batch.weights.eq(0).tolist()
        _expect(made_up == sorted(made_up), f"rows made up must be the last of batch {number}, got weights {batch.weights}")
        if isinstance(spec, Bucket):
            most = spec.max_tokens or batch.num_slots
            _expect(batch.num_slots <= most, f"batch {number} must have at most {most} slots, got {batch.num_slots}")
            rows = spec.batch_size or batch.num_rows
            _expect(batch.num_rows <= rows, f"batch {number} must have at most {rows} rows, got {batch.num_rows}")
            _expect(batch.num_rows % spec.rows_multiple_of == 0, f"rows of batch {number} must be a multiple")
            descending = batch.lengths.sort(descending=True).values
            _expect(torch.equal(descending, batch.lengths), f"rows of batch {number} must come longest first")
        if isinstance(spec, Pack) or (isinstance(spec, Bucket) and spec.shapes is not None):
            shape, known = tuple(batch.mask.shape), loader.shapes()
            _expect(shape in known, f"batch {number} must have one of the shapes {known}, got {shape}")


def check_same_stream(make: MakeLoader) -> None:
    """Check law 3: the same seed gives the same batches, with any ``prefetch`` and after `set_epoch`; another epoch, others."""
    loader = make()
    first, second = list(loader), list(loader)
    for prefetch in (0, 1, 5):
        _expect_same(first, make(prefetch=prefetch), f"prefetch={prefetch}")
    straight = make()
    straight.set_epoch(1)
    _expect_same(second, straight, "set_epoch(1)")
    endless = iter(make(epochs=2))
    _expect_same(first + second, endless, "epochs=2")
    if loader.shuffle and len(first) > 8:
        orders = [[batch.row_ids.tolist() for batch in epoch] for epoch in (first, second)]
        _expect(orders[0] != orders[1], "another epoch must have another order")


def check_resume(make: MakeLoader) -> None:
    """Check law 4: a state saved after any batch, by a loader itself resumed, gives exactly the batches that follow."""
    loader = make()
    events = [*_events(loader, 2)]
    state = make().state_dict()
    epoch = 0
    for number, event in enumerate(events):
        resumed = make()
        resumed.load_state_dict(_through_json(state))
        got = next(iter(resumed), None)
        _expect_event(event, got, f"event {number} after resuming {number} times")
        if got is not None:
            _expect(got.state == resumed.state_dict(), f"batch {number} must carry the state after it")
        else:
            epoch += 1
            _expect(resumed.epoch == epoch, f"epoch must be {epoch} after event {number}, got {resumed.epoch}")
        state = resumed.state_dict()
    for number in range(0, len(events) - 1, max(1, len(events) // 5)):
        saved = events[number]
        if saved is not None:
            resumed = make()
            resumed.load_state_dict(_through_json(saved.state))
            rest = [*_events(resumed, 2 - sum(event is None for event in events[: number + 1]))]
            _expect(len(rest) == len(events) - number - 1, f"resuming after event {number} must give the events that follow")
            for offset, (expected, got) in enumerate(zip(events[number + 1 :], rest, strict=True)):
                _expect_event(expected, got, f"event {number + 1 + offset} after resuming at {number}")


def check_refusal(make: MakeLoader) -> None:
    """Check law 9 for the seed: a loader of another one refuses the state and names both."""
    state = make(seed=1).state_dict()
    try:
        make(seed=2).load_state_dict(state)
    except ValueError as error:
        _expect("seed 1, this loader has 2" in str(error), f"the message must name both seeds, got: {error}")
    else:
        raise AssertionError("a state of another seed must be refused")


def rows_of(batches: Iterable[Batch]) -> dict[Row, dict[str, Any]]:
    """Return every row of some batches without its padding, by row id and piece.

    Raises:
        AssertionError: A row comes twice.
    """
    rows: dict[Row, dict[str, Any]] = {}
    for batch in batches:
        for at, row in enumerate(zip(batch.row_ids.tolist(), batch.pieces.tolist(), strict=True)):
            if not batch.weights[at]:
                continue
            _expect(row not in rows, f"row {row} must come once, got it twice")
            rows[row] = {name: _unpadded(batch, name, at) for name in _names(batch)}
    return rows


def _names(batch: Batch) -> list[str]:
    """Return the columns that say something of a row: not where in a packed row it lies."""
    return [name for name in dict.fromkeys((*batch.columns, *batch.jagged)) if batch.packing is None or name != "sequence_ids"]


def _unpadded(batch: Batch, name: str, at: int) -> Any:
    """Return the value of one row in a column, without padding."""
    value = getattr(batch, name)
    if not isinstance(value, torch.Tensor):
        return value[at]
    if name not in batch.column_lengths:
        return value[at].tolist()
    if batch.packing is not None:
        start, length = int(batch.packing.starts[at]), int(batch.packing.lengths[at])
        return value.flatten(0, 1)[start : start + length].tolist()
    length = int(batch.column_lengths[name][at])
    return (value[at, :length] if batch.padding_side == "right" else value[at, value.shape[1] - length :]).tolist()


def _events(loader: Loader, num_epochs: int) -> Iterator[Batch | None]:
    """Yield the batches of some epochs, and ``None`` at the end of each."""
    for _ in range(num_epochs):
        yield from loader
        yield None


def _through_json(state: dict[str, Json]) -> dict[str, Json]:
    loaded: dict[str, Json] = json.loads(json.dumps(state))
    return loaded


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _expect_same(expected: list[Batch], got: Iterable[Batch], what: str) -> None:
    batches = list(got)
    _expect(len(expected) == len(batches), f"{what} must give {len(expected)} batches, got {len(batches)}")
    for number, (one, other) in enumerate(zip(expected, batches, strict=True)):
        _expect_event(one, other, f"batch {number} with {what}")


def _expect_event(expected: Batch | None, got: Batch | None, what: str) -> None:
    if expected is None or got is None:
        _expect(expected is got, f"{what} must be {'the end of an epoch' if expected is None else 'a batch'}, got the other")
        return
    _expect(
        torch.equal(expected.row_ids, got.row_ids),
        f"{what} must have rows {expected.row_ids.tolist()}, got {got.row_ids.tolist()}",
    )
    for name in dict.fromkeys((*expected.columns, *expected.jagged)):
        value, other = getattr(expected, name), getattr(got, name)
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        _expect(same, f"{what} must have the same column {name!r}")
    _expect(
        torch.equal(expected.lengths, got.lengths) and torch.equal(expected.mask, got.mask), f"{what} must have the same mask"
    )
    _expect(expected.seed == got.seed, f"{what} must have the same seed")
    moving = ("epoch", "position", "blocks", "skip", "group", "served", "source", "shapes", "engine")
    for entry in moving:
        _expect(
            expected.state[entry] == got.state[entry],
            f"{what} must have {entry}={expected.state[entry]} in its state, got {got.state[entry]}",
        )
