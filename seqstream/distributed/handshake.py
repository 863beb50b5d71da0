"""What ranks tell each other before they share a window: where they are, and how many rows their blocks have."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from seqstream.distributed.agreement import Common
from seqstream.distributed.collectives import Ranks

NO_BLOCKS = np.empty(0, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class Handshake:
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
        digest: Of what all ranks must have in common: before an epoch their data and options, before a window the blocks that
            all of them have read.
    """

    epoch: object
    position: int
    blocks: int
    skip: int
    served: int
    rows: npt.NDArray[np.int32] = dataclasses.field(default_factory=lambda: NO_BLOCKS)
    error: str = ""
    chosen: dict[str, str] | None = None
    digest: str = ""

    def telling(self, rows: npt.NDArray[np.integer[Any]]) -> Handshake:
        return dataclasses.replace(self, rows=rows.astype(np.int32))

    def failing(self, error: BaseException) -> Handshake:
        return dataclasses.replace(self, error=f"{type(error).__name__}: {error}")

    def to_bytes(self) -> bytes:
        place = json.dumps(
            [self.epoch, self.position, self.blocks, self.skip, self.served, self.error, self.chosen, self.digest]
        ).encode()
        return len(place).to_bytes(4, "little") + place + self.rows.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Handshake:
        stop = 4 + int.from_bytes(data[:4], "little")
        epoch, position, blocks, skip, served, error, chosen, digest = json.loads(data[4:stop])
        return cls(epoch, position, blocks, skip, served, np.frombuffer(data[stop:], dtype=np.int32), error, chosen, digest)


Explain = Callable[[Ranks], None]
"""Called by all ranks together where their digests differ: raises an error that says what does, or finds nothing wrong."""


def check_in(own: Handshake, ranks: Ranks, explain: Explain) -> list[npt.NDArray[np.int32]]:
    """Return how many rows each block of each rank has, if all ranks are at the same place and have the same data.

    Raises:
        RuntimeError: Some rank is elsewhere, or something went wrong there.
    """
    return [other.rows for other in _exchange(own, ranks, explain)]


@contextlib.contextmanager
def reported(own: Handshake, ranks: Ranks) -> Iterator[None]:
    """Let all ranks know of an error before their first exchange of an epoch, so that none waits for this one."""
    try:
        yield
    except Exception as error:
        if ranks.world_size > 1:
            _exchange(dataclasses.replace(own, chosen={}).failing(error), ranks)
        raise


def agree_on_engines(
    own: Handshake, ranks: Ranks, common: Common, choose: Callable[[], dict[str, str]]
) -> tuple[dict[str, str], bool]:
    """Return what rank 0 has chosen, if all ranks begin at the same place with the same data and options.

    Returns:
        The choice, and whether records were found to be others each time they are read.

    Raises:
        RuntimeError: Some rank is elsewhere, or has other data or options, or rank 0 could not choose.
    """
    own = dataclasses.replace(own, chosen={})
    with reported(own, ranks):
        own = dataclasses.replace(own, digest=common.digest())
        if ranks.rank == 0:
            own = dataclasses.replace(own, chosen=choose())
    told = _exchange(own, ranks, common.explain)
    return told[0].chosen or {}, any(other.digest != own.digest for other in told)


def _exchange(own: Handshake, ranks: Ranks, explain: Explain | None = None) -> list[Handshake]:
    """Return what all ranks have to say, in their order.

    Every rank checks the same things of all ranks, in the same order, so that all raise, or all explain, together.
    """
    told = [Handshake.from_bytes(data) for data in ranks.all_gather(own.to_bytes())]
    for rank, other in enumerate(told):
        if (other.epoch, other.position, other.chosen is None) != (own.epoch, own.position, own.chosen is None):
            raise RuntimeError(
                f"ranks must take the same steps, got rank {ranks.rank} at epoch {own.epoch}, position {own.position} and rank "
                f"{rank} at epoch {other.epoch}, position {other.position}; one of them has left its loop early, so let all "
                "leave it at the same step, and load the same state on all"
            )
    for rank, other in enumerate(told):
        if other.error and rank != ranks.rank and not own.error:
            raise RuntimeError(f"rank {rank} cannot go on, so nor can rank {ranks.rank}; there it was {other.error}")
    if explain is not None and not any(other.error for other in told) and len({other.digest for other in told}) > 1:
        explain(ranks)
    for rank, other in enumerate(told):
        if (other.blocks, other.skip, other.served) != (own.blocks, own.skip, own.served):
            raise RuntimeError(
                f"ranks must have the same data and state, got {own.blocks} blocks and {own.served} rows served on rank "
                f"{ranks.rank}, {other.blocks} and {other.served} on rank {rank} at position {own.position}; "
                "give all ranks the same source and state"
            )
    return told
