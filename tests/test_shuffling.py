"""Orders and hashes that need no state."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.shuffling import EvenOrder, hash_index, key_of, numbers_at, shuffled

SMALL = [1, 7, 9, 3, 0, 5, 8, 4, 2, 6]
LARGE = [72929841374, 653289621867, 869801555796]
STRAIGHT = [8, 4, 6, 0, 7, 2, 5, 1, 9, 3]


def numbers(order: EvenOrder) -> list[int]:
    """Return the number at each position."""
    return [order[position] for position in range(len(order))]


def test_an_order_has_every_number_once() -> None:
    """For every size, all positions have different numbers."""
    for size in [*range(130), 255, 256, 257, 1023, 1025, 4097]:
        assert sorted(numbers(EvenOrder(size, 7, "shards"))) == list(range(size)), size


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), st.integers(), st.integers(0, 5))
def test_an_order_of_any_seed_has_every_number_once(size: int, seed: int, epoch: int) -> None:
    """Seeds and epochs of any size give permutations."""
    assert sorted(numbers(EvenOrder(size, seed, epoch))) == list(range(size))


def test_an_order_does_not_change_between_versions() -> None:
    """The numbers are fixed, so that a saved state keeps its meaning."""
    assert numbers(EvenOrder(10, 0, 0, "shards")) == SMALL
    assert [EvenOrder(10**12, 0, 0, "shards")[position] for position in (0, 1, 10**12 - 1)] == LARGE
    assert numbers(EvenOrder(10, 0, 0, "shards", rotated=False)) == STRAIGHT
    assert hash_index(np.arange(-1, 2), 0, "key").tolist() == [16491486633132792757, 7121419125028977838, 10346209742875190638]
    assert shuffled(10, 0, "rows").tolist() == [6, 0, 2, 5, 1, 7, 4, 9, 8, 3]
    assert key_of(0, 0, "shards") == 14788456053565992210


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.integers(1, 3000), st.integers(1, 1 << 62)), st.integers(), st.data())
def test_many_positions_at_once(size: int, seed: int, data: st.DataObject) -> None:
    """A slice of an order, or of a range, equals its positions one by one."""
    begin = data.draw(st.integers(0, size - 1))
    stop = min(size, begin + data.draw(st.integers(0, 50)))
    order = EvenOrder(size, seed)
    assert order.between(begin, stop).tolist() == [order[position] for position in range(begin, stop)]
    assert numbers_at(order, begin, stop).tolist() == order.between(begin, stop).tolist()
    assert numbers_at(range(size), begin, stop).tolist() == list(range(begin, stop))


def test_a_position_of_a_huge_order_is_computed_at_once() -> None:
    """Time and memory do not depend on the size."""
    order = EvenOrder((1 << 62) + 1, 3)
    begin = time.perf_counter()
    found = [order[position] for position in range(1000)]
    assert time.perf_counter() - begin < 1
    assert len(order) == (1 << 62) + 1
    assert len(set(found)) == 1000
    assert all(0 <= number <= 1 << 62 for number in found)
    assert len({number >> 58 for number in found}) == 16, "neighbours must go everywhere"


def test_keys_give_different_orders() -> None:
    """Another seed, epoch or purpose gives another order."""
    orders = {
        tuple(numbers(EvenOrder(50, seed, epoch, name))) for seed in range(20) for epoch in range(5) for name in ("a", "b")
    }
    assert len(orders) == 200


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 17])
def test_every_number_is_at_each_position_equally_often(size: int) -> None:
    """Few shards are mixed as well as many: over seeds, each is first, in the middle and last about equally often."""
    num_seeds = 4000
    for position in (0, size // 2, size - 1):
        counts = np.bincount([EvenOrder(size, seed, "shards")[position] for seed in range(num_seeds)], minlength=size)
        expected = num_seeds / size
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected), counts


def test_an_order_by_hand() -> None:
    """Halves alternate: of eight numbers each pair has one of each half, each four one of each quarter."""
    for seed in range(50):
        order = numbers(EvenOrder(8, seed, rotated=False))
        assert all({number // 4 for number in order[start : start + 2]} == {0, 1} for start in range(7))
        assert all({number // 2 for number in order[start : start + 4]} == {0, 1, 2, 3} for start in range(5))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 600), st.integers(), st.booleans(), st.data())
def test_every_slice_is_spread_evenly(size: int, seed: int, rotated: bool, data: st.DataObject) -> None:
    """Of any slice, half of the numbers are in either half of the range, to within two."""
    order = np.array(numbers(EvenOrder(size, seed, rotated=rotated)))
    start = data.draw(st.integers(0, size - 1))
    stretch = order[start : start + data.draw(st.integers(1, size))]
    low = data.draw(st.integers(0, size - 1))
    inside = ((stretch - low) % size < size / 2).sum()
    assert abs(inside - len(stretch) / 2) <= 0.5 * np.log2(size + 1) + 1.5


@pytest.mark.parametrize("number", [0, 1, 50, 99])
def test_a_number_of_many_is_in_every_part_of_an_epoch(number: int) -> None:
    """Over seeds, each number is in each quarter of an order equally often, the one in the middle too."""
    for size in (100, 128):
        places = [int(np.flatnonzero(EvenOrder(size, seed, "shards").between(0, size) == number)[0]) for seed in range(2000)]
        counts = np.histogram(places, bins=np.linspace(0, size, 5))[0]
        assert np.abs(counts - 500).max() < 5 * np.sqrt(500), counts


def test_orders_of_two_epochs_do_not_correlate() -> None:
    """The positions of a number in two epochs are independent."""
    found = []
    for epoch in range(200):
        one, other = (np.argsort(numbers(EvenOrder(128, 0, each, "shards"))) for each in (epoch, epoch + 1))
        found.append(np.corrcoef(one, other)[0, 1])
    assert abs(np.mean(found)) < 3 / np.sqrt(128 * 200)
    assert np.std(found) < 1.5 / np.sqrt(128)


def test_a_position_outside_is_refused() -> None:
    """A position before the first or after the last is an error."""
    order = EvenOrder(5, 0)
    for position in (-1, 5):
        with pytest.raises(IndexError, match=rf"^position must be in range\(5\), got {position}$"):
            order[position]
    with pytest.raises(IndexError, match=r"^position must be in range\(0\), got 0$"):
        EvenOrder(0, 0)[0]


def test_hashes_are_even_in_every_bit() -> None:
    """Each of the 64 bits is set for half of the indices, and no two indices share a hash."""
    hashes = hash_index(np.arange(100_000), 5, "split")
    assert len(np.unique(hashes)) == 100_000
    for bit in range(64):
        share = (hashes >> np.uint64(bit) & np.uint64(1)).mean()
        assert abs(share - 0.5) < 0.01, bit


def test_hashes_of_far_apart_indices_are_even_too() -> None:
    """Row ids of many shards, which differ in high bits only, hash as evenly as neighbours."""
    hashes = hash_index(np.arange(20_000) << 32, 5, "split")
    counts = np.bincount((hashes >> np.uint64(60)).astype(np.int64), minlength=16)
    assert np.abs(counts - 1250).max() < 5 * np.sqrt(1250)


def test_hashes_depend_on_the_key_and_keep_the_shape() -> None:
    """Another key gives other hashes; the shape stays, and the index is not changed."""
    index = np.arange(6).reshape(2, 3)
    hashes = hash_index(index, 1)
    assert hashes.shape == (2, 3)
    assert hashes.dtype == np.uint64
    assert not (hashes == hash_index(index, 2)).any()
    assert hashes[1, 2] == hash_index(np.array([5]), 1)[0]
    assert index.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_parts_of_a_key_are_separate() -> None:
    """A hash depends on where one part ends and the next begins, and on their order."""
    keys = [key_of(1, 23), key_of(12, 3), key_of(123), key_of(23, 1), key_of("1", "2", "3"), key_of()]
    assert len(set(keys)) == len(keys)
    assert key_of(1) == key_of("1")
    assert all(0 <= key < 1 << 64 for key in keys)


def test_a_shuffle_has_every_number_once_and_depends_on_the_key() -> None:
    """A whole shuffled array is a permutation."""
    for size in (0, 1, 2, 1000):
        order = shuffled(size, 0, "rows")
        assert sorted(order.tolist()) == list(range(size))
    assert shuffled(1000, 0).tolist() != shuffled(1000, 1).tolist()
