"""Generators for torch's own ``DataLoader``, which refuses them and repeats them in every worker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from seqstream.sources.generator import Items, Make


def iterable(make: Make) -> IterableDataset[Any]:
    """Make a data set for ``torch.utils.data.DataLoader`` of a generator function or an iterable.

    Every item comes once an epoch, whatever ``num_workers``: worker ``w`` of ``n`` passes on the items ``w``, ``w + n``, ...
    Each of them runs the whole generator to get at its own, so workers help where the time goes into ``collate_fn``, not into
    the generator. Items are passed on as they are; for batches that are ready-made, use ``batch_size=None``.

    There is no ``len()``: a generator has none.

    Args:
        make: A generator function, called anew for every epoch and worker; or an iterable: a list, or an object with
            ``__iter__`` or with ``__len__`` and ``__getitem__``. A generator that was already called gives one epoch.

    Raises:
        TypeError: ``make`` is none of these. When it is read: a generator that was already called is read again, or by workers.
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
