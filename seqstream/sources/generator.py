"""Python generators and iterables: items taken one by one, made into columns block by block."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeAlias

from seqstream.sources.items import Layout, Value, layout_of, size_of
from seqstream.sources.protocol import Block, Json, Source, split_row_id

Make: TypeAlias = Callable[[], Iterable[Any]] | Iterable[Any]

_BLOCK_ITEMS = 1_024


@dataclasses.dataclass(frozen=True)
class Generator(Source):
    """Items of a generator function or of any iterable: one shard, read front to back.

    An item is one of these, and all items are of the kind of the first:

    - a ``str``: column ``text``;
    - a list, tuple, array or tensor of whole numbers, ``(length,)``: column ``input_ids``, ``list<int32>``;
    - an array or tensor of floats, ``(length, ...)``, or of whole numbers with two or more dimensions: column ``features``.
      Only the length may vary. Floats become float32, and float16 stays; whole numbers keep their type;
    - a dict of named fields, each like one of the above or a single number or bool; every item has the same fields.

    Going on after a break runs the generator again and passes over the items that were taken, so it must give the same
    items each time. A generator that was already called runs once: one epoch, and no going on.

    Args:
        make: A generator function or another function that gives an iterable; or an iterable: a list, an object with
            ``__iter__`` or with ``__len__`` and ``__getitem__``.
        block_bytes: Bytes in a block, which also ends after 1,024 items.

    Raises:
        TypeError: ``make`` is none of these.
    """

    make: Make
    block_bytes: int = dataclasses.field(default=262_144, kw_only=True)

    def __post_init__(self) -> None:
        if self.block_bytes < 1:
            raise ValueError(f"block_bytes must be at least 1, got {self.block_bytes}")
        _ = self._items

    def __repr__(self) -> str:
        return f"Generator({self._items.name})"

    @property
    def num_shards(self) -> int:
        return 1

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        taken = int(state or 0)
        layout: Layout | None = None
        number = -1
        block: list[list[Value]] = []
        size = 0
        for number, item in enumerate(self._items):
            layout = layout or layout_of(item, self._items.name)
            if number < taken:
                continue
            if size >= self.block_bytes or len(block) == _BLOCK_ITEMS:
                yield layout.table(block, number - len(block)), number
                block, size = [], 0
            block.append(layout.values(item, number))
            size += size_of(block[-1])
        if number + 1 < taken:
            raise ValueError(
                f"state was saved after {taken} items of {self._items.name}, which gives {number + 1} now; "
                "it must give the same items each time, start anew"
            )
        if layout is not None and block:
            yield layout.table(block, number + 1 - len(block)), None

    def fingerprint(self) -> Json:
        return {"kind": "Generator", "name": self._items.name, "items": self._items.count, "block_bytes": self.block_bytes}

    def locate(self, row_id: int) -> str:
        return f"item {split_row_id(row_id)[1]} of {self._items.name}"

    def approx_blocks(self) -> float | None:
        return None

    @property
    def can_repeat(self) -> bool:
        return not self._items.one_shot

    @functools.cached_property
    def _items(self) -> Items:
        return Items(self.make)


class Items:
    """What a user passes where items are wanted: iterated anew each time, if it can be.

    Attributes:
        name: The name of the function, or the type of the iterable.
        count: Number of items, where it is known without taking them.
        one_shot: Whether it can be iterated once only, being a generator that was already called.
    """

    def __init__(self, make: Make) -> None:
        self.make: Any = make
        if not _gives_items(self.make) and not callable(self.make):
            raise TypeError(f"make must be a generator function or an iterable of items, got {type(make).__name__}")
        self.name = _name_of(make)
        self.count = len(make) if isinstance(make, Sized) else None
        self.one_shot = isinstance(make, Iterator)
        self._opened = False

    def __iter__(self) -> Iterator[Any]:
        if self.one_shot and self._opened:
            raise TypeError(f"{self.name} cannot be read a second time; pass the generator function itself, not its result")
        self._opened = True
        return self._take()

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


def _name_of(make: Any) -> str:
    """Return a name that is the same in every process."""
    while isinstance(make, functools.partial):
        make = make.func
    return str(getattr(make, "__qualname__", type(make).__qualname__))
