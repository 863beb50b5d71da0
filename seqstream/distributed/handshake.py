"""What ranks exchange before they share a window: their positions, their errors, and how many rows their blocks have."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.distributed.agreement import Common
from seqstream.distributed.collectives import Ranks

BlockRows: TypeAlias = npt.NDArray[np.int32]
"""``int32 (n,)``, number of rows of each block of a rank."""

NO_BLOCKS: BlockRows = np.empty(0, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class Handshake:
    """The message of a rank before a window, and before it begins to iterate.

    Attributes:
        epoch: The epoch of the window.
        position: Position in the order of shards at which the window begins.
        num_blocks: Number of blocks of the window.
        num_skipped: Number of rows of its first blocks that belong to the window before.
        num_served: Number of its rows that are served.
        block_rows: ``int32 (n,)``, number of rows of each block of this rank.
        error: The error of this rank; empty if there is none.
        engines: The engines that this rank has chosen, as it begins to iterate; ``None`` before a window.
        digest: Digest of what all ranks must have in common: before an epoch their data and options, before a window the
            blocks that all of them have read.
    """

    epoch: object
    position: int
    num_blocks: int
    num_skipped: int
    num_served: int
    block_rows: BlockRows = dataclasses.field(default_factory=lambda: NO_BLOCKS)
    error: str = ""
    engines: dict[str, str] | None = None
    digest: str = ""

    def with_rows(self, block_rows: npt.NDArray[np.integer[Any]]) -> Handshake:
        """Return the message with the numbers of rows of this rank's blocks."""
        return dataclasses.replace(self, block_rows=block_rows.astype(np.int32))

    def with_error(self, error: BaseException) -> Handshake:
        """Return the message with an error."""
        return dataclasses.replace(self, error=f"{type(error).__name__}: {error}")

    def to_bytes(self) -> bytes:
        sizes = [self.num_blocks, self.num_skipped, self.num_served]
        head = json.dumps([self.epoch, self.position, *sizes, self.error, self.engines, self.digest]).encode()
        return len(head).to_bytes(4, "little") + head + self.block_rows.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Handshake:
        stop = 4 + int.from_bytes(data[:4], "little")
        epoch, position, *sizes, error, engines, digest = json.loads(data[4:stop])
        num_blocks, num_skipped, num_served = sizes
        block_rows = np.frombuffer(data[stop:], dtype=np.int32)
        return cls(epoch, position, num_blocks, num_skipped, num_served, block_rows, error, engines, digest)


Explain: TypeAlias = Callable[[Ranks], None]
"""All ranks call it together where their digests differ: raises an error that names what differs, or finds no difference."""


def check_in(own: Handshake, ranks: Ranks, explain: Explain) -> list[BlockRows]:
    """Return the numbers of rows of the blocks of each rank, after a check that all ranks are at the same position.

    Args:
        own: The message of this rank.
        ranks: All ranks, which call this together.
        explain: Called where the digests of ranks differ.

    Raises:
        RuntimeError: Some rank is at another position, has other data, or has failed.
    """
    return [message.block_rows for message in _exchange(own, ranks, explain)]


@contextlib.contextmanager
def report_errors(own: Handshake, ranks: Ranks) -> Iterator[None]:
    """Send an error in the block to all ranks, before the first exchange of an epoch, so that none waits for this rank."""
    try:
        yield
    except Exception as error:
        if ranks.world_size > 1:
            _exchange(dataclasses.replace(own, engines={}).with_error(error), ranks)
        raise


def agree_on_engines(
    own: Handshake, ranks: Ranks, common: Common, choose: Callable[[], dict[str, str]]
) -> tuple[dict[str, str], bool]:
    """Return the engines that rank 0 chooses, after a check that all ranks begin alike.

    Args:
        own: The message of this rank.
        ranks: All ranks, which call this together.
        common: What all ranks must have in common.
        choose: Chooses engines by name; called on rank 0.

    Returns:
        The engines, and whether records differ between ranks because they differ each time that they are read.

    Raises:
        RuntimeError: Some rank is at another position, has other data or options, or rank 0 could not choose.
    """
    own = dataclasses.replace(own, engines={})
    with report_errors(own, ranks):
        own = dataclasses.replace(own, digest=common.digest())
        if ranks.rank == 0:
            own = dataclasses.replace(own, engines=choose())
    messages = _exchange(own, ranks, common.explain)
    return messages[0].engines or {}, any(message.digest != own.digest for message in messages)


def _exchange(own: Handshake, ranks: Ranks, explain: Explain | None = None) -> list[Handshake]:
    """Return the messages of all ranks, in their order, after checks.

    Every rank makes the same checks in the same order, so all ranks raise, or all call ``explain``, together.
    """
    messages = [Handshake.from_bytes(data) for data in ranks.all_gather(own.to_bytes())]
    for rank, other in enumerate(messages):
        if (other.epoch, other.position, other.engines is None) != (own.epoch, own.position, own.engines is None):
            raise RuntimeError(
                f"ranks must take the same steps, got rank {ranks.rank} at epoch {own.epoch}, position {own.position} and rank "
                f"{rank} at epoch {other.epoch}, position {other.position}; one of them has left its loop early, so let all "
                "leave it at the same step, and load the same state on all"
            )
    for rank, other in enumerate(messages):
        if other.error and rank != ranks.rank and not own.error:
            raise RuntimeError(f"rank {rank} has failed, so rank {ranks.rank} cannot go on; the error there was {other.error}")
    if explain is not None and not any(message.error for message in messages) and len({each.digest for each in messages}) > 1:
        explain(ranks)
    for rank, other in enumerate(messages):
        if (other.num_blocks, other.num_skipped, other.num_served) != (own.num_blocks, own.num_skipped, own.num_served):
            raise RuntimeError(
                f"ranks must have the same data and state, got {own.num_blocks} blocks and {own.num_served} rows served on "
                f"rank {ranks.rank}, {other.num_blocks} and {other.num_served} on rank {rank} at position {own.position}; "
                "give all ranks the same source and state"
            )
    return messages
