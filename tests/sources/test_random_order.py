"""Items read by their numbers, in random order: which items are, each once and with the same row ids, and every error."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream import testing
from seqstream.records import ROW_ID, Json
from seqstream.sources.random_order import RandomRows, in_random_order
from seqstream.windows.block_reader import Cursor, ReadBlock, read_blocks


class Letters(torch.utils.data.Dataset[str]):
    """A map-style data set that records the numbers of the items read."""

    def __init__(self, size: int, missing: int | None = None) -> None:
        self.size = size
        self.missing = missing
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> str:
        assert type(number) is int
        if number == self.missing:
            raise IndexError(f"no file {number}.wav")
        self.asked.append(number)
        return "x" * (1 + number % 9)


class Stepped(torch.utils.data.IterableDataset[str]):
    """A stream that knows its length; torch gives it a ``__getitem__`` that raises."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])


class Counted(torch.utils.data.Dataset[str]):
    """A data set of torch that has ``__len__``, but is only iterated."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])


class Lengthless:
    """A list in everything but ``__len__``, which raises."""

    def __len__(self) -> int:
        raise TypeError("object has no len()")

    def __getitem__(self, number: int) -> str:
        return "ab"[number]

    def __iter__(self) -> Iterator[str]:
        return iter("ab")


@dataclasses.dataclass(frozen=True)
class Squares:
    """An order that can be computed by hand: ``position ** 2 % 11``, over positions 1 to 5."""

    def between(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start + 1, stop + 1) ** 2 % 11 % 5

    def __getitem__(self, position: int) -> int:
        return int(self.between(position, position + 1)[0])


def blocks_of(source: ss.Source, epoch: int = 0, seed: int = 0) -> list[ReadBlock]:
    rows = in_random_order(source, seed, epoch)
    return list(read_blocks(rows, range(rows.num_shards), Cursor()))


def ids_of(blocks: list[ReadBlock]) -> list[int]:
    return [row for block in blocks for row in block.table.column(ROW_ID).to_pylist()]


def stream(loader: ss.Loader) -> list[list[int]]:
    return [batch.row_ids.tolist() for batch in loader]


BY_NUMBER: list[Any] = [
    ["a", "b"],
    ("a", "b"),
    Letters(2),
    torch.utils.data.Subset(Letters(9), [4, 1]),
    torch.utils.data.ConcatDataset([Letters(1), Letters(1)]),
    collections.deque(["a", "b"]),
    collections.UserList(["a", "b"]),
    np.array([[1, 2], [3, 4]]),
    torch.ones(2, 3),
    np.array(["a", "b"]),
    pd.Series(["a", "b"]).to_numpy(),
]


@pytest.mark.parametrize("make", BY_NUMBER, ids=lambda make: type(make).__name__)
def test_what_has_numbers_is_read_by_them(make: Any) -> None:
    """Lists, arrays and map-style data sets of any kind are read item by item, as they are read front to back."""
    source = ss.Generator(make)
    assert source.num_records == 2
    (whole,) = (table for table, _ in source.read(0))
    assert source.take(np.array([1, 0, 1])) == whole.take(pa.array([1, 0, 1])).combine_chunks()
    assert source.take(np.array([], dtype=np.int64)) == whole.slice(0, 0)
    testing.check_source(source)


def test_a_data_set_of_hugging_face_is_read_by_number() -> None:
    """`HFDataset` is faster, but `Generator` reads a ``datasets.Dataset`` as well, as a list of dicts."""
    from datasets import Dataset

    source = ss.Generator(Dataset.from_list([{"text": "a" * number, "label": number} for number in range(9)]))
    assert source.take(np.array([3, 0])).to_pylist() == [{"text": "aaa", "label": 3}, {"text": "", "label": 0}]


STEPPED: list[Any] = [
    lambda: ["a", "b"],
    lambda: iter("ab"),
    iter(["a", "b"]),
    {"a", "b"},
    dict.fromkeys("ab").keys(),
    Stepped(),
    Counted(),
    Lengthless(),
    torch.utils.data.ChainDataset([Stepped()]),
    torch.utils.data.DataLoader(["a", "b"], batch_size=None),  # type: ignore[arg-type]
    torch.utils.data.DataLoader(["a", "b"], collate_fn="".join),  # type: ignore[arg-type]
    pd.Series(["a", "b"], index=[1, 0]),
    pd.DataFrame({"a": [1], "b": [2]}),  # stepping through a frame gives the names of its columns
]


@pytest.mark.parametrize("make", STEPPED, ids=lambda make: type(make).__name__)
def test_all_else_is_read_front_to_back(make: Any) -> None:
    """Functions, iterators, streams, and objects with items by name, are iterated, with a length or without."""
    source = ss.Generator(make)
    assert source.num_records is None
    assert sorted(text for table, _ in source.read(0) for text in table.column("text").to_pylist()) == ["a", "b"]
    with pytest.raises(ValueError, match=r"records of Generator\(.*\) cannot be read by their numbers; the source must have"):
        in_random_order(source, 0, 0)


def test_blocks_of_an_order_by_hand() -> None:
    """Each block has the records at its positions, in order, with their numbers."""
    items = [{"text": letter, "number": number} for number, letter in enumerate("abcde")]
    source = RandomRows(ss.Generator(items, block_bytes=18), Squares(), len(items))  # type: ignore[arg-type]
    blocks = list(read_blocks(source, range(3), Cursor()))
    assert [block.table.to_pylist() for block in blocks] == [
        [{"text": "b", "number": 1, "row_id": 1}, {"text": "e", "number": 4, "row_id": 4}],
        [{"text": "e", "number": 4, "row_id": 4}, {"text": "a", "number": 0, "row_id": 0}],
        [{"text": "d", "number": 3, "row_id": 3}],
    ]
    assert [block.after for block in blocks] == [Cursor(1), Cursor(2), Cursor(3)]
    assert source.locate(4) == "item 4 of list"
    assert source.approx_blocks() == source.num_shards == 3
    assert source.approx_bytes(np.arange(3)).tolist() == [18] * 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(1, 400), st.integers(0, 3), st.sampled_from([None, 0.02, 0.5]))
def test_every_item_comes_once(size: int, block_bytes: int, epoch: int, valid: float | None) -> None:
    """For all sizes, each item is in one block, with its own value and id; and any block can be read first."""
    items = [{"text": "x" * (number % 7), "number": number} for number in range(size)]
    source = ss.Generator(items, block_bytes=block_bytes)
    for part in [source] if valid is None else source.split(valid=valid):
        blocks = blocks_of(part, epoch)
        numbers = [number for block in blocks for number in block.table.column("number").to_pylist()]
        front_to_back = list(read_blocks(part, range(1), Cursor()))
        assert numbers == ids_of(blocks)
        assert sorted(numbers) == ids_of(front_to_back)
        rows = in_random_order(part, 0, epoch)
        for number, block in enumerate(blocks):
            place = Cursor.from_json(block.after.position, json.loads(json.dumps(block.after.source_json())))
            assert ids_of(list(read_blocks(rows, range(rows.num_shards), place))) == ids_of(blocks[number + 1 :])


def test_grouped_items_are_mixed_over_the_corpus() -> None:
    """Of items sorted by class each block has each class about as often as the corpus, and epochs and seeds differ."""
    items = [{"text": "x" * 20, "label": number // 10_000} for number in range(40_000)]
    source = ss.Generator(items, block_bytes=20_000)
    blocks = blocks_of(source)
    assert len(blocks) > 50
    for block in blocks[:-1]:
        counts = np.bincount(block.table.column("label").to_numpy(), minlength=4) / len(block.table)
        assert abs(counts - 0.25).max() < 0.1
    found = ids_of(blocks)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.03
    orders = [tuple(found), *(tuple(ids_of(blocks_of(source, epoch, seed))) for epoch, seed in ((1, 0), (0, 1)))]
    assert len(set(orders)) == 3


def test_ids_are_the_same_in_any_order() -> None:
    """A row id has the number of the item for every seed and epoch, shuffled or not; epochs without shuffling are equal."""
    source = ss.Generator([[number + 1] * (1 + number % 11) for number in range(200)], block_bytes=300)
    for options in ({"seed": 0}, {"seed": 7, "epochs": 2}, {"shuffle": False}):
        seen = Counter[int]()
        for batch in ss.Loader(source, ss.Bucket(60, window_batches=4), **options):  # type: ignore[arg-type]
            assert (batch.input_ids[:, 0] - 1).tolist() == batch.row_ids.tolist()
            seen.update(batch.row_ids.tolist())
        assert seen == dict.fromkeys(range(200), options.get("epochs", 1))
    in_order = ss.Loader(source, ss.Unbucketed(4), shuffle=False)
    assert stream(in_order) == stream(in_order) == [[*range(first, first + 4)] for first in range(0, 200, 4)]


def test_items_are_read_once_and_none_is_passed_over() -> None:
    """An epoch reads each item once, besides a few to estimate their sizes; a resume skips none."""

    def make(data: Letters) -> ss.Loader:
        stages = (ss.Tokenize(letters, max_length=9), ss.Bucket(200, window_batches=4))
        return ss.Loader(ss.Generator(data, block_bytes=200), *stages, prefetch=0, seed=1)

    batches = list(make(data := Letters(3_000)))
    assert 3_000 < len(data.asked) < 3_020
    resumed = make(data := Letters(3_000))
    resumed.load_state_dict(batches[-20].state)
    assert stream(resumed) == [batch.row_ids.tolist() for batch in batches[-19:]]
    assert len(data.asked) < 1_000


def letters(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def test_a_state_after_the_last_batch_goes_on_with_the_next_epoch() -> None:
    """A loader resumes at the end of an epoch, too."""
    source = ss.Generator([[number + 1] for number in range(50)], block_bytes=64)
    loader = ss.Loader(source, ss.Unbucketed(4))
    (*_, last) = loader
    following = stream(loader)
    resumed = ss.Loader(source, ss.Unbucketed(4))
    resumed.load_state_dict(json.loads(json.dumps(last.state)))
    assert stream(resumed) == []
    assert stream(resumed) == following


@pytest.mark.parametrize("shuffle", [True, False])
def test_one_item_and_none(shuffle: bool) -> None:
    """One item makes one batch; no item is an error."""
    assert stream(ss.Loader(ss.Generator([[5, 6]]), ss.Unbucketed(4), shuffle=shuffle)) == [[0]]
    with pytest.raises(ValueError, match="source must have at least one record, got none"):
        list(ss.Loader(ss.Generator([]), ss.Unbucketed(4), shuffle=shuffle))


def test_steps_are_known_before_an_item_is_read() -> None:
    """The number of blocks is known, so the steps of an epoch are estimated closely, shuffled or not."""
    source = ss.Generator([[number + 1] * (1 + number * 7 % 40) for number in range(5_000)], block_bytes=4_000)
    for shuffle in (True, False):
        loader = ss.Loader(source, ss.Bucket(600, window_batches=8), shuffle=shuffle)
        estimate, steps = loader.estimate_steps(), len(list(loader))
        assert estimate == pytest.approx(steps, rel=0.1)
    small, _ = source.split(valid=0.3)
    assert ss.Loader(small, ss.Unbucketed(5)).estimate_steps() == pytest.approx(700, rel=0.1)


def test_blocks_are_small_where_items_are_few_and_never_of_many_items() -> None:
    """By default there are 128 blocks of at least 4 KiB, of at most 256 KiB and 1,024 items."""
    sizes = [(1_000, 1_000), (100_000, 100), (5_000, 100_000), (10, 1_000_000), (100_000, 0)]
    assert [ss.Generator(["x" * length] * number).records_per_block for number, length in sizes] == [7, 781, 2, 1, 1_024]
    assert ss.Generator([{"a": np.zeros(number, np.int32)} for number in range(100)], block_bytes=990).records_per_block == 5


def test_a_state_of_other_blocks_or_items_is_refused() -> None:
    """A state of items of other sizes, which are in other blocks, or of fewer items is an error with the entry's name."""

    def make(num: int, size: int) -> ss.Loader:
        return ss.Loader(ss.Generator(["x" * size] * num), ss.Tokenize(letters), ss.Unbucketed(4))

    state = make(99, 900).state_dict()
    with pytest.raises(ValueError, match=r"source\.records_per_block 4, this loader has 1"):
        make(99, 9_000).load_state_dict(state)
    with pytest.raises(ValueError, match=r"source\.records\.items 99, this loader has 98"):
        make(98, 900).load_state_dict(state)


