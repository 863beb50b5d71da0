"""Blocks -> windows: how many blocks are planned together, and what is known of their rows.

A window is the unit of planning and of state. Its start says all that is needed to make it again; the start of the next
follows from this window alone, so a resumed run makes the same windows. Ranks share each window: all plan the same, and each
holds the rows of its own batches.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import to_arrow, to_numpy
from seqstream.buffering import Buffer, Entry, Guard, Process, row_ids_of, tables_of
from seqstream.census import Census, take_census
from seqstream.columns import Column, ColumnError, check_parallel, lengths_of, read_column
from seqstream.exchange import Dealt, deal_rows
from seqstream.label_counts import LabelRule, count_labels, without_labels
from seqstream.meeting import Header, meet
from seqstream.planned import Planned, put_in_order
from seqstream.planning.batches import Lengths
from seqstream.planning.grouping import Grouping, Steps, Uneven, cut_steps
from seqstream.planning.pack import Pack
from seqstream.planning.plan import Plan
from seqstream.planning.runs import Runs
from seqstream.planning.specs import BatchSpec
from seqstream.ranks import Alone, Ranks
from seqstream.reading import Place, ReadBlock
from seqstream.running import join_tables, placed, sequence_column
from seqstream.sources.protocol import PIECE, ROW_ID
from seqstream.stages import Counts, RecordError

MAX_BYTES = 512 << 20
"""A window stops growing at this many bytes of records as read, on each rank."""

NO_ROWS = pa.table({ROW_ID: to_arrow(np.empty(0, dtype=np.int64))})

GROWTH = 4
"""A window holds at most so many times the blocks of the one before: it is made while that one is served."""


@dataclasses.dataclass(frozen=True)
class WindowStart:
    """Where a window begins, and how much of it was served.

    Attributes:
        place: Where its first block begins.
        blocks: How many blocks it holds; as long as nothing of it was served, how many it should hold, before the end of the
            epoch is taken into account.
        skip: Rows of its first blocks that belong to the window before.
        group: For how many ranks it was planned; 0 as long as nothing of it was served.
        served: Rows of it that were handed out, of all ranks together: packed rows for `Pack`.
    """

    place: Place = dataclasses.field(default_factory=Place)
    blocks: int = 1
    skip: int = 0
    group: int = 0
    served: int = 0


@dataclasses.dataclass(frozen=True)
class Window:
    """Rows that are planned together, and of them those of this rank.

    Attributes:
        start: Where it begins, with the number of blocks it has.
        following: Where the next begins; ``None`` if the epoch ends with this one.
        number: The row id of its first row, which no other window of the epoch has; -1 if it has none.
        runs: The lengths of all its rows, by which they were planned.
        columns: Columns of this rank's rows.
        sequence: Name of the column that lengths are those of; ``None`` if no column has rows of different lengths.
        row_ids: ``int64 (n,)``.
        pieces: ``int64 (n,)``.
        is_repeated: ``bool (n,)``, rows that another rank has as well; ``None`` for none.
        spec: What was planned by, decided in all.
        plan: Which rows go together, step after step.
        after: Rows of the window that are served after each step.
        totals: ``int64 (steps, 2)``, real tokens and labels of each step on all ranks, -1 labels where nobody knows;
            ``None`` where this is the only rank.
        counts: What became of records that were changed or left out, as far as this rank worked on them.
        rank: Whose rows these are.
    """

    start: WindowStart
    following: WindowStart | None
    number: int
    runs: Runs
    columns: dict[str, Column]
    sequence: str | None
    row_ids: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.int64]
    is_repeated: npt.NDArray[np.bool_] | None
    spec: BatchSpec
    plan: Plan
    after: list[int]
    totals: npt.NDArray[np.int64] | None
    counts: Counts
    rank: int = 0

    @functools.cached_property
    def planned(self) -> Planned:
        """What batches take their slices from."""
        return put_in_order(
            self.plan, self.columns, self.sequence, self.row_ids, self.pieces, self.is_repeated, sides=self.spec.columns
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How blocks become windows: everything that does not move.

    Attributes:
        process: Runs the stages over blocks.
        spec: How rows are cut into batches.
        key: What the order of rows and batches depends on, the epoch at its end.
        shuffle: Whether rows and batches are mixed at all.
        locate: Names the place of a row id in the data, for errors.
        guard: Called between steps that take time; raises to stop.
        max_bytes: A window stops growing at this many bytes of records as read, on each rank.
        max_length: The longest row that the stages let pass; ``None`` if they set no limit.
        ranks: Who shares the windows.
        world_size: For how many ranks windows are made; so many share them, or this one makes them alone.
        uneven: What becomes of a step with fewer rows than ranks.
        labels: Where labels come from; ``None`` if nobody knows before a batch is made.
    """

    process: Process
    spec: BatchSpec
    key: tuple[object, ...]
    shuffle: bool = True
    locate: Callable[[int], str] = str
    guard: Guard = lambda: None
    max_bytes: int = MAX_BYTES
    max_length: int | None = None
    ranks: Ranks = dataclasses.field(default_factory=Alone)
    world_size: int = 1
    uneven: Uneven = "repeat"
    labels: LabelRule | None = None


