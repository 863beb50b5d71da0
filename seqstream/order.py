"""Seeded order without state: a permutation computed from a position, and hashes of counters.

Nothing here draws from a generator: every number is a function of the seed and of where it is used, so that nothing needs to be
saved and a position can be opened without visiting those before it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_SCALAR = 32
"""So few positions of a permutation are computed sooner one by one."""

_ROUNDS = 6  # with 4, some of five shards came first a third more often than others


def key_of(*parts: object) -> int:
    """Return 64 bits that depend on every part: ``key_of(seed, epoch, "shards")``.

    Parts are told apart by their text, so ``1`` and ``"1"`` are the same part.
    """
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def hash_index(index: npt.NDArray[np.int64], *key: object) -> npt.NDArray[np.uint64]:
    """Hash each index under a key into 64 even bits, ``uint64`` of the same shape (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        return mix_all(index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key_of(*key)))


def mix_all(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return 64 even bits for each number, as `mix` does, ``uint64`` of the same shape."""
    with np.errstate(over="ignore"):
        x = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
        return mixed


def mix(value: int) -> int:
    """Return 64 even bits that depend on every bit of a number of 64 (the same finaliser)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


class Permutation:
    """A seeded permutation of ``range(size)`` that computes ``permutation[position]`` in constant time and memory.

    A balanced Feistel network over the smallest even number of bits that holds ``size``; a value outside the range is fed back
    until it falls inside (cycle walking), fewer than four times on average.
    """

    def __init__(self, size: int, *key: object) -> None:
        self.size = size
        self._half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        self._keys = [key_of(*key, number) for number in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self.size:
            raise IndexError(f"position must be in range({self.size}), got {position}")
        value = self._encrypt(position)
        while value >= self.size:
            value = self._encrypt(value)
        return value

    def between(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return what lies at positions ``start`` to ``stop - 1``, ``int64 (stop - start,)``, many at a time."""
        values = self._encrypt_all(np.arange(start, stop, dtype=np.uint64))
        while len(outside := np.flatnonzero(values >= self.size)):
            values[outside] = self._encrypt_all(values[outside])
        return values.astype(np.int64)

    def _encrypt_all(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        half, low_bits = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = values >> half, values & low_bits
        for key in self._keys:
            left, right = right, left ^ (mix_all(right ^ np.uint64(key)) & low_bits)
        found: npt.NDArray[np.uint64] = left << half | right
        return found

    def _encrypt(self, value: int) -> int:
        low_bits = (1 << self._half) - 1
        left, right = value >> self._half, value & low_bits
        for key in self._keys:
            left, right = right, left ^ (mix(right ^ key) & low_bits)
        return left << self._half | right


def numbers_at(order: Permutation | range, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Return what lies at positions ``start`` to ``stop - 1`` of an order."""
    if isinstance(order, Permutation) and stop - start > _SCALAR:
        return order.between(start, stop)
    return np.array([*map(order.__getitem__, range(start, stop))], dtype=np.int64)


def shuffled(size: int, *key: object) -> npt.NDArray[np.int64]:
    """Return a seeded random order of ``range(size)``, ``int64 (size,)``; all at once, unlike `Permutation`."""
    return np.argsort(hash_index(np.arange(size), *key), kind="stable")
