"""Seeded order without state: an even order computed from a position, and hashes of counters.

Nothing here draws from a generator: every number is a function of the seed and of where it is used, so that nothing needs to be
saved and a position can be opened without visiting those before it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15
_FEW = 16
"""So few positions are computed sooner one by one."""


def key_of(*parts: object) -> int:
    """Return 64 bits that depend on every part: ``key_of(seed, epoch, "shards")``.

    Parts are told apart by their text, so ``1`` and ``"1"`` are the same part.
    """
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def hash_index(index: npt.NDArray[np.int64], *key: object) -> npt.NDArray[np.uint64]:
    """Hash each index under a key into 64 even bits, ``uint64`` of the same shape (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        return mix_all(index.astype(np.uint64) * np.uint64(_ODD) + np.uint64(key_of(*key)))


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


class EvenOrder:
    """A seeded order of ``range(size)`` of which every stretch is spread evenly, computed from the position, with no table.

    Halves are visited in turn, and so are the halves of each half, down to single numbers; which one is first is drawn each
    time. So of any stretch half lies in either half, a quarter in each quarter, and so on, give or take one: the radical
    inverse in base 2, scrambled as by Owen, "Randomly Permuted (t,m,s)-Nets and (t,s)-Sequences", 1995, for any size. A
    position takes as many steps as ``size`` has bits.

    Args:
        size: How many numbers.
        key: What the order depends on.
        turned: Begin at a random number and go round, so that over many keys each number comes at each position equally often,
            though halves may be unlike; where ``size`` is a power of two none is, and nothing is turned. Without, it is exactly
            halves, quarters and eighths of ``range(size)`` that are visited in turn.
    """

    def __init__(self, size: int, *key: object, turned: bool = True) -> None:
        self.size = size
        self._key = key_of(*key)
        self._shift = key_of(*key, "shift") % size if turned and size & (size - 1) else 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self.size:
            raise IndexError(f"position must be in range({self.size}), got {position}")
        low, size = 0, self.size
        while size > 1:
            is_first = not position & 1
            is_left = is_first != self._flips(low, size)
            half = (size + is_first) // 2  # of an odd number the half that is first has one more
            low += 0 if is_left else size - half
            size, position = half, position >> 1
        return (low + self._shift) % self.size

    def between(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return what lies at positions ``start`` to ``stop - 1``, ``int64 (stop - start,)``, many at a time."""
        position = np.arange(start, stop)
        low, size = np.zeros_like(position), np.full_like(position, self.size)
        for _ in range((self.size - 1).bit_length()):
            is_first = ~position & 1
            is_left = is_first.astype(np.bool_) != self._flip_all(low, size)
            half = np.where(size > 1, (size + is_first) // 2, size)
            low += np.where(is_left, 0, size - half)
            size, position = half, position >> 1
        return (low + self._shift) % self.size if self.size else low

    def _flips(self, low: int, size: int) -> bool:
        """Return whether the right half of a range comes first."""
        return bool(mix((low * _ODD + size & _MASK) ^ self._key) & 1)

    def _flip_all(self, low: npt.NDArray[np.int64], size: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        with np.errstate(over="ignore"):
            values = low.astype(np.uint64) * np.uint64(_ODD) + size.astype(np.uint64)
        return (mix_all(values ^ np.uint64(self._key)) & np.uint64(1)).astype(np.bool_)


def numbers_at(order: EvenOrder | range, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Return what lies at positions ``start`` to ``stop - 1`` of an order."""
    if isinstance(order, EvenOrder) and stop - start > _FEW:
        return order.between(start, stop)
    return np.array([*map(order.__getitem__, range(start, stop))], dtype=np.int64)


def shuffled(size: int, *key: object) -> npt.NDArray[np.int64]:
    """Return a seeded random order of ``range(size)``, ``int64 (size,)``; all at once, unlike `EvenOrder`."""
    return np.argsort(hash_index(np.arange(size), *key), kind="stable")
