"""Generators and iterables: every kind of item, and every error."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
import re
import weakref
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.utils.data import TensorDataset

from seqstream.sources.generator import Generator

FLOAT = pa.float32()


def read(items: Any, **options: Any) -> pa.Table:
    return pa.concat_tables(table for table, _ in Generator(items, **options).read(0))


def column(item: Any) -> pa.Array:
    """Return the only column of a source of one item."""
    return read([item]).column(0).chunk(0)


def words() -> Iterator[str]:
    for i in range(5_000):
        yield f"{i} " * (i % 100)


def assert_resumes_everywhere(make: Callable[[], Iterator[Any]], **options: Any) -> None:
    """From the state of every block, and again from there, reading goes on with the next block."""
    source = Generator(make, **options)
    whole = list(source.read(0))
    assert [state is None for _, state in whole] == [False] * (len(whole) - 1) + [True] * bool(whole)
    for i, (_, state) in enumerate(whole[:-1]):
        rest = list(source.read(0, json.loads(json.dumps(state))))
        assert rest == whole[i + 1 :]
        if len(rest) > 1:
            assert list(source.read(0, rest[0][1])) == whole[i + 2 :]


BARE = [
    ("a text", "text", pa.string()),
    ([1, 2, 3], "input_ids", pa.list_(pa.int32())),
    ((1, 2), "input_ids", pa.list_(pa.int32())),
    (range(4), "input_ids", pa.list_(pa.int32())),
    ([], "input_ids", pa.list_(pa.int32())),
    (np.array([1, 2], np.uint16), "input_ids", pa.list_(pa.int32())),
    (torch.arange(5), "input_ids", pa.list_(pa.int32())),
    ([torch.tensor(1), torch.tensor(2)], "input_ids", pa.list_(pa.int32())),
    ([1.5, 2], "features", pa.list_(FLOAT)),
    (np.ones(3), "features", pa.list_(FLOAT)),
    (torch.empty(0), "features", pa.list_(FLOAT)),
    (torch.ones(3, dtype=torch.float16), "features", pa.list_(pa.float16())),
    (torch.ones(3, dtype=torch.bfloat16), "features", pa.list_(FLOAT)),
    (torch.ones(4, 3, requires_grad=True), "features", pa.list_(pa.list_(FLOAT, 3))),
    ([[1.0, 2.0], [3.0, 4.0]], "features", pa.list_(pa.list_(FLOAT, 2))),
    ([torch.ones(2), torch.ones(2)], "features", pa.list_(pa.list_(FLOAT, 2))),
    (torch.ones(4, 2, 3), "features", pa.list_(pa.list_(pa.list_(FLOAT, 3), 2))),
    (torch.ones(4, 3, dtype=torch.uint8), "features", pa.list_(pa.list_(pa.uint8(), 3))),
    (torch.ones(4, 3, dtype=torch.int64).T, "features", pa.list_(pa.list_(pa.int64(), 4))),
]


@pytest.mark.parametrize(("item", "name", "kind"), BARE, ids=lambda value: str(value)[:30])
def test_items_become_columns(item: Any, name: str, kind: pa.DataType) -> None:
    """An item without a name becomes the column of its kind, with its values."""
    table = read([item, item])
    assert table.schema == pa.schema([(name, kind)])
    got = table.column(name).to_pylist()[1]
    assert got == (item if isinstance(item, str) else _plain(item))


def _plain(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        return item.tolist()
    return [each.tolist() if isinstance(each, torch.Tensor) else each for each in item]


FIELDS = [
    ("a", pa.string()),
    (5, pa.int64()),
    (5.5, pa.float64()),
    (True, pa.bool_()),
    (np.float16(2), pa.float16()),
    (np.int8(2), pa.int8()),
    (torch.tensor(2.5), FLOAT),
    (torch.tensor(7, dtype=torch.int32), pa.int32()),
    ([1, 2], pa.list_(pa.int32())),
    ([True, False], pa.list_(pa.bool_())),
    ([0.5], pa.list_(FLOAT)),
    (torch.ones(2, 3), pa.list_(pa.list_(FLOAT, 3))),
]


def test_named_fields_become_columns() -> None:
    """Fields of a dict are columns of their kinds; single numbers stay single."""
    item = {f"field {i}": value for i, (value, _) in enumerate(FIELDS)}
    table = read([item, UserDict(item), dict(reversed(item.items()))])
    assert table.schema == pa.schema([(f"field {i}", kind) for i, (_, kind) in enumerate(FIELDS)])
    for value, values in zip(item.values(), table.to_pydict().values(), strict=True):
        assert values == [value if isinstance(value, str) else np.asarray(value).tolist()] * 3


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(
        st.integers(0, 5).flatmap(lambda size: arrays.arrays(np.float32, (size, 2), elements=st.floats(-9, 9, width=32))),
        max_size=40,
    ),
    block_bytes=st.sampled_from([1, 64, 4096]),
)
def test_arrays_of_any_length_are_kept(items: list[npt.NDArray[np.float32]], block_bytes: int) -> None:
    """Sequences of features are read number for number, in blocks of any size, and resume after each."""
    tables = [table for table, _ in Generator(items, block_bytes=block_bytes).read(0)]
    got = [row for table in tables for row in table.column("features").to_pylist()]
    assert got == [item.tolist() for item in items]
    assert_resumes_everywhere(lambda: iter(items), block_bytes=block_bytes)


@settings(max_examples=60, deadline=None)
@given(items=st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9), min_size=1, max_size=30), cuts=st.data())
def test_kinds_of_sequences_may_mix(items: list[list[int]], cuts: st.DataObject) -> None:
    """Ids may be lists, tuples, arrays and tensors of any type of whole number, in one source."""
    kinds: list[Callable[[list[int]], Any]] = [list, tuple, np.array, torch.tensor, lambda ids: np.array(ids, np.int32)]
    mixed = [[0], *(cuts.draw(st.sampled_from(kinds))(item) for item in items)]
    assert read(mixed).column("input_ids").to_pylist() == [[0], *items]


def test_blocks_end_by_size_and_by_number() -> None:
    """A block has about block_bytes, and at most 1,024 items."""
    sizes = [table.nbytes for table, _ in Generator(words, block_bytes=10_000).read(0)]
    assert len(sizes) > 50
    assert all(10_000 <= size < 15_000 for size in sizes[:-1])
    counts = [len(table) for table, _ in Generator(lambda: ("" for _ in range(3_000))).read(0)]
    assert counts == [1_024, 1_024, 952]
    assert_resumes_everywhere(words, block_bytes=10_000)


def test_a_buffer_may_be_used_again() -> None:
    """A generator that reuses one buffer for all items loses nothing."""

    def reusing() -> Iterator[Any]:
        buffer = torch.zeros(3)
        for i in range(4):
            buffer.fill_(i)
            yield buffer

    def growing() -> Iterator[list[int]]:
        ids: list[int] = []
        for i in range(4):
            ids.append(i)
            yield ids

    assert read(reusing).column("features").to_pylist() == [[i] * 3 for i in range(4)]
    assert read(growing).column("input_ids").to_pylist() == [list(range(i + 1)) for i in range(4)]


def test_messages_may_be_filled_again() -> None:
    """Dicts inside of an item, the list around them and the item itself are read as they are when it is yielded."""

    def chats() -> Iterator[dict[str, Any]]:
        message = {"role": "user", "content": ""}
        messages = [message, message]
        words: list[str] = []
        array, item = np.zeros((2, 2), np.int64), {}
        for i in range(4):
            message["content"] = str(i)
            words.append(f"w{i}")
            array.fill(i)
            item |= {"messages": messages, "words": words, "array": array, "number": array[0, 0]}
            yield item

    table = read(chats).to_pydict()
    assert table["messages"] == [[{"role": "user", "content": str(i)}] * 2 for i in range(4)]
    assert table["words"] == [[f"w{j}" for j in range(i + 1)] for i in range(4)]
    assert table["array"] == [[[i, i]] * 2 for i in range(4)]
    assert table["number"] == list(range(4))


class Filled:
    """A map-style data set that returns the same objects with new content."""

    def __init__(self) -> None:
        self.item: dict[str, Any] = {"input_ids": torch.zeros(2, dtype=torch.int64), "messages": [{"content": ""}]}

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.item["input_ids"].fill_(index)
        self.item["messages"][0]["content"] = str(index)
        return self.item


def test_items_read_by_their_numbers_may_be_filled_again() -> None:
    """Each record is as it was when it was returned, in any order of reading."""
    table = Generator(Filled()).take(np.array([4, 0, 5]))
    assert table.column("input_ids").to_pylist() == [[4, 4], [0, 0], [5, 5]]
    assert table.column("messages").to_pylist() == [[{"content": "4"}], [{"content": "0"}], [{"content": "5"}]]


class Point(NamedTuple):
    """An item with names."""

    text: str
    label: int


@dataclasses.dataclass
class Passage:
    """An item with names, of numbers."""

    input_ids: list[int]
    score: float


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([Point("a", 1), Point("b", 0)], {"text": ["a", "b"], "label": [1, 0]}),
        ([Passage([1, 2], 0.5), Passage([], 1)], {"input_ids": [[1, 2], []], "score": [0.5, 1.0]}),
        ([("a", 1), ("b", True)], {"text": ["a", "b"], "label": [1, 1]}),
        ([([1, 2], 1.5), ([3], 2)], {"input_ids": [[1, 2], [3]], "label": [1.5, 2.0]}),
        ([[np.ones(2), np.int8(3)], (np.ones(1), np.int8(4))], {"features": [[1.0, 1.0], [1.0]], "label": [3, 4]}),
        (
            TensorDataset(torch.arange(4).view(2, 2), torch.tensor([True, False])),
            {"input_ids": [[0, 1], [2, 3]], "label": [True, False]},
        ),
        (TensorDataset(torch.ones(2, 1, 2), torch.tensor([5, 6])), {"features": [[[1.0, 1.0]]] * 2, "label": [5, 6]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_records_that_are_no_dicts_are_unpacked(items: Any, expected: dict[str, Any]) -> None:
    """Named tuples and dataclasses are dicts of their fields, a sequence and a number are a sequence with its label."""
    assert read(items).to_pydict() == expected


def test_the_first_items_may_say_nothing_of_a_field() -> None:
    """The first item with a value sets the type of a field, also in a later block and after a resume."""
    items: list[Any] = [{"a": [], "b": None, "c": [1]}] * 5
    items += [{"a": [0.5], "b": "x", "c": []}, {"a": [], "b": None, "c": [2]}]
    table = read(items).to_pydict()
    assert table == {"a": [[]] * 5 + [[0.5], []], "b": [None] * 5 + ["x", None], "c": [[1]] * 5 + [[], [2]]}
    assert_resumes_everywhere(lambda: iter(items), block_bytes=1)
    assert read([{"a": [], "b": None}] * 2).to_pydict() == {"a": [[], []], "b": [None, None]}


class Images:
    """A user's iterable."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        for i in range(3):
            yield torch.full((2, 2), float(i))


