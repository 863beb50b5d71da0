"""The simulation of many ranks does what ranks do, and its arithmetic is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import seqstream as ss
from benchmarks import ranks
from benchmarks.harness.proven_engine import prove
from benchmarks.harness.simulated_ranks import Blocks, Simulated, World, alone, synchronised
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.rank_shares import share_of_rank
from seqstream.reporting.stragglers import Served, straggler

SPEC = ss.Bucket(64, window_batches=32)
ALIKE = ss.Bucket(64, window_batches=32, step="alike")


@pytest.fixture(scope="module")
def blocks(bpe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    """Three hundred lines of 1 to 30 words, the short ones first, in a few blocks."""
    rng = np.random.default_rng(0)
    lines = [" ".join(["word"] * int(count)) for count in np.sort(rng.integers(1, 31, 300))]
    file = tmp_path_factory.mktemp("simulated") / "lines.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    return Blocks.of(file, prove(bpe_file), block_bytes=1_000)


def test_straggler_by_hand() -> None:
    """Two steps of two ranks: the slowest take 4 + 6, the mean is 3 + 5."""
    costs = np.array([[4.0, 2.0], [4.0, 6.0]])
    assert straggler(costs) == 10 / 8
    assert straggler(np.full((3, 5), 7.0)) == 1


def test_costs_by_hand() -> None:
    """An RNN counts time steps; a transformer rows times L + L^2 / 4,608."""
    served = Served(longest=np.array([[4_608, 10]]), rows=np.array([[3, 2]]))
    assert ranks.rnn(served).tolist() == [[4_608, 10]]
    assert ranks.transformer(served) == pytest.approx(np.array([[3 * 2 * 4_608, 2 * (10 + 100 / 4_608)]]))


def test_blocks_are_what_the_file_has(blocks: Blocks) -> None:
    """The rows of all blocks are the lines, and there are as many of each length as were counted."""
    assert len(blocks.read) > 3
    assert sum(map(len, blocks.lengths)) == 300
    everything = np.concatenate(blocks.lengths)
    assert blocks.counts.sum(axis=0).tolist() == np.bincount(everything).tolist()
    assert blocks.num_tokens == everything.sum()


@pytest.mark.parametrize("size", [2, 5, 40])
def test_a_world_divides_a_full_window(blocks: Blocks, size: int) -> None:
    """Each rank has its part of the blocks, in order, and sends the counts of its rows; together ranks fill the window."""
    world = World(blocks, SPEC, size)
    drawn = [number for own in world.numbers for number in own]
    assert len(drawn) == world.num_blocks
    often = np.bincount(drawn, minlength=len(blocks.read))
    assert often.max() - often.min() <= 1
    assert drawn != sorted(drawn)
    assert {len(own) for own in world.numbers} <= {len(drawn) // size, len(drawn) // size + 1}
    for rank in (0, size - 1):
        sent_counts, counted = world.runs_of(rank), LengthCounts.of(world.lengths_of(rank))
        assert (sent_counts.lengths.tolist(), sent_counts.counts.tolist()) == (
            counted.lengths.tolist(),
            counted.counts.tolist(),
        )
    tokens = sum(world.runs_of(rank).num_tokens for rank in range(size))
    assert tokens / (64 * 32 * size) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("spec", [SPEC, ALIKE])
@pytest.mark.parametrize("size", [2, 5, 40])
def test_served_is_what_the_ranks_get(blocks: Blocks, spec: ss.Bucket, size: int) -> None:
    """Every row of the window is in one batch, and a batch is as long as the longest row of its rank."""
    world = World(blocks, spec, size)
    served = synchronised(world)
    lengths = -np.sort(-np.concatenate([world.lengths_of(rank) for rank in range(size)]))
    rank = size - 1
    _, global_plan, steps = world.plan(world.lengths_of(rank), Simulated(rank, size, world.sent_counts))
    share = share_of_rank(steps, rank, size)
    own = lengths[global_plan.row_numbers(share.places)]
    assert np.maximum.reduceat(own, share.cuts[:-1]).tolist() == served.longest[:, rank].tolist()
    assert np.diff(share.cuts).tolist() == served.rows[:, rank].tolist()
    assert served.rows.sum() >= len(lengths)
    assert (served.rows * served.longest).max() <= 64


def test_ranks_that_plan_alone_wait_for_each_other(blocks: Blocks) -> None:
    """Sharing the window leaves less to wait for than aligning quantiles, and that less than planning apart."""
    world = World(blocks, ALIKE, 5)
    random, aligned = alone(world)
    factors = [straggler(ranks.rnn(served)) for served in (synchronised(world), aligned, random)]
    assert factors == sorted(factors)
    assert 1 <= factors[0] < 1.2 < factors[2]
    assert random.longest.shape[1] == aligned.longest.shape[1] == 5


def test_other_counts_than_worked_out_are_refused(blocks: Blocks) -> None:
    """A simulated rank that sends other counts than those of its part of the window is an error."""
    world = World(blocks, SPEC, 2)
    with pytest.raises(ValueError, match="a rank must send the counts of its part of the window, got other"):
        world.plan(world.lengths_of(1)[1:], Simulated(1, 2, world.sent_counts))
