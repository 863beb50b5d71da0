"""Builds the windows of an epoch from its blocks: collected, planned by all ranks alike, and exchanged between them.

A window is the unit of planning and of state. Its start and the data determine it, and the start of the next one too: so a
resumed run builds the same windows.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import to_arrow, to_numpy
from seqstream.distributed.global_order import GlobalOrder
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.pack import Pack
from seqstream.planning.rank_shares import Schedule, owners_of, schedule_turns
from seqstream.planning.side_limits import TooLargeError
from seqstream.records import PIECE, ROW_ID, Counts, RecordError, located, sequence_column
from seqstream.stages.data_padding import ATTENTION_MASK
from seqstream.windows.block_reader import UpcomingBlocks
from seqstream.windows.block_states import CountedBlocks
from seqstream.windows.class_balance import balance_turns
from seqstream.windows.collecting import BlockCollector, CollectedBlocks, Collector
from seqstream.windows.columns import Column, ColumnError, check_parallel, read_rows
from seqstream.windows.label_counts import without_labels
from seqstream.windows.row_lengths import planning_numbers, which_is_longest
from seqstream.windows.settings import WindowSettings, WindowStart
from seqstream.windows.step_totals import OwnRows, Totals, count_begun, with_step_totals
from seqstream.windows.window import Window

NO_ROWS = pa.table({ROW_ID: to_arrow(np.empty(0, dtype=np.int64))})


def read_windows(blocks: Iterable[UpcomingBlocks], start: WindowStart, settings: WindowSettings) -> Iterator[Window]:
    """Yield the windows of an epoch from a start on.

    Args:
        blocks: The blocks from ``start.cursor`` on.
        start: Where to begin: the ``following`` of the window before, or the beginning of an epoch.
        settings: What to do with them.
    """
    yield from build_windows(BlockCollector(iter(blocks), settings), start, settings)


def build_windows(collector: Collector, start: WindowStart, settings: WindowSettings) -> Iterator[Window]:
    """Yield the windows of an epoch from a start on.

    Args:
        collector: Takes their blocks.
        start: Where to begin.
        settings: What to do with them.
    """
    while True:
        collected = collector.collect(start, settings)
        if collected is None:
            return
        if settings.spec.sample_batches:
            spec = settings.spec.fitted(collected.length_counts.every(1), settings.max_length)
            settings = dataclasses.replace(settings, spec=spec)
            collected = dataclasses.replace(collected, settings=settings)
        window, left = _build(collected)
        collector.give_back(left)
        following = window.following
        del collected, left  # the tables of blocks; the window has rows of its own
        yield window
        del window
        if following is None:
            return
        start = following


@dataclasses.dataclass(frozen=True)
class _WindowPlan:
    """The plan of a window; all ranks have the same, apart from which of the rows are their own.

    Attributes:
        world_size: Number of ranks that the window is planned for.
        num_rows: Rows of all ranks that are planned, from the first on.
        share: How much of a full window they are, 1.0 for all of it.
        own: The rows of this rank, in the order of the data.
        global_order: The order of all rows by length.
        global_plan: The batches of all ranks.
        steps: What is left to be served.
    """

    world_size: int
    num_rows: int
    share: float
    own: pa.Table
    global_order: GlobalOrder
    global_plan: GlobalPlan
    steps: Schedule


def _build(collected: CollectedBlocks) -> tuple[Window, list[CountedBlocks]]:
    """Return the window of some blocks, and those of its last blocks with which the next begins."""
    settings, start = collected.settings, collected.start
    planned = _plan(collected)
    steps = planned.steps
    left, following = _follow(collected, planned)
    begun = _count_begun(collected, planned)
    received = settings.collectives.exchange_rows(planned.own, planned.global_order, planned.global_plan, steps)
    with located(received.table.column(ROW_ID), settings.locate):
        columns, sequence = _read_columns(received.table, settings.spec)
    window = Window(
        start=collected.begun(planned.num_rows, planned.world_size),
        following=following,
        number=collected.number(planned.global_order),
        length_counts=planned.global_order.length_counts,
        columns=columns if received.is_repeated is None else without_labels(columns, received.is_repeated),
        sequence=sequence,
        row_ids=to_numpy(received.table.column(ROW_ID)),
        pieces=_pieces(received.table),
        is_repeated=received.is_repeated,
        spec=settings.spec,
        plan=received.plan,
        after=steps.served_after.tolist(),
        counts=_counts(collected, planned),
        step_numbers=(start.step + steps.step_numbers).tolist(),
        step_ends=steps.ends_step.tolist(),
        rank=settings.collectives.rank,
        full_bytes=collected.full_bytes(planned.num_rows, planned.share),
        passes=collected.passes(planned.num_rows),
    )
    return with_step_totals(window, settings.collectives, settings.sharing.labels, begun), left


def _plan(collected: CollectedBlocks) -> _WindowPlan:
    """Plan the rows of a window; all ranks call it together.

    Raises:
        ValueError: A row does not fit its batch, or the data has fewer rows than the state counts.
    """
    settings, start = collected.settings, collected.start
    world_size = settings.planned_world_size(start)
    multiple = world_size * settings.accumulate
    num_rows = collected.num_planned
    if num_rows is None:
        search = settings.spec.search_planned(collected.length_counts, last=collected.is_last, multiple=multiple)
        while search.num_needed is not None:
            search = search.with_lengths(collected.global_order_of(search.num_needed).length_counts)
        num_rows = search.num_planned
    global_order = collected.global_order_of(num_rows)
    own = collected.own_rows(num_rows)
    own = NO_ROWS if own is None else own
    share = collected.share(num_rows, global_order.length_counts.num_tokens)
    key = (*settings.key, collected.number(global_order) if num_rows else None)
    global_plan = _plan_global(global_order.length_counts, own, settings, key, world_size)
    if start.served > (total := int(global_plan.cuts[-1])):
        served = f"{start.served:,} rows of a window that the state counts as served"
        raise ValueError(f"source must still have the {served}, got {total:,}; the data has changed")
    global_plan = balance_turns(global_plan, own, global_order, settings, key)
    steps = schedule_turns(global_plan, start.served, settings.world_size, settings.sharing.uneven)
    return _WindowPlan(world_size, num_rows, share, own, global_order, global_plan, steps)


def _plan_global(
    length_counts: LengthCounts, own: pa.Table, settings: WindowSettings, key: tuple[object, ...], world_size: int
) -> GlobalPlan:
    """Plan the batches of all ranks; an error names the longest row, if it is one of this rank's."""
    spec = settings.spec
    try:
        return spec.plan_global(
            length_counts, key=key if settings.shuffle else None, world_size=world_size, accumulate=settings.accumulate
        )
    except ValueError as error:
        numbers = planning_numbers(own, spec.columns, spec.group)
        sizes = (numbers == error.sides).all(1) if isinstance(error, TooLargeError) else numbers
        largest = 1 if isinstance(error, TooLargeError) else length_counts.lengths.max()
        if not len(own) or sizes.max() < largest:
            error.add_note("another rank has processed the record; its error has the location")
            raise
        with located(own.column(ROW_ID), settings.locate):
            row = int(sizes.argmax())
            cause = "" if spec.columns else which_is_longest(own, row)
            if spec.group is not None:
                cause = f"; the group is {own.column(spec.group)[row].as_py()!r} in column {spec.group!r}"
            raise RecordError(f"{error}{cause}", row_id=own.column(ROW_ID)[row].as_py()) from None