class Indexed(torch.utils.data.Dataset[list[int]]):
    """A map-style data set, which has no ``__iter__`` and does not raise ``IndexError``."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> list[int]:
        return [index] * index


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (["a", "b"], 2),
        (lambda: ["a", "b"], 2),
        (Images(), 3),
        (Images, 3),
        (Indexed(), 4),
        (Indexed, 4),
        (functools.partial(map, str, range(5)), 5),
        (torch.ones(6, 2), 6),
        ([], 0),
    ],
)
def test_whatever_gives_items_can_be_read_again(make: Any, count: int) -> None:
    """Functions, lists, iterable objects and indexed ones are read anew for each epoch."""
    source = Generator(make)
    assert source.num_shards == 1
    for _ in range(2):
        assert sum(len(table) for table, _ in source.read(0)) == count


def test_a_generator_that_was_called_is_read_once() -> None:
    """Reading it again is an error that says to pass the function."""
    source = Generator(words())
    assert sum(len(table) for table, _ in source.read(0)) == 5_000
    message = r"words cannot be read a second time; pass the generator function itself, not its result"
    for state in (None, 1_024):
        with pytest.raises(TypeError, match=message):
            list(source.read(0, state))


def test_a_new_generator_that_was_called_resumes_once() -> None:
    """A new process may resume with a new generator, of which the items read before are skipped."""
    blocks = list(Generator(words, block_bytes=10_000).read(0))
    assert list(Generator(words(), block_bytes=10_000).read(0, blocks[3][1])) == blocks[4:]


def test_a_state_of_more_items_is_refused() -> None:
    """A generator that ends before the items of the state is an error."""
    with pytest.raises(
        ValueError, match=r"state was saved after 9 items of list, which gives 2 now; it must give the same items"
    ):
        list(Generator(["a", "b"]).read(0, 9))


def test_an_error_of_the_generator_says_where() -> None:
    """An exception inside the user's generator keeps its type and gets a note."""

    def failing() -> Iterator[str]:
        yield "a"
        yield "b"
        raise KeyError("lost")

    def needing(path: str) -> Iterator[str]:
        yield path

    with pytest.raises(KeyError, match="lost") as info:
        read(failing)
    assert info.value.__notes__ == [f"while reading item 2 of {failing.__qualname__}"]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'path'") as other:
        read(needing)
    assert other.value.__notes__ == [f"while reading item 0 of {needing.__qualname__}"]


