"""Generators for the ``DataLoader`` of PyTorch, which refuses them as they are and would repeat them in every worker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from seqstream.sources.generator import Items, Make


def iterable(make: Make) -> IterableDataset[Any]:
    """Return a data set for ``torch.utils.data.DataLoader`` from a generator function or an iterable.

    Each epoch has every item once, whatever ``num_workers`` is: worker ``w`` of ``n`` yields the items ``w``, ``w + n``, ...
    Each worker runs the whole generator to reach its items, so workers help where the time goes into ``collate_fn``, and not
    where it goes into the generator. Items are not changed; where they are whole batches, use ``batch_size=None``.

    The data set has no ``len()``, as a generator has none.

    Args:
        make: A generator function, called again for every epoch and worker; or an iterable: a list, or an object with
            ``__iter__``, or with ``__len__`` and ``__getitem__``. The result of a generator function gives one epoch only.

    Raises:
        TypeError: ``make`` is none of these. When it is read: the result of a generator function is read twice, or by workers.
    """
    return _Iterable(make)


class _Iterable(IterableDataset[Any]):
    def __init__(self, make: Make) -> None:
        self._items = Items(make)

    def __repr__(self) -> str:
        return f"iterable({self._items.name})"

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is None:
            return iter(self._items)
        self._check_shared()
        return itertools.islice(self._items, worker.id, None, worker.num_workers)

    def __getstate__(self) -> dict[str, Any]:
        self._check_shared()
        return self.__dict__

    def _check_shared(self) -> None:
        if self._items.one_shot:
            raise TypeError(
                f"{self._items.name} cannot be read in workers, each would need one of its own; "
                "pass the generator function itself, not its result"
            )
