"""Blocks -> windows: how many blocks are planned together, and what is known of their rows.

A window is the unit of planning and of state. Its start says all that is needed to make it again; the start of the next
follows from this window alone, so a resumed run makes the same windows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import to_numpy
from seqstream.buffering import Buffer, Entry, RunStages, row_ids_of
from seqstream.columns import Column, ColumnError, check_parallel, lengths_of, read_column
from seqstream.planned import Planned, put_in_order
from seqstream.planning.batches import Lengths
from seqstream.planning.pack import Pack
from seqstream.planning.specs import BatchSpec, Plan
from seqstream.reading import Place, ReadBlock
from seqstream.running import join_tables, placed, sequence_column
from seqstream.sources.protocol import PIECE, ROW_ID
from seqstream.stages import Counts, RecordError

MAX_BYTES = 512 << 20
"""A window stops growing at this many bytes of records as read."""

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
        served: Batches of it that were handed out.
    """

    place: Place = dataclasses.field(default_factory=Place)
    blocks: int = 1
    skip: int = 0
    served: int = 0


@dataclasses.dataclass(frozen=True)
class Window:
    """Rows that are planned together.

    Attributes:
        start: Where it begins, with the number of blocks it has.
        following: Where the next begins; ``None`` if the epoch ends with this one.
        columns: Columns of its rows.
        sequence: Name of the column that lengths are those of; ``None`` if no column has rows of different lengths.
        lengths: ``int64 (N,)``, by which rows were planned; ``(N, S)`` where they have several sides.
        row_ids: ``int64 (N,)``.
        pieces: ``int64 (N,)``.
        spec: What was planned by, decided in all.
        plan: Which rows go together.
        counts: What became of records that were changed or left out.
    """

    start: WindowStart
    following: WindowStart | None
    columns: dict[str, Column]
    sequence: str | None
    lengths: Lengths
    row_ids: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.int64]
    spec: BatchSpec
    plan: Plan
    counts: Counts

    @functools.cached_property
    def number(self) -> int:
        """The row id of its first row, which no other window of the epoch has; -1 if it has none."""
        return int(self.row_ids[0]) if len(self.row_ids) else -1

    @functools.cached_property
    def planned(self) -> Planned:
        """What batches take their slices from."""
        return put_in_order(self.plan, self.columns, self.sequence, self.row_ids, self.pieces, sides=self.spec.columns)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How blocks become windows: everything that does not move.

    Attributes:
        run: What becomes of blocks before they are planned.
        spec: How rows are cut into batches.
        key: What the order of rows and batches depends on.
        shuffle: Whether rows and batches are mixed at all.
        locate: Names the place of a row id in the data, for errors.
        guard: Called between steps that take time; raises to stop.
        max_bytes: A window stops growing at this many bytes of records as read.
        max_length: The longest row that the stages let pass; ``None`` if they set no limit.
    """

    run: RunStages
    spec: BatchSpec
    key: tuple[object, ...]
    shuffle: bool = True
    locate: Callable[[int], str] = str
    guard: Callable[[], None] = lambda: None
    max_bytes: int = MAX_BYTES
    max_length: int | None = None


def read_windows(blocks: Iterable[ReadBlock], start: WindowStart, recipe: Recipe) -> Iterator[Window]:
    """Yield the windows of an epoch from a start on.

    Args:
        blocks: The blocks from ``start.place`` on.
        start: Where to begin, as the ``following`` of the window before says.
        recipe: What to do with them.
    """
    buffer = Buffer(iter(blocks), recipe.run, recipe.locate, recipe.guard)
    while True:
        taken, at_end = _take(buffer, start, recipe)
        if not taken:
            return
        if recipe.spec.sample_batches:
            recipe = dataclasses.replace(recipe, spec=recipe.spec.fitted(_lengths(taken, recipe.spec), recipe.max_length))
        window, num_left = _build(taken, dataclasses.replace(start, blocks=len(taken)), recipe, last=at_end)
        buffer.give_back(taken[len(taken) - num_left :])
        following = window.following
        del taken
        yield window
        del window
        if following is None:
            return
        start = following


def _take(buffer: Buffer, start: WindowStart, recipe: Recipe) -> tuple[list[Entry], bool]:
    """Take the blocks of a window from the buffer, processed; return them, and whether the epoch ends with them.

    There are more of them than was chosen where those have rows, but too few for a batch: no window ends where it began.
    """
    size, ended = _choose_size(buffer, start, recipe.max_bytes)
    taken = buffer.take(size)
    while not ended and _is_short(_lengths(taken, recipe.spec)[start.skip :], recipe.spec):
        taken += buffer.take(1)
        ended = not buffer.fill(1)
    return taken, ended


def _is_short(lengths: Lengths, spec: BatchSpec) -> bool:
    """Say whether rows are too few to decide how they are batched; or to fill a batch, but not none."""
    if spec.num_batches(len(lengths), int(lengths.sum())) < spec.sample_batches:
        return True
    return len(lengths) > 0 and not spec.fills_batch(lengths)


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


def _lengths(entries: list[Entry], spec: BatchSpec) -> Lengths:
    return np.concatenate([lengths_of(entry.table, spec.columns) for entry in entries])


def _build(entries: list[Entry], start: WindowStart, recipe: Recipe, *, last: bool) -> tuple[Window, int]:
    """Plan the rows of some blocks; return the window, and how many of its last blocks the next begins with."""
    spec = recipe.spec
    lengths = _lengths(entries, spec)[start.skip :]
    num_planned, num_rows = spec.num_planned(lengths, last=last), len(lengths)
    lengths = lengths[:num_planned]
    with placed(row_ids_of(entries), recipe.locate):
        table = join_tables([entry.table for entry in entries]).slice(start.skip, num_planned)
    row_ids = table.column(ROW_ID)
    with placed(row_ids, recipe.locate):
        columns, sequence = _read_columns(table, spec)
        key = (*recipe.key, row_ids[0].as_py() if num_planned else None)
        plan = _plan(lengths, row_ids, recipe, key)
    counts = Counter[str](plan.counts)
    for entry in entries:
        counts.update(entry.counts or {})
        entry.counts = {}
    num_left = 0
    following = None
    if last:
        counts["dropped"] += num_rows - num_planned
    else:
        num_batches = spec.num_batches(num_planned, int(lengths.sum()))
        size = next_size(len(entries), num_batches, spec.window_batches)
        num_left, following = _follow(entries, num_rows - num_planned, size)
    ids = to_numpy(row_ids)
    pieces = to_numpy(table.column(PIECE)) if PIECE in table.column_names else np.zeros(num_planned)
    return Window(start, following, columns, sequence, lengths, ids, pieces.astype(np.int64), spec, plan, +counts), num_left


def _follow(entries: list[Entry], rows_left: int, size: int) -> tuple[int, WindowStart]:
    """Return how many of the last blocks hold the rows left over, and where the next window begins."""
    num_left = rows = 0
    while rows < rows_left:
        num_left += 1
        rows += len(entries[-num_left].table)
    place = entries[-num_left].before if num_left else entries[-1].after
    return num_left, WindowStart(place, size, skip=rows - rows_left)


def _read_columns(table: pa.Table, spec: BatchSpec) -> tuple[dict[str, Column], str | None]:
    """Return the columns of the rows, and the one that is the sequence."""
    sequence = spec.columns[0] if spec.columns else sequence_column(table.schema)
    try:
        columns = {name: read_column(name, table.column(name)) for name in table.column_names if name not in (ROW_ID, PIECE)}
        if isinstance(spec, Pack):
            check_parallel(columns, sequence)
    except ColumnError as error:
        raise RecordError(str(error), row_id=table.column(ROW_ID)[error.row].as_py()) from None
    return columns, sequence


def _plan(lengths: Lengths, row_ids: pa.ChunkedArray, recipe: Recipe, key: tuple[object, ...]) -> Plan:
    try:
        return recipe.spec.plan(lengths, key=key if recipe.shuffle else None)
    except ValueError as error:
        if len(lengths):
            longest = lengths if lengths.ndim == 1 else lengths.sum(axis=1)
            raise RecordError(str(error), row_id=row_ids[int(longest.argmax())].as_py()) from None
        raise
