"""Checks of many ranks: they share the data in step, and a state resumes with another number of ranks.

Ranks are threads of this process, so nothing needs to be started and a debugger sees them all.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.loading.stats import Stats
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.records import Json
from seqstream.testing.expectations import MakeLoader, Row, expect, expect_in_budget, expect_same, rows_of, through_json
from seqstream.testing.rank_threads import Options, run_ranks
from seqstream.windows.block_reader import Cursor, read_blocks

State: TypeAlias = "dict[str, Json]"

MAX_STATE_BYTES = 4096
"""A state must be smaller than this, as JSON."""


@dataclasses.dataclass(frozen=True)
class Taken:
    """The batches that one rank received, and its loader's state and stats after them."""

    batches: list[Batch]
    state: State
    stats: Stats


def take(loader: Loader, num_steps: int | None = None) -> Taken:
    """Take ``num_steps`` batches, by default those of an epoch, and close the iterator."""
    iterator = iter(loader)
    batches = list(itertools.islice(iterator, num_steps))
    iterator.close()
    return Taken(batches, loader.state_dict(), loader.stats)


def check_ranks(make: MakeLoader, world_size: int = 2) -> None:
    """Check that ranks share the data in step: every record once, and similar lengths at a step if the spec asks for them.

    Two epochs are taken. The tokens and labels of all ranks add up to the totals that each batch has, of a step of all ranks
    and of an optimiser step. States are small, and the same on all ranks.

    Args:
        make: Makes the loader of one rank.
        world_size: Number of ranks.

    Raises:
        AssertionError: One of these does not hold.
    """
    loader = make()
    alone = rows_of(loader)

    def two_epochs(options: Options) -> tuple[Taken, Taken]:
        own = make(**options)
        return take(own), take(own)

    for epoch, taken in enumerate(zip(*run_ranks(world_size, two_epochs), strict=True)):
        check_steps(taken, loader)
        expect_all_rows(taken, alone, loader, counted=epoch == 0)


def expect_all_rows(taken: Sequence[Taken], alone: dict[Row, dict[str, Any]], loader: Loader, *, counted: bool) -> None:
    """Expect the ranks to have each row once, with the values that it has in one process.

    Args:
        taken: The batches of each rank in an epoch.
        alone: The rows of one process in an epoch.
        loader: A loader of the same data.
        counted: Whether the ranks' stats are those of this epoch alone, so that they account for every record.
    """
    seen = rows_of(batch for each in taken for batch in each.batches)
    for row in seen.keys() & alone.keys():
        expect(seen[row] == alone[row], f"row {row} must be {alone[row]}, got {seen[row]}")
    if not leaves_out(loader):
        expect(seen.keys() == alone.keys(), f"ranks must have the rows of one process, got {_difference(seen, alone)}")
    if counted:
        records = {row_id for row_id, _ in seen}
        left_out = sum(each.stats.dropped + each.stats.empty for each in taken)
        total = sum(len(block.table) for block in read_blocks(loader.source, range(loader.source.num_shards), Cursor()))
        expect(
            len(records) + left_out == total, f"records must occur or be counted, got {len(records)} + {left_out} of {total}"
        )


def leaves_out(loader: Loader) -> bool:
    """Return whether rows of batches that are not full may be dropped: other rows with each number of ranks."""
    spec = loader.stages[-1]
    return loader.uneven == "drop" or getattr(spec, "drop_last", False)


def _difference(seen: Mapping[Row, Any], expected: Mapping[Row, Any]) -> str:
    more, less = sorted(seen.keys() - expected.keys()), sorted(expected.keys() - seen.keys())
    return f"{len(more)} others {more[:4]}, {len(less)} not {less[:4]}"