def test_an_error_of_an_item_names_it() -> None:
    """An error of an item keeps its type and gets the item's number as a note, whether it is read in order or not."""
    for shuffle in (True, False):
        loader = ss.Loader(ss.Generator(Letters(300, missing=17)), ss.Tokenize(letters), ss.Unbucketed(4), shuffle=shuffle)
        with pytest.raises(IndexError, match=r"no file 17\.wav") as info:
            list(loader)
        assert "while reading item 17 of Letters" in info.value.__notes__


def test_an_item_of_another_kind_is_named() -> None:
    """Messages compare with item 0, whichever was read first, and have the item's own number."""
    for bad, message in (
        ("a", "item 17 of list must be int32 of shape (length,) like item 0, got a str"),
        ([2**31], "input_ids of item 17 of list must fit int32, got 2147483648"),
    ):
        items: list[Any] = [[1]] * 500
        items[17] = bad
        with pytest.raises(ValueError) as info:  # noqa: PT011 - the text is compared below
            list(ss.Loader(ss.Generator(items), ss.Unbucketed(4)))
        assert str(info.value) == message
    with pytest.raises(ValueError, match="field 'a' of item 0 of list must be a str"):
        list(ss.Loader(ss.Generator([{"a": b""}, {"a": "x"}]), ss.Unbucketed(4)))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("count", [40, 3_000])
