"""Sketches are of gradients, orders hold every row, and random rows have a design effect of 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import seqstream as ss
from benchmarks import truth
from benchmarks.harness import orders
from benchmarks.harness.design_effect import Gradients
from benchmarks.harness.learning import Network, padded
from benchmarks.harness.orders import (
    GOLDEN,
    UNCORRELATED,
    Turns,
    even_shards,
    even_turns,
    random_shards,
    shuffled_turns,
    strided_turns,
)
from benchmarks.harness.sketches import Sketch

TURNS = [shuffled_turns, strided_turns(GOLDEN), strided_turns(UNCORRELATED), random_shards, even_shards, even_turns]


@pytest.mark.parametrize("num_labels", [3, None])
def test_sketches_are_of_the_gradients_of_rows(num_labels: int | None) -> None:
    """Inner products of sketches are those of the gradients by autograd, row by row, for both kinds of model."""
    torch.manual_seed(0)
    network = Network(50, num_labels)
    rows = [np.arange(1, 10, dtype=np.int32), np.array([4, 4, 7, 3, 9], np.int32), np.array([3, 2], np.int32)]
    batch = padded(rows, np.array([0, 2, 1]))
    sketches = Sketch(network, size=1 << 14).of_rows(*batch)
    each = [torch.autograd.grad(network.losses(*batch)[row], list(network.parameters())) for row in range(3)]
    gradients = torch.stack([torch.cat([part.flatten() for part in gradient]) for gradient in each])
    expected = gradients @ gradients.T
    assert (sketches @ sketches.T - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("num", [1, 2, 3, 4, 7, 8, 128, 360])
def test_turns_are_permutations(turns: Turns, num: int) -> None:
    """Every group has its turn, every shard is visited, in another order with another seed."""
    assert sorted(turns(num, 0).tolist()) == list(range(num))
    assert num < 100 or turns(num, 0).tolist() != turns(num, 1).tolist()


def test_even_turns_by_halves() -> None:
    """Any two in a row are one of each half, any four one of each quarter, and so on, where a run begins at a multiple."""
    visited = even_turns(64, 5)
    for parts in (2, 4, 8, 16):
        assert (np.sort(visited.reshape(-1, parts) // (64 // parts), axis=1) == np.arange(parts)).all()


def test_arranged_steps_hold_every_row_once() -> None:
    """Steps of our planner are a partition of the rows, with groups of neighbours, or of different lengths."""
    lengths = np.random.default_rng(0).integers(1, 60, 2_000)
    windows = np.array_split(np.arange(2_000), 2)
    spread: dict[str, float] = {}
    for step in ("alike", "mixed"):
        steps = orders.arranged(lengths, windows, ss.Bucket(256, step=step), 0, world_size=8)
        assert sorted(np.concatenate(steps).tolist()) == list(range(2_000))
        spread[step] = float(np.mean([lengths[rows].std() for rows in steps]))
    assert spread["mixed"] > 4 * spread["alike"]


def test_uncorrelated_turns_are() -> None:
    """A group's place says nothing of the next's, while golden turns go far each time."""
    found = {share: strided_turns(share)(1_000, 0) for share in (GOLDEN, UNCORRELATED)}
    lags = {share: np.corrcoef(turns[:-1], turns[1:])[0, 1] for share, turns in found.items()}
    assert abs(lags[UNCORRELATED]) < 0.03
    assert lags[GOLDEN] < -0.3


def test_orders_hold_every_row_once() -> None:
    """Windows of shards, cut and in turn, are a partition of the rows, within the budget; steps keep them."""
    draw = np.random.default_rng(0)
    lengths, shards = draw.integers(1, 60, 700), np.sort(draw.integers(0, 16, 700))
    windows = orders.windows_of(shards, even_shards(16, 1), 3)
    batches = orders.grouped(lengths, windows, 256, strided_turns(GOLDEN), 1)
    assert all(len(batch) * lengths[batch].max() <= 256 for batch in batches)
    for epoch in (batches, orders.steps_of(batches, 4), orders.random_tokens(lengths, 256, 0)):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(700))


def test_random_rows_have_an_effect_of_one() -> None:
    """So have random batches of equal tokens where losses are of tokens; batches of one kind have a larger one."""
    draw = np.random.default_rng(0)
    units = draw.integers(1, 20, 2_000)
    kinds = draw.normal(size=64) * np.where(units > 14, 1, -1)[:, None]  # as many tokens of each, about
    sketches = units[:, None] * (kinds + 0.3 * draw.normal(size=(2_000, 64)))
    gradients = Gradients(sketches.astype(np.float32), units, num_states=1)
    found = np.mean([gradients.effects(orders.random_tokens(units, 200, seed), (1, 4)) for seed in range(20)], axis=0)
    assert found.ravel() == pytest.approx([1, 1], abs=0.1)
    alike = np.split(np.argsort(units, kind="stable"), 100)
    assert gradients.effects(alike, (1,))[0, 0] > 3
    assert np.isnan(gradients.effects(alike, (64,))).all()


def test_distances_of_windows_by_hand() -> None:
    """Two labels in four blocks: halves of one label each are half away, mixed ones not at all."""
    table = np.array([[2, 0], [2, 0], [0, 2], [0, 2]])
    assert truth._distances(table, 2).tolist() == [0.5, 0.5]
    assert truth._distances(table[[0, 2, 1, 3]], 2).tolist() == [0, 0]