ITEM = "a str, a sequence of ids, a tensor or array, or a dict of named fields"
FIELD = "a str, a number, a sequence of numbers, a tensor or array, or a list of str or of dicts"

WRONG: list[tuple[list[Any], str]] = [
    ([None], f"item 0 of list must be {ITEM}, got None"),
    ([b"x"], f"item 0 of list must be {ITEM}, got bytes"),
    ([5], f"item 0 of list must be {ITEM}, got int64 of shape (); give it a name in a dict"),
    ([torch.ones(2) > 0], f"item 0 of list must be {ITEM}, got bool of shape (2,); give it a name in a dict"),
    ([["a", "b"]], f"item 0 of list must be {ITEM}, got a list of str"),
    (
        [(torch.ones(2), torch.ones(2))],
        "item 0 of list cannot be a tuple of Tensor, Tensor, which says no names; give a dict such as",
    ),
    ([([1, 2], [2, 3])], "item 0 of list cannot be a tuple of list, list, which says no names; give a dict such as"),
    ([("a", "b")], "item 0 of list cannot be a tuple of str, str, which says no names; give a dict such as"),
    ([(torch.ones(2), 3), torch.ones(2)], "item 1 of list must be a dict with 'features', 'label' like item 0, got Tensor"),
    ([[[1, 2], [3]]], f"item 0 of list must be {ITEM}, got a list of list: "),
    ([np.ones(2, complex)], f"item 0 of list must be {ITEM}, got ndarray"),
    ([{}], "item 0 of list must be a dict of named fields, got {}"),
    ([{1: 2}], "item 0 of list must be a dict of named fields, got {1: 2}"),
    ([{"a": b""}], f"field 'a' of item 0 of list must be {FIELD}, got bytes"),
    ([{"a": None}, {"a": 1}], "field 'a' of item 0 of list must be one int64 like item 1, got None"),
    ([{"a": None}, {"a": [1]}], "field 'a' of item 0 of list must be int32 of shape (length,) like item 1, got None"),
    ([{"a": []}, {"a": "x"}], "field 'a' of item 0 of list must be a str like item 1, got int32 of shape (0,)"),
    ([{"a": []}, {"a": ["x"]}, {"a": [1]}], "field 'a' of item 2 of list must be a list of str like item 1, got a list of int"),
    ([{"piece": 1}], "item 0 of list cannot have a field 'piece', which the loader makes itself; choose another name"),
    (["a", [1]], "item 1 of list must be a str like item 0, got int64 of shape (1,)"),
    (["a", {"text": "b"}], "item 1 of list must be a str like item 0, got a dict with 'text'"),
    (["a", "b", None], "item 2 of list must be a str like item 0, got None"),
    ([[1], "a"], "item 1 of list must be int32 of shape (length,) like item 0, got a str"),
    ([[1], [1.5]], "item 1 of list must be int32 of shape (length,) like item 0, got float64 of shape (1,)"),
    ([[1], [[1]]], "item 1 of list must be int32 of shape (length,) like item 0, got int64 of shape (1, 1)"),
    ([[1], 1], "item 1 of list must be int32 of shape (length,) like item 0, got int64 of shape ()"),
    ([[1.5], ["a"]], "item 1 of list must be float32 of shape (length,) like item 0, got a list of str"),
    (
        [np.ones((2, 3)), np.ones((2, 4))],
        "item 1 of list must be float32 of shape (length, 3) like item 0, got float64 of shape (2, 4)",
    ),
    ([{"a": 1}, {"a": 1, "b": 2}], "item 1 of list must be a dict with 'a' like item 0, got a dict with 'a', 'b'"),
    ([{"a": 1, "b": 2}, {"a": 1}], "item 1 of list must be a dict with 'a', 'b' like item 0, got a dict with 'a'"),
    ([{"a": 1}, "a"], "item 1 of list must be a dict with 'a' like item 0, got str"),
    ([{"a": 1}, {"a": "x"}], "field 'a' of item 1 of list must be one int64 like item 0, got a str"),
    ([{"a": 1}, {"a": None}], "field 'a' of item 1 of list must be one int64 like item 0, got None"),
    ([{"a": ["x"]}, {"a": "x"}], "field 'a' of item 1 of list must be a list of str like item 0, got str"),
    ([{"a": ["x"]}, {"a": ["x", 1]}], "field 'a' of item 1 of list must be a list of str like item 0, got a list of int, str"),
    ([{"a": [["x"]]}], f"field 'a' of item 0 of list must be {FIELD}, got a list of list"),
    ([{"a": 1}, {"a": 1.5}], "field 'a' of item 1 of list must be one int64 like item 0, got float64 of shape ()"),
    ([[1], [1, 2**31]], "input_ids of item 1 of list must fit int32, got 2147483648"),
    ([[1], [0], np.array([-(2**31) - 1, 5])], "input_ids of item 2 of list must fit int32, got -2147483649"),
    ([[1], np.array([2**63], np.uint64)], "input_ids of item 1 of list must fit int32, got 9223372036854775808"),
    ([{"a": 1}, {"a": 2**63}], "a of item 1 of list must fit int64, got 9223372036854775808"),
    ([{"a": 1}, {"a": 2**64}], "field 'a' of item 1 of list must be one int64 like item 0, got 18446744073709551616, beyond"),
    ([[1, 2**63]], f"item 0 of list must be {ITEM}, got 9223372036854775808 in a list whose numbers only floats hold"),
    ([[-1, 2**63]], f"item 0 of list must be {ITEM}, got 9223372036854775808 in a list whose numbers only floats hold"),
    ([{"a": [0.5, 2**53 + 1]}], f"field 'a' of item 0 of list must be {FIELD}, got 9007199254740993 in a list whose"),
    ([{"a": 0.5}, {"a": 2**53 + 1}], "a of item 1 of list must fit float64, got 9007199254740993"),
    ([[0.5], [3, -(2**24) - 1]], "features of item 1 of list must fit float32, got -16777217"),
    ([np.ones(2, np.float16), np.array([2049])], "features of item 1 of list must fit float16, got 2049"),
]