def test_a_field_that_begins_empty_is_kept(shuffle: bool, count: int) -> None:
    """In any order, and after any number of blocks, items set the type of a field that is empty in the first."""
    items: list[Any] = [{"input_ids": [1], "name": None, "tags": []} for _ in range(count)]
    items[-1] = {"input_ids": [2], "name": "last", "tags": ["x", "y"]}
    batches = list(ss.Loader(ss.Generator(items), ss.Unbucketed(100), shuffle=shuffle))
    found = [row for batch in batches for row in zip(batch.input_ids.tolist(), batch.name, batch.tags, strict=True)]
    assert sorted(found, key=str) == [([1], None, [])] * (count - 1) + [([2], "last", ["x", "y"])]


def test_another_number_of_items_is_an_error() -> None:
    """A list that has grown or shrunk between epochs is an error."""
    for change in (lambda items: items.pop(), lambda items: items.append([1])):
        items = [[1]] * 50
        loader = ss.Loader(ss.Generator(items), ss.Unbucketed(4))
        assert len(list(loader)) == 13
        change(items)
        with pytest.raises(ValueError, match=rf"list must keep its 50 items, has {len(items)} now; create a new Generator"):
            list(loader)


def test_items_may_be_used_again() -> None:
    """A data set that reuses one buffer for all items loses nothing."""

    class Buffered:
        buffer = torch.zeros(3)

        def __len__(self) -> int:
            return 9

        def __getitem__(self, number: int) -> torch.Tensor:
            return self.buffer.fill_(number)

    table = ss.Generator(Buffered()).take(np.array([3, 1, 8]))  # type: ignore[arg-type]
    assert table.column("features").to_pylist() == [[3.0] * 3, [1.0] * 3, [8.0] * 3]


