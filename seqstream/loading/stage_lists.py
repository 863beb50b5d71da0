"""The stages that records pass through: those of the loader, and those of sources of a mixture that have their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from seqstream.distributed.digests import describe_function
from seqstream.loading.fingerprints import compact, differences
from seqstream.records import IGNORE_INDEX, Json, OpenStage, ids_columns
from seqstream.sources.mixture import Mixture
from seqstream.sources.source import Source
from seqstream.sources.tokens.token_store import TokenInfo
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
        raise ValueError(f"stages must have one Tokenize, got {num}; tokenise several fields with Tokenize(field=[...])")
    return tuple(stages)


def lists_of(source: Source, common: tuple[DataStage, ...]) -> tuple[tuple[tuple[DataStage, ...], ...], tuple[int, ...]]:
    """Return the lists of stages, first that of the loader, and the number of its list for each source of a mixture.

    The stages of a source run before those of the loader, whose `Tokenize` is left out where the source has one.

    Raises:
        TypeError: A stage of a source is none.
        ValueError: A source has two tokenizers.
    """
    if not isinstance(source, Mixture):
        return (left_to_run(source.token_info, common),), ()
    lists, numbers = [common], []
    for member in source.members:
        try:
            own = check_stages(member.stages)
        except (TypeError, ValueError) as error:
            error.add_note(f"in the stages of source {member.name!r}")
            raise
        has_tokenizer = tokenizer_of(own) is not None
        stages = (*own, *(stage for stage in common if not (has_tokenizer and isinstance(stage, Tokenize))))
        stages = left_to_run(member.source.token_info, stages)
        if stages not in lists:
            lists.append(stages)
        numbers.append(lists.index(stages))
    return tuple(lists), tuple(numbers)


def tokenizer_of(stages: Sequence[DataStage]) -> Tokenize | None:
    """Return the `Tokenize` of stages; ``None`` if there is none."""
    return next((stage for stage in stages if isinstance(stage, Tokenize)), None)


def rows_of(stages: Sequence[DataStage], before: TokenInfo | None = None) -> TokenInfo:
    """Return what is known of the rows that stages make.

    Args:
        stages: The stages.
        before: What is known of the rows that they take, where earlier stages have tokenised them.
    """
    known = before or TokenInfo(())
    tokenize = tokenizer_of(stages)
    pads: dict[str, float] = {**known.pad_values}
    pads |= {stage.column: IGNORE_INDEX for stage in stages if isinstance(stage, ClassLabels) and not stage.multi_hot}
    columns, sides = known.columns, known.padding_sides
    for stage in stages:
        if isinstance(stage, Tokenize):
            columns, sides = stage.planned_columns, stage.padding_sides()
            pads |= stage.pad_values()
        elif isinstance(stage, Map) and len(ids_columns(columns)) == 1:
            columns = ()  # it may rename the only column of ids, or make other sequences of it
    functions = {**known.functions, **functions_of(stages, len(known.stages) + 1)}
    fingerprints = (*known.stages, *(compact(stage.fingerprint()) for stage in stages))
    return TokenInfo(
        columns, known.max_length if tokenize is None else tokenize.max_length, pads, sides, fingerprints, functions
    )


def functions_of(stages: Sequence[DataStage], first: int = 1) -> dict[str, Json]:
    """Return what the functions of stages do, by stage; the first one has the number ``first``."""
    found: dict[str, Json] = {}
    for number, stage in enumerate(stages, first):
        functions = [stage.fn] if isinstance(stage, Map | Filter) else []
        functions += stage.functions if isinstance(stage, Tokenize) else []
        if functions:
            found[f"stage {number}"] = [describe_function(function) for function in functions]
    return found


def left_to_run(before: TokenInfo | None, stages: tuple[DataStage, ...]) -> tuple[DataStage, ...]:
    """Return the stages that rows of tokens have not passed through: those after the ones that made them, if they are the same.

    Raises:
        ValueError: There is a `Tokenize`, and other stages made the rows; the message names what differs.
    """
    num = 0 if before is None else len(before.stages)
    if before is None or tokenizer_of(stages) is None:
        return stages
    own = rows_of(stages[:num])
    made = {"stages": _numbered(before.stages), "functions": before.functions}
    given = {"stages": _numbered(own.stages), "functions": own.functions}
    found = list(differences(made, json.loads(json.dumps(given))))
    if found or not num:
        listed = "; ".join(f"{name} {there!r} there, {here!r} here" for name, there, here in found) or "these are not known"
        raise ValueError(
            f"stages must be those that the tokens were made with, or have no Tokenize, but they differ: {listed}; write the "
            "tokens again, or leave out the stages that made them"
        )
    return stages[num:]


def _numbered(stages: Sequence[Json]) -> dict[str, Json]:
    return {f"stage {number}": stage for number, stage in enumerate(stages, 1)}


def choose_engines(stages: Sequence[DataStage], sample: pa.Table) -> dict[str, str]:
    """Return the engine for each column of ids, proved on some records as the first stage gets them."""
    for stage in stages:
        if isinstance(stage, Tokenize):
            return stage.choose_engines(sample)
        sample = stage.open()([sample])[0][0]
    return {}


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