def read_windows(blocks: Iterable[ReadBlock], start: WindowStart, recipe: Recipe) -> Iterator[Window]:
    """Yield the windows of an epoch from a start on.

    Args:
        blocks: The blocks from ``start.place`` on.
        start: Where to begin, as the ``following`` of the window before says.
        recipe: What to do with them.
    """
    buffer = Buffer(iter(blocks), recipe.guard)
    while True:
        draft = _take(buffer, start, recipe)
        if draft is None:
            return
        if recipe.spec.sample_batches:
            recipe = dataclasses.replace(recipe, spec=recipe.spec.fitted(draft.runs.every(1), recipe.max_length))
            draft = dataclasses.replace(draft, recipe=recipe)
        window, num_left = _build(draft)
        buffer.give_back(draft.entries[len(draft.entries) - num_left :])
        following = window.following
        del draft
        yield window
        del window
        if following is None:
            return
        start = following


@dataclasses.dataclass(frozen=True)
class _Draft:
    """The blocks of a window, processed by whoever owns them; as far as all ranks know of them.

    Attributes:
        recipe: How they become a window.
        start: Where it begins, with the number of blocks it has.
        entries: The blocks.
        is_last: Whether the epoch ends with them.
        census: Of all their rows, without those that belong to the window before.
    """

    recipe: Recipe
    start: WindowStart
    entries: list[Entry]
    is_last: bool
    census: Census

    @property
    def runs(self) -> Runs:
        return self.census.runs

    @property
    def num_rows(self) -> int:
        return sum(entry.num_rows for entry in self.entries) - self.start.skip

    def census_of(self, num_rows: int) -> Census:
        """Return the census of the first rows."""
        if num_rows == self.num_rows:
            return self.census
        return _census(self.entries, self.start.skip, num_rows, self.recipe)


def _take(buffer: Buffer, start: WindowStart, recipe: Recipe) -> _Draft | None:
    """Take the blocks of a window from the buffer, and process those of this rank; return ``None`` if there are none.

    There are more of them than was chosen where those have rows, but too few for a batch: no window ends where it began.
    """
    size, ended = _choose_size(buffer, start, recipe.max_bytes * recipe.world_size)
    if not size:
        return None
    ranks = recipe.ranks
    entries = buffer.take(size)
    unowned = [entry for entry in entries if entry.owner is None]
    for at, entry in enumerate(unowned):
        entry.owner = at * ranks.world_size // len(unowned)
    while True:
        _process([entry for entry in entries if entry.owner == ranks.rank and entry.block is not None], entries, start, recipe)
        start = dataclasses.replace(start, blocks=len(entries))
        num_rows = sum(entry.num_rows for entry in entries) - start.skip
        draft = _Draft(recipe, start, entries, ended, _census(entries, start.skip, num_rows, recipe))
        if ended or not _is_short(draft.runs, recipe.spec, _group(start, recipe)):
            return draft
        more = buffer.take(1)
        more[0].owner = ranks.world_size - 1
        entries = entries + more
        ended = not buffer.fill(1)


def _process(todo: Sequence[Entry], entries: Sequence[Entry], start: WindowStart, recipe: Recipe) -> None:
    """Process blocks of this rank, and let all ranks know how many rows each block of the window has, or what went wrong."""
    header = Header(recipe.key[-1], start.place.position, len(entries), start.skip, start.served)
    try:
        recipe.process(todo, recipe.guard)
        for table in tables_of(todo):
            _check_values(table, recipe.locate)
    except Exception as error:
        meet(header.failing(error), recipe.ranks)
        raise
    own = [entry.num_rows for entry in entries if entry.owner == recipe.ranks.rank]
    told = [iter(rows) for rows in meet(header.telling(own), recipe.ranks)]
    for entry in entries:
        entry.num_rows = next(told[entry.owner or 0])


def _check_values(table: pa.Table, locate: Callable[[int], str]) -> None:
    """Refuse missing values here, where the rank that has them can say so to the others."""
    for name in table.column_names:
        if table.column(name).null_count:
            with placed(table.column(ROW_ID), locate):
                _read(name, table)