def test_lists_of_texts_are_columns_of_lists() -> None:
    """Words and messages keep their form, and empty lists may come after the first."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "oh"}]
    items: list[Any] = [{"words": ["a", "bc"], "chat": messages}, {"words": (), "chat": messages[:1]}]
    table = read(items)
    assert table.column("words").to_pylist() == [["a", "bc"], []]
    assert table.column("chat").to_pylist() == [messages, messages[:1]]
    assert str(table.schema.field("words").type).startswith("list<")


@pytest.mark.parametrize(("items", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_items_are_named(items: list[Any], message: str) -> None:
    """An item of no kind, or of another kind than the first, is an error with its number and what was expected."""
    with pytest.raises(ValueError, match=re.escape(message)):
        read(items)


def test_numbers_of_items_count_from_the_beginning() -> None:
    """The number in a message is the item's own, in a later block and after a resume too."""
    items: list[Any] = [*[[1]] * 3_000, [2**40], *[[1]] * 2_000, "a"]
    for state in (None, 1_024, 2_048):
        with pytest.raises(ValueError, match=r"input_ids of item 3000 of list must fit int32, got 1099511627776"):
            list(Generator(items).read(0, state))
    with pytest.raises(ValueError, match="item 5001 of list must be int32"):
        list(Generator(items).read(0, 4_096))


