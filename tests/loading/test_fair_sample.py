"""The check of fair samples: it passes orders that are even, and finds those that are not."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import seqstream as ss
from seqstream import testing
from seqstream.arrays import Lengths
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.run_shares import length_octiles
from seqstream.shuffling import shuffled
from seqstream.testing import laws

Turns = Callable[..., npt.NDArray[np.int64]]

LENGTHS = np.clip(np.random.default_rng(0).lognormal(3, 0.8, 3000).astype(int), 1, 200).tolist()


def make_loader(spec: BatchSpec, lengths: list[int] = LENGTHS, **options: Any) -> ss.Loader:
    """Make a loader of rows of some lengths."""
    return ss.Loader(ss.Generator([[1] * length for length in lengths]), spec, **options)


def with_turns(monkeypatch: pytest.MonkeyPatch, turns: Turns) -> None:
    """Serve the batches of `Bucket` in another order: ``turns(num_batches, key)``."""
    monkeypatch.setattr("seqstream.planning.bucket.turns_of", turns)


def by_length(num: int, key: Any) -> npt.NDArray[np.int64]:
    """Longest first, as a curriculum has them."""
    return np.arange(num)


def at_random(num: int, key: Any) -> npt.NDArray[np.int64]:
    """Shuffled, so that long ones cluster now and then."""
    return shuffled(num, *key, "batches")


def in_halves(num: int, key: Any) -> npt.NDArray[np.int64]:
    """Longer batches first, each half shuffled."""
    return np.concatenate([shuffled(num // 2, *key), num // 2 + shuffled(num - num // 2, *key)])


def without_the_longest(num: int, key: Any) -> npt.NDArray[np.int64]:
    """Evenly, but for the longest eighth, which comes last."""
    return np.concatenate([num // 8 + shuffled(num - num // 8, *key), np.arange(num // 8)])


SPECS: dict[str, BatchSpec] = {
    "tokens": ss.Bucket(1000),
    "alike": ss.Bucket(1000, step="alike"),
    "windows": ss.Bucket(800, window_batches=70),
    "rounded": ss.Bucket(1024, multiple_of=16),
    "shapes": ss.Bucket(shapes=[(5, 200), (15, 64), (48, 20)], max_tokens=1000),
}


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_batches_are_fair_samples(spec: BatchSpec, accumulate: int) -> None:
    """Any 16 batches that follow each other hold all lengths, whatever the budget is."""
    for seed in range(3):
        testing.check_fair_sample(functools.partial(make_loader, spec, seed=seed, accumulate=accumulate))


@pytest.mark.parametrize("turns", [by_length, at_random, in_halves, without_the_longest])
def test_an_uneven_order_is_found(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders by length, at random or with a part missing fail; the message names the batches, and by how much they are off."""
    with_turns(monkeypatch, turns)
    with pytest.raises(
        AssertionError, match=r"^(batches \d+ to \d+ of a window must hold each octile|an octile must deviate by at most)"
    ):
        testing.check_fair_sample(functools.partial(make_loader, SPECS["tokens"]))


def test_an_order_is_looked_at_in_all_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later window is looked at as well as the first."""
    fair = ss.Bucket.plan_global
    number = itertools.count()

    def plan_global(self: ss.Bucket, *args: Any, **options: Any) -> GlobalPlan:
        global_plan = fair(self, *args, **options)
        return dataclasses.replace(global_plan, turns=np.sort(global_plan.turns)) if next(number) == 1 else global_plan

    monkeypatch.setattr(ss.Bucket, "plan_global", plan_global)
    lengths = [length for seed in range(3) for length in np.random.default_rng(seed).permutation(LENGTHS).tolist()]
    with pytest.raises(AssertionError, match="batches"):
        testing.check_fair_sample(functools.partial(make_loader, SPECS["windows"], lengths, prefetch=0))
    assert next(number) >= 2


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (ss.Bucket(1000), {"shuffle": False}),  # served in the order of their lengths
        (ss.Bucket(batch_size=20), {}),  # no budget of tokens
        (ss.Bucket(300), {}),  # less than four of the longest rows
        (ss.Bucket(800), {"lengths": LENGTHS[:1500]}),  # too few batches
        (ss.Unbucketed(20), {}),
        (ss.Pack(200, rows=4), {}),
    ],
    ids=repr,
)
def test_what_is_too_coarse_is_left_out(spec: BatchSpec, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no order can be judged, none fails."""
    with_turns(monkeypatch, by_length)
    testing.check_fair_sample(functools.partial(make_loader, spec, **options))


def test_loaders_are_checked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check_loader`, which authors of sources call, has it among its laws."""
    with_turns(monkeypatch, by_length)
    monkeypatch.setattr(laws, "FEWEST_BATCHES", 24)
    make = functools.partial(make_loader, ss.Bucket(40), [*range(1, 11)] * 20, prefetch=0)
    with pytest.raises(AssertionError, match="octile"):
        testing.check_loader(make)
    monkeypatch.undo()
    testing.check_loader(make)


def octiles(lengths: list[int]) -> Lengths:
    """Return how much of each batch is in each octile."""
    return length_octiles(np.array(lengths, dtype=np.float64))


def test_octiles_by_hand() -> None:
    """Eight batches are an octile each, longest first; of four each fills two; those of one length share theirs."""
    assert octiles([1, 2, 3, 4, 5, 6, 7, 8]).tolist() == np.eye(8)[::-1].tolist()
    assert octiles([40, 30, 20, 10])[:2].tolist() == [[0.5, 0.5, 0, 0, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0, 0, 0]]
    assert octiles([5] * 8).tolist() == [[1 / 8] * 8] * 8
    shared = octiles([9, 9, 5, 4, 3, 2, 1, 1])
    assert shared[0].tolist() == shared[1].tolist() == [0.5, 0.5, 0, 0, 0, 0, 0, 0]