def check_steps(taken: Sequence[Taken], loader: Loader) -> None:
    """Check the batches of all ranks, step by step.

    Args:
        taken: The batches of each rank in one epoch.
        loader: A loader of the same data and options.
    """
    counts = [len(each.batches) for each in taken]
    expect(len(set(counts)) == 1, f"ranks must take the same number of steps, got {counts}")
    _expect_one_state([each.state for each in taken], "the end")
    for number, batches in enumerate(zip(*(each.batches for each in taken), strict=True)):
        where = f"step {number}"
        _expect_one_state([batch.state for batch in batches], where)
        _expect_totals(batches, where)
        union = _expect_repeats(batches, where)
        planned_world_size = batches[0].state["position"]["window"]["planned_world_size"]
        if loader.uneven == "repeat" or planned_world_size in (0, len(batches)):  # else from several groups
            _expect_alike(batches, union, loader, where)
        for rank, batch in enumerate(batches):
            expect_in_budget(batch, loader.stages[-1], _shapes(batch, loader), f"{where} of rank {rank}")
    _expect_step_totals([each.batches for each in taken])
    repeated = [sum(batch.layout.num_repeated for batch in each.batches) for each in taken]
    for rank, (each, number) in enumerate(zip(taken, repeated, strict=True)):
        found = int(sum((batch.weights.eq(0) & batch.row_ids.ge(0)).sum() for batch in each.batches))
        expect(found == number, f"repeated rows of rank {rank} must be counted, got {found} of {number}")
        expect(each.stats.repeated_rows >= number, f"repeated rows of rank {rank} must be in its stats")


def _expect_one_state(states: Sequence[State], where: str) -> None:
    first = json.dumps(states[0])
    expect(json.loads(first) == states[0], f"the state after {where} must survive JSON unchanged")
    expect(len(first) < MAX_STATE_BYTES, f"the state after {where} must have less than 4 KiB, got {len(first)}")
    for rank, state in enumerate(states):
        expect(json.dumps(state) == first, f"the state after {where} must be {first} on rank {rank}, got {state}")


def _expect_totals(batches: Sequence[Batch], where: str) -> None:
    for name in ("num_tokens", "num_label_tokens"):
        total = sum(getattr(batch, name) for batch in batches)
        try:
            totals = [getattr(batch, f"global_{name}") for batch in batches]
        except RuntimeError:  # the number of labels is unknown
            continue
        expect(totals == [total] * len(batches), f"global_{name} of {where} must be {total} on all ranks, got {totals}")


def _expect_step_totals(ranks: Sequence[Sequence[Batch]]) -> None:
    """Expect the batches of an optimiser step to add up to the total that each has; the first and last step may be cut."""
    at_once = zip(*ranks, strict=True)
    steps = [list(group) for _, group in itertools.groupby(at_once, key=lambda batches: _step_of(batches[0]))]
    for number, step in enumerate(steps):
        where = f"optimiser step {_step_of(step[0][0])}"
        is_last = number == len(steps) - 1
        ends = [[batch.is_step_end for batch in batches] for batches in step]
        expect(not any(map(any, ends[:-1])), f"{where} must end with its last batch, got {ends}")
        expect(is_last or all(ends[-1]), f"{where} must end with its last batch, got {ends[-1]}")
        for name in ("num_tokens", "num_label_tokens"):
            total = sum(getattr(batch, name) for batches in step for batch in batches)
            try:
                totals = {getattr(batch, f"step_{name}") for batches in step for batch in batches}
            except RuntimeError:  # the number of labels is unknown
                continue
            expect(len(totals) == 1, f"step_{name} of {where} must be the same in all its batches, got {totals}")
            is_cut = number == 0 or (is_last and not all(ends[-1]))
            same = max(totals) == total or (is_cut and max(totals) > total)
            expect(same, f"step_{name} of {where} must be {total}, got {totals}")


def _step_of(batch: Batch) -> tuple[int, int]:
    return batch.window, batch.step


def _expect_repeats(batches: Sequence[Batch], where: str) -> dict[Row, int]:
    """Return the length of every row of a step; expect each row of weight 0 to be made up, or a row of another rank."""
    union: dict[Row, int] = {}
    repeats: set[Row] = set()
    for batch in batches:
        packing = batch.layout.packing
        lengths = batch.lengths if packing is None else packing.lengths
        given = zip(batch.row_ids.tolist(), batch.pieces.tolist(), batch.weights.tolist(), lengths.tolist(), strict=True)
        for row_id, piece, weight, length in given:
            if weight:
                union[row_id, piece] = length
            elif row_id >= 0:
                repeats.add((row_id, piece))
                expect(
                    batch.num_tokens == 0, f"a batch of {where} that is repeated must have no tokens, got {batch.num_tokens}"
                )
    expect(repeats <= union.keys(), f"what {where} repeats must be rows of another rank, got {repeats - union.keys()}")
    return union