def _counts(collected: CollectedBlocks, planned: _WindowPlan) -> Counts:
    """Return what became of records, as far as this rank has processed them; rank 0 adds what the plan has done with rows."""
    counts = Counter(collected.counts)
    if collected.settings.collectives.rank == 0:
        counts.update(planned.global_plan.counts)
        counts["truncated"] += planned.steps.num_truncated
        counts["dropped"] += planned.steps.num_dropped + (collected.num_rows - planned.num_rows if collected.is_last else 0)
    return +counts


def _follow(collected: CollectedBlocks, planned: _WindowPlan) -> tuple[list[CountedBlocks], WindowStart | None]:
    """Return the blocks with rows left over, and where the next window begins; ``None`` at the end of the epoch."""
    left, following = collected.follow(planned.num_rows, planned.share)
    if following is None:
        return left, None
    return left, dataclasses.replace(following, step=collected.start.step + planned.global_plan.num_steps)


def _count_begun(collected: CollectedBlocks, planned: _WindowPlan) -> Totals | None:
    """Return this rank's totals of what was served of the optimiser step under way; ``None`` if nothing was."""
    global_plan, world_size = planned.global_plan, planned.world_size
    places = global_plan.begun_places(collected.start.served)
    if not len(places):
        return None
    spec, sharing = collected.settings.spec, collected.settings.sharing
    if sharing.uneven == "drop":  # the ranks that began the window have left out these rows too
        places = places[owners_of(schedule_turns(global_plan, 0, world_size, "drop"), places, world_size)[0] >= 0]
    columns, sequence = _read_columns(planned.own, spec) if len(planned.own) else ({}, None)
    return count_begun(OwnRows(columns, sequence, planned.global_order), global_plan, places, spec, sharing.labels)


def _pieces(table: pa.Table) -> Index:
    """Return the number of each row's piece, ``int64 (n,)``; 0 where no stage splits records."""
    if PIECE in table.column_names:
        return to_numpy(table.column(PIECE)).astype(np.int64)
    return np.zeros(len(table), dtype=np.int64)


def _read_columns(table: pa.Table, spec: BatchSpec) -> tuple[dict[str, Column], str | None]:
    """Return the columns of the rows, and the name of the one that is the sequence; ``None`` if there is none."""
    sequence = spec.columns[0] if spec.columns else sequence_column(table.schema)
    # An attention mask of the data is all ones by now, with which a model would take a packed row for one sequence.
    hidden = (ROW_ID, PIECE, *((ATTENTION_MASK,) if isinstance(spec, Pack) else ()))
    columns = {name: read_rows(name, table) for name in table.column_names if name not in hidden}
    try:
        if isinstance(spec, Pack):
            check_parallel(columns, sequence)
    except ColumnError as error:
        raise RecordError(str(error), row_id=table.column(ROW_ID)[error.row].as_py()) from None
    return columns, sequence
