"""Before an epoch: ranks compare what its batches depend on, and some of its records, and rank 0 chooses the engines."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pyarrow as pa

from seqstream.arrow import join_tables
from seqstream.distributed.agreement import Common
from seqstream.distributed.handshake import Handshake, agree_on_engines, report_errors
from seqstream.loading.calibration import Calibration
from seqstream.loading.epochs import Epochs
from seqstream.loading.state import Position
from seqstream.windows.block_reader import ReadBlock, blocks_of
from seqstream.windows.settings import RankSharing

_COMPARED_RECORDS = 2_048
_COMPARED_BLOCKS = 128
"""How many records that are read one by one, and how many blocks, ranks compare at most at the beginning of an epoch."""


def handshake_at(start: Position) -> Handshake:
    """Return what a rank sends to the others first where it begins."""
    window = start.window
    return Handshake(start.epoch, window.position, window.blocks, window.skip, window.served)


def agree(
    epochs: Epochs, start: Position, first: Sequence[ReadBlock], sharing: RankSharing, calibration: Calibration
) -> Calibration:
    """Return the calibration with engines, those of rank 0, if all ranks have the same data and options.

    Args:
        epochs: What all ranks read.
        start: Where they begin.
        first: The first blocks there, which every rank reads.
        sharing: The ranks, and the policy for uneven steps.
        calibration: What is known so far.

    Raises:
        RuntimeError: Ranks differ; the message says in what.
    """

    def choose() -> dict[str, str]:
        return dict(calibration.engines or epochs.choose_engines(first))

    if sharing.ranks.world_size == 1:
        return dataclasses.replace(calibration, engines=choose())
    handshake = handshake_at(start)
    with report_errors(handshake, sharing.ranks):
        common = _common(epochs, start, first, sharing, calibration)
    engines, records_vary = agree_on_engines(handshake, sharing.ranks, common, choose)
    return dataclasses.replace(calibration, engines=engines, records_vary=records_vary)


def _common(
    epochs: Epochs, start: Position, first: Sequence[ReadBlock], sharing: RankSharing, calibration: Calibration
) -> Common:
    """Return what all ranks must have in common to share an epoch from a position on."""
    window = start.window
    entries = {
        "seed": epochs.arguments.seed,
        "shuffle": epochs.arguments.shuffle,
        "empty rows": epochs.parsed.empty_fill,
        "uneven": sharing.uneven,
        "prefetch": sharing.prefetch,
        "epochs": None if start.until is None else start.until - start.epoch,
        "state": {
            "step": window.step,
            "planned_world_size": window.planned_world_size,
            "source": window.cursor.source_json(),
            **({} if window.mixture is None else {"mixture": window.mixture.to_json()}),
        },
        **epochs.fingerprint,
        **epochs.functions,
    }
    block = None if calibration.records_vary or not first else _compared(epochs, start, first[-1])
    return Common(entries, block, epochs.source.locate)


def _compared(epochs: Epochs, start: Position, first: ReadBlock) -> ReadBlock:
    """Return the records that ranks compare: the first block, and some that follow if those need not be read in order."""
    most_bytes = epochs.source_of(start.epoch).compared_bytes
    if not callable(first.content) or first.num_bytes >= most_bytes:
        return first

    def read() -> pa.Table:
        tables, num_bytes, num_records = [], 0, 0
        most_records = _COMPARED_RECORDS if epochs.is_by_row else math.inf
        ahead = blocks_of(epochs.blocks_from(start.epoch, start.window.cursor))
        for block in itertools.islice(ahead, _COMPARED_BLOCKS):
            if num_bytes >= most_bytes or num_records >= most_records or not callable(block.content):
                break
            tables.append(block.content())
            num_bytes += max(block.num_bytes, 1)
            num_records += len(tables[-1])
        return join_tables(tables)

    return dataclasses.replace(first, content=read)
