"""The ranks that share each window, and how they exchange bytes."""

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
"""Returns to every rank the bytes that each rank has passed, in the order of ranks."""


class Ranks(Protocol):
    """The ``R`` processes that build the same loader and iterate over it in step.

    Every rank must call the same methods in the same order.
    """

    @property
    def rank(self) -> int:
        """Rank of this process, from 0."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        """Return the bytes that each rank has passed, in the order of ranks."""

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        """Send some bytes to each rank.

        Args:
            data: ``uint8 (n,)``, the bytes for rank 0, then those for rank 1, and so on.
            sizes: ``int64 (R,)``, number of bytes for each rank.

        Returns:
            The received bytes, rank after rank, and the number of bytes from each rank, ``int64 (R,)``.
        """


class SingleProcess:
    """A single process, which receives what it sends."""

    rank = 0
    world_size = 1

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        return [data]

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        return data, sizes


class CallbackCollectives:
    """Ranks that exchange bytes by a function of the user, such as threads with a barrier."""

    def __init__(self, rank: int, world_size: int, all_gather: AllGather) -> None:
        self.rank = rank
        self.world_size = world_size
        self._all_gather = all_gather

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        return self._all_gather(data)

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        received = []
        for message in self._all_gather(sizes.astype(np.int64).tobytes() + data.tobytes()):
            other_sizes = np.frombuffer(message, np.int64, len(sizes))
            first = other_sizes.nbytes + int(other_sizes[: self.rank].sum())
            received.append(np.frombuffer(message, np.uint8, int(other_sizes[self.rank]), first))
        return np.concatenate(received), np.array([len(part) for part in received])


class GlooCollectives:
    """The ranks of ``torch.distributed``, with a gloo group of their own, apart from other collectives of the process."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._timeout = _timeout()
        self._group = dist.new_group(backend="gloo", timeout=self._timeout)

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        sizes = self._exchange_sizes([len(data)] * self.world_size)
        longest = max(sizes)
        own = torch.zeros(longest, dtype=torch.uint8)
        own[: len(data)] = _as_tensor(data)
        received = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        self._call(lambda: dist.all_gather(received, own, group=self._group))
        return [each.numpy()[:size].tobytes() for each, size in zip(received, sizes, strict=True)]

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        sent_sizes, received_sizes = sizes.tolist(), self._exchange_sizes(sizes.tolist())
        received = torch.empty(sum(received_sizes), dtype=torch.uint8)
        sent = torch.from_numpy(data if data.flags.writeable else data.copy())  # it warns of read-only memory
        self._call(lambda: dist.all_to_all_single(received, sent, received_sizes, sent_sizes, group=self._group))
        return received.numpy(), np.array(received_sizes)

    def _exchange_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Send a number to each rank, and return the numbers from all ranks."""
        received = torch.empty(self.world_size, dtype=torch.int64)
        sent = torch.tensor(sizes, dtype=torch.int64)
        self._call(lambda: dist.all_to_all_single(received, sent, group=self._group))
        found: list[int] = received.tolist()
        return found

    def _call(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} of {self.world_size} cannot share the next window with the other ranks: one of them has "
                f"died, has left its loop, or has not answered within {self._timeout.total_seconds():,.0f} s, the timeout of "
                "the process group; see the errors of the other ranks"
            ) from error


def _timeout() -> datetime.timedelta:
    """Return the timeout of the default process group, for which there is no public function."""
    group = dist.group.WORLD
    for device in getattr(group, "_device_types", ()):
        options = getattr(group._get_backend(device), "options", None)  # type: ignore[union-attr]
        if isinstance(found := getattr(options, "_timeout", None), datetime.timedelta):
            return found
    return dist.default_pg_timeout


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def find_ranks(rank: int | None, world_size: int | None, all_gather: AllGather | None) -> Ranks:
    """Return the ranks of the arguments, else those of ``torch.distributed`` where it runs, else a single process."""
    if rank is not None and world_size is not None:
        return SingleProcess() if world_size == 1 or all_gather is None else CallbackCollectives(rank, world_size, all_gather)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return GlooCollectives()
    return SingleProcess()


def count_ranks(world_size: int | None) -> int:
    """Return the number of ranks, as given or of ``torch.distributed``, without any collective."""
    if world_size is not None:
        return world_size
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def check_ranks(rank: int | None, world_size: int | None, all_gather: AllGather | None) -> tuple[int | None, int | None]:
    """Return the given rank and world size as ``int``, or ``None`` for both where none of the three options is given.

    Raises:
        TypeError: ``rank`` or ``world_size`` is not a whole number, or ``all_gather`` is not a function.
        ValueError: One is given without the others, or ``rank`` is not below ``world_size``.
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
            f"all_gather must be given with world_size={world_size}, a function that returns to every rank the bytes of each; "
            "or start torch.distributed and leave all three out"
        )
    return rank, world_size
