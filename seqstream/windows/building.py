"""Blocks -> windows: rows that are planned together, and of them those of this rank.

A window is the unit of planning and of state. Its start says all that is needed to make it again; the start of the next
follows from this window alone, so a resumed run makes the same windows. Ranks share each window: all plan the same, and each
holds the rows of its own batches.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import join_tables, to_arrow, to_numpy
from seqstream.distributed.exchange import exchange_rows
from seqstream.distributed.global_order import GlobalOrder
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.pack import Pack
from seqstream.planning.rank_shares import cut_steps, owners
from seqstream.records import PIECE, ROW_ID, RecordError, located, sequence_column
from seqstream.stages.data_padding import ATTENTION_MASK
from seqstream.windows.block_buffer import BlockBuffer, BufferedBlocks
from seqstream.windows.block_reader import UpcomingBlocks
from seqstream.windows.class_balance import balance_turns
from seqstream.windows.collecting import CollectedBlocks, collect_blocks, follow, next_size, planned_for, ranges_of
from seqstream.windows.columns import Column, ColumnError, check_parallel, lengths_of, read_rows, which_is_longest
from seqstream.windows.label_counts import without_labels
from seqstream.windows.processing import row_ids_of
from seqstream.windows.settings import WindowSettings, WindowStart
from seqstream.windows.step_totals import OwnRows, Totals, add_up, count_begun
from seqstream.windows.window import Window

NO_ROWS = pa.table({ROW_ID: to_arrow(np.empty(0, dtype=np.int64))})


def read_windows(blocks: Iterable[UpcomingBlocks], start: WindowStart, window_settings: WindowSettings) -> Iterator[Window]:
    """Yield the windows of an epoch from a start on.

    Args:
        blocks: The blocks from ``start.place`` on.
        start: Where to begin, as the ``following`` of the window before says.
        window_settings: What to do with them.
    """
    buffer = BlockBuffer(iter(blocks), window_settings.guard, window_settings.world_size)
    while True:
        collected = collect_blocks(buffer, start, window_settings)
        if collected is None:
            return
        if window_settings.spec.sample_batches:
            window_settings = dataclasses.replace(
                window_settings, spec=window_settings.spec.fitted(collected.runs.every(1), window_settings.max_length)
            )
            collected = dataclasses.replace(collected, window_settings=window_settings)
        window, left = _build(collected)
        buffer.give_back(left)
        following = window.following
        del collected, left
        yield window
        del window
        if following is None:
            return
        start = following


def _build(collected: CollectedBlocks) -> tuple[Window, list[BufferedBlocks]]:
    """Plan the rows of some blocks; return the window, and those of its last blocks that the next begins with."""
    window_settings, spec, entries = collected.window_settings, collected.window_settings.spec, collected.entries
    ranks = window_settings.sharing.ranks
    group = planned_for(collected.start, window_settings)
    multiple = group * window_settings.accumulate
    num_planned = spec.num_planned(
        collected.num_rows, lambda num: collected.global_order_of(num).runs, last=collected.is_last, multiple=multiple
    )
    global_order = collected.global_order_of(num_planned)
    own = _own_rows(collected, num_planned)
    number = _first_row_id(collected, own, num_planned)
    key = (*window_settings.key, number if num_planned else None)
    global_plan = _arrange(collected, global_order, own, key, group)
    if collected.start.served > (total := int(global_plan.cuts[-1])):
        served = f"{collected.start.served:,} rows of a window that the state counts as served"
        raise ValueError(f"source must still have the {served}, got {total:,}; the data has changed")
    global_plan = balance_turns(global_plan, own, global_order, window_settings, key)
    steps = cut_steps(global_plan, collected.start.served, window_settings.world_size, window_settings.sharing.uneven)
    counts = Counter[str]()
    for entry in entries:
        counts.update(entry.counts)
        entry.counts = {}
    if ranks.rank == 0:  # who counts for all
        counts.update(global_plan.counts)
        counts["truncated"] += steps.num_truncated
        counts["dropped"] += steps.num_dropped + (collected.num_rows - num_planned if collected.is_last else 0)
    left: list[BufferedBlocks] = []
    following = None
    share = collected.share(num_planned, global_order.runs.num_tokens)
    full_bytes = round(collected.read_bytes / share) if share else 0
    if not collected.is_last:
        size = next_size(collected.num_blocks, share, window_settings.growth)
        left, following = follow(entries, collected.num_rows - num_planned, size)
        following = dataclasses.replace(following, step=collected.start.step + global_plan.num_steps)
    begun = _count_begun(collected, own, global_order, global_plan)
    dealt = exchange_rows(own, global_order, global_plan, steps, ranks)
    start = dataclasses.replace(collected.start, planned_world_size=group)
    with located(dealt.table.column(ROW_ID), window_settings.locate):
        columns, sequence = _read_columns(dealt.table, spec)
    window = Window(
        start=start,
        following=following,
        number=number,
        runs=global_order.runs,
        columns=columns if dealt.is_repeated is None else without_labels(columns, dealt.is_repeated),
        sequence=sequence,
        row_ids=to_numpy(dealt.table.column(ROW_ID)),
        pieces=_pieces(dealt.table),
        is_repeated=dealt.is_repeated,
        spec=spec,
        plan=dealt.plan,
        after=steps.after.tolist(),
        counts=+counts,
        step_numbers=(collected.start.step + steps.numbers).tolist(),
        step_ends=steps.ends.tolist(),
        rank=ranks.rank,
        full_bytes=full_bytes,
    )
    return add_up(window, ranks, window_settings.sharing.labels, begun), left


def _own_rows(collected: CollectedBlocks, num_rows: int) -> pa.Table:
    """Return this rank's rows of those that are planned."""
    entries = collected.entries
    ranges = ranges_of(entries, collected.start.skip, num_rows)
    tables = [
        entry.table.slice(rows.start, rows.stop - rows.start)
        for entry, rows in zip(entries, ranges, strict=True)
        if entry.table is not None
    ]
    if not tables:
        return NO_ROWS
    with located(row_ids_of(tables), collected.window_settings.locate):
        return join_tables(tables)


