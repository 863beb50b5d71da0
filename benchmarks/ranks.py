"""Is the work of a step the same on all ranks, and what does planning it together cost?

8, 64 and 512 ranks are simulated in one process by the planners themselves. Corpora are in file order. A window holds 256
batches of every rank, its blocks are in the order of a loader, and each rank has consecutive blocks. Most corpora are shorter
than that, and their blocks are repeated; this favours ranks that plan alone, whose rows are then much the same.

The straggler factor is the work of the slowest rank, summed over steps, divided by the sum of the mean work: how much longer
training takes than with even work. The work of an RNN is its time steps, the longest row of its batch. It is measured with
``step="alike"``, which gives all ranks neighbours by length. The work of a transformer is ``rows * (L + L**2 / (6 *
hidden_size))``. It is measured with ``step="mixed"``, which gives each rank its own lengths at equal cost: once with a budget
that counts this work, and once with a budget of padded tokens. Then tokens are equal, and long rows cost more; there is no
target for how much, since ``cost="attention"`` is the remedy. For comparison each rank plans a window of its own: in a random
order of its own, with steps paired by number; and longest first, so that all ranks take the same quantile of their rows at a
step.

The cost of sharing is that of one rank and window, for both kinds of steps: gathering counts of lengths, planning, and taking
out, writing, reading and ordering the rows that are exchanged. Bytes on the network are counted and not sent. It is compared
with the time to tokenise the rank's part.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.proven_engine import prove
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from benchmarks.harness.simulated_ranks import (
    Blocks,
    Noting,
    Simulated,
    Swapped,
    World,
    alone,
    synchronised,
    tokenise,
)
from seqstream.arrow import join_tables
from seqstream.distributed.exchange import exchange_rows
from seqstream.distributed.transport import kind_of, send_array, send_rows
from seqstream.planning.rank_shares import share_of_rank
from seqstream.reporting.stragglers import HIDDEN_SIZE, Served, rnn, straggler, transformer
from seqstream.windows.block_buffer import BlockBuffer
from seqstream.windows.block_states import share_out

MAX_TOKENS = 16_384
WORLD_SIZES = (8, 64, 512)
WINDOW_BATCHES = 256
FEW_BATCHES = 16
"""Batches of a window if corpora are cut."""

STRAGGLER_TARGET = Target("<=", 1.03)
STRAGGLER_SIZES = (8, 64)
SHORTEST = "tatoeba"
"""The corpus with the shortest rows, so that there are most rows to plan and to send."""

COST_TARGET = 0.05
COST_SIZE = 512
MEMORY_TARGET = Target("<=", 64)
BITS_PER_SECOND = 10e9

_MEGABYTE = 1e6


def measure(settings: Settings) -> Iterator[Record]:
    """Measure stragglers on each corpus, and then the cost of sharing."""
    proven = prove(corpora.tokenizer())
    num_batches = WINDOW_BATCHES if settings.max_bytes is None else FEW_BATCHES
    for name in corpora.names():
        blocks = Blocks.of(settings.text(name), proven)
        for size in WORLD_SIZES:
            for way in WAYS:
                settings.show_progress(f"{name}, {size} ranks, {way.name}")
                yield from _stragglers(name, way, World(blocks, way.spec(num_batches), size))
    for name in (corpora.FIXED, *(name for name in corpora.names() if name == SHORTEST)):
        blocks = Blocks.of(settings.text(name), proven)
        for size in WORLD_SIZES:
            for way in (ALIKE, MIXED):
                settings.show_progress(f"cost on {name}, {size} ranks, {way.name}")
                yield from _costs(name, way, World(blocks, way.spec(num_batches), size), settings.repeats)


# Stragglers


@dataclasses.dataclass(frozen=True)
class Way:
    """A kind of steps, and the model that takes them.

    Attributes:
        name: Its name.
        bucket: The spec, without its window.
        model: The work of a batch.
        target: The bound of the straggler factor.
        has_others: Whether it is compared with ranks that plan alone.
    """

    name: str
    bucket: ss.Bucket
    model: Callable[[Served], npt.NDArray[np.float64]]
    target: Target | None = None
    has_others: bool = True

    def spec(self, window_batches: int) -> ss.Bucket:
        return dataclasses.replace(self.bucket, window_batches=window_batches)


ALIKE = Way("alike, RNN", ss.Bucket(MAX_TOKENS, step="alike"), rnn, STRAGGLER_TARGET)
MIXED = Way("mixed, transformer", ss.Bucket(MAX_TOKENS, step="mixed"), transformer)
EQUAL = Way(
    "mixed by cost, transformer",
    ss.Bucket(MAX_TOKENS, step="mixed", cost="attention", hidden_size=HIDDEN_SIZE),
    transformer,
    STRAGGLER_TARGET,
    has_others=False,
)
WAYS = (ALIKE, MIXED, EQUAL)


def _stragglers(name: str, way: Way, world: World) -> Iterator[Record]:
    def record(what: str, value: float, unit: str = "", target: Target | None = None) -> Record:
        full = f"{world.size} ranks, {way.name}, {what}"
        return Record(benchmark="ranks", corpus=name, what=full, value=value, unit=unit, target=target)

    ours = synchronised(world)
    target = way.target if world.size in STRAGGLER_SIZES else None
    yield record("slowest over mean, seqstream", straggler(way.model(ours)), target=target)
    if way.has_others:
        for other, served in zip(("not synchronised", "quantiles aligned"), alone(world), strict=True):
            yield record(f"slowest over mean, {other}", straggler(way.model(served)))
    tokens = sum(int((runs.lengths * runs.counts).sum()) for runs in map(world.runs_of, range(world.size)))
    yield record("padding, seqstream", 100 * (1 - tokens / int((ours.longest * ours.rows).sum())), "%")


# Costs


def _costs(name: str, way: Way, world: World, repeats: int) -> Iterator[Record]:
    """Measure the rank in the middle."""
    rank = world.size // 2
    ranks = Simulated(rank, world.size, world.sent_counts)
    lengths = world.lengths_of(rank)
    table = join_tables([world.blocks.made[number] for number in world.numbers[rank]])
    ranks.kind = kind_of(table)
    ranks.received = _data_for(world, ranks, table)

    def record(what: str, value: float, unit: str, target: Target | None = None) -> Record:
        full = f"{world.size} ranks, {way.name.partition(',')[0]}, {what}"
        return Record(benchmark="ranks", corpus=name, what=full, value=value, unit=unit, target=target)

    def timed(what: str, *steps: Callable[[], object]) -> Record:
        return record(what, 1e3 * sum(map(seconds, steps)), "ms")

    def seconds(step: Callable[[], object]) -> float:
        return statistics.median(_seconds(step) for _ in range(repeats))

    planned = world.plan(lengths, ranks)
    read = [world.blocks.read[number] for number in world.numbers[rank]]
    tokenised = timed("tokenising a rank's part", lambda: tokenise(read, world.blocks.stage))
    planning = timed("planning", lambda: world.plan(lengths, ranks))
    exchange = timed("exchange, without the wire", lambda: exchange_rows(table, *planned, ranks))
    both = record("planning and exchange", planning.value + exchange.value, "ms")
    is_aimed = world.size == COST_SIZE
    yield tokenised
    yield planning.against(tokenised)
    yield exchange.against(tokenised)
    yield both.against(tokenised, "<=", COST_TARGET) if is_aimed else both.against(tokenised)
    yield timed("looking ahead to the blocks of a window", lambda: _look(world)).against(tokenised)
    yield record("planning, a step", 1e3 * planning.value / len(planned[2]), "us")
    yield from _wire_records(record, ranks)
    with _Peak() as peak:
        ranks.before_call = peak.end_phase
        exchange_rows(table, *world.plan(lengths, ranks), ranks)
    yield record("memory of planning and exchange", peak.num_bytes / _MEGABYTE, "MB", MEMORY_TARGET if is_aimed else None)


def _wire_records(record: Callable[[str, float, str], Record], ranks: Simulated) -> Iterator[Record]:
    """Return what the other ranks send to a rank, in the order of the calls."""
    for what, sizes in (
        ("counts gathered", map(len, ranks.sent_counts)),
        ("rows exchanged", (len(data) for data, _ in ranks.received)),
    ):
        num_bytes = sum(sizes)
        yield record(what, num_bytes / _MEGABYTE, "MB")
        yield record(f"{what}, at 10 Gbit/s", 1e3 * 8 * num_bytes / BITS_PER_SECOND, "ms")


def _look(world: World) -> None:
    """Visit all blocks of a window, as every rank does, without reading any."""
    buffer = BlockBuffer(world.ahead(), lambda: None, world.size)
    share_out(buffer.take(buffer.fill(world.num_blocks))[1], world.size // 2, world.size)


def _data_for(world: World, ranks: Simulated, table: pa.Table) -> list[Swapped]:
    """Return what the others send: the rows that the rank needs, by number, with the content of rows of its own.

    Both are longest first, so their lengths are about right; which rank sends which row is random.
    """
    global_order, global_plan, steps = world.plan(world.lengths_of(ranks.rank), ranks)
    wanted = np.sort(global_plan.row_numbers(share_of_rank(steps, ranks.rank, ranks.world_size).places))
    rows = global_order.rows[np.arange(len(wanted)) * len(global_order.rows) // len(wanted)]
    senders = np.random.default_rng(world.seed).integers(0, ranks.world_size, len(wanted))
    order = np.argsort(senders, kind="stable")
    sizes, noting = np.bincount(senders, minlength=ranks.world_size), Noting()
    send_rows(table, rows[order], sizes, noting)
    send_array(wanted[order], sizes, noting)
    return noting.sent


def _seconds(step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


class _Peak:
    """An upper bound of the peak memory: in each phase the sum of the peaks of Python with NumPy, and of Arrow."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._usual = pa.default_memory_pool()
        self._pools: list[pa.MemoryPool] = []

    def __enter__(self) -> _Peak:
        tracemalloc.start()
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_phase()
        tracemalloc.stop()
        pa.set_memory_pool(self._usual)

    def end_phase(self) -> None:
        """End a phase and begin the next, from the memory that is held now."""
        *older, newest = self._pools
        arrow = sum(pool.bytes_allocated() for pool in older) + newest.max_memory()
        self.num_bytes = max(self.num_bytes, tracemalloc.get_traced_memory()[1] + arrow)
        tracemalloc.reset_peak()
        self._begin()

    def _begin(self) -> None:
        self._pools.append(pa.proxy_memory_pool(self._usual))
        pa.set_memory_pool(self._pools[-1])
