"""Counts of what a loader has handed out so far, and of the time that it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from seqstream.loading.source_stats import StatsBySource
from seqstream.records import Json

_DERIVED = ("padding", "rows_per_batch", "rows_per_step", "tokens_per_batch", "tokens_per_second")


@dataclasses.dataclass(frozen=True)
class Stats:
    """Counts since the loader was made; ``loader.state_dict(stats=True)`` saves them, and they go on where that is loaded.

    Attributes:
        batches: Batches handed out.
        steps: Optimiser steps of which all batches were handed out; without ``Loader(accumulate=...)`` as many as batches.
        rows: Rows in them.
        tokens: Real tokens in them, or steps of other sequences.
        slots: Tokens and padding together.
        truncated: Records cut to ``max_length``, or of which ``uneven="drop"`` left out a piece.
        split: Records cut into pieces.
        dropped: Records left out by `Filter`, ``overflow="drop"`` or ``drop_last``, and rows without labels.
        rows_without_labels: Rows, or pieces that `Pack` makes of them, left out because they have no label, such as where
            ``max_length`` cuts a completion off: a batch of such rows has no loss.
        empty: Records left out because they have no token of their own.
        made_up_rows: Rows, or sequences of packed rows, that no record gives: they fill a batch, and count as padding.
        repeated_rows: Rows that are served twice: those served before a state was loaded with ``strict=False``, and those that
            another rank has as well.
        cached_rows: Rows that ``Loader(cache=...)`` had, and that were not tokenised again.
        by_source: What each source of a mixture has given: rows, tokens, share, epochs and padding by name.
        seconds: Seconds from the first request for a batch to the last answer.
        seconds_waited: Seconds for which the consumer waited for batches; the rest is its own time.
    """

    batches: int = 0
    steps: int = 0
    rows: int = 0
    tokens: int = 0
    slots: int = 0
    truncated: int = 0
    split: int = 0
    dropped: int = 0
    rows_without_labels: int = 0
    empty: int = 0
    made_up_rows: int = 0
    repeated_rows: int = 0
    cached_rows: int = 0
    seconds: float = 0.0
    seconds_waited: float = 0.0
    by_source: StatsBySource = dataclasses.field(default_factory=StatsBySource)

    @property
    def padding(self) -> float:
        """Share of the slots that are padding, 0 to 1."""
        return 1 - self.tokens / self.slots if self.slots else 0.0

    @property
    def rows_per_batch(self) -> float:
        """Mean rows of a batch: with this number, `Unbucketed` makes batches of the same size."""
        return self.rows / self.batches if self.batches else 0.0

    @property
    def rows_per_step(self) -> float:
        """Mean rows of an optimiser step of this rank: a constant by which losses of rows can be divided."""
        return self.rows / self.steps if self.steps else 0.0

    @property
    def tokens_per_batch(self) -> float:
        """Mean real tokens of a batch."""
        return self.tokens / self.batches if self.batches else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Real tokens per second, over the time of the consumer as well."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def plus(self, by_source: StatsBySource | None = None, **more: float) -> Stats:
        """Return the stats with numbers added to some counts."""
        sums: dict[str, Any] = {name: getattr(self, name) + value for name, value in more.items()}
        if by_source is not None:
            sums["by_source"] = self.by_source.plus(by_source)
        stats = object.__new__(type(self))
        stats.__dict__.update({**vars(self), **sums})  # dataclasses.replace takes four times as long, for each batch
        return stats

    def since(self, earlier: Stats) -> Stats:
        """Return what was counted after ``earlier``, such as in an epoch: ``loader.stats.since(before)``."""
        later = self.plus(None, **{name: -value for name, value in earlier._counts().items()})
        return dataclasses.replace(later, by_source=self.by_source.minus(earlier.by_source))

    def to_dict(self) -> dict[str, float]:
        """Return all numbers under one name each, as TensorBoard, W&B, MLflow and JSON take them.

        The names are those of the attributes and properties of this class, apart from ``by_source``:

        - numbers of things, which are whole: ``batches``, ``steps``, ``rows``, ``tokens``, ``slots``, ``made_up_rows``,
          ``repeated_rows``, ``cached_rows``, ``rows_without_labels``, and of records ``truncated``, ``split``, ``dropped``,
          ``empty``;
        - ``padding``: a share, 0 to 1;
        - ``rows_per_batch``, ``rows_per_step``, ``tokens_per_batch``: means;
        - ``seconds``, ``seconds_waited``: seconds, and ``tokens_per_second``: real tokens per second.

        A source of a mixture that is called ``web`` has ``source/web/rows``, ``source/web/tokens``, ``source/web/share`` (of
        the tokens, 0 to 1), ``source/web/epochs`` (passes over the source) and ``source/web/padding`` (0 to 1).

        All are of this rank. ``loader.stats.to_dict()`` has the total, ``loader.window_stats.to_dict()`` the window under way,
        and ``loader.stats.since(earlier).to_dict()`` what was added since.
        """
        of_sources = {
            f"source/{name}/{field}": value
            for name, each in self.by_source.items()
            for field, value in dataclasses.asdict(each).items()
        }
        return {**self._counts(), **{name: getattr(self, name) for name in _DERIVED}, **of_sources}

    def to_log(self, earlier: Stats, prefix: str = "data/") -> dict[str, float]:
        """Return what a training run should log of the time since ``earlier``: the callbacks for frameworks log these.

        ``data/padding`` (share of the slots, 0 to 1), ``data/tokens_per_second`` (real tokens of this rank),
        ``data/seconds_waited`` for batches, and for each source of a mixture ``data/source/web/share`` (of the tokens, 0 to 1)
        and ``data/source/web/epochs`` (passes so far).
        """
        shown = self.since(earlier).to_dict()
        names = ["padding", "tokens_per_second", "seconds_waited"]
        names += [f"source/{name}/{field}" for name in self.by_source for field in ("share", "epochs")]
        return {prefix + name: shown[name] for name in names}

    def to_json(self) -> dict[str, Json]:
        """Return the counts that are not 0, as the entry ``stats`` of a state."""
        sources = {"by_source": self.by_source.to_json()} if self.by_source else {}
        return {**{name: round(value, 3) for name, value in self._counts().items() if value}, **sources}

    def _counts(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "by_source"}

    @classmethod
    def from_json(cls, counts: Json) -> Stats:
        """Return the stats of a state; counts that this version does not have are ignored.

        Raises:
            ValueError: The entry is not a dict of counts.
        """
        given: dict[str, Json] = dict(counts) if isinstance(counts, Mapping) else {"": None}
        sources = given.pop("by_source", {})
        is_number = all(isinstance(each, int | float) and each >= 0 for each in given.values())
        if not is_number or not _are_sources(sources):
            raise ValueError(f"stats of a state must be counts by name, got {counts!r:.80}")
        names = {field.name for field in dataclasses.fields(cls)}
        own = {name: value for name, value in given.items() if name in names}
        return cls(**own, by_source=StatsBySource.from_json(sources))

    def __str__(self) -> str:
        left_out = ", ".join(
            f"{getattr(self, name):,} {name.replace('_', ' ')}"
            for name in ("truncated", "split", "dropped", "rows_without_labels", "empty", "made_up_rows", "repeated_rows")
            if getattr(self, name)
        )
        return (
            f"{self.batches:,} batches, {self.rows:,} rows, {self.tokens:,} tokens, {self.padding:.2%} padding, "
            f"{self.tokens_per_second:,.0f} tokens/s, waited {self.seconds_waited:.2f} of {self.seconds:.2f} s"
            + (f"; {left_out}" if left_out else "")
        )


def _are_sources(value: Json) -> bool:
    """Return whether a value is what `StatsBySource.to_json` writes."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(counts, list)
        and len(counts) == 4
        and all(isinstance(each, int | float) for each in counts)
        for name, counts in value.items()
    )