def _count_begun(
    collected: CollectedBlocks, own: pa.Table, global_order: GlobalOrder, global_plan: GlobalPlan
) -> Totals | None:
    """Return what this rank has made of the optimiser step under way that was served before; ``None`` if none was."""
    places = global_plan.begun_places(collected.start.served)
    if not len(places):
        return None
    spec, sharing, group = collected.window_settings.spec, collected.window_settings.sharing, collected.start.planned_world_size
    if sharing.uneven == "drop":  # as those who began the window did
        places = places[owners(cut_steps(global_plan, 0, group, "drop"), places, group)[0] >= 0]
    columns, sequence = _read_columns(own, spec) if len(own) else ({}, None)
    return count_begun(OwnRows(columns, sequence, global_order), global_plan, places, spec, sharing.labels)


def _first_row_id(collected: CollectedBlocks, own: pa.Table, num_rows: int) -> int:
    """Return the row id of the first row of the window; -1 if it has none."""
    entries, ranks = collected.entries, collected.window_settings.sharing.ranks
    first = own.column(ROW_ID)[0].as_py() if len(own) else -1
    told = [int.from_bytes(data, "little", signed=True) for data in ranks.all_gather(first.to_bytes(8, "little", signed=True))]
    ranges = ranges_of(entries, collected.start.skip, num_rows)
    owners = (entry.owner or 0 for entry, rows in zip(entries, ranges, strict=True) if rows.start < rows.stop)
    return next((told[owner] for owner in owners), -1)


def _pieces(table: pa.Table) -> npt.NDArray[np.int64]:
    if PIECE in table.column_names:
        return to_numpy(table.column(PIECE)).astype(np.int64)
    return np.zeros(len(table), dtype=np.int64)


def _read_columns(table: pa.Table, spec: BatchSpec) -> tuple[dict[str, Column], str | None]:
    """Return the columns of the rows, and the one that is the sequence."""
    sequence = spec.columns[0] if spec.columns else sequence_column(table.schema)
    # What is left of a mask in the data is all ones, of which a model would make one sequence of a packed row.
    hidden = (ROW_ID, PIECE, *((ATTENTION_MASK,) if isinstance(spec, Pack) else ()))
    columns = {name: read_rows(name, table) for name in table.column_names if name not in hidden}
    try:
        if isinstance(spec, Pack):
            check_parallel(columns, sequence)
    except ColumnError as error:
        raise RecordError(str(error), row_id=table.column(ROW_ID)[error.row].as_py()) from None
    return columns, sequence


def _arrange(
    collected: CollectedBlocks, global_order: GlobalOrder, own: pa.Table, key: tuple[object, ...], world_size: int
) -> GlobalPlan:
    """Plan the window; an error names the longest row, if it is one of this rank's."""
    window_settings, spec = collected.window_settings, collected.window_settings.spec
    try:
        return spec.plan_global(
            global_order.runs,
            key=key if window_settings.shuffle else None,
            world_size=world_size,
            accumulate=window_settings.accumulate,
        )
    except ValueError as error:
        lengths = lengths_of(own, spec.columns)
        totals = lengths if lengths.ndim == 1 else lengths.sum(axis=1)
        longest = global_order.runs.lengths if global_order.runs.lengths.ndim == 1 else global_order.runs.lengths.sum(axis=1)
        if not len(totals) or totals.max() < longest.max():
            error.add_note("the record is one that another rank has tokenised, which says where it is")
            raise
        with located(own.column(ROW_ID), window_settings.locate):
            row = int(totals.argmax())
            cause = "" if spec.columns else which_is_longest(own, row)
            raise RecordError(f"{error}{cause}", row_id=own.column(ROW_ID)[row].as_py()) from None