@pytest.mark.parametrize("make", ["some text", b"bytes", {"a": 1}, 5, None])
def test_other_things_are_refused(make: Any) -> None:
    """A value without items is an error at construction."""
    with pytest.raises(
        TypeError, match=f"make must be a generator function or an iterable of items, got {type(make).__name__}"
    ):
        Generator(make)


def test_a_function_must_give_items() -> None:
    """A function that returns something else is an error with its name."""
    with pytest.raises(TypeError, match=r"nothing must give an iterable of items, got NoneType; make it a generator function"):
        read(nothing)
    with pytest.raises(ValueError, match="block_bytes must be at least 1, got 0"):
        Generator(words, block_bytes=0)


def nothing() -> Any:
    return None


def test_it_names_what_it_reads() -> None:
    """Fingerprint, ``repr`` and locations have the name of the function, without addresses."""
    source = Generator(words)
    assert source.fingerprint() == {"kind": "Generator", "name": "words", "items": None, "block_bytes": 262_144}
    assert Generator(words()).fingerprint() == source.fingerprint()
    assert Generator(functools.partial(words)).fingerprint() == source.fingerprint()
    assert Generator(["a"]).fingerprint() == {"kind": "Generator", "name": "list", "items": 1, "block_bytes": 262_144}
    assert Generator(Images()).fingerprint() == {"kind": "Generator", "name": "Images", "items": None, "block_bytes": 262_144}
    assert repr(source) == "Generator(words)"
    assert source.locate(17) == "item 17 of words"
    assert source.approx_blocks() is None
    assert source.num_records is None


