"""Python generators, iterables and lists: items taken one by one, made into columns block by block."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset, IterableDataset

from seqstream.options import num_bytes
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
from seqstream.sources.tables.item_layout import Layout, layout_of
from seqstream.sources.tables.item_values import Value, size_of

Make: TypeAlias = Callable[[], Iterable[Any]] | Iterable[Any]


@dataclasses.dataclass(frozen=True)
class Generator(Source):
    """Items of a generator function, of a list or a map-style data set, or of any iterable.

    What has ``__len__`` and ``__getitem__``, such as a list, an array or a ``torch.utils.data.Dataset``, is shuffled as a
    whole: with ``Loader(shuffle=True)`` its items are read by their numbers, in a random order for each epoch. All else, and
    everything with ``shuffle=False``, is read front to back, and shuffling mixes it within windows.

    An item is one of these, and all items are of the kind of the first:

    - a ``str``: column ``text``;
    - a list, tuple, array or tensor of whole numbers, ``(length,)``: column ``input_ids``, ``list<int32>``;
    - an array or tensor of floats, ``(length, ...)``, or of whole numbers with two or more dimensions: column ``features``.
      Only the length may vary. Floats become float32, and float16 stays; whole numbers keep their type;
    - a dict of named fields, each like one of the above or a single number or bool; every item has the same fields. A field
      for texts may be ``None``; where the first item has ``None`` or an empty list, the first that has more says what it holds;
    - a named tuple or a dataclass, which is like a dict of its fields;
    - a pair of a ``str`` or a sequence and a number, as ``TensorDataset`` gives them: its column, and ``label``.

    Objects may be filled again and given again: what an item holds is copied when it is given. A whole number that its column
    cannot hold exactly is an error.

    Going on after a break runs the generator again and passes over the items that were taken, so it must give the same
    items each time; items read by their numbers are not passed over. A generator that was already called runs once: one
    epoch, and no going on.

    Args:
        make: A generator function or another function that gives an iterable; or an iterable: a list, an object with
            ``__iter__`` or with ``__len__`` and ``__getitem__``. What a function gives is read front to back.
        block_bytes: Bytes in a block, which also ends after 1,024 items. By default 256 KiB; items read by their numbers come
            in smaller blocks where they are few, so that there are 128.

    Raises:
        TypeError: ``make`` is none of these.
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
        taken = check_count(state)
        layout: Layout | None = None
        number = -1
        block: list[list[Value]] = []
        size, block_bytes = 0, self._block_bytes
        for number, item in enumerate(self._items):
            if layout is None:
                layout = layout_of(item, self._items.name)
            if layout.is_open:
                layout, block = layout.settled_block(item, number, block, range(number - len(block), number))
            if number < taken:
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
        if number + 1 < taken:
            raise ValueError(
                f"state was saved after {taken} items of {self._items.name}, which gives {number + 1} now; "
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
        wanted = math.ceil(self._block_bytes / max(self.approx_record_bytes, 1))
        return float(math.ceil(self.num_records / min(BLOCK_RECORDS, wanted)))

    @property
    def can_repeat(self) -> bool:
        return not self._items.one_shot

    @property
    def compared_bytes(self) -> int:
        is_at_hand = isinstance(self.make, list | tuple | np.ndarray)
        return COMPARED_BYTES if is_at_hand else 0

    @property
    def num_records(self) -> int | None:
        return self._items.count if self._items.has_numbers else None

    def take(self, records: np.ndarray) -> pa.Table:
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
        """What all items are, by the first ones: one says nothing of a field where it has ``None`` or an empty list."""
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
    """What a user passes where items are wanted: iterated anew each time, if it can be, or read by their numbers.

    Attributes:
        name: The name of the function, or the type of the iterable.
        count: Number of items, where it is known without taking them.
        has_numbers: Whether each item can be had by its number.
        one_shot: Whether it can be iterated once only, being a generator that was already called.
    """

    def __init__(self, make: Make) -> None:
        self.make: Any = make
        if not _gives_items(self.make) and not callable(self.make):
            raise TypeError(f"make must be a generator function or an iterable of items, got {type(make).__name__}")
        self.name = _name_of(make)
        self.count = _count(make)
        self.one_shot = isinstance(make, Iterator)
        self.has_numbers = self.count is not None and not self.one_shot and _has_numbers(make)
        self._opened = False

    def __iter__(self) -> Iterator[Any]:
        if self.one_shot and self._opened:
            raise TypeError(f"{self.name} cannot be read a second time; pass the generator function itself, not its result")
        self._opened = True
        return self._take()

    def take(self, numbers: list[int]) -> Iterator[Any]:
        """Yield items by their numbers.

        Raises:
            ValueError: There are more or fewer items than there were.
        """
        if len(self.make) != self.count:
            raise ValueError(f"{self.name} must keep its {self.count} items, has {len(self.make)} now; make a Generator anew")
        number = -1
        try:
            for number in numbers:
                yield self.make[number]
        except Exception as error:
            error.add_note(f"while reading item {number} of {self.name}")
            raise

    def _take(self) -> Iterator[Any]:
        number = -1
        try:
            for number, item in enumerate(self._open()):  # noqa: B007 - the note below needs it
                yield item
        except Exception as error:
            error.add_note(f"while reading item {number + 1} of {self.name}")
            raise

    def _open(self) -> Iterator[Any]:
        made = self.make if _gives_items(self.make) else self.make()
        if not _gives_items(made):
            raise TypeError(
                f"{self.name} must give an iterable of items, got {type(made).__name__}; make it a generator function"
            )
        return iter(made) if isinstance(made, Iterable) else map(made.__getitem__, range(len(made)))


def _gives_items(made: Any) -> bool:
    if isinstance(made, str | bytes | Mapping):
        return False
    return isinstance(made, Iterable) or (hasattr(type(made), "__len__") and hasattr(type(made), "__getitem__"))


def _has_numbers(made: Any) -> bool:
    """Say whether items can be had by their numbers, the same as one after the other.

    What has ``keys``, such as a table or a series, gives items by their names. Every ``Dataset`` of torch inherits a
    ``__getitem__``, which only raises.
    """
    kind = type(made)
    if isinstance(made, str | bytes | Mapping | IterableDataset) or hasattr(kind, "keys"):
        return False
    return hasattr(kind, "__len__") and getattr(kind, "__getitem__", None) not in (None, Dataset.__getitem__)


def _count(made: Any) -> int | None:
    """Return how many items there are; some have a ``__len__`` that only raises."""
    try:
        return len(made) if isinstance(made, Sized) else None
    except (TypeError, NotImplementedError):
        return None


def _name_of(make: Any) -> str:
    """Return a name that is the same in every process."""
    while isinstance(make, functools.partial):
        make = make.func
    return str(getattr(make, "__qualname__", type(make).__qualname__))
