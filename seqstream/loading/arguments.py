"""Checks the arguments of a loader when it is made, before anything is read: its options, its stages, and how these fit."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqstream.batches.batch import Batch
from seqstream.batches.padding import Padding
from seqstream.distributed.collectives import AllGather, check_ranks
from seqstream.loading.stage_lists import DataStage, check_stages, lists_of, rows_of, tokenizer_of
from seqstream.options import device_of, function_or_none, num_bytes, one_of, padding_values, whole_number, yes_or_no
from seqstream.planning.batch_spec import BatchSpec, meant_as_rows
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.planning.rank_shares import UNEVEN, Uneven
from seqstream.planning.unbucketed import Unbucketed
from seqstream.sources.choose_source import source_of
from seqstream.sources.mixture import Mixture
from seqstream.sources.source import Source
from seqstream.sources.tokens.token_store import TokenInfo
from seqstream.stages.label_filter import LabelRule
from seqstream.tokenizing.stage import Tokenize

_MOST_ACCUMULATED = 1 << 20


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
    """What runs the stages besides the process of the loader.

    Attributes:
        num_workers: Number of worker processes; 0 with an ``executor``, which has workers of its own.
        context: Start method or context of ``multiprocessing``; ``None`` for the default of Python.
        executor: Runs the blocks instead of processes that the loader starts.
    """

    num_workers: int = 0
    context: str | BaseContext | None = None
    executor: Executor | None = None

    def __post_init__(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        if self.context is not None and not isinstance(self.context, BaseContext) and self.context not in methods:
            known = ", ".join(map(repr, methods))
            raise ValueError(f"multiprocessing_context must be one of {known}, a context or None, got {self.context!r}")
        if self.executor is not None and not isinstance(self.executor, Executor):
            remedy = "; pass client.get_executor()" if hasattr(self.executor, "get_executor") else ""
            raise TypeError(
                "executor must be a concurrent.futures.Executor such as ProcessPoolExecutor(2), got "
                f"{type(self.executor).__name__}{remedy}"
            )
        if self.executor is not None and self.num_workers:
            raise ValueError(
                f"executor has workers of its own, got num_workers={self.num_workers} as well; leave one of the two out"
            )

    def __bool__(self) -> bool:
        return self.num_workers > 0 or self.executor is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderArguments:
    """The arguments of a loader, its options checked and as plain Python values; `Loader` documents them.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option has a value that is not allowed.
    """

    source: Source
    stages: tuple[DataStage | BatchSpec, ...]
    seed: int
    shuffle: bool
    epochs: int | None
    accumulate: int
    num_workers: int
    multiprocessing_context: str | BaseContext | None
    executor: Executor | None
    workers: dataclasses.InitVar[int | None]
    cache: Path | None
    cache_bytes: int | None
    prefetch: int
    device: torch.device | None
    pin_memory: bool | None
    on_batch: Callable[[Batch], Batch] | None
    pad_values: dict[str, float]
    padding_side: str | None
    layout: str
    progress: bool
    rank: int | None
    world_size: int | None
    all_gather: AllGather | None
    uneven: Uneven
    worker_options: WorkerOptions = dataclasses.field(init=False)

    def __post_init__(self, workers: int | None) -> None:
        one_of("uneven", self.uneven, UNEVEN)
        rank, world_size = check_ranks(self.rank, self.world_size, self.all_gather)
        name, num_workers = ("num_workers", self.num_workers) if workers is None else ("workers", workers)
        num_workers = whole_number(name, num_workers, least=0, rule="0 or more processes")
        epochs_rule = "a positive number or None for no end"
        one_of("padding_side", self.padding_side, (None, "right", "left"))
        one_of("layout", self.layout, ("padded", "jagged"))
        function_or_none("on_batch", self.on_batch)
        self.__dict__.update(
            source=source_of(self.source),
            seed=whole_number("seed", self.seed),
            shuffle=yes_or_no("shuffle", self.shuffle),
            progress=yes_or_no("progress", self.progress),
            epochs=None if self.epochs is None else whole_number("epochs", self.epochs, least=1, rule=epochs_rule),
            accumulate=whole_number(
                "accumulate", self.accumulate, least=1, most=_MOST_ACCUMULATED, rule="a positive whole number"
            ),
            num_workers=num_workers,
            worker_options=WorkerOptions(num_workers, self.multiprocessing_context, self.executor),
            cache=_cache_folder(self.cache),
            cache_bytes=None if self.cache_bytes is None else num_bytes("cache_bytes", self.cache_bytes),
            prefetch=whole_number("prefetch", self.prefetch, least=0, rule="0 or more batches"),
            pin_memory=None if self.pin_memory is None else yes_or_no("pin_memory", self.pin_memory),
            pad_values=padding_values(self.pad_values),
            device=device_of(self.device),
            rank=rank,
            world_size=world_size,
        )

    def __getstate__(self) -> dict[str, Any]:
        if self.executor is not None:
            raise TypeError("a Loader with executor= cannot be copied or pickled; make it where it is used, or set num_workers")
        return self.__dict__

    @property
    def label_rule(self) -> LabelRule | None:
        """Which labels ``on_batch`` makes; ``None`` where that is not known before it runs."""
        return LabelRule() if self.on_batch is None else getattr(self.on_batch, "label_rule", None)


@dataclasses.dataclass(frozen=True)
class ParsedStages:
    """The stages of a loader, and what follows from all of them together.

    Attributes:
        data_stages: The stages that records pass through, in order.
        stage_lists: These, then the lists of stages of those sources of a mixture that have stages of their own.
        stages_of: The number of its list for each source of a mixture; empty for one source.
        spec: How rows become batches, completed by what the tokenizer decides.
        max_length: Longest row that the stages let pass, in tokens; ``None`` for no limit.
        padding: What padding holds in each column, and on which side it is.
        empty_fill: The token that a row without tokens gets; ``None`` where such rows are dropped.
        is_tokenized: Whether there is a `Tokenize`, so that the source gives text.
    """

    data_stages: tuple[DataStage, ...]
    stage_lists: tuple[tuple[DataStage, ...], ...]
    stages_of: tuple[int, ...]
    spec: BatchSpec
    max_length: int | None
    padding: Padding
    empty_fill: int | None
    is_tokenized: bool


def _cache_folder(given: object) -> Path | None:
    """Return the folder of a cache.

    Raises:
        TypeError: It is no path.
        NotADirectoryError: It is a file.
    """
    if given is None:
        return None
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"cache must be a path of a folder or None, got {given!r}")
    folder = Path(given)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cache must be a folder, got the file {folder}")
    return folder


def parse_stages(arguments: LoaderArguments) -> ParsedStages:
    """Separate the stages of the data from the batch spec, which is the last, and derive what both decide.

    Raises:
        TypeError: A stage has the wrong type.
        ValueError: The batch spec is missing or is not the last, or there are two tokenizers.

    Warns:
        UserWarning: A long row would stop the run, or tokenizers pad on different sides.
    """
    *data_stages, spec = arguments.stages or (None,)
    if not isinstance(spec, Bucket | Unbucketed | Pack):
        raise ValueError(f"stages must end with Bucket, Pack or Unbucketed, which says how rows become batches, got {spec!r}")
    known = check_stages(data_stages)
    stage_lists, stages_of = lists_of(arguments.source, known)
    main = next((stages for stages in stage_lists if tokenizer_of(stages) is not None), stage_lists[0])
    tokenize = tokenizer_of(main)
    rows = _rows(arguments.source, stage_lists, stages_of)
    of_tokens = next((each for each in rows if each.columns), rows[0])
    max_lengths = [each.max_length for each in rows]
    max_length = None if None in max_lengths else max(length for length in max_lengths if length is not None)
    spec = _complete(spec, tokenize, max_length, of_tokens)
    column = arguments.source.column if isinstance(arguments.source, Mixture) else None
    if spec.group is not None and isinstance(arguments.source, Mixture):
        raise ValueError(
            f"group={spec.group!r} cannot be kept together in a Mixture, whose windows take single rows of each source; "
            "use Concat, or give each record its group as lists of texts: Tokenize(field=[...])"
        )
    if column is not None and isinstance(spec, Bucket) and spec.balance is None:
        spec = dataclasses.replace(spec, balance=column)
    values = {name: value for each in rows for name, value in each.pad_values.items()}
    padding = Padding({**values, **arguments.pad_values}, _padding_side(of_tokens.padding_sides, arguments.padding_side))
    keeps_empty = tokenize is not None and tokenize.empty == "keep"
    empty_fill = int(padding.value("input_ids")) if keeps_empty else None
    run = known if stages_of else stage_lists[0]
    return ParsedStages(run, stage_lists, stages_of, spec, max_length, padding, empty_fill, tokenize is not None)


def _rows(source: Source, stage_lists: Sequence[tuple[DataStage, ...]], stages_of: Sequence[int]) -> list[TokenInfo]:
    """Return what is known of the rows of each source after its stages."""
    if not isinstance(source, Mixture):
        return [rows_of(stage_lists[0], source.token_info)]
    of_lists = [rows_of(stages) for stages in stage_lists]
    made = [member.source.token_info for member in source.members]
    return [
        of_lists[number] if each is None else rows_of(stage_lists[number], each)
        for each, number in zip(made, stages_of, strict=True)
    ]


def _padding_side(sides: Mapping[str, str], given: str | None) -> str:
    """Return the side that the user gives, else the side on which the tokenizers pad.

    Warns:
        UserWarning: The tokenizers disagree.
    """
    if given is not None:
        return given
    if len(set(sides.values())) > 1:
        message = f"tokenizers pad on different sides, {sides}; the loader pads all columns on the right"
        warnings.warn(f"{message}, set Loader(padding_side=...) to choose", stacklevel=4)
        return "right"
    return next(iter(sides.values()), "right")


def _complete(
    spec: Bucket | Unbucketed | Pack, tokenize: Tokenize | None, max_length: int | None, rows: TokenInfo
) -> BatchSpec:
    """Return the batch spec with what follows from the tokenizer.

    Raises:
        ValueError: The spec and the tokenizer contradict each other.
    """
    if isinstance(spec, Bucket):
        if spec.columns is None and rows.columns:
            spec = dataclasses.replace(spec, columns=rows.columns)
        if isinstance(spec.shapes, int):
            if max_length is None:
                raise ValueError(
                    f"shapes={spec.shapes} must know the longest row there can be; set Tokenize(max_length=...), or give "
                    "shapes as [(rows, length), ...]"
                )
            spec.fitted(np.empty(0, dtype=np.int64), max_length)  # raises now if the last shape is over the budget
    if tokenize is not None or rows.max_length is not None:
        _warn_of_long_rows(spec, max_length)
    splits = tokenize is not None and tokenize.overflow == "split"
    if splits and isinstance(spec, Pack) and spec.overflow == "split" and (max_length or 0) > spec.row_length:
        raise ValueError(
            f"overflow='split' of Tokenize and of Pack cannot both cut; set Tokenize(max_length={spec.row_length}) or less"
        )
    return spec


def _warn_of_long_rows(spec: Bucket | Unbucketed | Pack, max_length: int | None) -> None:
    """Warn when the loader is made of rows that would stop a run in the middle."""
    limit = "row_length" if isinstance(spec, Pack) else "max_tokens"
    most = getattr(spec, limit, None)
    is_cut = isinstance(spec, Pack) and spec.overflow != "error"
    if most is None or is_cut or (max_length is not None and max_length <= most):
        return
    what = "Tokenize has no max_length" if max_length is None else f"Tokenize has max_length={max_length}"
    hint = meant_as_rows(most) if limit == "max_tokens" else ""
    warnings.warn(
        f"{what}, and a record of more than {limit}={most} tokens will stop the run; set Tokenize(max_length=...){hint}",
        stacklevel=5,
    )
