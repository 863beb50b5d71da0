"""Windows: every row once, the same from every start on, and sized by the windows before."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.distributed.collectives import CallbackCollectives
from seqstream.loading.state import Position
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.bucket import Bucket
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import ROW_ID, Counts, OpenStage, RecordError, sequence_column
from seqstream.shuffling import EvenOrder
from seqstream.sources.source import Source
from seqstream.stages.running import run_stages
from seqstream.testing.rank_threads import Options, run_ranks
from seqstream.windows.block_buffer import BlockBuffer
from seqstream.windows.block_reader import Cursor, ReadBlock, read_blocks
from seqstream.windows.building import read_windows
from seqstream.windows.collecting import level, next_size
from seqstream.windows.columns import Ragged
from seqstream.windows.processing import run_here
from seqstream.windows.settings import RankSharing, WindowSettings, WindowStart
from seqstream.windows.window import Window
from tests.helpers.sources import Shards, sequences

specs: st.SearchStrategy[BatchSpec] = st.one_of(
    st.builds(Bucket, st.integers(12, 60), window_batches=st.integers(1, 4)),
    st.builds(Bucket, batch_size=st.integers(1, 9), window_batches=st.integers(1, 4)),
    st.builds(Unbucketed, st.integers(1, 9), st.booleans()),
)
blocks_of_a_shard = st.lists(st.lists(st.integers(0, 9), max_size=6).map(tuple), max_size=6).map(tuple)
sources = st.builds(Shards, st.lists(blocks_of_a_shard, max_size=6).map(tuple), st.booleans())


def windows(source: Source, window_settings: WindowSettings, start: WindowStart | None = None) -> Iterator[Window]:
    """Read the windows of an epoch from a start on, two shards open at a time."""
    start = start or WindowStart()
    order = EvenOrder(source.num_shards, 0, "shards")
    return read_windows(read_blocks(source, order, start.cursor, 2), start, window_settings)


def settings_of(spec: BatchSpec, *stages: OpenStage, **options: Any) -> WindowSettings:
    locate = options.get("locate", str)
    return WindowSettings(run_here((stages,), locate, options.pop("fill", None)), spec, (0, 0), **options)


def served(window: Window) -> list[list[int]]:
    """Return the row ids of each batch that is left of the window."""
    return [window.row_ids[window.plan.rows(turn)].tolist() for turn in range(len(window.plan))]


def lengths_in(window: Window) -> list[int]:
    """Return the lengths of the rows of a window, in the order read."""
    column = window.columns[window.sequence or ""]
    assert isinstance(column, Ragged)
    return column.lengths.tolist()


def seen(found: Iterator[Window] | list[Window]) -> list[list[int]]:
    return [rows for window in found for rows in served(window)]


def dropped(found: list[Window], why: str) -> int:
    return sum(window.counts.get(why, 0) for window in found)


def table_of(columns: Any, first: int = 0) -> pa.Table:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    return table.append_column(ROW_ID, pa.array(np.arange(first, first + len(table))))


def blocks_of(*tables: Any) -> list[ReadBlock]:
    """Make blocks of one shard each."""
    firsts = np.cumsum([0, *map(len, [table if isinstance(table, pa.Table) else pa.table(table) for table in tables])])
    made = [table_of(table, int(first)) for table, first in zip(tables, firsts, strict=False)]
    return [ReadBlock(table, Cursor(number), Cursor(number + 1)) for number, table in enumerate(made)]


def drop_short(tables: list[pa.Table]) -> tuple[list[pa.Table], list[Counts]]:
    """A stage that drops rows shorter than three."""
    kept = [table.filter(pc.greater(pc.list_value_length(table.column("input_ids")), 2)) for table in tables]
    return kept, [{"dropped": len(table) - len(rows)} for table, rows in zip(tables, kept, strict=True)]


@settings(max_examples=80, deadline=None)
@given(sources, specs, st.booleans(), st.integers(1, 4), st.sampled_from([1, 300, 1 << 20]), st.booleans())
def test_every_row_is_served_once(  # noqa: PLR0917 - hypothesis passes them by name
    source: Shards, spec: BatchSpec, shuffle: bool, size: int, max_bytes: int, filtered: bool
) -> None:
    """Whatever the blocks, the spec and the limits, each record is in one batch or counted as left out."""
    window_settings = settings_of(spec, *[drop_short] * filtered, shuffle=shuffle, max_bytes=max_bytes)
    found = list(windows(source, window_settings, WindowStart(blocks=size)))
    rows = list(itertools.chain.from_iterable(seen(found)))
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(source.row_ids)
    assert len(rows) + dropped(found, "empty") + dropped(found, "dropped") == len(source.row_ids)
    lengths = [length for blocks in source.lengths for block in blocks for length in block]
    assert dropped(found, "empty") == (0 if filtered else lengths.count(0))
    assert not found or found[-1].following is None
    assert all(window.following is not None for window in found[:-1])


@settings(max_examples=30, deadline=None)
@given(sources, specs, st.booleans(), st.integers(1, 3), st.sampled_from([1, 300, 1 << 20]))
def test_windows_are_the_same_from_every_start_on(
    source: Shards, spec: BatchSpec, shuffle: bool, size: int, max_bytes: int
) -> None:
    """After every batch, and from the beginning of the next window at the end of one, through JSON, the same batches follow."""
    window_settings = settings_of(spec, shuffle=shuffle, max_bytes=max_bytes)
    found = list(windows(source, window_settings, WindowStart(blocks=size)))
    for number, window in enumerate(found):
        rest = seen(found[number + 1 :])
        for turn in range(1, len(window.plan) + 1):
            start = dataclasses.replace(window.start, served=[0, *window.after][turn])
            if turn == len(window.plan):
                if window.following is None:
                    continue
                start = window.following
            state = json.loads(json.dumps(Position(0, 1, start).to_json()))
            again = list(windows(source, window_settings, Position.from_json(state).window))
            assert seen(again) == served(window)[turn:] + rest
            assert [other.following for other in again][-1:] == [None] * bool(again)


@settings(max_examples=50, deadline=None)
@given(sources, specs, st.integers(1, 3))
def test_windows_of_an_unshuffled_epoch_follow_the_source(source: Shards, spec: BatchSpec, size: int) -> None:
    """With ``shuffle=False`` and one shard at a time, rows of a window come after those of the window before."""
    blocks = read_blocks(source, range(source.num_shards), Cursor(), 1)
    found = list(read_windows(blocks, WindowStart(blocks=size), settings_of(spec, shuffle=False)))
    rows = [row for window in found for row in window.row_ids.tolist()]
    assert rows == sorted(rows)
    numbers = [window.number for window in found if len(window.row_ids)]
    assert numbers == sorted(set(numbers))


@settings(max_examples=50, deadline=None)
@given(sources, st.integers(1, 9), st.integers(1, 3))
def test_only_the_last_batch_of_an_epoch_is_smaller(source: Shards, batch_size: int, size: int) -> None:
    """Rows that do not fill a batch begin the next window, so that batches of a fixed size have it."""
    for spec in (Bucket(batch_size=batch_size, window_batches=2), Unbucketed(batch_size)):
        found = list(windows(source, settings_of(spec), WindowStart(blocks=size)))
        sizes = [sorted(map(len, served(window))) for window in found]
        assert all(one == batch_size for window in sizes[:-1] for one in window)
        assert all(one == batch_size for window in sizes[-1:] for one in window[1:])


def test_rows_left_over_are_carried() -> None:
    """By hand: nine blocks of 3 rows in batches of 4, two batches a window, beginning with two blocks."""
    blocks = blocks_of(*[sequences([1, 2, 3])] * 9)
    spec = Bucket(batch_size=4, window_batches=2)
    found = list(read_windows(blocks, WindowStart(blocks=2), settings_of(spec, shuffle=False)))
    assert [window.row_ids.tolist() for window in found] == [
        [0, 1, 2, 3],  # of 6 rows; 2 of the block before place 2 are left
        [4, 5, 6, 7, 8, 9, 10, 11],  # of 4 blocks, less the row that is gone; the last block is left whole
        [*range(12, 27)],  # 5 blocks remain where 4 are wanted
    ]
    assert [window.start for window in found] == [
        WindowStart(Cursor(0), 2, 0, planned_world_size=1),
        WindowStart(Cursor(1), 4, 1, planned_world_size=1, step=1),
        WindowStart(Cursor(4), 5, 0, planned_world_size=1, step=3),
    ]
    assert [window.following for window in found] == [
        WindowStart(Cursor(1), 4, 1, step=1),
        WindowStart(Cursor(4), 4, step=3),
        None,
    ]
    assert served(found[1]) == [[5, 8, 11, 4], [7, 10, 6, 9]]


def test_the_size_of_the_last_window_by_hand() -> None:
    """A window takes what is left where that is at most a quarter more than it should hold."""

    def taken(size: int, remaining: int) -> int:
        return level(BlockBuffer(iter(blocks_of(*[sequences([4] * 5)] * remaining)), lambda: None, 1), size, 1 << 20)

    assert [taken(4, remaining) for remaining in range(9)] == [0, 1, 2, 3, 4, 5, 4, 4, 4]
    assert [taken(1, remaining) for remaining in range(3)] == [0, 1, 1]
    assert [taken(8, remaining) for remaining in range(7, 13)] == [7, 8, 9, 10, 8, 8]


@pytest.mark.parametrize("num_blocks", range(1, 14))
def test_the_last_window_is_not_tiny(num_blocks: int) -> None:
    """No window of an epoch is smaller than a quarter of what it should be, or larger by more, unless the epoch is."""
    blocks = blocks_of(*[sequences([4] * 5)] * num_blocks)
    found = list(read_windows(blocks, WindowStart(blocks=4), settings_of(Bucket(20, window_batches=4))))
    sizes = [window.start.blocks for window in found]
    assert sum(sizes) == num_blocks
    assert set(sizes[:-1]) <= {4}
    assert sizes[-1] <= 5
    assert sizes[-1] >= min(num_blocks, 2)


def test_sizes_of_windows_by_hand() -> None:
    """As many blocks as fill the next window, at least one, and at most ``growth`` times those of this one."""
    shares = {8 / 16: 8, 7.9 / 16: 8, 4.1 / 16: 16, 2 / 16: 16, 1.0: 4, 30 / 16: 2, 1000 / 16: 1, 0.0: 16}
    assert {share: next_size(4, share, growth=4) for share in shares} == shares
    assert next_size(4, 2 / 16, growth=1 << 12) == 32
    assert next_size(4, 0.0, growth=1 << 12) == 16, "what fills a window is not known, so it grows by steps"


def test_windows_grow_from_one_block() -> None:
    """The first batch needs one block only; then windows grow until they are full."""
    blocks = blocks_of(*[sequences([4] * 5)] * 40)
    found = list(read_windows(blocks, WindowStart(blocks=1), settings_of(Bucket(20, window_batches=8))))
    assert [window.start.blocks for window in found] == [1, 4, 8, 8, 8, 8, 3]
    fast = settings_of(Bucket(20, window_batches=8), growth=1 << 12)
    assert [window.start.blocks for window in read_windows(blocks, WindowStart(blocks=1), fast)] == [1, 8, 8, 8, 8, 7]


def test_no_more_is_read_than_two_windows() -> None:
    """A window needs its own blocks and a look at as many more, not the epoch."""
    taken = 0

    def counted() -> Iterator[ReadBlock]:
        nonlocal taken
        for block in blocks_of(*[sequences([4] * 5)] * 40):
            taken += 1
            yield block

    found = read_windows(counted(), WindowStart(blocks=3), settings_of(Bucket(20, window_batches=3)))
    for number in range(1, 5):
        next(found)
        assert taken <= 3 * (number + 1)


def test_windows_do_not_depend_on_how_far_ahead_was_read() -> None:
    """Taken one by one, all at once, or from a source with blocks at hand, windows are equal."""
    source = Shards(tuple(((1, 2, 3), (4, 5), (6,) * 5) for _ in range(9)))
    window_settings = settings_of(Bucket(batch_size=4, window_batches=3))
    at_once = seen(list(windows(source, window_settings)))
    one_by_one = [rows for window in windows(source, window_settings) for rows in served(window)]
    ready = list(read_blocks(source, EvenOrder(9, 0, "shards"), Cursor(), 2))
    assert at_once == one_by_one == seen(read_windows(ready, WindowStart(), window_settings))


def test_the_key_changes_the_order() -> None:
    """Another seed or epoch mixes rows and batches otherwise; ``shuffle=False`` does not mix."""
    blocks = blocks_of(*[sequences([3] * 20)] * 4)
    orders = [
        seen(read_windows(blocks, WindowStart(blocks=4), WindowSettings(run_here(((),)), Unbucketed(5), (0, epoch))))
        for epoch in range(3)
    ]
    assert len({str(order) for order in orders}) == 3
    plain = seen(read_windows(blocks, WindowStart(blocks=4), settings_of(Unbucketed(5), shuffle=False)))
    assert list(itertools.chain(*plain)) == list(range(80))


def test_each_window_is_mixed_in_its_own_way() -> None:
    """Two windows of one epoch whose rows have the same lengths are not cut and served alike."""
    blocks = blocks_of(*[sequences([3] * 40)] * 2)
    for spec in (Unbucketed(5), Bucket(15)):
        first, second = read_windows(blocks, WindowStart(blocks=1), settings_of(spec))
        assert served(first) != [[row - 40 for row in rows] for rows in served(second)]


def test_a_window_stops_at_its_bytes() -> None:
    """However many blocks were wanted, those over the limit wait for the next window; a block over it is a window by itself."""
    one = table_of(sequences([5] * 50)).nbytes
    blocks = blocks_of(*[sequences([5] * 50)] * 20)
    found = list(read_windows(blocks, WindowStart(blocks=20), settings_of(Bucket(100, window_batches=1000), max_bytes=4 * one)))
    assert sum(window.start.blocks for window in found) == 20
    assert max(window.start.blocks for window in found) == 4
    assert min(window.start.blocks for window in found) >= 2
    found = list(read_windows(blocks, WindowStart(blocks=20), settings_of(Bucket(100), max_bytes=one - 1)))
    assert [window.start.blocks for window in found] == [1] * 20


@pytest.mark.parametrize("spec", [Bucket(batch_size=120), Unbucketed(120), Unbucketed(120, drop_last=True)], ids=repr)
def test_a_batch_larger_than_a_window_may_be_is_made(spec: BatchSpec) -> None:
    """A window of too few rows for a batch takes more blocks, whatever their bytes, instead of standing still."""
    blocks = blocks_of(*[sequences([5] * 50)] * 7)
    found = list(read_windows(blocks, WindowStart(), settings_of(spec, max_bytes=1)))
    assert [len(rows) for rows in seen(found)] == [120, 120] + [110] * (spec != Unbucketed(120, drop_last=True))
    assert dropped(found, "dropped") == (110 if spec == Unbucketed(120, drop_last=True) else 0)
    assert found[0].start.blocks == 3
    for number, window in enumerate(found):
        if not window.after:
            continue
        start = dataclasses.replace(window.start, served=window.after[-1])
        again = list(read_windows(blocks[start.cursor.position :], start, settings_of(spec, max_bytes=1)))
        assert seen(again) == seen(found[number + 1 :])


def test_blocks_without_rows_are_passed_over() -> None:
    """Blocks of which a filter leaves nothing belong to a window, but the next one does not begin with them."""
    tables = [sequences([5] * 4), *[sequences([1] * 4)] * 30, sequences([5] * 4)]
    found = list(read_windows(blocks_of(*tables), WindowStart(), settings_of(Unbucketed(4), drop_short)))
    assert [len(rows) for rows in seen(found)] == [4, 4]
    assert dropped(found, "dropped") == 120
    assert found[-1].number == 124
    assert len({window.start.cursor for window in found}) == len(found)
    assert max(window.start.blocks for window in found) <= 16


def test_an_epoch_of_nothing_has_no_rows() -> None:
    """No blocks, no windows; blocks of no rows make a window of no batches."""
    assert list(read_windows([], WindowStart(), settings_of(Unbucketed(4)))) == []
    (window,) = read_windows(blocks_of(sequences([]), sequences([])), WindowStart(blocks=2), settings_of(Bucket(9)))
    assert (len(window.plan), window.number, window.following) == (0, -1, None)
    (window,) = read_windows(blocks_of(sequences([0, 0])), WindowStart(), settings_of(Bucket(9)))
    assert (len(window.plan), window.counts) == (0, {"empty": 2})


def test_data_that_has_shrunk_is_refused() -> None:
    """A state that counts more blocks than there are is of other data."""
    message = r"^source must still have the 3 blocks that the state counts, got 2; the data has changed$"
    with pytest.raises(ValueError, match=message):
        next(
            read_windows(
                blocks_of(*[sequences([1])] * 2),
                WindowStart(blocks=3, planned_world_size=1, served=1),
                settings_of(Unbucketed(1)),
            )
        )


def test_stages_run_once_over_each_block_in_order() -> None:
    """Blocks carried over are not processed again, and what was counted is counted once."""
    calls: list[int] = []

    def watched(tables: list[pa.Table]) -> tuple[list[pa.Table], list[Counts]]:
        calls.extend(table.column(ROW_ID)[0].as_py() for table in tables)
        return tables, [{"truncated": 1} for _ in tables]

    blocks = blocks_of(*[sequences([1, 2, 3])] * 12)
    found = list(read_windows(blocks, WindowStart(blocks=2), settings_of(Unbucketed(4), watched)))
    assert calls == list(range(0, 36, 3))
    assert dropped(found, "truncated") == 12


def test_stages_are_given_several_blocks_at_a_time() -> None:
    """Small blocks go through together, large ones alone."""
    sizes: list[int] = []

    def watched(tables: list[pa.Table]) -> tuple[list[pa.Table], list[Counts]]:
        sizes.append(len(tables))
        return tables, [{} for _ in tables]

    small, large = sequences([1000] * 100), sequences([1000] * 600)  # 0.4 and 2.4 MB
    blocks = blocks_of(small, small, large, large, small)
    list(read_windows(blocks, WindowStart(blocks=5), settings_of(Unbucketed(4), watched)))
    assert sizes == [2, 1, 1, 1]


def test_the_guard_is_called_between_steps() -> None:
    """The guard is called before each block is read and before each group of blocks is processed."""
    asked = 0

    def guard() -> None:
        nonlocal asked
        asked += 1
        if asked > 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(read_windows(blocks_of(*[sequences([1])] * 9), WindowStart(blocks=4), settings_of(Unbucketed(1), guard=guard)))


def notes_of(
    blocks: list[ReadBlock], window_settings: WindowSettings, error: type[Exception], match: str, size: int = 9
) -> list[str]:
    """Return the notes of the error that windows of some blocks raise."""
    with pytest.raises(error, match=match) as caught:
        list(read_windows(blocks, WindowStart(blocks=size), window_settings))
    return caught.value.__notes__


def located(spec: BatchSpec, *stages: OpenStage) -> WindowSettings:
    return settings_of(spec, *stages, locate=lambda row_id: f"line {row_id + 1:,}")


def failing(error: Callable[[pa.Table], Exception]) -> OpenStage:
    def fail(tables: list[pa.Table]) -> tuple[list[pa.Table], list[Counts]]:
        raise error(tables[0])

    return fail


def test_an_error_of_a_stage_names_the_records_it_was_given() -> None:
    """From the first to the last of the blocks that went through together."""
    blocks = blocks_of(*[sequences([1] * 500)] * 3)
    stage = failing(lambda table: ZeroDivisionError("by hand"))
    notes = notes_of(blocks, located(Unbucketed(4), stage), ZeroDivisionError, "^by hand")
    assert notes == ["while working on the 1,500 records from line 1 to line 1,500"]


def test_an_error_of_one_record_names_its_location() -> None:
    """The location of the record that a stage names is added, once."""
    stage = failing(lambda table: RecordError("no good", table.column(ROW_ID)[1].as_py()))
    assert notes_of(blocks_of(sequences([1, 2])), located(Unbucketed(4), stage), RecordError, "no good") == [
        "while reading line 2"
    ]
    stage = failing(lambda table: RecordError("no good", None))
    with pytest.raises(RecordError) as caught:
        list(read_windows(blocks_of(sequences([1, 2])), WindowStart(), located(Unbucketed(4), stage)))
    assert not hasattr(caught.value, "__notes__")


def test_a_record_over_the_budget_names_its_location() -> None:
    """It is the longest row of the window."""
    blocks = blocks_of(sequences([1, 2, 3]), sequences([4, 2000, 6]))
    message = r"^sequence of 2,000 tokens cannot fit max_tokens=10; raise max_tokens or set Tokenize"
    assert notes_of(blocks, located(Bucket(10)), RecordError, message) == ["while reading line 5"]


def test_a_missing_value_names_its_location() -> None:
    """Also where an empty sequence beside it is dropped, and where rows were carried over."""
    message = r"^column 'x' must have a value in every record, got none"
    blocks = blocks_of({"x": [[1], [2]]}, {"x": [[3], [], None]})
    assert notes_of(blocks, located(Bucket(10)), RecordError, message) == ["while reading line 5"]
    blocks = blocks_of({"input_ids": [[1]] * 5, "x": [1, 2, 3, 4, 5]}, {"input_ids": [[1]] * 3, "x": [1, None, 3]})
    assert notes_of(blocks, located(Bucket(batch_size=4)), RecordError, message, 1) == ["while reading line 7"]


def test_blocks_that_do_not_fit_together_name_their_records() -> None:
    """Numbers in one block and strings in another are an error with a location."""
    blocks = blocks_of({"x": [1, 2]}, {"x": ["a"]})
    notes = notes_of(blocks, located(Unbucketed(4)), pa.ArrowTypeError, "x has incompatible types")
    assert notes == ["while working on the 3 records from line 1 to line 3"]


def test_blocks_of_wider_types_fit_together() -> None:
    """A block of whole numbers beside one of fractions, or of empty sequences beside ids, is no error."""
    blocks = blocks_of({"x": [[], []], "y": [1, 2]}, {"x": [[1], [2, 3]], "y": [0.5, 1.5]})
    (window,) = read_windows(blocks, WindowStart(blocks=2), settings_of(Bucket(10)))
    assert window.counts == {"empty": 2}
    assert window.row_ids.tolist() == [2, 3]
    assert lengths_in(window) == [1, 2]


def test_the_sequence_is_found_by_name_or_by_type() -> None:
    """Ids before features before the first sequence there is; strings, images and lists of strings are none."""
    ids, vectors = pa.list_(pa.int32()), pa.list_(pa.list_(pa.float32(), 2))
    others = [("tags", pa.list_(pa.string())), ("text", pa.string()), ("image", pa.list_(pa.uint8(), 9)), ("label", pa.int64())]
    assert sequence_column(pa.schema(others)) is None
    assert sequence_column(pa.schema([*others, ("a", vectors), ("b", ids)])) == "a"
    assert sequence_column(pa.schema([("a", ids), ("features", vectors)])) == "features"
    assert sequence_column(pa.schema([("a", ids), ("features", vectors), ("input_ids", ids)])) == "input_ids"
    assert sequence_column(pa.schema([("a", ids), ("input_ids", pa.string())])) == "a"


def test_lengths_to_plan_by_are_those_of_the_longest_column() -> None:
    """A batch of sources and targets keeps the budget for both."""
    table = {"source_ids": [[1], [2, 3]], "target_ids": [[1, 2, 3], [4]]}
    (window,) = read_windows(blocks_of(table), WindowStart(), settings_of(Bucket(10)))
    assert window.length_counts.lengths.tolist() == [3, 2]
    assert window.length_counts.counts.tolist() == [1, 1]
    assert window.sequence == "source_ids"


def test_rows_without_a_sequence_are_kept() -> None:
    """Only sequences can be empty."""
    tables, counts = run_stages([table_of({"x": [0, 0]}), table_of({"x": [[]], "input_ids": [[1]]})], ())
    assert [len(table) for table in tables] == [2, 1]
    assert counts == [{}, {}]


def test_rows_without_a_token_are_filled_where_they_are_kept() -> None:
    """With a token to fill with, an empty row gets it and stays."""
    tables, counts = run_stages([table_of({"input_ids": [[], [1, 2], [], [3], []]})], (), fill=9)
    assert tables[0].column("input_ids").to_pylist() == [[9], [1, 2], [9], [3], [9]]
    assert counts == [{}]
    blocks = blocks_of(sequences([0, 3]), sequences([0, 0]), sequences([]))
    (window,) = read_windows(blocks, WindowStart(blocks=3), settings_of(Bucket(10), fill=9))
    assert lengths_in(window) == [1, 3, 1, 1]
    assert window.counts == {}


def test_blocks_left_over_stay_with_their_rank() -> None:
    """Also where the next window is to have fewer blocks than are left, and then takes more of them to fill a step."""
    source = Shards((((1,),),) * 96)
    blocks = list(read_blocks(source, range(96), Cursor()))

    def job(options: Options) -> list[Window]:
        sharing = RankSharing(CallbackCollectives(**options))
        spec = Unbucketed(1, window_batches=1)
        window_settings = settings_of(spec, accumulate=8, world_size=3, sharing=sharing)
        return list(read_windows(blocks, WindowStart(blocks=47), window_settings))

    ranks = run_ranks(3, job)
    assert {tuple(window.start.blocks for window in found) for found in ranks} == {(47, 24, 24, 24)}
    rows = [row for found in ranks for batch in seen(found) for row in batch]
    assert sorted(rows) == source.row_ids
