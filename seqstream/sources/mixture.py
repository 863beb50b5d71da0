"""Mixtures: many sources, each with a share of the tokens of every window."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from seqstream.options import one_of, whole_number
from seqstream.records import RESERVED, Json
from seqstream.sources.choose_source import Data
from seqstream.sources.mixture_weights import WeightSchedule, check_names, check_schedule
from seqstream.sources.source import Source
from seqstream.sources.source_group import SourceGroup, approx_size, sources_of

Part: TypeAlias = "Data | tuple[Any, ...]"
"""A source, or what a loader takes for one; or that and the stages that only its records pass through."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A source of a mixture.

    Attributes:
        name: Its name; that of a source of an inner mixture is ``outer/inner``.
        source: Where its records come from.
        stages: Stages that only its records pass through, before those of the loader.
        passes: Largest number of times that it is read in an epoch of the loader; ``inf`` for no limit.
    """

    name: str
    source: Source
    stages: tuple[Any, ...] = ()
    passes: float = math.inf

    def share_of(self, number: int) -> float:
        """Return the share of the source that pass ``number`` reads: 1.0, or less in the last pass."""
        return min(1.0, self.passes - number)

    @property
    def is_limited(self) -> bool:
        """Whether the number of passes has a limit."""
        return self.passes < math.inf

    @property
    def num_passes(self) -> float:
        """Number of passes; the last may be partial."""
        return math.ceil(self.passes) if self.passes < math.inf else self.passes


@dataclasses.dataclass(frozen=True)
class Mixture(SourceGroup):
    """Many sources, each with a share of the tokens: at the end of every window each has given its share, to within one row.

    The order of a source's rows depends on the seed alone: not on the other sources, the weights, the ranks or the workers. So
    a run can resume with other weights or more sources without losing or repeating a row: load its state with
    ``strict=False``. A source that is removed and added again later continues where it stopped.

    An epoch of the loader ends when every source was read once, or as often as ``epochs`` allows where that is less. Sources
    that end earlier are repeated. With ``tokens``, the epoch ends after that many tokens. A batch has a column ``source``, the
    number of each row's source in ``names``; rows that are made up, of weight 0, have a 0. With ``shuffle=False`` a window has
    the rows of one source after the other.

    `Bucket` makes batches of similar lengths, ordered so that any few consecutive ones have about each source's share. With
    `Pack` every batch mixes the sources.

    Args:
        sources: The sources, or what a `Loader` takes for one, by name. A tuple holds one and the stages that only its records
            pass through, before those of the loader; if one of them is a `Tokenize`, that of the loader is left out for this
            source. A nested mixture divides its weight among its sources by its own weights.
        weights: The share of each source in the tokens; they need not sum to 1, and 0 leaves a source out. Or pairs ``(tokens,
            weights)``: from that number of tokens served on, the weights are these. Or ``"proportional"``: in proportion to the
            sizes of the sources to the power of ``temperature``: in tokens where all are known, as of `TokenFiles`, else in
            bytes of records as read.
        epochs: How often a source may be read at most in an epoch of the loader, by name; fractions too. By default a source
            is read again for as long as the others go on.
        tokens: Tokens of an epoch of the loader, of all ranks.
        exhausted: What happens when a source has been read as often as ``epochs`` allows: ``"redistribute"`` gives its share to
            the others, in proportion to their weights; ``"stop"`` ends the epoch.
        ramp: Whether weights change at each of the pairs at once, ``"step"``, or linearly between them, ``"linear"``.
        temperature: Exponent of the sizes; below 1 small sources get more than their size.
        fill: Values, by column, for rows of sources that lack the column; filled in after all stages.
        column: Name of the column that has the number of each row's source.

    Raises:
        TypeError: A source or an option has the wrong type.
        ValueError: A name is unknown, a weight is negative, all are 0, a source occurs twice, or ``epochs`` is above 1
            for a source that can be read only once.
    """

    sources: Mapping[str, Part]
    weights: Mapping[str, float] | Sequence[tuple[int, Mapping[str, float]]] | Literal["proportional"]
    epochs: Mapping[str, float] = dataclasses.field(default_factory=dict, kw_only=True)
    tokens: int | None = dataclasses.field(default=None, kw_only=True)
    exhausted: Literal["redistribute", "stop"] = dataclasses.field(default="redistribute", kw_only=True)
    ramp: Literal["step", "linear"] = dataclasses.field(default="step", kw_only=True)
    temperature: float = dataclasses.field(default=1.0, kw_only=True)
    fill: Mapping[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)
    column: str = dataclasses.field(default="source", kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.sources, Mapping):
            raise TypeError(f"Mixture must have a dict of sources by name, got {type(self.sources).__name__}")
        one_of("exhausted", self.exhausted, ("redistribute", "stop"))
        one_of("ramp", self.ramp, ("step", "linear"))
        for name in ("sources", "epochs", "fill"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        if self.tokens is not None:
            object.__setattr__(self, "tokens", whole_number("tokens", self.tokens, least=1, rule="a positive number"))
        if not isinstance(self.column, str) or not self.column or self.column in RESERVED:
            raise ValueError(f"column must be the name of a column that no loader has, got {self.column!r}")
        parts = {name: _split(part) for name, part in self.sources.items()}
        sources = sources_of("Mixture", {name: data for name, (data, _) in parts.items()})
        own = {name: (sources[name], *stages) if stages else sources[name] for name, (_, stages) in parts.items()}
        object.__setattr__(self, "sources", own)
        self._check_epochs()
        if self.weights != "proportional":
            _ = self._own_schedule
        if self.temperature != 1 and self.weights != "proportional":
            raise ValueError(
                "temperature must be 1 with weights that are given; it is the exponent of sizes, weights='proportional'"
            )

    def _check_epochs(self) -> None:
        """Raise unless the numbers of passes are possible.

        Raises:
            TypeError: One is no number.
            ValueError: A name is unknown, a number is not positive, or the source cannot be read so often.
        """
        check_names(self.epochs, list(self.sources), "epochs")
        for name, passes in self.epochs.items():
            if isinstance(passes, bool) or not isinstance(passes, int | float | np.number):
                raise TypeError(f"epochs must be numbers, got {passes!r:.80} for {name!r}")
            if not passes > 0:
                raise ValueError(f"epochs must be above 0, got {passes} for {name!r}; weight 0 leaves a source out")
            source, _ = _split(self.sources[name])
            if isinstance(source, Mixture):
                raise ValueError(f"epochs of {name!r} must be set in that mixture itself, by the names of its sources")
            if passes > 1 and not source.can_repeat:
                raise ValueError(
                    f"epochs must be at most 1 for {name!r}, whose records a generator gives only once, got {passes}; pass the "
                    "generator function itself"
                )

    def __repr__(self) -> str:
        fields = {field.name: field.default for field in dataclasses.fields(self)[2:]}
        more = "".join(
            f", {name}={getattr(self, name)!r}" for name, default in fields.items() if getattr(self, name) not in ({}, default)
        )
        return f"Mixture({{{', '.join(f'{name!r}: {part!r}' for name, part in self.sources.items())}}}, {self.weights!r}{more})"

    @functools.cached_property
    def members(self) -> tuple[Member, ...]:
        """The sources, those of inner mixtures among them."""
        found: list[Member] = []
        for name, part in self.sources.items():
            source, stages = _split(part)
            if isinstance(source, Mixture):
                if source.tokens is not None:
                    raise ValueError(f"tokens must be set in the outer mixture, got {source.tokens:,} in {name!r}")
                found += [
                    dataclasses.replace(inner, name=f"{name}/{inner.name}", stages=(*inner.stages, *stages))
                    for inner in source.members
                ]
                continue
            passes = float(self.epochs.get(name, math.inf if source.can_repeat else 1.0))
            found.append(Member(name, source, stages, passes))
        return tuple(found)

    @property
    def names(self) -> list[str]:
        """Names of the sources: number ``i`` in the column ``source`` is ``names[i]``."""
        return [member.name for member in self.members]

    @property
    def parts(self) -> tuple[Source, ...]:
        return tuple(member.source for member in self.members)

    @functools.cached_property
    def schedule(self) -> WeightSchedule:
        """The weights of all sources, those of inner mixtures multiplied."""
        points = []
        for tokens, weights in self._own_schedule.points:
            found: list[float] = []
            for weight, part in zip(weights, self.sources.values(), strict=True):
                source, _ = _split(part)
                inner = source.schedule.points if isinstance(source, Mixture) else ((0, (1.0,)),)
                if len(inner) > 1:
                    raise ValueError("weights of an inner mixture must be constant; change those of the outer one")
                found += [weight * each for each in inner[0][1]]
            points.append((tokens, tuple(found)))
        return WeightSchedule(tuple(points), self.ramp == "linear")

    @functools.cached_property
    def _own_schedule(self) -> WeightSchedule:
        names = list(self.sources)
        if self.weights != "proportional":
            return check_schedule(self.weights, names, is_linear=self.ramp == "linear")
        sizes: dict[str, float | None] = {name: _split(part)[0].num_tokens for name, part in self.sources.items()}
        if None in sizes.values():
            sizes = {name: _size(_split(part)[0]) for name, part in self.sources.items()}
        if unknown := [name for name, size in sizes.items() if size is None]:
            raise ValueError(
                f"weights='proportional' must know the size of every source, got none for {', '.join(map(repr, unknown[:8]))}, "
                "as of a stream or a generator; give weights as numbers"
            )
        return check_schedule(
            {name: float(size or 0) ** self.temperature for name, size in sizes.items()}, names, is_linear=False
        )

    @functools.cached_property
    def sizes(self) -> tuple[float | None, ...]:
        """Approximate bytes of the records of each source as read; ``None`` where they are unknown."""
        return tuple(approx_size(member.source) for member in self.members)

    def fingerprint(self) -> Json:
        """Return a digest of each source and of the stages that it has for itself."""
        found = {}
        for member in self.members:
            content = [member.source.fingerprint(), *(stage.fingerprint() for stage in member.stages)]
            digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
            found[member.name] = digest
        return {"kind": "Mixture", "sources": found}

    def settings_fingerprint(self) -> Json:
        """Return what decides how many rows each source gives, and the columns they get; not which rows these are."""
        settings = [self.schedule.points, self.schedule.is_linear, [member.passes for member in self.members]]
        digest = hashlib.sha256(json.dumps([*settings, self.names]).encode()).hexdigest()[:12]
        return {
            "weights": digest,
            "tokens": self.tokens,
            "exhausted": self.exhausted,
            "column": self.column,
            "fill": repr(self.fill),
        }

    def proxy(self, share: float, *, seed: int = 0) -> Mixture:
        """Return the mixture of a share of each source, for a small trial of a full run.

        A hash of its content decides whether a record is in the proxy, as in `Source.split`. A proxy run of a share of the
        tokens repeats each source as often as the full run does; see arXiv 2606.07597 for why this matters.

        Args:
            share: Share of the records, between 0 and 1; ``tokens`` and the points of ``weights`` are scaled with it.
            seed: Another seed takes other records.
        """
        if not 0 < share < 1:
            raise ValueError(f"share must be between 0 and 1, got {share}")
        parts: dict[str, Part] = {}
        for name, part in self.sources.items():
            source, stages = _split(part)
            smaller = source.proxy(share, seed=seed) if isinstance(source, Mixture) else source.split(valid=share, seed=seed)[1]
            parts[name] = (smaller, *stages) if stages else smaller
        weights: Any = self.weights
        if isinstance(weights, list | tuple):
            weights = [(round(share * tokens), at) for tokens, at in weights]
        tokens = None if self.tokens is None else max(1, round(share * self.tokens))
        return dataclasses.replace(self, sources=parts, weights=weights, tokens=tokens)


def _split(part: Part) -> tuple[Any, tuple[Any, ...]]:
    """Return the source of a part, and its stages."""
    if isinstance(part, tuple) and part:
        return part[0], part[1:]
    return part, ()


def _size(source: Source) -> float | None:
    """Return the approximate bytes of a source, those of a mixture summed up; ``None`` if they are unknown."""
    if not isinstance(source, Mixture):
        return approx_size(source)
    known = [size for size in source.sizes if size is not None]
    return sum(known) if len(known) == len(source.sizes) else None
