"""Who takes part: the ranks that share each window, and how they talk to each other."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from seqstream.arrays import Index
from seqstream.options import function_or_none, whole_number

Bytes: TypeAlias = npt.NDArray[np.uint8]

AllGather: TypeAlias = Callable[[bytes], Sequence[bytes]]
"""Gives every rank what each of them has, in the order of ranks."""


class Ranks(Protocol):
    """Some processes that build the same loader and iterate over it in step."""

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""

    @property
    def world_size(self) -> int:
        """How many there are."""

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        """Return what each rank has given, in the order of ranks."""

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        """Send so many bytes to each rank; return those that came, rank after rank, and how many from each.

        Args:
            data: ``uint8 (n,)``.
            sizes: ``int64 (R,)``, which add up to ``n``.
        """


class SingleProcess:
    """One process: there is nobody to talk to."""

    rank = 0
    world_size = 1

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        return [data]

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        return data, sizes


class CallbackCollectives:
    """Ranks that talk by a function of the user, such as threads with a barrier."""

    def __init__(self, rank: int, world_size: int, all_gather: AllGather) -> None:
        self.rank = rank
        self.world_size = world_size
        self._gather = all_gather

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        return self._gather(data)

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        found = []
        for told in self._gather(sizes.astype(np.int64).tobytes() + data.tobytes()):
            theirs = np.frombuffer(told, np.int64, len(sizes))
            first = theirs.nbytes + int(theirs[: self.rank].sum())
            found.append(np.frombuffer(told, np.uint8, int(theirs[self.rank]), first))
        return np.concatenate(found), np.array([len(part) for part in found])


class GlooCollectives:
    """The ranks of ``torch.distributed``, on a gloo group of their own, so that nothing else comes in between."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._timeout = _timeout()
        self._group = dist.new_group(backend="gloo", timeout=self._timeout)

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        sizes = self._sizes([len(data)] * self.world_size)
        longest = max(sizes)
        own = torch.zeros(longest, dtype=torch.uint8)
        own[: len(data)] = _as_tensor(data)
        found = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        self._call(lambda: dist.all_gather(found, own, group=self._group))
        return [each.numpy()[:size].tobytes() for each, size in zip(found, sizes, strict=True)]

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        given, coming = sizes.tolist(), self._sizes(sizes.tolist())
        found = torch.empty(sum(coming), dtype=torch.uint8)
        sent = torch.from_numpy(data if data.flags.writeable else data.copy())  # it warns of memory that is not
        self._call(lambda: dist.all_to_all_single(found, sent, coming, given, group=self._group))
        return found.numpy(), np.array(coming)

    def _sizes(self, given: Sequence[int]) -> list[int]:
        """Tell each rank a number, and return what each of them told."""
        found = torch.empty(self.world_size, dtype=torch.int64)
        sent = torch.tensor(given, dtype=torch.int64)
        self._call(lambda: dist.all_to_all_single(found, sent, group=self._group))
        sizes: list[int] = found.tolist()
        return sizes

    def _call(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} cannot share the next window with the {self.world_size - 1} others: one of them has died, "
                f"has left its loop, or did not come within the {self._timeout.total_seconds():,.0f} s of the process group; "
                "look at what the others say"
            ) from error


def _timeout() -> datetime.timedelta:
    """Return how long the default process group waits for a rank; there is no public way to ask."""
    group = dist.group.WORLD
    for device in getattr(group, "_device_types", ()):
        options = getattr(group._get_backend(device), "options", None)  # type: ignore[union-attr]
        if isinstance(found := getattr(options, "_timeout", None), datetime.timedelta):
            return found
    return dist.default_pg_timeout


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def find_ranks(rank: int | None, world_size: int | None, all_gather: AllGather | None) -> Ranks:
    """Return the ranks given by hand, else those of ``torch.distributed`` where it runs, else this process alone."""
    if rank is not None and world_size is not None:
        return SingleProcess() if world_size == 1 or all_gather is None else CallbackCollectives(rank, world_size, all_gather)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return GlooCollectives()
    return SingleProcess()


def count_ranks(world_size: int | None) -> int:
    """Return how many ranks there are, given by hand or those of ``torch.distributed``; nothing is said to them."""
    if world_size is not None:
        return world_size
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def check_ranks(rank: int | None, world_size: int | None, all_gather: AllGather | None) -> tuple[int | None, int | None]:
    """Return which rank this is, and of how many; refuse ranks by hand that are not complete.

    Raises:
        TypeError: They are no numbers, or ``all_gather`` is no function.
        ValueError: One is given without the others, or they do not go together.
    """
    function_or_none("all_gather", all_gather)
    if rank is None and world_size is None and all_gather is None:
        return None, None
    if rank is None or world_size is None:
        raise ValueError(f"rank and world_size must be given together, got rank={rank} and world_size={world_size}")
    rank, world_size = whole_number("rank", rank), whole_number("world_size", world_size)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in range(world_size), got rank={rank} and world_size={world_size}")
    if world_size > 1 and all_gather is None:
        raise ValueError(
            f"all_gather must be given with world_size={world_size}, a function that gives every rank what each of them has; "
            "or start torch.distributed and leave all three out"
        )
    return rank, world_size