@dataclasses.dataclass(frozen=True)
class Numbers(ss.Source):
    """A user's source that can be read either way."""

    num_shards: int = 1
    lost: int = 0

    @property
    def num_records(self) -> int:
        return 500

    def read(self, shard: int, state: Json = None) -> Iterator[tuple[pa.Table, Json]]:
        for first in range(state or 0, 500, 100):
            yield self.take(np.arange(first, first + 100)), first + 100 if first < 400 else None

    def take(self, records: np.ndarray) -> pa.Table:
        ids = [[number + 1] * (1 + number % 5) for number in records.tolist()]
        return pa.table({"input_ids": pa.array(ids[self.lost :], pa.list_(pa.int32()))})


def test_a_source_of_ones_own_may_be_read_by_number() -> None:
    """With two more members it is shuffled as a whole; the size of a block is estimated from some records."""
    source = Numbers()
    assert source.approx_record_bytes == pytest.approx(16, rel=0.3)
    assert source.records_per_block > 200
    testing.check_source(source)
    for part in (source, *source.split(valid=0.3)):
        testing.check_loader(lambda part=part, **options: ss.Loader(part, ss.Bucket(60, window_batches=4), **options))
    with pytest.raises(
        ValueError, match=r"take\(\) must return a row for each of the \d+ records, or a column 'record', got \d+ rows"
    ):
        list(ss.Loader(Numbers(lost=1), ss.Unbucketed(4)))


def test_take_must_be_there() -> None:
    """A source with num_records only is an error that names take."""

    class Half(Numbers):
        take = ss.Source.take

    with pytest.raises(NotImplementedError, match=r"Half must have take\(records\), as it has num_records"):
        list(ss.Loader(Half(), ss.Unbucketed(4)))


def test_ranks_read_only_what_they_tokenise() -> None:
    """An item is read by one rank, except a few for the sizes of items, and the block that all ranks read first."""
    data = [Letters(4_000) for _ in range(4)]

    def run(options: dict[str, Any]) -> list[int]:
        source = ss.Generator(data[options["rank"]], block_bytes=500)
        loader = ss.Loader(source, ss.Tokenize(letters, max_length=9), ss.Bucket(400, window_batches=4), **options)
        return list(itertools.chain.from_iterable(stream(loader)))

    found = testing.run_ranks(4, run)
    assert sorted(itertools.chain.from_iterable(found)) == list(range(4_000))
    assert all(len(each.asked) < 1_400 for each in data)
