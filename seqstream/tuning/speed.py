"""How many real tokens a second a loader gives, measured on the first blocks of a corpus."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

from seqstream.loading.loader import Loader
from seqstream.loading.stage_lists import DataStage
from seqstream.records import ROW_ID, Json, split_row_id
from seqstream.sources.blocks import Block
from seqstream.sources.source import Source
from seqstream.tuning.planned_epoch import Spec
from seqstream.tuning.survey import EPOCH, Survey, read_epoch

_MEASURED_TOKENS = 6_000_000
_MEASURED_SECONDS = 1.0
"""Speed is measured on at most this many tokens of all settings, and on at most what is tokenised in this time."""


@dataclasses.dataclass(frozen=True)
class Sample(Source):
    """The first blocks of some shards of another source.

    Attributes:
        source: The other source.
        parts: For each shard of the sample, the shard's number in the other source and how many of its blocks are read.
    """

    source: Source
    parts: tuple[tuple[int, int], ...]

    @property
    def num_shards(self) -> int:
        return len(self.parts)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        whole_shard, num_blocks = self.parts[shard]
        num_read, whole_state = state or (0, None)
        for table, after in self.source.read(whole_shard, whole_state):
            num_read += 1
            is_last = after is None or num_read == num_blocks
            yield table, None if is_last else [num_read, after]
            if is_last:
                return

    def locate(self, row_id: int) -> str:
        shard, record = split_row_id(row_id)
        return self.source.locate((self.parts[shard][0] << 32) + record)


def num_measured_bytes(survey: Survey, num_settings: int = 1) -> float:
    """Return the size of the sample on which speed is measured, in bytes: small enough that all settings take few seconds."""
    tokens = min(_MEASURED_TOKENS, survey.tokens / survey.seconds * _MEASURED_SECONDS) / num_settings
    return tokens * survey.num_bytes / survey.tokens


def take_sample(source: Source, num_bytes: float, *, seed: int = 0) -> Sample:
    """Return the first blocks of an epoch, about ``num_bytes`` in memory."""
    parts = Counter[int]()
    for block in read_epoch(source, seed):
        for row_id in block.table.column(ROW_ID)[:1].to_pylist():
            parts[split_row_id(row_id)[0]] += 1
        num_bytes -= block.table.nbytes
        if num_bytes <= 0:
            break
    return Sample(source, tuple(parts.items()))


@dataclasses.dataclass(frozen=True)
class Speed:
    """The real tokens of an epoch, and the seconds that a loader took for them: reading, tokenising, planning and padding."""

    tokens: int
    seconds: float


def measure_speed(source: Source, stages: Sequence[DataStage], spec: Spec, *, seed: int = 0) -> Speed:
    """Run a loader over an epoch with full windows, for a consumer that does nothing.

    A first batch warms the engine up before the clock starts.
    """
    loader = Loader(source, *stages, spec, seed=seed)
    next(iter(loader))
    loader.set_epoch(EPOCH)
    before = loader.stats
    for _ in loader:
        pass
    return Speed(loader.stats.tokens - before.tokens, loader.stats.seconds - before.seconds)
