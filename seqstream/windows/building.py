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


def read_windows(blocks: Iterable[UpcomingBlocks], start: WindowStart, recipe: WindowSettings) -> Iterator[Window]:
    """Yield the windows of an epoch from a start on.

    Args:
        blocks: The blocks from ``start.place`` on.
        start: Where to begin, as the ``following`` of the window before says.
        recipe: What to do with them.
    """
    buffer = BlockBuffer(iter(blocks), recipe.guard, recipe.world_size)
    while True:
        draft = collect_blocks(buffer, start, recipe)
        if draft is None:
            return
        if recipe.spec.sample_batches:
            recipe = dataclasses.replace(recipe, spec=recipe.spec.fitted(draft.runs.every(1), recipe.max_length))
            draft = dataclasses.replace(draft, recipe=recipe)
        window, left = _build(draft)
        buffer.give_back(left)
        following = window.following
        del draft, left
        yield window
        del window
        if following is None:
            return
        start = following


def _build(draft: CollectedBlocks) -> tuple[Window, list[BufferedBlocks]]:
    """Plan the rows of some blocks; return the window, and those of its last blocks that the next begins with."""
    recipe, spec, entries = draft.recipe, draft.recipe.spec, draft.entries
    ranks = recipe.sharing.ranks
    group = planned_for(draft.start, recipe)
    multiple = group * recipe.accumulate
    num_planned = spec.num_planned(draft.num_rows, lambda num: draft.census_of(num).runs, last=draft.is_last, multiple=multiple)
    census = draft.census_of(num_planned)
    own = _own_rows(draft, num_planned)
    number = _first_row_id(draft, own, num_planned)
    key = (*recipe.key, number if num_planned else None)
    grouping = _arrange(draft, census, own, key, group)
    if draft.start.served > (total := int(grouping.cuts[-1])):
        served = f"{draft.start.served:,} rows of a window that the state counts as served"
        raise ValueError(f"source must still have the {served}, got {total:,}; the data has changed")
    grouping = balance_turns(grouping, own, census, recipe, key)
    steps = cut_steps(grouping, draft.start.served, recipe.world_size, recipe.sharing.uneven)
    counts = Counter[str]()
    for entry in entries:
        counts.update(entry.counts)
        entry.counts = {}
    if ranks.rank == 0:  # who counts for all
        counts.update(grouping.counts)
        counts["truncated"] += steps.num_truncated
        counts["dropped"] += steps.num_dropped + (draft.num_rows - num_planned if draft.is_last else 0)
    left: list[BufferedBlocks] = []
    following = None
    share = draft.share(num_planned, census.runs.num_tokens)
    full_bytes = round(draft.read_bytes / share) if share else 0
    if not draft.is_last:
        size = next_size(draft.num_blocks, share, recipe.growth)
        left, following = follow(entries, draft.num_rows - num_planned, size)
        following = dataclasses.replace(following, step=draft.start.step + grouping.num_steps)
    begun = _count_begun(draft, own, census, grouping)
    dealt = exchange_rows(own, census, grouping, steps, ranks)
    start = dataclasses.replace(draft.start, group=group)
    with located(dealt.table.column(ROW_ID), recipe.locate):
        columns, sequence = _read_columns(dealt.table, spec)
    window = Window(
        start=start,
        following=following,
        number=number,
        runs=census.runs,
        columns=columns if dealt.is_repeated is None else without_labels(columns, dealt.is_repeated),
        sequence=sequence,
        row_ids=to_numpy(dealt.table.column(ROW_ID)),
        pieces=_pieces(dealt.table),
        is_repeated=dealt.is_repeated,
        spec=spec,
        plan=dealt.plan,
        after=steps.after.tolist(),
        counts=+counts,
        step_numbers=(draft.start.step + steps.numbers).tolist(),
        step_ends=steps.ends.tolist(),
        rank=ranks.rank,
        full_bytes=full_bytes,
    )
    return add_up(window, ranks, recipe.sharing.labels, begun), left


def _own_rows(draft: CollectedBlocks, num_rows: int) -> pa.Table:
    """Return this rank's rows of those that are planned."""
    entries = draft.entries
    ranges = ranges_of(entries, draft.start.skip, num_rows)
    tables = [
        entry.table.slice(rows.start, rows.stop - rows.start)
        for entry, rows in zip(entries, ranges, strict=True)
        if entry.table is not None
    ]
    if not tables:
        return NO_ROWS
    with located(row_ids_of(tables), draft.recipe.locate):
        return join_tables(tables)


def _count_begun(draft: CollectedBlocks, own: pa.Table, census: GlobalOrder, grouping: GlobalPlan) -> Totals | None:
    """Return what this rank has made of the optimiser step under way that was served before; ``None`` if none was."""
    places = grouping.begun_places(draft.start.served)
    if not len(places):
        return None
    spec, sharing, group = draft.recipe.spec, draft.recipe.sharing, draft.start.group
    if sharing.uneven == "drop":  # as those who began the window did
        places = places[owners(cut_steps(grouping, 0, group, "drop"), places, group)[0] >= 0]
    columns, sequence = _read_columns(own, spec) if len(own) else ({}, None)
    return count_begun(OwnRows(columns, sequence, census), grouping, places, spec, sharing.labels)


def _first_row_id(draft: CollectedBlocks, own: pa.Table, num_rows: int) -> int:
    """Return the row id of the first row of the window; -1 if it has none."""
    entries, ranks = draft.entries, draft.recipe.sharing.ranks
    first = own.column(ROW_ID)[0].as_py() if len(own) else -1
    told = [int.from_bytes(data, "little", signed=True) for data in ranks.gather(first.to_bytes(8, "little", signed=True))]
    ranges = ranges_of(entries, draft.start.skip, num_rows)
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
    draft: CollectedBlocks, census: GlobalOrder, own: pa.Table, key: tuple[object, ...], world_size: int
) -> GlobalPlan:
    """Plan the window; an error names the longest row, if it is one of this rank's."""
    recipe, spec = draft.recipe, draft.recipe.spec
    try:
        return spec.arrange(
            census.runs, key=key if recipe.shuffle else None, world_size=world_size, accumulate=recipe.accumulate
        )
    except ValueError as error:
        lengths = lengths_of(own, spec.columns)
        totals = lengths if lengths.ndim == 1 else lengths.sum(axis=1)
        longest = census.runs.lengths if census.runs.lengths.ndim == 1 else census.runs.lengths.sum(axis=1)
        if not len(totals) or totals.max() < longest.max():
            error.add_note("the record is one that another rank has tokenised, which says where it is")
            raise
        with located(own.column(ROW_ID), recipe.locate):
            row = int(totals.argmax())
            cause = "" if spec.columns else which_is_longest(own, row)
            raise RecordError(f"{error}{cause}", row_id=own.column(ROW_ID)[row].as_py()) from None
