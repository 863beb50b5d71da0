"""Blocks between source and plan: looked at many at a time, and read one at a time by the rank that processes them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream.records import Json
from seqstream.shuffling import EvenOrder
from seqstream.sources.blocks import Block
from seqstream.windows.block_buffer import BlockBuffer
from seqstream.windows.block_reader import BlockSpan, Cursor, UnreadBlocks, blocks_of, look_ahead, read_blocks
from seqstream.windows.block_states import AssignedBlock, CountedBlocks, RemoteBlocks, count_blocks, last_blocks, share_out
from seqstream.windows.collecting import start_after
from seqstream.windows.settings import WindowStart


@dataclasses.dataclass
class Sized(ss.Source):
    """Shards with given numbers of blocks, of which those of one block have a known size; lists the shards that were read."""

    blocks: list[int]
    read_shards: list[int] = dataclasses.field(default_factory=list)

    @property
    def num_shards(self) -> int:
        return len(self.blocks)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        self.read_shards.append(shard)
        num, first = self.blocks[shard], state or 0
        for number in range(first, num):  # type: ignore[arg-type]
            yield pa.table({"x": [shard * 100 + number]}), None if number + 1 == num else number + 1

    def approx_bytes(self, shards: np.ndarray) -> np.ndarray:
        return np.where(np.array(self.blocks)[shards] == 1, 10 + shards, -1)


def buffer_of(source: Sized) -> BlockBuffer:
    """Return a buffer of all blocks of a source in order."""
    return BlockBuffer(look_ahead(source, range(source.num_shards), Cursor()), lambda: None, 2)


SHARDS = st.lists(st.sampled_from([1, 1, 1, 1, 2, 3]), min_size=1, max_size=40)


@settings(deadline=None)
@given(SHARDS, st.integers(1, 4), st.booleans())
def test_ahead_is_what_is_read(shards: list[int], num_open: int, shuffle: bool) -> None:
    """Unread blocks and blocks read in turn are the blocks one by one; reading goes on at the cursor before each."""
    source = Sized(shards)
    order = EvenOrder(len(shards), 3) if shuffle else range(len(shards))
    ahead = list(look_ahead(source, order, Cursor(), num_open))
    blocks = list(blocks_of(ahead))
    assert sum(len(each) if isinstance(each, UnreadBlocks) else 1 for each in ahead) == len(blocks) == sum(shards)
    assert all(block.after == after.before for block, after in itertools.pairwise(blocks))
    for at, block in enumerate(blocks):
        rest = [each.table.column("x").to_pylist() for each in read_blocks(source, order, block.before, num_open)]
        assert rest == [each.table.column("x").to_pylist() for each in blocks[at:]]


def test_reading_goes_on_after_a_shard_without_blocks() -> None:
    """Shards of one block begin at their own position, also where the shard before them had none."""
    source = Sized([1, 0, 1, 1, 1, 0, 2, 1])
    blocks = list(read_blocks(source, range(8), Cursor()))
    for at, block in enumerate(blocks):
        rest = [each.table.column("x").to_pylist() for each in read_blocks(source, range(8), block.before)]
        assert rest == [each.table.column("x").to_pylist() for each in blocks[at:]]


def test_unread_blocks_are_read_when_they_are_used() -> None:
    """Looking ahead reads no shard of one block; a rank reads those of its own share only."""
    source = Sized([1] * 10)
    buffer = buffer_of(source)
    assert buffer.fill(8) == 8
    own = [each for each in share_out(buffer.take(8)[1], 1, 4) if isinstance(each, AssignedBlock)]
    assert source.read_shards == []
    assert [each.block.table.column("x").to_pylist() for each in own] == [[200], [300]]
    assert source.read_shards == [2, 3]


@settings(deadline=None)
@given(SHARDS, st.integers(1, 60), st.one_of(st.none(), st.integers(1, 800)))
def test_how_far_to_look(shards: list[int], num: int, max_bytes: int | None) -> None:
    """As many blocks as are wanted, as there are, or as are within the bytes of a rank; but at least one."""
    source = Sized(shards)
    held = [
        block.num_bytes / (1 if block.approx_bytes is None else 2)
        for block in read_blocks(source, range(len(shards)), Cursor())
    ]
    within = sum(1 for end in itertools.accumulate(held) if max_bytes is None or end <= max_bytes)
    assert buffer_of(source).fill(num, max_bytes) == max(1, min(num, within))


@settings(deadline=None)
@given(SHARDS, st.integers(1, 7), st.data())
def test_each_rank_has_its_part(shards: list[int], world_size: int, data: st.DataObject) -> None:
    """Shares are contiguous and their sizes differ by at most one; a rank holds its own blocks one by one, and no others."""
    source = Sized(shards)
    buffer = buffer_of(source)
    num = data.draw(st.integers(1, buffer.fill(99)))
    rank = data.draw(st.integers(0, world_size - 1))
    blocks = list(read_blocks(source, range(len(shards)), Cursor()))[:num]
    counted, upcoming = buffer.take(num)
    assert not counted
    shares = share_out(upcoming, rank, world_size)
    owners = [each.owner for each in shares for _ in range(len(each.span))]
    assert owners == [at * world_size // num for at in range(num)]
    assert count_blocks(shares) == num
    assert (shares[0].span.before, shares[-1].span.after) == (blocks[0].before, blocks[-1].after)
    assert all(each.span.after == after.span.before for each, after in itertools.pairwise(shares))
    own = [each for each in shares if isinstance(each, AssignedBlock)]
    assert all(len(each.span) == 1 for each in own)
    assert [each.block.table for each in own] == [
        block.table for block, owner in zip(blocks, owners, strict=True) if owner == rank
    ]
    assert all(isinstance(each, RemoteBlocks) == (each.owner != rank) for each in shares)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=6), st.data())
def test_rows_left_over(rows: list[list[int]], data: st.DataObject) -> None:
    """The next window begins with the fewest last blocks that hold the rows left over, and skips their other rows."""
    firsts = np.cumsum([0, *map(len, rows)]).tolist()
    blocks = [
        CountedBlocks(
            BlockSpan(Cursor(first), Cursor(first + len(each)), np.ones(len(each), dtype=np.int64), True),
            0,
            None,
            np.array(each),
        )
        for first, each in zip(firsts, rows, strict=False)
    ]
    flat = [row for each in rows for row in each]
    left_over = data.draw(st.integers(0, sum(flat)))
    left, start = start_after(blocks, left_over, 7)
    num = next(num for num in range(len(flat) + 1) if sum(flat[len(flat) - num :]) >= left_over)
    assert count_blocks(left) == num
    assert [row for each in left for row in each.num_rows.tolist()] == flat[len(flat) - num :]
    assert start == WindowStart(Cursor(len(flat) - num), 7, skip=sum(flat[len(flat) - num :]) - left_over)
    assert last_blocks(blocks, len(flat)) == blocks


def test_a_shard_of_two_blocks_that_says_it_is_one() -> None:
    """The error names the shard and what the source must return."""

    class Wrong(Sized):
        def approx_bytes(self, shards: np.ndarray) -> np.ndarray:
            return np.full(len(shards), 5)

    with pytest.raises(ValueError, match=r"shard 1 must be one block, as approx_bytes\(\) says, got 2; return -1 there"):
        [block.table for block in read_blocks(Wrong([1, 2]), range(2), Cursor())]
