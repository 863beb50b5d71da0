"""Predictions in source order again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream.batches.batch import Batch
from seqstream.batches.restore_order import restore_order
from seqstream.planning.bucket import Bucket
from seqstream.planning.unbucketed import Unbucketed
from seqstream.windows.block_reader import Cursor, read_blocks
from seqstream.windows.building import read_windows
from seqstream.windows.processing import run_here
from seqstream.windows.settings import WindowSettings, WindowStart
from tests.helpers.batches import bare_batch
from tests.helpers.sources import Shards


def batch_of(
    row_ids: list[int], window: int, pieces: list[int] | None = None, num_made_up: int = 0, num_repeated: int = 0
) -> Batch:
    """Make a batch of rows that have nothing but their ids."""
    num_rows = len(row_ids)
    return bare_batch(
        torch.ones(num_rows, dtype=torch.int64),
        num_made_up,
        {"num_repeated": num_repeated},
        mask=torch.ones(num_rows, 1, dtype=torch.bool),
        row_ids=torch.tensor(row_ids, dtype=torch.int64),
        pieces=torch.tensor(pieces or [0] * num_rows),
        window=window,
    )


def predicted(batches: list[Batch]) -> Iterator[tuple[Batch, list[str]]]:
    """Name each row after its id and piece."""
    for batch in batches:
        rows = zip(batch.row_ids.tolist(), batch.pieces.tolist(), strict=True)
        yield batch, [f"{row}.{piece}" for row, piece in rows]


def test_sequences_of_packed_rows_are_in_order_again() -> None:
    """One prediction for each sequence, and none for those that were made up."""
    lengths = [size % 7 + 2 for size in range(50)]
    source = ss.Generator([[number] * size for number, size in enumerate(lengths, 1)], block_bytes=64)
    batches = list(ss.Loader(source, ss.Pack(16, rows=3, window_batches=2), shuffle=False))
    restored = list(ss.restore_order((batch, batch.layout.packing.lengths) for batch in batches))
    assert [int(length) for _, _, length in restored] == lengths
    assert sum(len(batch.row_ids) for batch in batches) >= 50
    with pytest.raises(ValueError, match=r"predictions must have one value a row, got 3 for \d+ rows"):
        list(ss.restore_order([(batches[0], torch.zeros(3))]))


blocks_of_a_shard = st.lists(st.lists(st.integers(1, 9), max_size=6).map(tuple), max_size=4).map(tuple)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(blocks_of_a_shard, max_size=5),
    st.sampled_from([Bucket(20, window_batches=2), Bucket(batch_size=3), Unbucketed(4)]),
)
def test_rows_are_in_source_order_again(lengths: Any, spec: Any) -> None:
    """All of them, once, with their own value, for any windows."""
    source = Shards(tuple(lengths))
    blocks = read_blocks(source, range(source.num_shards), Cursor(), 1)
    batches = [
        batch_of(window.row_ids[window.plan.rows(turn)].tolist(), window.number)
        for window in read_windows(blocks, WindowStart(), WindowSettings(run_here(((),)), spec, (0,), shuffle=False))
        for turn in range(len(window.plan))
    ]
    assert list(restore_order(predicted(batches))) == [(row, 0, f"{row}.0") for row in source.row_ids]


def test_pieces_are_in_their_order() -> None:
    """A record that was split is put together piece by piece."""
    batches = [batch_of([5, 3], 3, [1, 0]), batch_of([5, 4], 3, [0, 0]), batch_of([6, 5], 6, [0, 2])]
    with pytest.raises(ValueError, match="batches must come in source order"):
        list(restore_order(predicted([*batches, batch_of([5], 7, [1])])))
    assert [row[:2] for row in restore_order(predicted(batches))] == [(3, 0), (4, 0), (5, 0), (5, 1), (5, 2), (6, 0)]


def test_values_may_be_rows_of_a_tensor() -> None:
    """One row of the tensor each."""
    scores = torch.tensor([[1.0, 2], [3, 4]])
    restored: list[tuple[int, int, torch.Tensor]] = list(restore_order([(batch_of([8, 7], 7), scores)]))
    assert [(row, value.tolist()) for row, _, value in restored] == [(7, [3, 4]), (8, [1, 2])]


def test_rows_that_are_not_there_are_left_out() -> None:
    """Rows that are made up, or repeated from another rank."""
    batches = [batch_of([2, 1, -1], 1, num_made_up=1), batch_of([1, 2, -1], 1, num_made_up=1, num_repeated=2), batch_of([3], 3)]
    assert [row for row, _, _ in restore_order(predicted(batches))] == [1, 2, 3]


def test_one_window_is_held_at_a_time() -> None:
    """The rows of a window are yielded as soon as the next one begins, not at the end."""
    taken: list[int] = []

    def predictions() -> Iterator[tuple[Batch, list[int]]]:
        for window in range(0, 40, 10):
            taken.append(window)
            yield batch_of([window + 1, window], window), [1, 0]

    rows = restore_order(predictions())
    assert [next(rows)[0], next(rows)[0]] == [0, 1]
    assert taken == [0, 10]
    assert [next(rows)[0] for _ in range(2)] == [10, 11]
    assert taken == [0, 10, 20]


def test_nothing_predicted_is_nothing_restored() -> None:
    """No batches, or batches of rows made up only."""
    assert list(restore_order([])) == []
    assert list(restore_order(predicted([batch_of([-1], 1, num_made_up=1)]))) == []


@pytest.mark.parametrize("num_values", [0, 1, 3])
def test_there_is_one_value_a_row(num_values: int) -> None:
    """The message has both numbers."""
    with pytest.raises(ValueError, match=f"^predictions must have one value a row, got {num_values} for 2 rows$"):
        list(restore_order([(batch_of([1, 2], 1), [0] * num_values)]))


@pytest.mark.parametrize(
    "batches",
    [
        [batch_of([5, 6], 5), batch_of([1, 2], 1)],
        [batch_of([1, 9], 1), batch_of([5, 6], 5)],
        [batch_of([1, 2], 1), batch_of([2, 1], 1)],
        [batch_of([1, 2], 1), batch_of([3, 4], 3), batch_of([1, 2], 1)],
    ],
    ids=["windows shuffled", "windows overlapping", "a second epoch of one window", "a second epoch"],
)
def test_windows_out_of_order_are_refused(batches: list[Batch]) -> None:
    """A shuffled loader, or more than one epoch, cannot be restored; the message has the remedy."""
    message = r"^batches must come in source order, window by window; make the loader with shuffle=False$"
    with pytest.raises(ValueError, match=message):
        list(restore_order(predicted(batches)))


def test_large_windows_are_sorted_once() -> None:
    """Time follows from the rows, not from rows times batches."""
    batches = [batch_of(list(range(turn, 100_000, 500)), 0) for turn in range(500)]
    begin = time.perf_counter()
    restored: Iterator[tuple[int, int, torch.Tensor]] = restore_order((batch, batch.row_ids) for batch in batches)
    assert [row for row, _, _ in itertools.islice(restored, 3)] == [0, 1, 2]
    assert time.perf_counter() - begin < 5
