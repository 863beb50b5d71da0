"""Arguments of a loader as attributes that can be read and not set."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Generic, Never, TypeVar

import torch

from seqstream.batches.batch import Batch
from seqstream.distributed.collectives import AllGather
from seqstream.loading.arguments import LoaderArguments
from seqstream.loading.stage_lists import DataStage
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.rank_shares import Uneven
from seqstream.sources.source import Source

Value = TypeVar("Value")


class _Argument(Generic[Value]):
    """An attribute that reads one of the arguments, and raises ``AttributeError`` when it is set or deleted."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, loader: Any, owner: type) -> Value:
        if loader is None:
            return self  # type: ignore[return-value]  # for help() and inspect, which ask the class
        value: Value = getattr(loader._arguments, self._name)
        return value

    def __set__(self, loader: Any, value: Never) -> None:
        raise AttributeError(f"{self._name} of a Loader cannot be changed; make a new Loader({self._name}=...)")

    def __delete__(self, loader: Any) -> None:
        raise AttributeError(f"{self._name} of a Loader cannot be deleted; make a new Loader({self._name}=...)")


class ReadOnlyArguments:
    """The arguments of a loader as attributes: to set one would change the states that are saved, and not the batches.

    Raises:
        AttributeError: An argument is set or deleted.
    """

    _arguments: LoaderArguments

    source = _Argument[Source]()
    stages = _Argument[tuple[DataStage | BatchSpec, ...]]()
    seed = _Argument[int]()
    shuffle = _Argument[bool]()
    epochs = _Argument[int | None]()
    accumulate = _Argument[int]()
    num_workers = _Argument[int]()
    multiprocessing_context = _Argument[str | BaseContext | None]()
    executor = _Argument[Executor | None]()
    cache = _Argument[Path | None]()
    cache_bytes = _Argument[int | None]()
    prefetch = _Argument[int]()
    device = _Argument[torch.device | None]()
    pin_memory = _Argument[bool | None]()
    on_batch = _Argument[Callable[[Batch], Batch] | None]()
    pad_values = _Argument[dict[str, float]]()
    padding_side = _Argument[str | None]()
    layout = _Argument[str]()
    progress = _Argument[bool]()
    rank = _Argument[int | None]()
    world_size = _Argument[int | None]()
    all_gather = _Argument[AllGather | None]()
    uneven = _Argument[Uneven]()
