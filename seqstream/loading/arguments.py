"""Telling a loader's stages apart, and refusing those that cannot go together before anything is read."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from seqstream.planning.batch_spec import BatchSpec, meant_as_rows
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import IGNORE_INDEX, OpenStage
from seqstream.sources.source import Source
from seqstream.stages.class_labels import ClassLabels
from seqstream.stages.map_filter import Filter, Map
from seqstream.tokenizing.stage import Tokenize

DataStage: TypeAlias = Map | Filter | ClassLabels | Tokenize


def parse_stages(source: Source, stages: Sequence[object]) -> tuple[tuple[DataStage, ...], BatchSpec]:
    """Tell the stages that data meets from the batch spec that ends them.

    Raises:
        TypeError: One of them is no stage, or the source is none.
        ValueError: The batch spec is missing or not the last, or there are two tokenisers.
    """
    if not isinstance(source, Source):
        raise TypeError(
            f"source must be a seqstream source such as TextFiles, HFDataset or Generator, got {type(source).__name__}; "
            f"wrap it, for example Generator(...)"
        )
    *data_stages, spec = stages or (None,)
    if not isinstance(spec, Bucket | Unbucketed | Pack):
        raise ValueError(f"stages must end with Bucket, Pack or Unbucketed, which says how rows become batches, got {spec!r}")
    known = tuple(stage for stage in data_stages if isinstance(stage, DataStage))
    for stage in data_stages:
        if stage not in known:
            raise TypeError(f"stages must be Map, Filter, ClassLabels or Tokenize before the last, got {stage!r}")
    tokenizers = [stage for stage in known if isinstance(stage, Tokenize)]
    if len(tokenizers) > 1:
        raise ValueError(
            f"stages must have one Tokenize, got {len(tokenizers)}; tokenise several fields with Tokenize({{field: tokenizer}})"
        )
    return known, _completed(spec, tokenizers[0] if tokenizers else None, longest_row(known), _sides(known))


def longest_row(stages: Sequence[DataStage]) -> int | None:
    """Return the longest row that stages let pass, ``None`` if they set no limit."""
    return next((stage.max_length for stage in stages if isinstance(stage, Tokenize)), None)


def open_stages(stages: Sequence[DataStage], engines: Mapping[str, str]) -> tuple[OpenStage, ...]:
    """Open stages with the engines that were chosen for them."""
    return tuple(stage.open(engines) if isinstance(stage, Tokenize) else stage.open() for stage in stages)


def pad_tokens(stages: Sequence[DataStage]) -> dict[str, int]:
    """Return the padding token of each column of ids whose tokenizer has one, and -100 for columns of classes."""
    tokenizers = (stage for stage in stages if isinstance(stage, Tokenize))
    classes = {stage.column: IGNORE_INDEX for stage in stages if isinstance(stage, ClassLabels)}
    return classes | {column: token for stage in tokenizers for column, token in stage.pad_values().items()}


def find_padding_side(stages: Sequence[DataStage], given: str | None) -> str:
    """Return where padding goes: where the user says, else where the tokenizers pad.

    Warns:
        UserWarning: The tokenizers disagree.
    """
    sides = {column: side for stage in stages if isinstance(stage, Tokenize) for column, side in stage.padding_sides().items()}
    if given is not None:
        return given
    if len(set(sides.values())) > 1:
        message = f"tokenizers pad on different sides, {sides}; the loader pads all columns on the right"
        warnings.warn(f"{message}, set Loader(padding_side=...) to choose", stacklevel=3)
        return "right"
    return next(iter(sides.values()), "right")


def _completed(
    spec: Bucket | Unbucketed | Pack, tokenize: Tokenize | None, max_length: int | None, sides: tuple[str, ...]
) -> BatchSpec:
    """Return the batch spec with what follows from the tokeniser.

    Raises:
        ValueError: The two cannot go together.
    """
    if isinstance(spec, Bucket):
        if spec.columns is None and sides:
            spec = dataclasses.replace(spec, columns=sides)
        if isinstance(spec.shapes, int):
            if max_length is None:
                raise ValueError(
                    f"shapes={spec.shapes} must know the longest row there can be; set Tokenize(max_length=...), or give "
                    "shapes as [(rows, length), ...]"
                )
            spec.fitted(np.empty(0, dtype=np.int64), max_length)  # raises now if the last shape is over the budget
    if tokenize is not None:
        _warn_of_long_rows(spec, max_length)
    splits = tokenize is not None and tokenize.overflow == "split"
    if splits and isinstance(spec, Pack) and spec.overflow == "split" and (max_length or 0) > spec.row_length:
        raise ValueError(
            f"overflow='split' of Tokenize and of Pack cannot both cut; set Tokenize(max_length={spec.row_length}) or less"
        )
    return spec


def _warn_of_long_rows(spec: Bucket | Unbucketed | Pack, max_length: int | None) -> None:
    """Warn at the start of what would stop a run in the middle."""
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


def _sides(stages: Sequence[DataStage]) -> tuple[str, ...]:
    """Return the columns of ids that the budget counts: those made of text, and not a vector that is beside it.

    A function that comes after may rename the only one, or make other sequences of it; none is known then.
    """
    sides: tuple[str, ...] = ()
    for stage in stages:
        if isinstance(stage, Tokenize):
            sides = stage.columns
        elif isinstance(stage, Map) and len(sides) == 1:
            sides = ()
    return sides