def _census(entries: Sequence[Entry], skip: int, num_rows: int, recipe: Recipe) -> Census:
    """Count the rows of a window by length, from ``skip`` on."""
    parts: list[list[Lengths]] = []
    owners: list[int] = []
    for entry, rows in zip(entries, _ranges(entries, skip, num_rows), strict=True):
        owner = entry.owner or 0
        if not owners or owners[-1] != owner:
            owners.append(owner)
            parts.append([])
        if entry.table is not None:
            parts[-1].append(lengths_of(entry.table, recipe.spec.columns)[rows])
    own = [np.concatenate(part) for part, owner in zip(parts, owners, strict=True) if owner == recipe.ranks.rank]
    return take_census([recipe.spec.sort_keys(lengths) for lengths in own], owners, recipe.ranks)


def _ranges(entries: Sequence[Entry], skip: int, num_rows: int) -> Iterator[slice]:
    """Yield which rows of each block are among ``num_rows`` of them from ``skip`` on."""
    before = 0
    for entry in entries:
        first, stop = (min(max(at - before, 0), entry.num_rows) for at in (skip, skip + num_rows))
        yield slice(first, stop)
        before += entry.num_rows


def _is_short(runs: Runs, spec: BatchSpec, world_size: int) -> bool:
    """Say whether rows are too few to decide how they are batched; or to fill a batch of each rank, but not none."""
    if spec.num_batches(runs.num_rows, runs.num_tokens) < spec.sample_batches:
        return True
    return runs.num_rows > 0 and not spec.fills_group(runs, world_size)


def _choose_size(buffer: Buffer, start: WindowStart, max_bytes: int) -> tuple[int, bool]:
    """Return how many blocks the window takes, and whether the epoch ends with them; fills the buffer as far as needed."""
    size = buffer.fill(start.blocks, max_bytes if not start.served else None)
    if start.served and size < start.blocks:
        raise ValueError(
            f"source must still have the {start.blocks} blocks that the state counts, got {size}; the data has changed"
        )
    if not start.served:
        at_hand = buffer.fill(2 * size, 2 * max_bytes)
        size = level(size, at_hand) if at_hand == len(buffer) else size  # otherwise it was bytes that ended the look
    ended = buffer.fill(size + 1) <= size
    return size, ended


