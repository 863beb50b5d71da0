"""How much longer a run takes on many ranks because some have more work in a step than others: the straggler factor.

Legend: ``W`` ranks, ``T`` turns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Lengths
from seqstream.planning.bucket import Bucket
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.rank_shares import Schedule, schedule_turns, share_of_rank

HIDDEN_SIZE = 768
"""Width of the transformer whose cost is computed."""

SIZES = (1, 8, 64)
"""Numbers of ranks that are simulated."""

_TURNS = 256
_MOST_ROWS = 300_000
"""A window of this many batches of each rank is planned, or of this many rows if that is fewer."""

Costs = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Served:
    """The batches of all ranks: ``int64 (T, W)`` each.

    Attributes:
        longest: Their padded lengths.
        rows: Their numbers of rows.
    """

    longest: Index
    rows: Index


@dataclasses.dataclass(frozen=True)
class Straggling:
    """Straggler factors of a number of ranks: 1.0 where no rank ever waits, 2.0 where a run takes twice as long.

    Attributes:
        world_size: Number of ranks.
        rnn: Factor of an RNN with ``step="alike"``, whose work is its time steps.
        transformer: Factor of a transformer with ``step="mixed"``, whose work is tokens and attention; the budget counts both
            where the longest row fits it.
        random_rnn: Factor of an RNN with batches of random rows.
        random_transformer: Factor of a transformer with batches of random rows.
    """

    world_size: int
    rnn: float
    transformer: float
    random_rnn: float
    random_transformer: float


def straggle(lengths: Lengths, max_tokens: int, sizes: Sequence[int] = SIZES, *, seed: int = 0) -> list[Straggling]:
    """Simulate ranks that share windows, and ranks that take random batches of as many rows.

    Args:
        lengths: ``int64 (N,)``, tokens of each row, none over the budget.
        max_tokens: The budget of a batch.
        sizes: Numbers of ranks.
        seed: Seed of the orders.
    """
    return [_straggle(LengthCounts.of(lengths), max_tokens, size, seed) for size in sizes]


def _straggle(counts: LengthCounts, max_tokens: int, world_size: int, seed: int) -> Straggling:
    counts = counts.scaled(min(_TURNS * world_size * max_tokens / counts.num_tokens, _MOST_ROWS / counts.num_rows))
    specs = Bucket(max_tokens, step="alike"), mixed_spec(int(counts.lengths[0]), max_tokens)
    alike, mixed = (serve(counts, each.plan_global(counts, key=(seed,), world_size=world_size), world_size) for each in specs)
    random = serve_random(counts, max(1, round(counts.num_rows / mixed.rows.size)), world_size, seed)
    return Straggling(
        world_size,
        straggler(rnn(alike)),
        straggler(transformer(mixed)),
        straggler(rnn(random)),
        straggler(transformer(random)),
    )


def mixed_spec(longest: int, max_tokens: int) -> Bucket:
    """Return the batches of a transformer on many ranks: of equal cost, attention included, if the longest row fits so."""
    if longest + longest**2 / (6 * HIDDEN_SIZE) > max_tokens:
        return Bucket(max_tokens, step="mixed")
    return Bucket(max_tokens, step="mixed", cost="attention", hidden_size=HIDDEN_SIZE)


def serve(counts: LengthCounts, global_plan: GlobalPlan, world_size: int, schedule: Schedule | None = None) -> Served:
    """Return the batches that each rank takes of a window.

    Args:
        counts: The rows of the window by length.
        global_plan: The plan of the window.
        world_size: Number of ranks.
        schedule: Which rank takes which; made here by default.
    """
    schedule = schedule or schedule_turns(global_plan, 0, world_size)
    longest, rows = [], []
    for rank in range(world_size):
        share = share_of_rank(schedule, rank, world_size)
        longest.append(length_of(counts, global_plan.row_numbers(share.places[share.cuts[:-1]])))
        rows.append(np.diff(share.cuts))
    return Served(np.stack(longest, axis=1), np.stack(rows, axis=1))


def serve_random(counts: LengthCounts, batch_size: int, world_size: int, seed: int = 0) -> Served:
    """Return batches of random rows of a window for each rank; rows that do not fill a turn are left out."""
    rows = np.random.default_rng(seed).permutation(counts.every(1))
    turns = max(1, len(rows) // (batch_size * world_size))
    used = rows[: turns * batch_size * world_size]
    size = len(used) // (turns * world_size)
    longest = used[: turns * world_size * size].reshape(turns, world_size, size).max(axis=2)
    return Served(longest, np.full_like(longest, size))


def length_of(counts: LengthCounts, numbers: Index) -> Lengths:
    """Return the lengths of rows by their numbers, longest first."""
    return counts.lengths[np.searchsorted(counts.starts, numbers, side="right") - 1]


def rnn(served: Served) -> Costs:
    """Return the work of each batch for an RNN, in time steps, ``float64 (T, W)``."""
    return served.longest.astype(np.float64)


def transformer(served: Served) -> Costs:
    """Return the work of each batch for a transformer, in tokens, ``float64 (T, W)``."""
    lengths = served.longest.astype(np.float64)
    costs: Costs = served.rows * (lengths + lengths**2 / (6 * HIDDEN_SIZE))
    return costs


def straggler(costs: Costs) -> float:
    """Return how much longer a run takes than with equal work on all ranks at each step.

    Two ranks that work 3 and 1 in a step, and 2 and 2 in the next, take 5 where 4 would do: ``straggler(np.array([[3.0, 1.0],
    [2.0, 2.0]]))`` is 1.25.

    Args:
        costs: ``float64 (T, W)``.
    """
    return float(costs.max(axis=1).sum() / costs.mean(axis=1).sum())