def test_it_can_be_pickled_where_its_function_can() -> None:
    """The source can be pickled for worker processes."""
    assert list(pickle.loads(pickle.dumps(Generator(words))).read(0)) == list(Generator(words).read(0))
    with pytest.raises(TypeError, match="cannot pickle 'generator' object"):
        pickle.dumps(Generator(words()))


def test_a_generator_left_early_is_closed() -> None:
    """Closing the reader after a block runs the generator's ``finally``."""
    closed = []

    def holding() -> Iterator[str]:
        try:
            yield from words()
        finally:
            closed.append(True)

    reader = Generator(holding, block_bytes=1_000).read(0)
    next(reader)
    del reader
    assert closed == [True]


def test_items_are_not_kept() -> None:
    """A block that was yielded keeps no item alive."""

    class Text(str):
        __slots__ = ("__weakref__",)

    items = []

    def texts() -> Iterator[str]:
        for i in range(3_000):
            item = Text(i)
            items.append(weakref.ref(item))
            yield item

    reader = Generator(texts).read(0)
    next(reader)
    assert sum(item() is not None for item in items) < 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_tensors_on_a_device_are_brought_back() -> None:
    """Tensors on CUDA become columns like those on the CPU."""
    assert column(torch.arange(3, device="cuda")).to_pylist() == [[0, 1, 2]]
