"""Do steps of `Pack` cost the same on all ranks? Its rows have equally many tokens, but not equally much attention.

Windows of 8, 64 and 512 simulated ranks are planned by the planner itself: lengths are drawn from whole corpora, each cut at
the length of a row, for 256 batches of each rank or up to a number of sequences. A row costs a transformer ``6 * hidden_size *
L + L**2`` for each of its sequences. The slowest rank over the mean is the sum over steps of the cost of the most expensive
batch, divided by the sum of the mean costs. The worst of four widths counts.

It is compared with the same rows in random order, and balanced by the method of Karmarkar and Karp in plain Python: the random
rows of each step between its ranks, as training libraries do, and the rows of the whole window at once. The last step of a
window may not be full; its rows are random everywhere. Rows and fill are the same, and the fill is compared with that of the
packing alone. Speed is that of computing costs and ordering rows by them, without the packing. With one row a batch there is
nothing to balance: ranks only take rows of similar cost.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.karmarkar_karp import karmarkar_karp
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from benchmarks.packing import CORPORA, lengths_of
from seqstream.arrays import Index, Lengths
from seqstream.planning.batch_spec import WINDOW_BATCHES
from seqstream.planning.best_fit import pack_rows
from seqstream.planning.equal_cost import Costs, equal_cost_order, row_costs
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.pack import PackedGlobalPlan
from seqstream.planning.rank_shares import Schedule, schedule_turns, share_of_rank
from seqstream.reporting.stragglers import straggler
from seqstream.shuffling import shuffled

WORLD_SIZES = (8, 64, 512)
SPECS = (ss.Pack(2_048, rows=8), ss.Pack(8_192, rows=2), ss.Pack(16_384, rows=1))
HIDDEN_SIZES = (768, 1_024, 2_048, 4_096)
LONGEST = 16_384

MAX_SEQUENCES = 4_000_000
FEW_SEQUENCES = 50_000
"""Largest number of sequences of a window if corpora are cut."""

FEWEST_STEPS = 3
"""Smallest number of steps of a window, whatever number of sequences they take."""

KEY = (0, 1, 0)
OURS, RANDOM = "seqstream", "at random"
STEPWISE, WHOLE = "Karmarkar-Karp, a step at a time", "Karmarkar-Karp, the window at once"
STRAGGLER_TARGET = Target("<=", 1.02)
SPEED_TARGET = Target(">=", 1e6)


@dataclasses.dataclass(frozen=True)
class Window:
    """The plan of a window of many ranks, and its rows.

    Attributes:
        spec: The spec that packed it.
        world_size: Number of ranks.
        num_sequences: Number of sequences.
        global_plan: The plan.
    """

    spec: ss.Pack
    world_size: int
    num_sequences: int
    global_plan: PackedGlobalPlan

    @classmethod
    def of(cls, lengths: Lengths, spec: ss.Pack, world_size: int, max_sequences: int) -> Window:
        """Plan a full window of lengths drawn at random; of fewer steps if they would take more than ``max_sequences``."""
        lengths = np.minimum(lengths, spec.row_length)
        of_step = world_size * spec.num_slots / lengths.mean()
        steps = min(spec.window_batches or WINDOW_BATCHES, max(FEWEST_STEPS, max_sequences / of_step))
        drawn = np.random.default_rng(0).choice(lengths, int(steps * of_step))
        search = spec.search_planned(LengthCounts.of(drawn), last=False, multiple=world_size)
        while search.num_needed is not None:
            search = search.with_lengths(LengthCounts.of(drawn[: search.num_needed]))
        num = search.num_planned
        return cls(spec, world_size, num, spec.plan_global(LengthCounts.of(drawn[:num]), key=KEY, world_size=world_size))

    @functools.cached_property
    def tokens(self) -> Index:
        """Tokens of each row, ``int64 (N,)``."""
        return np.add.reduceat(self.global_plan.lengths, self.global_plan.row_cuts[:-1])

    @functools.cached_property
    def pairs(self) -> Index:
        """Pairs of tokens of each row that attend to each other, ``int64 (N,)``."""
        return np.add.reduceat(self.global_plan.lengths**2, self.global_plan.row_cuts[:-1])

    @functools.cached_property
    def chance(self) -> Index:
        """The rows in a random order."""
        return shuffled(len(self.tokens), *KEY, "chance")

    def slowest(self, order: Index) -> tuple[float, float]:
        """Return the slowest rank over the mean with rows in an order: over all steps, and at the worst full step.

        The worst of several widths counts.
        """
        costs = [self._batches((6 * size * self.tokens + self.pairs)[order]) for size in HIDDEN_SIZES]
        full = [cost[self._steps.sizes == self.spec.rows * self.world_size] for cost in costs]
        return max(map(straggler, costs)), max(float((cost.max(axis=1) / cost.mean(axis=1)).max()) for cost in full)

    def fill(self) -> float:
        return int(self.tokens.sum()) / (len(self.tokens) * self.spec.row_length)

    def fill_of_packing(self) -> float:
        """Return the fill of rows by the packing alone, in no order."""
        _, cuts = pack_rows(-np.sort(-self.global_plan.lengths), self.spec.row_length)
        return int(self.global_plan.lengths.sum()) / ((len(cuts) - 1) * self.spec.row_length)

    def costs(self) -> Costs:
        return row_costs(self.global_plan.lengths, self.global_plan.row_cuts)

    def balanced(self) -> Index:
        """Order rows by cost, as the planner does."""
        return equal_cost_order(self.costs(), rows=self.spec.rows, world_size=self.world_size, key=KEY)

    def balanced_by_peer(self, num_steps: int) -> Index:
        """Return an order of all rows that balances batches over ``num_steps`` full steps of random rows at a time."""
        order, costs, size = self.chance.copy(), self.costs(), num_steps * self.spec.rows * self.world_size
        for begin in range(0, len(order) - size + 1, size):
            rows = order[begin : begin + size]
            batches = np.array(karmarkar_karp(costs[rows].tolist(), num_steps * self.world_size))
            steps = batches.reshape(num_steps, self.world_size, self.spec.rows)
            order[begin : begin + size] = rows[steps.swapaxes(1, 2).ravel()]
        return order

    @property
    def num_full(self) -> int:
        """Number of full steps."""
        return len(self.tokens) // (self.spec.rows * self.world_size)

    @functools.cached_property
    def _steps(self) -> Schedule:
        return schedule_turns(self.global_plan, 0, self.world_size)

    def _batches(self, costs: Costs) -> npt.NDArray[np.float64]:
        """Return the cost of each step for each rank, ``float64 (T, W)``, given the cost of the row at each place."""
        shares = (share_of_rank(self._steps, rank, self.world_size) for rank in range(self.world_size))
        return np.stack([np.add.reduceat(costs[share.places], share.cuts[:-1]) for share in shares], axis=1).astype(np.float64)


def measure(settings: Settings) -> Iterator[Record]:
    """Measure how even steps are on each corpus, and the speed of making them even."""
    names: dict[str, tuple[str, ...]] = {corpora.FIXED: (corpora.FIXED,)}
    if corpora.data_folder():
        names = {" + ".join(CORPORA): CORPORA, **names}
    for where, parts in names.items():
        lengths = lengths_of([settings.text(name) for name in parts], LONGEST)
        for spec in SPECS:
            for world_size in WORLD_SIZES:
                settings.show_progress(f"{where}, {spec}, {world_size} ranks")
                window = Window.of(lengths, spec, world_size, MAX_SEQUENCES if settings.max_bytes is None else FEW_SEQUENCES)
                yield from _records(f"{where}, {spec}, {world_size} ranks", window, settings.repeats)


def _records(where: str, window: Window, repeats: int) -> Iterator[Record]:
    def record(what: str, value: float, unit: str, target: Target | None = None) -> Record:
        return Record(benchmark="equal_cost", corpus=where, what=what, value=value, unit=unit, target=target)

    def speed(way: str, repeats: int, target: Target | None = None) -> Record:
        seconds = statistics.median(_seconds(orders[way]) for _ in range(repeats))
        return record(f"{way}, speed", window.num_sequences / seconds, "sequences/s", target)

    orders: dict[str, Callable[[], Index]] = {
        OURS: window.balanced,
        RANDOM: lambda: window.chance,
        STEPWISE: lambda: window.balanced_by_peer(1),
        WHOLE: lambda: window.balanced_by_peer(window.num_full),
    }
    is_mixed = window.spec.rows > 1
    yield record("full steps of the window", window.num_full, "")
    for way, order in orders.items():
        of_all, of_worst = window.slowest(np.arange(len(window.tokens)) if way == OURS else order())
        target = STRAGGLER_TARGET if way == OURS and is_mixed else None
        yield record(f"{way}, slowest over mean", of_all, "", target)
        yield record(
            f"{way}, slowest over mean at the worst full step", of_worst, "", target if window.spec == SPECS[0] else None
        )
    yield (ours := speed(OURS, repeats, SPEED_TARGET))
    for way in (STEPWISE, WHOLE):
        yield (peer := speed(way, 1))
        yield ours.against(peer)
    packing = record("packing alone, fill", 100 * window.fill_of_packing(), "%")
    yield from (packing, record(f"{OURS}, fill", 100 * window.fill(), "%").against(packing, ">=", 1))


def _seconds(step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun
