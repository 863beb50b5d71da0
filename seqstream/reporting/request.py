"""What a report is asked for: a loader, a source with stages, or files."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from seqstream.loading.loader import Loader
from seqstream.loading.stage_lists import DataStage, check_stages, tokenizer_of
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.planning.unbucketed import Unbucketed
from seqstream.reporting.classes import class_columns
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.mixture import Mixture
from seqstream.sources.opening import open_files
from seqstream.sources.source import Source
from seqstream.sources.source_group import Concat
from seqstream.sources.text import TextFiles
from seqstream.sources.token_files import TokenFiles
from seqstream.tuning.loader_code import as_glob
from seqstream.tuning.planned_epoch import Spec, budget_of

Data: TypeAlias = "Loader | Source | str | os.PathLike[str] | Iterable[str | os.PathLike[str]]"

BUDGETS = (4_096, 16_384, 65_536)
WINDOWS = (64, 256, 1_024)

_OF_RANKS = ("rank", "world_size", "all_gather", "workers")
"""Options of a loader that the code of another one does not have; ``workers`` is another name."""

_FIRST_RECORDS = 200
"""Records in which columns of classes are looked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What a report shows.

    Attributes:
        source: Where records come from.
        stages: Stages of the records.
        spec: How a loader that was given makes batches; ``None`` if none was given.
        batches_per_step: Batches of an optimiser step of that loader, of all ranks.
        options: The options of that loader that differ from their defaults.
    """

    source: Source
    stages: tuple[DataStage, ...]
    spec: Spec | None = None
    batches_per_step: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name of the data."""
        return title_of(self.source)

    @property
    def is_cut_by_spec(self) -> bool:
        """Whether rows reach the batch spec whole, which cuts them itself."""
        tokenize = tokenizer_of(self.stages)
        return isinstance(self.spec, Pack) and (tokenize is None or tokenize.max_length is None)

    @property
    def budgets(self) -> tuple[int, ...]:
        """Budgets to compare: a quarter of that of the loader, its own, and four times as much; else the usual ones."""
        budget = None if self.spec is None else budget_of(self.spec)
        return BUDGETS if budget is None else (max(1, budget // 4), budget, 4 * budget)


def read_request(data: Data, stages: Sequence[Any]) -> Request:
    """Return what a report is asked for.

    Args:
        data: A loader; or a source; or paths, globs or URLs of files, or a folder of tokens.
        stages: Stages of the records, where ``data`` is not a loader; the last may be a batch spec.

    Raises:
        TypeError: ``data`` or a stage has the wrong type.
        ValueError: A loader is given with other stages, or text without a `Tokenize`.
    """
    if isinstance(data, Loader):
        if stages:
            raise ValueError(f"a loader has its stages, got {len(stages)} more; pass its source with them instead")
        request = read_request(data.source, data.stages)
        per_step = data.accumulate * (data.world_size or 1)
        return dataclasses.replace(request, batches_per_step=per_step, options=options_of(data))
    spec = stages[-1] if stages and isinstance(stages[-1], Bucket | Pack | Unbucketed) else None
    own = check_stages(stages if spec is None else stages[:-1])
    source = data if isinstance(data, Source) else _open(data, own)
    if isinstance(source, TextFiles) and tokenizer_of(own) is None:
        raise ValueError("text must be tokenised, got no Tokenize; call report(data, ss.Tokenize('tokenizer.json'))")
    return Request(source, own, spec)


def options_of(loader: Loader) -> dict[str, Any]:
    """Return the options of a loader that differ from their defaults, without those that each rank has for itself."""
    values = dict(vars(loader._arguments))
    values["device"] = values["device"] and str(values["device"])
    return {
        name: values[name]
        for name, parameter in inspect.signature(Loader).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _OF_RANKS and values[name] not in (parameter.default, {})
    }


def open_with_classes(
    files: Sequence[str], format: str | None = None, label: str | None = None, *, field: str = "text", **options: Any
) -> Source:
    """Return the source of files with its columns of classes, which their first records show.

    Args:
        files: Paths, globs or URLs.
        format: Their format; by default that of their suffix.
        label: The column of classes, if it is known.
        field: The field of the text.
        **options: Options of `open_files`.
    """
    whole = open_files(files, format, field=field, **options, columns=() if label is None else [label])
    if label is not None or isinstance(whole, TextFiles | TokenFiles):
        return whole
    try:
        if isinstance(whole, JsonLines):  # without the types that Arrow asks for: other fields may have none
            first = [json.loads(line["text"]) for line in TextFiles(list(files)).head(_FIRST_RECORDS)]
        else:
            first = open_files(files, format, field=field, **options, columns=None).head(_FIRST_RECORDS)
        found = class_columns(first, field)
    except (ValueError, TypeError, AttributeError):  # what is wrong there is an error where it is read
        return whole
    return open_files(files, format, field=field, **options, columns=found) if found else whole


def title_of(source: Source) -> str:
    """Return a name of a source: its file, its folder, or its kind."""
    if isinstance(source, Mixture):
        return " + ".join(source.names[:4]) + (f" + {len(source.names) - 4} more" if len(source.names) > 4 else "")
    if isinstance(source, Concat):
        return f"{len(source.parts)} sources"
    paths = getattr(source, "paths", None)
    if paths is None:
        inner = getattr(source, "source", None)
        return title_of(inner) if isinstance(inner, Source) else type(source).__name__
    listed = [os.fspath(paths)] if isinstance(paths, str | os.PathLike) else list(map(str, paths))
    name = (as_glob(listed) or f"{listed[0]} and {len(listed) - 1} more") if listed else type(source).__name__
    return "/".join(name.rstrip("/").split("/")[-2:])


def _open(data: object, stages: Sequence[DataStage]) -> Source:
    if isinstance(data, str | os.PathLike):
        files = [os.fspath(data)]
    elif isinstance(data, Iterable):
        files = [os.fspath(each) for each in data]
    else:
        raise TypeError(f"data must be a Loader, a source, or paths of files, got {type(data).__name__}")
    tokenize = tokenizer_of(stages)
    field = getattr(tokenize, "field", "text")
    return open_with_classes(files, field=field if isinstance(field, str) else field[0])