def _expect_alike(batches: Sequence[Batch], union: Mapping[Row, int], loader: Loader, where: str) -> None:
    """Expect similar lengths on all ranks: one shape if shapes are fixed, and longest rows that are neighbours by length."""
    spec = loader.stages[-1]
    if isinstance(spec, Bucket) and (spec.is_mixed or spec.group is not None):
        return
    shapes = [tuple(batch.mask.shape) for batch in batches]
    if isinstance(spec, Pack) or (isinstance(spec, Bucket) and spec.shapes is not None):
        expect(len(set(shapes)) == 1, f"ranks must have one shape at {where}, got {shapes}")
    if isinstance(spec, Bucket) and len(batches[0].layout.column_lengths) == 1:
        lengths = sorted(union.values(), reverse=True)
        expected = [lengths[rank % len(lengths)] for rank in range(len(batches))]
        longest = [int(batch.lengths.max()) for batch in batches]
        expect(longest == expected, f"longest rows of {where} must be {expected}, got {longest}")
        sizes = [int(batch.weights.count_nonzero()) for batch in batches]
        expect(max(sizes) - min(sizes) <= 1, f"numbers of rows at {where} must differ by at most one, got {sizes}")


def _shapes(batch: Batch, loader: Loader) -> Sequence[Sequence[int]] | None:
    """Return the shapes that batches may have: those of the first window, which depends on the number of ranks."""
    spec = loader.stages[-1]
    if isinstance(spec, Pack):
        return ((spec.rows, spec.row_length),)
    shapes: Sequence[Sequence[int]] | None = batch.state["calibration"]["shapes"]
    return shapes


def check_elastic(make: MakeLoader, world_sizes: Sequence[int] = (1, 2, 4, 3), num_steps: int = 2) -> None:
    """Check that an epoch has each row once if it is stopped and resumed with another number of ranks, again and again.

    Args:
        make: Makes the loader of one rank.
        world_sizes: Numbers of ranks, in turn until the epoch ends.
        num_steps: Steps until each stop; few, so that there is more than one stop in some windows.

    Raises:
        AssertionError: A row is missing or occurs twice.
    """
    loader = make()
    alone = rows_of(loader)
    rows: dict[Row, dict[str, Any]] = {}
    state = make().state_dict()
    for taken in in_turns(make, state, itertools.cycle(world_sizes), num_steps):
        check_steps(taken, loader)
        more = rows_of(batch for each in taken for batch in each.batches)
        again = sorted(more.keys() & rows.keys())
        expect(not again, f"rows must occur once, got {len(again)} again with {len(taken)} ranks: {again[:4]}")
        rows.update(more)
    for row in rows.keys() & alone.keys():
        expect(rows[row] == alone[row], f"row {row} must be {alone[row]}, got {rows[row]}")
    if not leaves_out(loader):
        expect(rows.keys() == alone.keys(), f"all rows must occur, got {_difference(rows, alone)}")


def in_turns(make: MakeLoader, state: State, world_sizes: Iterator[int], num_steps: int) -> Iterator[Sequence[Taken]]:
    """Yield the batches of all ranks, in an epoch that is resumed with another number of ranks every few steps."""
    epoch = state["position"]["epoch"]
    while state["position"]["epoch"] == epoch:
        taken = run_ranks(next(world_sizes), _resume(make, state, num_steps))
        yield taken
        state = through_json(taken[0].state)


def _resume(make: MakeLoader, state: State, num_steps: int | None) -> Callable[[Options], Taken]:
    def job(options: Options) -> Taken:
        loader = make(**options)
        loader.load_state_dict(state)
        return take(loader, num_steps)

    return job


def check_resume_on_ranks(make: MakeLoader, world_size: int = 2, num_stops: int = 4) -> None:
    """Check that the same number of ranks resumes at any state with exactly the batches that follow.

    Args:
        make: Makes the loader of one rank.
        world_size: Number of ranks.
        num_stops: Number of stops that are tried, spread evenly over an epoch.

    Raises:
        AssertionError: A batch differs.
    """
    whole = run_ranks(world_size, lambda options: take(make(**options)))
    steps = len(whole[0].batches)
    for number in range(0, steps, max(1, -(-steps // num_stops))):
        state = through_json(whole[0].batches[number].state)
        rest = run_ranks(world_size, _resume(make, state, None))
        for rank, (expected, got) in enumerate(zip(whole, rest, strict=True)):
            expect_same(expected.batches[number + 1 :], got.batches, f"resuming after step {number} on rank {rank}")
