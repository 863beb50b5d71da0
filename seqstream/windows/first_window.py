"""The size of the first window of an epoch: all of a small corpus, a full window of few shards, else little, to begin at once.

A window is a fair sample of a corpus only if its blocks are from all over it. Of many shards even the blocks of a small window
are. A compressed file is read front to back, so that its windows must be as large as is allowed.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

import pyarrow as pa

from seqstream.arrow import steps_of
from seqstream.planning.batch_spec import BatchSpec
from seqstream.records import sequence_column
from seqstream.windows.block_buffer import BlockBuffer, Guard
from seqstream.windows.collecting import LAST

FEW_SHARDS = 64
"""An epoch of fewer shards fills its first window before the first batch."""

SMALL_BYTES = 256 << 10
"""Approximate bytes that are read on each rank to begin at once: a few milliseconds of tokenising."""

_BYTES_PER_TOKEN = 4
"""Of texts that were not tokenised; a guess."""

_BYTES_BESIDE = 12
"""Bytes of a record besides its text: the offset of its end, and its row id."""

_WARN_SECONDS = 1.0
_REPEAT_SECONDS = 10.0
"""Seconds before a warning that the first window is still being filled, and between further ones."""

_logger = logging.getLogger("seqstream")


@dataclasses.dataclass(frozen=True)
class FirstWindow:
    """Chooses the number of blocks of a window that begins an epoch.

    Attributes:
        guessed_bytes: Bytes of records as read that fill a window, estimated from the first records.
        total_bytes: Approximate bytes of an epoch, where looking ahead would read it; ``None`` where they are not known.
        is_read: Whether looking ahead reads records.
        small_bytes: Bytes to begin with where a window holds less than the epoch; ``None`` to fill it.
        full_bytes: Returns the bytes that fill a window, as measured on an earlier one; ``None`` to use the guess.
    """

    guessed_bytes: int
    total_bytes: float | None = None
    is_read: bool = True
    small_bytes: int | None = None
    full_bytes: Callable[[], int] | None = None

    def __call__(self, buffer: BlockBuffer) -> int:
        """Return the number of blocks that the window should have."""
        most = int(LAST * self.guessed_bytes)
        fills = self.small_bytes is None and self.full_bytes is None
        if fills or self._is_whole(buffer, most):
            num_blocks, is_all = buffer.within(most)
            return num_blocks if is_all else buffer.within(self.guessed_bytes)[0]
        if self.full_bytes is not None:
            return buffer.within(self.full_bytes())[0]
        return buffer.within(self.small_bytes or 0)[0]

    def _is_whole(self, buffer: BlockBuffer, most: int) -> bool:
        """Return whether the epoch has no more than ``most`` bytes."""
        if self.is_read:
            return self.total_bytes is not None and self.total_bytes <= most
        return buffer.within(most)[1]


def guess_full_bytes(table: pa.Table, num_bytes: int, spec: BatchSpec, *, is_text: bool, shuffle: bool, world_size: int) -> int:
    """Return the bytes of records as read that fill a window, estimated from the first records.

    Args:
        table: The first records.
        num_bytes: Their size as blocks count it.
        spec: How they are batched.
        is_text: Whether they are still to be tokenised.
        shuffle: Whether rows are shuffled.
        world_size: Number of ranks.
    """
    name = sequence_column(table.schema)
    num_tokens = max(table.nbytes - _BYTES_BESIDE * len(table), len(table)) / _BYTES_PER_TOKEN
    if not is_text:
        num_tokens = len(table) if name is None else steps_of(table.column(name))
    share = spec.window_size(shuffle=shuffle).share(
        num_batches=spec.num_batches(len(table), int(num_tokens)),
        num_tokens=num_tokens,
        read_bytes=num_bytes,
        world_size=world_size,
    )
    return max(1, round(num_bytes / share)) if share else num_bytes


def _why(num_shards: int, size: str) -> str:
    """Return the message that says why the first batch waits for a window of some size, and what makes it begin sooner."""
    if num_shards < FEW_SHARDS:
        shards = f"{num_shards} shard{'s' if num_shards != 1 else ''}"
        return (
            f"a source of {shards} is mixed no further than a window, so the first batch waits for one of {size}; plain files, "
            "more files or row groups, lists, or data tokenised before begin sooner; so does a smaller window_bytes, less mixed"
        )
    return (
        f"the first batch waits for a window of {size}, or for all of the data where that is less; the fast engines, "
        "pip install 'seqstream[fast]', or data tokenised before begin sooner, as does a smaller window_bytes, which mixes less"
    )


class Patience:
    """A guard that logs why the first batch takes long, once it does.

    Args:
        guard: Called as well.
        num_shards: Number of shards of the source.
        window_bytes: Approximate bytes of records that fill the window.
    """

    def __init__(self, guard: Guard, num_shards: int, window_bytes: int) -> None:
        self._guard = guard
        self._begun: float | None = time.monotonic()
        self._next = self._begun + _WARN_SECONDS
        self._why = _why(num_shards, f"up to {max(1, window_bytes >> 20):,} MiB")

    def __call__(self) -> None:
        self._guard()
        if self._begun is not None and (now := time.monotonic()) >= self._next:
            _logger.warning(
                "filling the first window, %.0f s so far%s", now - self._begun, f": {self._why}" if self._why else ""
            )
            self._why, self._next = "", now + _REPEAT_SECONDS

    def end(self) -> None:
        """Log nothing from here on."""
        self._begun = None
