"""The stages that records pass through: those of the loader, and those of sources of a mixture that have their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from seqstream.records import OpenStage
from seqstream.sources.mixture import Mixture
from seqstream.sources.source import Source
from seqstream.stages.class_labels import ClassLabels
from seqstream.stages.map_filter import Filter, Map
from seqstream.tokenizing.stage import Tokenize

DataStage: TypeAlias = Map | Filter | ClassLabels | Tokenize


def check_stages(stages: Sequence[Any]) -> tuple[DataStage, ...]:
    """Return the stages of the data.

    Raises:
        TypeError: One is none.
        ValueError: There are two tokenizers.
    """
    for stage in stages:
        if not isinstance(stage, DataStage):
            raise TypeError(f"stages must be Map, Filter, ClassLabels or Tokenize before the last, got {stage!r}")
    if (num := sum(isinstance(stage, Tokenize) for stage in stages)) > 1:
        raise ValueError(
            f"stages must have one Tokenize, got {num}; tokenise several fields with Tokenize({{field: tokenizer}})"
        )
    return tuple(stages)


def lists_of(source: Source, common: tuple[DataStage, ...]) -> tuple[tuple[tuple[DataStage, ...], ...], tuple[int, ...]]:
    """Return the lists of stages, first that of the loader, and the number of its list for each source of a mixture.

    The stages of a source run before those of the loader, whose `Tokenize` is left out where the source has one.

    Raises:
        TypeError: A stage of a source is none.
        ValueError: A source has two tokenizers.
    """
    if not isinstance(source, Mixture):
        return (common,), ()
    lists, numbers = [common], []
    for member in source.members:
        try:
            own = check_stages(member.stages)
        except (TypeError, ValueError) as error:
            error.add_note(f"in the stages of source {member.name!r}")
            raise
        has_tokenizer = tokenizer_of(own) is not None
        stages = (*own, *(stage for stage in common if not (has_tokenizer and isinstance(stage, Tokenize))))
        if stages not in lists:
            lists.append(stages)
        numbers.append(lists.index(stages))
    return tuple(lists), tuple(numbers)


def tokenizer_of(stages: Sequence[DataStage]) -> Tokenize | None:
    """Return the `Tokenize` of stages; ``None`` if there is none."""
    return next((stage for stage in stages if isinstance(stage, Tokenize)), None)


def longest_row(stages: Sequence[DataStage]) -> int | None:
    """Return the length of the longest row that stages let pass, in tokens; ``None`` if they set no limit."""
    tokenize = tokenizer_of(stages)
    return None if tokenize is None else tokenize.max_length


def open_stages(stages: Sequence[DataStage], engines: Mapping[str, str]) -> tuple[OpenStage, ...]:
    """Open stages, each tokenizer with the engine that was chosen for its column."""
    return tuple(stage.open(engines) if isinstance(stage, Tokenize) else stage.open() for stage in stages)


def engines_of(engines: Mapping[str, str], number: int) -> dict[str, str]:
    """Return the engine of each column of ids in one of the lists of stages, given those of all lists.

    >>> engines_of({"input_ids": "fastokens", "1/input_ids": "tokenizers"}, 1)
    {'input_ids': 'tokenizers'}
    """
    prefix = engine_prefix(number)
    if not prefix:
        return {name: engine for name, engine in engines.items() if "/" not in name}
    return {name.removeprefix(prefix): engine for name, engine in engines.items() if name.startswith(prefix)}


def engine_prefix(number: int) -> str:
    """Return what is before the names of columns of ids in one of the lists of stages."""
    return f"{number}/" if number else ""
