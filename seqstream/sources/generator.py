"""Python generators, iterables and lists: their items are read one by one, and become columns block by block."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset, IterableDataset

from seqstream.arrays import Index
from seqstream.options import bare_name, num_bytes
from seqstream.records import Json, split_row_id
from seqstream.sources.blocks import (
    BLOCK_BYTES,
    BLOCK_RECORDS,
    COMPARED_BYTES,
    Block,
    check_count,
    count_records,
    sampled_records,
)
from seqstream.sources.locations import Location
from seqstream.sources.source import Source
from seqstream.sources.tables.items import Layout, Value, layout_of, size_of

Make: TypeAlias = Callable[[], Iterable[Any]] | Iterable[Any]


@dataclasses.dataclass(frozen=True)
class Generator(Source):
    """Items of a generator function, of a list or a map-style data set, or of any iterable.

    An object with ``__len__`` and ``__getitem__``, such as a list, an array or a ``torch.utils.data.Dataset``, is shuffled as a
    whole: with ``Loader(shuffle=True)`` its items are read by their numbers, in a random order for each epoch. Any other
    object, and every one with ``shuffle=False``, is read front to back, and shuffling mixes it within windows.

    An item is one of these, and all items are of the kind of the first:

    - a ``str``: column ``text``;
    - a list, tuple, array or tensor of whole numbers, ``(length,)``: column ``input_ids``, ``list<int32>``;
    - an array or tensor of floats, ``(length, ...)``, or of whole numbers with two or more dimensions: column ``features``.
      Only the length may vary. Floats become float32, except float16, which stays; whole numbers keep their type;
    - a dict of named fields, each like one of the above or a single number or bool; every item has the same fields. A field
      of text may be ``None``; if the first item has ``None`` or an empty list, the first item with a value sets the type;
    - a named tuple or a dataclass, which is like a dict of its fields;
    - a pair of a ``str`` or a sequence and a number, as in a ``TensorDataset``: its column, and ``label``.

    A generator may yield one object again and again with new content: the loader copies each item. A whole number that its
    column cannot hold exactly is an error.

    To resume, the generator runs again and the loader skips the items that it had read, so the items must be the same each
    time; items that are read by their numbers are not skipped. A generator that was already called runs only once: for one
    epoch, and without a resume.

    Args:
        make: A generator function or another function that returns an iterable; or an iterable: a list, an object with
            ``__iter__`` or with ``__len__`` and ``__getitem__``. What a function returns is read front to back.
        block_bytes: Bytes in a block, which also ends after 1,024 items. By default 256 KiB; a few items that are read by their
            numbers have smaller blocks, so that there are 128.

    Raises:
        TypeError: ``make`` is neither a function nor an iterable.
    """

    make: Make
    block_bytes: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.block_bytes is not None:
            object.__setattr__(self, "block_bytes", num_bytes("block_bytes", self.block_bytes))
        _ = self._items

    def __repr__(self) -> str:
        return f"Generator({self._items.name})"

    @property
    def num_shards(self) -> int:
        return 1

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        num_read = check_count(state)
        layout: Layout | None = None
        number = -1
        block: list[list[Value]] = []
        size, block_bytes = 0, self._block_bytes
        for number, item in enumerate(self._items):
            if layout is None:
                layout = layout_of(item, self._items.name)
            if layout.is_open:
                layout, block = layout.settled_block(item, number, block, range(number - len(block), number))
            if number < num_read:
                continue
            if size >= block_bytes or len(block) == BLOCK_RECORDS:
                yield layout.table(block, range(number - len(block), number)), number
                block, size = [], 0
            if layout.is_text and type(item) is str:
                block.append([item])
                size += len(item)
            else:
                block.append(layout.values(item, number))
                size += size_of(block[-1])
        if number + 1 < num_read:
            raise ValueError(
                f"state was saved after {num_read} items of {self._items.name}, which gives {number + 1} now; "
                "it must give the same items each time, start anew"
            )
        if layout is not None and block:
            yield layout.table(block, range(number + 1 - len(block), number + 1)), None

    def fingerprint(self) -> Json:
        return {"kind": "Generator", "name": self._items.name, "items": self._items.count, "block_bytes": self._block_bytes}

    def locate(self, row_id: int) -> str:
        return f"item {split_row_id(row_id)[1]} of {self._items.name}"

    def place(self, row_id: int) -> Location:
        return Location(self._items.name, split_row_id(row_id)[1])

    def approx_blocks(self) -> float | None:
        if self.num_records is None:
            return None
        records_per_block = math.ceil(self._block_bytes / max(self.approx_record_bytes, 1))
        return float(math.ceil(self.num_records / min(BLOCK_RECORDS, records_per_block)))

    @property
    def can_repeat(self) -> bool:
        return not self._items.one_shot

    @property
    def compared_bytes(self) -> int:
        is_in_memory = isinstance(self.make, list | tuple | np.ndarray)
        return COMPARED_BYTES if is_in_memory else 0

    @property
    def num_records(self) -> int | None:
        return self._items.count if self._items.has_numbers else None

    def take(self, records: Index) -> pa.Table:
        numbers = records.tolist()
        layout = self._layout
        block: list[list[Value]] = []
        for number, item in zip(numbers, self._items.take(numbers), strict=True):
            if layout.is_open:
                layout, block = layout.settled_block(item, number, block, numbers)
            block.append(layout.values(item, number))
        return layout.table(block, numbers)

    @functools.cached_property
    def approx_record_bytes(self) -> float:
        numbers = sampled_records(self.num_records or 0).tolist()
        items = zip(numbers, self._items.take(numbers), strict=True)
        sizes = [size_of(self._layout.values(item, number)) for number, item in items]
        return sum(sizes) / max(len(sizes), 1)

    @property
    def records_per_block(self) -> int:
        return count_records(self.block_bytes, num_records=self.num_records or 0, record_bytes=self.approx_record_bytes)

    @functools.cached_property
    def _layout(self) -> Layout:
        """The layout of all items, from the first: more than one if a field of it is ``None`` or an empty list."""
        layout = layout_of(next(self._items.take([0])), self._items.name)
        for number in range(1, min(self._items.count or 0, BLOCK_RECORDS)):
            if not layout.is_open:
                break
            layout = layout.settled(next(self._items.take([number])), number)
        return layout

    @property
    def _block_bytes(self) -> int:
        return BLOCK_BYTES if self.block_bytes is None else self.block_bytes

    @functools.cached_property
    def _items(self) -> Items:
        return Items(self.make)


class Items:
    """The items of a user's object, which are iterated or read by their numbers.

    Attributes:
        name: The name of the function, or the type of the iterable.
        count: Number of items; ``None`` if it is unknown before they are read.
        has_numbers: Whether items can be read by their numbers.
        one_shot: Whether the object can be iterated only once, such as a generator that was already called.
    """

    def __init__(self, make: Make) -> None:
        self.make: Any = make
        if not _is_iterable(self.make) and not callable(self.make):
            raise TypeError(f"make must be a generator function or an iterable of items, got {type(make).__name__}")
        self.name = bare_name(make)
        self.count = _count(make)
        self.one_shot = isinstance(make, Iterator)
        self.has_numbers = self.count is not None and not self.one_shot and _has_numbers(make)
        self._opened = False

    def __iter__(self) -> Iterator[Any]:
        if self.one_shot and self._opened:
            raise TypeError(f"{self.name} cannot be read a second time; pass the generator function itself, not its result")
        self._opened = True
        return self._iterate()

    def take(self, numbers: list[int]) -> Iterator[Any]:
        """Yield items by their numbers.

        Raises:
            ValueError: The number of items has changed.
        """
        if len(self.make) != self.count:
            raise ValueError(f"{self.name} must keep its {self.count} items, has {len(self.make)} now; create a new Generator")
        number = -1
        try:
            for number in numbers:
                yield self.make[number]
        except Exception as error:
            error.add_note(f"while reading item {number} of {self.name}")
            raise

    def _iterate(self) -> Iterator[Any]:
        number = -1
        try:
            for number, item in enumerate(self._open()):  # noqa: B007 - the note below needs it
                yield item
        except Exception as error:
            error.add_note(f"while reading item {number + 1} of {self.name}")
            raise

    def _open(self) -> Iterator[Any]:
        items = self.make if _is_iterable(self.make) else self.make()
        if not _is_iterable(items):
            raise TypeError(
                f"{self.name} must give an iterable of items, got {type(items).__name__}; make it a generator function"
            )
        return iter(items) if isinstance(items, Iterable) else map(items.__getitem__, range(len(items)))


def _is_iterable(value: Any) -> bool:
    """Return whether a value yields items, or has them by their numbers."""
    if isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, Iterable) or (hasattr(type(value), "__len__") and hasattr(type(value), "__getitem__"))


def _has_numbers(items: Any) -> bool:
    """Return whether items can be read by their numbers, and are then the same as in iteration.

    An object with ``keys``, such as a table or a series, has items by their names. Every ``Dataset`` of torch inherits a
    ``__getitem__``, which only raises.
    """
    kind = type(items)
    if isinstance(items, str | bytes | Mapping | IterableDataset) or hasattr(kind, "keys"):
        return False
    return hasattr(kind, "__len__") and getattr(kind, "__getitem__", None) not in (None, Dataset.__getitem__)


def _count(items: Any) -> int | None:
    """Return the number of items; ``None`` if there is no ``__len__``, or one that only raises."""
    try:
        return len(items) if isinstance(items, Sized) else None
    except (TypeError, NotImplementedError):
        return None
