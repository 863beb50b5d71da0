"""The sources of a mixture, each read pass after pass in an order that does not depend on the others."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from seqstream.loading.reading_order import ReadingOrder
from seqstream.loading.sampling import Sample, sample_records
from seqstream.sources.mixture import Mixture
from seqstream.sources.source import Source
from seqstream.windows.block_reader import Cursor, ReadBlock, blocks_of
from seqstream.windows.first_window import FEW_SHARDS
from seqstream.windows.settings import WindowStart
from seqstream.windows.source_stream import OpenSource

_ENLARGED = 4
"""How many times as much is sampled of a mixture as of one source: up to four sources have a sample of the usual size each."""


class MixturePasses:
    """Opens the sources of a mixture.

    Args:
        mixture: The mixture.
        order: The order in which sources are read.
        stages_of: The number of its list of stages for each source.

    Attributes:
        mixture: The mixture.
        stages_of: The number of its list of stages for each source.

    Raises:
        ValueError: A source cannot be read in part, as ``epochs`` asks.
    """

    def __init__(self, mixture: Mixture, order: ReadingOrder, stages_of: Sequence[int]) -> None:
        self.mixture = mixture
        self._order = order
        self.stages_of = stages_of
        for member in mixture.members:
            share = member.share_of(int(member.num_passes) - 1) if member.is_limited else 1.0
            if not order.can_read_share(member.source, share):
                raise ValueError(
                    f"epochs must be a whole number for {member.name!r}, whose {member.source.num_shards} shards are read as a "
                    f"whole, got {member.passes}; more files, row groups or smaller blocks allow parts"
                )

    @functools.cached_property
    def num_shards(self) -> list[int]:
        """How many shards a pass over each source reads."""
        return [self._order.as_read(source).num_shards for source in self.mixture.parts]

    def open_sources(self, epoch: int) -> list[OpenSource]:
        """Return what opens each source in an epoch of the loader."""
        return [functools.partial(self._read, number, epoch) for number in range(len(self.mixture.members))]

    def open_one(self, stages: int, epoch: int = 0) -> Iterator[ReadBlock]:
        """Yield the blocks of the first source that has a list of stages."""
        return self._read(self.stages_of.index(stages), epoch, Cursor())

    def samples(self, epoch: int) -> Iterator[ReadBlock]:
        """Yield blocks of the first pass over each source that has a weight, those of one after those of another."""
        for open_source, has_weight in zip(self.open_sources(epoch), self.has_weight, strict=True):
            if has_weight:
                yield from itertools.takewhile(lambda block: not block.before.epoch, open_source(Cursor()))

    def samples_of_sources(self) -> Iterator[tuple[int, Sample | None]]:
        """Yield the number of each source that has a weight, and records from all over it, as `sample_records` returns them."""
        for number, source in enumerate(self.mixture.parts):
            if self.has_weight[number]:
                yield number, sample_records(self._order.as_read(source), _ENLARGED / max(_ENLARGED, sum(self.has_weight)))

    @functools.cached_property
    def has_weight(self) -> list[bool]:
        """Whether each source has a weight above 0 at any time."""
        return [max(weights) > 0 for weights in zip(*(weights for _, weights in self.mixture.schedule.points), strict=True)]

    @functools.cached_property
    def begins_small(self) -> bool:
        """Whether the first window may be small: no source is a few files that are read front to back."""
        return not self._order.shuffle or all(map(_mixes, self.mixture.parts))

    def has_sources_of(self, window: WindowStart) -> bool:
        """Return whether the mixture has all sources that give rows to the window of a state that is under way."""
        if window.mixture is None or not window.served:
            return True
        names = self.mixture.names
        return all(name in names for name, start in window.mixture.sources.items() if start.rows)

    def _read(self, number: int, epoch: int, cursor: Cursor) -> Iterator[ReadBlock]:
        """Yield the blocks of a source, pass after pass, from a cursor on."""
        member, stages, first_shard = self.mixture.members[number], self.stages_of[number], self.mixture.first_shards[number]
        numbers = {"first_shard": int(first_shard), "stages": stages}
        for current in itertools.count(cursor.epoch):
            if current >= member.num_passes:
                return
            key = f"{epoch}.{current}" if epoch else current
            begin = cursor if current == cursor.epoch else Cursor(epoch=current)
            has_blocks = begin != Cursor(epoch=current)
            for block in blocks_of(self._order.blocks(member.source, key, begin, member.share_of(current), **numbers)):
                has_blocks = True
                yield block
            if not has_blocks:
                return


def _mixes(source: Source) -> bool:
    """Return whether even a few blocks of a shuffled source are from all over it, or nearly all of it."""
    if source.num_records is not None or source.num_shards >= FEW_SHARDS:
        return True
    return bool((source.approx_bytes(np.arange(source.num_shards)) >= 0).all())
