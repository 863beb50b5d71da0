"""What ranks tell each other before they share a window: where they are, and how many rows their blocks have."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from seqstream.ranks import Ranks

NO_BLOCKS = np.empty(0, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class Header:
    """Where a rank is, and what it has to say.

    Attributes:
        epoch: The epoch of the window.
        position: Where in the order of its shards the window begins.
        blocks: How many blocks it has.
        skip: Rows of its first blocks that belong to the window before.
        served: Rows of it that were served.
        rows: ``int32 (n,)``, rows of each of this rank's blocks.
        error: What went wrong here.
        chosen: What was chosen here, where ranks begin to iterate; ``None`` before a window.
    """

    epoch: object
    position: int
    blocks: int
    skip: int
    served: int
    rows: npt.NDArray[np.int32] = dataclasses.field(default_factory=lambda: NO_BLOCKS)
    error: str = ""
    chosen: dict[str, str] | None = None

    def telling(self, rows: npt.NDArray[np.integer[Any]]) -> Header:
        return dataclasses.replace(self, rows=rows.astype(np.int32))

    def failing(self, error: BaseException) -> Header:
        return dataclasses.replace(self, error=f"{type(error).__name__}: {error}")

    def to_bytes(self) -> bytes:
        place = json.dumps([self.epoch, self.position, self.blocks, self.skip, self.served, self.error, self.chosen]).encode()
        return len(place).to_bytes(4, "little") + place + self.rows.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        stop = 4 + int.from_bytes(data[:4], "little")
        epoch, position, blocks, skip, served, error, chosen = json.loads(data[4:stop])
        return cls(epoch, position, blocks, skip, served, np.frombuffer(data[stop:], dtype=np.int32), error, chosen)


def meet(own: Header, ranks: Ranks) -> list[npt.NDArray[np.int32]]:
    """Return how many rows each block of each rank has, if all ranks are at the same place.

    Raises:
        RuntimeError: Some rank is elsewhere, or something went wrong there.
    """
    return [other.rows for other in _told(own, ranks)]


def agree(own: Header, ranks: Ranks, choose: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Return what rank 0 has chosen, if all ranks begin at the same place.

    Raises:
        RuntimeError: Some rank is elsewhere, or rank 0 could not choose.
    """
    if ranks.world_size == 1:
        return choose()
    own = dataclasses.replace(own, chosen={})
    if ranks.rank == 0:
        try:
            own = dataclasses.replace(own, chosen=choose())
        except Exception as error:
            _told(own.failing(error), ranks)
            raise
    return _told(own, ranks)[0].chosen or {}


def _told(own: Header, ranks: Ranks) -> list[Header]:
    """Return what all ranks say, in their order."""
    told = [Header.from_bytes(data) for data in ranks.gather(own.to_bytes())]
    for rank, other in enumerate(told):
        if (other.epoch, other.position, other.chosen is None) != (own.epoch, own.position, own.chosen is None):
            raise RuntimeError(
                f"ranks must take the same steps, got rank {ranks.rank} at epoch {own.epoch}, position {own.position} and rank "
                f"{rank} at epoch {other.epoch}, position {other.position}; one of them has left its loop early, so let all "
                "leave it at the same step, and load the same state on all"
            )
        if other.error and rank != ranks.rank and not own.error:
            raise RuntimeError(f"rank {rank} cannot go on, so nor can rank {ranks.rank}; there it was {other.error}")
        if (other.blocks, other.skip, other.served) != (own.blocks, own.skip, own.served):
            raise RuntimeError(
                f"ranks must have the same data and state, got {own.blocks} blocks and {own.served} rows served on rank "
                f"{ranks.rank}, {other.blocks} and {other.served} on rank {rank} at position {own.position}; "
                "give all ranks the same source and state"
            )
    return told
