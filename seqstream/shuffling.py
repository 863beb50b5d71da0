"""Seeded orders without state: permutations computed from a position, and hashes of counters.

No random generator is used: every number is a function of the seed and of its position, so that no state needs to be saved, and
a loader can start at any position.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15
_FEW = 16
"""Up to this many positions are computed one by one, which is faster than by arrays."""


def key_of(*parts: object) -> int:
    """Return a hash of 64 bits of all parts, an ``int``: ``key_of(seed, epoch, "shards")``.

    Parts are hashed as text, so ``1`` and ``"1"`` are the same.
    """
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def hash_index(index: npt.NDArray[np.int64], *key: object) -> npt.NDArray[np.uint64]:
    """Hash each index, with a key, to 64 uniform bits, ``uint64`` of the same shape (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        return mix_all(index.astype(np.uint64) * np.uint64(_ODD) + np.uint64(key_of(*key)))


def mix_all(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash each number to 64 uniform bits, as `mix` does, ``uint64`` of the same shape."""
    with np.errstate(over="ignore"):
        x: npt.NDArray[np.uint64] = values ^ (values >> np.uint64(30))
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        return x


def mix(value: int) -> int:
    """Hash a number of 64 bits to 64 uniform bits, each of which depends on all bits of the number (the same finaliser)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


class EvenOrder:
    """A seeded permutation of ``range(size)`` whose every run of positions is spread evenly over the range.

    The order alternates between the halves of the range, within each half between its halves, and so on down to single numbers;
    the key decides which half is first each time. So of any run of positions one half lies in each half of the range, a quarter
    in each quarter, and so on, to within one: the radical inverse in base 2, scrambled as by Owen, "Randomly Permuted
    (t,m,s)-Nets and (t,s)-Sequences", 1995, for any size. It needs no table: a position takes as many steps as ``size`` has
    bits.

    Args:
        size: Number of elements.
        key: The order depends on it: seeds, epochs and names.
        rotated: Whether numbers are rotated by a random shift, modulo ``size``. Then, over many keys, each number is equally
            often at each position, even where one half is larger than the other. If ``size`` is a power of two, halves are
            equal and no shift is needed. Without it, the order alternates exactly between halves, quarters and eighths of
            ``range(size)``.
    """

    def __init__(self, size: int, *key: object, rotated: bool = True) -> None:
        self.size = size
        self._key = key_of(*key)
        self._shift = key_of(*key, "shift") % size if rotated and size & (size - 1) else 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self.size:
            raise IndexError(f"position must be in range({self.size}), got {position}")
        low, size = 0, self.size
        while size > 1:
            is_first = not position & 1
            is_left = is_first != self._flips(low, size)
            half = (size + is_first) // 2  # of an odd size, the first half has one more
            low += 0 if is_left else size - half
            size, position = half, position >> 1
        return (low + self._shift) % self.size

    def between(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the numbers at positions ``start`` to ``stop - 1``, ``int64 (stop - start,)``, computed together."""
        low, size = np.zeros(1, dtype=np.int64), np.full(1, self.size)
        num_halvings, num_shared = (self.size - 1).bit_length(), 0
        while num_shared < num_halvings and 2 << num_shared <= stop - start:  # what positions with equal last bits share
            halves = [self._halve(low, size, is_first) for is_first in (1, 0)]
            low, size = np.concatenate([each[0] for each in halves]), np.concatenate([each[1] for each in halves])
            num_shared += 1
        position = np.arange(start, stop)
        last_bits = position & len(low) - 1
        low, size = low[last_bits], size[last_bits]
        position >>= num_shared
        for _ in range(num_halvings - num_shared):
            low, size = self._halve(low, size, ~position & 1)
            position >>= 1
        return (low + self._shift) % self.size if self.size else low

    def _halve(
        self, low: npt.NDArray[np.int64], size: npt.NDArray[np.int64], is_first: int | npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where the half begins that is first, or the other one, of each range from ``low``, and its size."""
        half = np.maximum(size + is_first >> 1, 1)  # a range of one number stays as it is
        is_right = is_first == self._flip_all(low, size)
        return low + (size - half) * is_right, half

    def _flips(self, low: int, size: int) -> bool:
        """Return whether the right half of the range from ``low`` of ``size`` numbers is first."""
        return bool(mix((low * _ODD + size & _MASK) ^ self._key) & 1)

    def _flip_all(self, low: npt.NDArray[np.int64], size: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return whether the right half of each range is first, ``bool (n,)``."""
        values = low.view(np.uint64) * np.uint64(_ODD)
        values += size.view(np.uint64)
        values ^= np.uint64(self._key)
        return (mix_all(values) & np.uint64(1)).astype(np.bool_)


def numbers_at(order: EvenOrder | range, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Return the numbers at positions ``start`` to ``stop - 1`` of an order, ``int64 (stop - start,)``."""
    if isinstance(order, EvenOrder) and stop - start > _FEW:
        return order.between(start, stop)
    return np.array([*map(order.__getitem__, range(start, stop))], dtype=np.int64)


def shuffled(size: int, *key: object) -> npt.NDArray[np.int64]:
    """Return a seeded random permutation of ``range(size)``, ``int64 (size,)``; unlike `EvenOrder`, it is a whole array."""
    return np.argsort(hash_index(np.arange(size), *key), kind="stable")
