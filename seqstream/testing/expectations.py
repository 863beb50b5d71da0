"""What the checks compare: rows without their padding, batches and states."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import torch

from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import Json, lengths_column

Row: TypeAlias = tuple[int, int]
"""The id of a row and the number of its piece."""


class MakeLoader(Protocol):
    """A function that makes a new loader, with more options of `Loader`."""

    def __call__(self, **options: Any) -> Loader:
        """Return a loader at the beginning of its first epoch."""


def rows_of(batches: Iterable[Batch]) -> dict[Row, dict[str, Any]]:
    """Return the columns of every row of some batches, without padding, by row id and piece.

    Raises:
        AssertionError: A row occurs twice.
    """
    rows: dict[Row, dict[str, Any]] = {}
    for batch in batches:
        for at, row in enumerate(zip(batch.row_ids.tolist(), batch.pieces.tolist(), strict=True)):
            if not batch.weights[at]:
                continue
            expect(row not in rows, f"row {row} must occur once, got it twice")
            rows[row] = {name: _unpadded(batch, name, at) for name in _names(batch)}
    return rows


def _names(batch: Batch) -> list[str]:
    """Return the columns that belong to a row: all but the one that says where in a packed row it lies."""
    return [name for name in batch.layout.names if batch.layout.packing is None or name != "sequence_ids"]


def _unpadded(batch: Batch, name: str, at: int) -> Any:
    """Return the value of one row in a column, without padding."""
    value, layout = batch[name], batch.layout
    if not isinstance(value, torch.Tensor):
        return value[at]
    if name not in layout.column_lengths:
        return value[at].tolist()
    if layout.packing is not None:
        start, length = int(layout.packing.starts[at]), int(layout.packing.lengths[at])
        return value.flatten(0, 1)[start : start + length].tolist()
    length = int(layout.column_lengths[name][at])
    return (value[at, :length] if batch.padding_side == "right" else value[at, value.shape[1] - length :]).tolist()


def fixed_shapes(loader: Loader) -> list[tuple[int, int]] | None:
    """Return the shapes that batches of a loader may have; ``None`` for any shape."""
    spec = loader.stages[-1]
    return loader.shapes() if isinstance(spec, Pack) or (isinstance(spec, Bucket) and spec.shapes is not None) else None


def expect_in_budget(batch: Batch, spec: object, shapes: Sequence[Sequence[int]] | None, where: str) -> None:
    """Expect a batch to keep the limits of its spec, and its lengths, mask and weights to agree.

    Args:
        batch: The batch.
        spec: The batch spec.
        shapes: The shapes that are allowed; ``None`` for any.
        where: The name of the batch in messages.

    Raises:
        AssertionError: A limit does not hold.
    """
    expect(batch.num_rows > 0, f"{where} must have rows")
    expect(
        bool((batch.lengths > 0).all()), f"rows of {where} must have at least one step, got lengths {batch.lengths.tolist()}"
    )
    expect(torch.equal(batch.mask.sum(1), batch.lengths), f"mask of {where} must agree with its lengths")
    made_up = batch.weights.eq(0).tolist()
    expect(made_up == sorted(made_up), f"rows of weight 0 must be the last of {where}, got weights {batch.weights.tolist()}")
    if isinstance(spec, Bucket):
        most = spec.max_tokens or batch.num_slots
        expect(batch.num_slots <= most, f"{where} must have at most {most} slots, got {batch.num_slots}")
        rows = spec.batch_size or batch.num_rows
        expect(batch.num_rows <= rows, f"{where} must have at most {rows} rows, got {batch.num_rows}")
        multiple = spec.rows_multiple_of
        expect(batch.num_rows % multiple == 0, f"{where} must have a multiple of {multiple} rows, got {batch.num_rows}")
        descending = batch.lengths.sort(descending=True).values
        has_lists = any(lengths_column(name) in batch.layout for name in batch.layout.column_lengths)
        is_longest_first = spec.group is not None or has_lists or torch.equal(descending, batch.lengths)
        expect(is_longest_first, f"rows of {where} must be longest first, got {batch.lengths.tolist()}")
    if isinstance(spec, Unbucketed):
        expect(batch.num_rows <= spec.batch_size, f"{where} must have at most {spec.batch_size} rows, got {batch.num_rows}")
    if shapes is not None:
        shape = tuple(batch.mask.shape)
        expect(shape in [*map(tuple, shapes)], f"{where} must have one of the shapes {shapes}, got {shape}")


def through_json(state: dict[str, Json]) -> dict[str, Json]:
    """Return a state after a round trip through JSON, as a checkpoint makes it."""
    loaded: dict[str, Json] = json.loads(json.dumps(state))
    return loaded


def expect(holds: bool, message: str) -> None:
    """Raise `AssertionError` with a message if a condition does not hold."""
    if not holds:
        raise AssertionError(message)


def _comparable(entry: Json) -> Json:
    """Return an entry of a state without what differs after a resume: in which parts the blocks of a mixture were read."""
    if not isinstance(entry, dict) or "mixture" not in entry:
        return entry
    sources = {name: [numbers[0], *numbers[4:6]] for name, numbers in entry["mixture"]["sources"].items()}
    return {**entry, "mixture": {**entry["mixture"], "sources": sources}}


def expect_same(expected: list[Batch], got: Iterable[Batch], what: str) -> None:
    """Expect the same batches in the same order."""
    batches = list(got)
    expect(len(expected) == len(batches), f"{what} must give {len(expected)} batches, got {len(batches)}")
    for number, (one, other) in enumerate(zip(expected, batches, strict=True)):
        expect_event(one, other, f"batch {number} with {what}")


def expect_event(expected: Batch | None, got: Batch | None, what: str) -> None:
    """Expect two equal batches: columns, seed, step and state; or two ends of an epoch, which are ``None``."""
    if expected is None or got is None:
        expect(expected is got, f"{what} must be {'the end of an epoch' if expected is None else 'a batch'}, got the other")
        return
    expect(
        torch.equal(expected.row_ids, got.row_ids),
        f"{what} must have rows {expected.row_ids.tolist()}, got {got.row_ids.tolist()}",
    )
    for name in expected.layout.names:
        value, other = expected[name], got[name]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        expect(same, f"{what} must have the same column {name!r}")
    expect(
        torch.equal(expected.lengths, got.lengths) and torch.equal(expected.mask, got.mask), f"{what} must have the same mask"
    )
    seeds = expected.layout.seed, got.layout.seed
    expect(seeds[0] == seeds[1], f"{what} must have seed={seeds[0]}, got {seeds[1]}")
    for name in ("step", "is_step_end", "num_tokens", "global_num_tokens", "step_num_tokens"):
        one, another = getattr(expected, name), getattr(got, name)
        expect(one == another, f"{what} must have {name}={one}, got {another}")
    for part, entry in (("position", "epoch"), ("position", "window"), ("calibration", "engines"), ("calibration", "shapes")):
        one, another = (_comparable(batch.state[part][entry]) for batch in (expected, got))
        expect(one == another, f"{what} must have {part}.{entry}={one} in its state, got {another}")
