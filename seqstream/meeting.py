"""What ranks tell each other before they share a window: where they are, and how many rows their blocks have."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np

from seqstream.ranks import Ranks
from seqstream.sources.protocol import Json


@dataclasses.dataclass(frozen=True)
class Header:
    """Where a rank is, and what it has to say.

    Attributes:
        epoch: The epoch of the window.
        position: Where in the order of its shards the window begins.
        blocks: How many blocks it has.
        skip: Rows of its first blocks that belong to the window before.
        served: Rows of it that were served.
        rows: Rows of each of this rank's blocks.
        error: What went wrong here.
    """

    epoch: object
    position: int
    blocks: int
    skip: int
    served: int
    rows: tuple[int, ...] = ()
    error: str = ""

    def telling(self, rows: Sequence[int]) -> Header:
        return dataclasses.replace(self, rows=tuple(rows))

    def failing(self, error: BaseException) -> Header:
        return dataclasses.replace(self, error=f"{type(error).__name__}: {error}")

    def to_bytes(self) -> bytes:
        place = json.dumps([self.epoch, self.position, self.blocks, self.skip, self.served, self.error]).encode()
        return len(place).to_bytes(4, "little") + place + np.array(self.rows, dtype=np.int32).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        stop = 4 + int.from_bytes(data[:4], "little")
        epoch, position, blocks, skip, served, error = json.loads(data[4:stop])
        rows = tuple(np.frombuffer(data[stop:], dtype=np.int32).tolist())
        return cls(epoch, position, blocks, skip, served, rows, error)


def meet(own: Header, ranks: Ranks) -> list[tuple[int, ...]]:
    """Return how many rows each block of each rank has, if all ranks are at the same place.

    Raises:
        RuntimeError: Some rank is elsewhere, or something went wrong there.
    """
    told = [Header.from_bytes(data) for data in ranks.gather(own.to_bytes())]
    for rank, other in enumerate(told):
        if (other.epoch, other.position) != (own.epoch, own.position):
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
    return [other.rows for other in told]


def agree(ranks: Ranks, choose: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Return what rank 0 has chosen.

    Raises:
        RuntimeError: It could not choose.
    """
    if ranks.world_size == 1:
        return choose()
    told: dict[str, Json] = {}
    if ranks.rank == 0:
        try:
            told["chosen"] = choose()
        except Exception as error:
            ranks.gather(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
            raise
    first = json.loads(ranks.gather(json.dumps(told).encode())[0])
    if "error" in first:
        raise RuntimeError(f"rank 0 cannot go on, so nor can rank {ranks.rank}; there it was {first['error']}")
    chosen: dict[str, str] = first["chosen"]
    return chosen