def level(size: int, remaining: int) -> int:
    """Return how many blocks to take, so that none of the last windows is tiny.

    Args:
        size: How many were wanted.
        remaining: How many there are, counted up to ``2 * size``.

    Returns:
        ``size``; half of what remains where that is less than two windows; all of it where it is one.
    """
    if size < remaining < 2 * size:
        return -(-remaining // 2)
    return min(size, remaining)


def next_size(blocks: int, num_batches: float, window_batches: int, world_size: int = 1) -> int:
    """Return how many blocks the next window should hold: as many as fill it, but at most four times those of this one.

    Args:
        blocks: Blocks of this window.
        num_batches: About how many batches they made.
        window_batches: How many batches of each rank a full window holds.
        world_size: Number of ranks.
    """
    wanted = blocks * window_batches * world_size / num_batches if num_batches else GROWTH * blocks
    return max(1, min(round(wanted), GROWTH * blocks))


def _build(draft: _Draft) -> tuple[Window, int]:
    """Plan the rows of some blocks; return the window, and how many of its last blocks the next begins with."""
    recipe, spec, ranks, entries = draft.recipe, draft.recipe.spec, draft.recipe.ranks, draft.entries
    group = _group(draft.start, recipe)
    num_planned = spec.num_planned(draft.num_rows, lambda num: draft.census_of(num).runs, last=draft.is_last, world_size=group)
    census = draft.census_of(num_planned)
    own = _own_rows(draft, num_planned)
    number = _first_row_id(draft, own, num_planned)
    grouping = _arrange(draft, census, own, (*recipe.key, number if num_planned else None), group)
    steps = cut_steps(grouping, draft.start.served, recipe.world_size, recipe.uneven)
    counts = Counter[str]()
    for entry in entries:
        counts.update(entry.counts)
        entry.counts = {}
    if ranks.rank == 0:  # who counts for all
        counts.update(grouping.counts)
        counts["dropped"] += steps.num_dropped + (draft.num_rows - num_planned if draft.is_last else 0)
    num_left, following = 0, None
    if not draft.is_last:
        num_batches = spec.num_batches(num_planned, census.runs.num_tokens)
        size = next_size(len(entries), num_batches, spec.window_batches, recipe.world_size)
        num_left, following = _follow(entries, draft.num_rows - num_planned, size)
    dealt = deal_rows(own, census, grouping, steps, ranks)
    start = dataclasses.replace(draft.start, group=group)
    return _window_of(dealt, steps, start, following, number, census.runs, recipe, +counts), num_left


def _group(start: WindowStart, recipe: Recipe) -> int:
    """Return for how many ranks a window is planned: those that began to serve it, else those there are."""
    return start.group if start.served else recipe.world_size


def _own_rows(draft: _Draft, num_rows: int) -> pa.Table:
    """Return this rank's rows of those that are planned."""
    entries = draft.entries
    ranges = _ranges(entries, draft.start.skip, num_rows)
    tables = [
        entry.table.slice(rows.start, rows.stop - rows.start)
        for entry, rows in zip(entries, ranges, strict=True)
        if entry.table is not None
    ]
    if not tables:
        return NO_ROWS
    with placed(row_ids_of(tables), draft.recipe.locate):
        return join_tables(tables)


def _first_row_id(draft: _Draft, own: pa.Table, num_rows: int) -> int:
    """Return the row id of the first row of the window; -1 if it has none."""
    entries, ranks = draft.entries, draft.recipe.ranks
    first = own.column(ROW_ID)[0].as_py() if len(own) else -1
    told = [int.from_bytes(data, "little", signed=True) for data in ranks.gather(first.to_bytes(8, "little", signed=True))]
    ranges = _ranges(entries, draft.start.skip, num_rows)
    owners = (entry.owner or 0 for entry, rows in zip(entries, ranges, strict=True) if rows.start < rows.stop)
    return next((told[owner] for owner in owners), -1)


def _window_of(
    dealt: Dealt,
    steps: Steps,
    start: WindowStart,
    following: WindowStart | None,
    number: int,
    runs: Runs,
    recipe: Recipe,
    counts: Counts,
) -> Window:
    table, row_ids = dealt.table, dealt.table.column(ROW_ID)
    with placed(row_ids, recipe.locate):
        columns, sequence = _read_columns(table, recipe.spec)
    if dealt.is_repeated is not None:
        columns = without_labels(columns, dealt.is_repeated)
    pieces = to_numpy(table.column(PIECE)) if PIECE in table.column_names else np.zeros(len(table))
    window = Window(
        start,
        following,
        number,
        runs,
        columns,
        sequence,
        to_numpy(row_ids),
        pieces.astype(np.int64),
        dealt.is_repeated,
        recipe.spec,
        dealt.plan,
        steps.after.tolist(),
        None,
        counts,
        recipe.ranks.rank,
    )
    if recipe.ranks.world_size == 1:
        return window
    labels = count_labels(window, recipe.labels)
    own = np.array([window.planned.num_tokens, labels], dtype=np.int64).T.tobytes()
    told = [np.frombuffer(data, dtype=np.int64).reshape(-1, 2) for data in recipe.ranks.gather(own)]
    return dataclasses.replace(window, totals=np.where(np.min(told, axis=0) < 0, -1, np.sum(told, axis=0)))


def _follow(entries: Sequence[Entry], rows_left: int, size: int) -> tuple[int, WindowStart]:
    """Return how many of the last blocks hold the rows left over, and where the next window begins."""
    num_left = rows = 0
    while rows < rows_left:
        num_left += 1
        rows += entries[-num_left].num_rows
    place = entries[-num_left].before if num_left else entries[-1].after
    return num_left, WindowStart(place, size, skip=rows - rows_left)


def _read_columns(table: pa.Table, spec: BatchSpec) -> tuple[dict[str, Column], str | None]:
    """Return the columns of the rows, and the one that is the sequence."""
    sequence = spec.columns[0] if spec.columns else sequence_column(table.schema)
    columns = {name: _read(name, table) for name in table.column_names if name not in (ROW_ID, PIECE)}
    try:
        if isinstance(spec, Pack):
            check_parallel(columns, sequence)
    except ColumnError as error:
        raise RecordError(str(error), row_id=table.column(ROW_ID)[error.row].as_py()) from None
    return columns, sequence


def _read(name: str, table: pa.Table) -> Column:
    try:
        return read_column(name, table.column(name))
    except ColumnError as error:
        raise RecordError(str(error), row_id=table.column(ROW_ID)[error.row].as_py()) from None


def _arrange(draft: _Draft, census: Census, own: pa.Table, key: tuple[object, ...], world_size: int) -> Grouping:
    """Plan the window; an error names the longest row, if it is one of this rank's."""
    recipe, spec = draft.recipe, draft.recipe.spec
    try:
        return spec.arrange(census.runs, key=key if recipe.shuffle else None, world_size=world_size)
    except ValueError as error:
        lengths = lengths_of(own, spec.columns)
        totals = lengths if lengths.ndim == 1 else lengths.sum(axis=1)
        longest = census.runs.lengths if census.runs.lengths.ndim == 1 else census.runs.lengths.sum(axis=1)
        if not len(totals) or totals.max() < longest.max():
            error.add_note("the record is one that another rank has tokenised, which says where it is")
            raise
        with placed(own.column(ROW_ID), recipe.locate):
            raise RecordError(str(error), row_id=own.column(ROW_ID)[int(totals.argmax())].as_py()) from None
