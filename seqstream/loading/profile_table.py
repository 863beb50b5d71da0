"""What the time of a loader goes to, as a table, and a sentence on what to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from seqstream.loading.stats import Stats
from seqstream.tokenizing.engines import FAST_ENGINES, FUNCTION

_PARTS = {
    "read": "records from the source",
    "tokenize": "all stages before the batch spec, or the cache",
    "plan": "which rows go together, and their columns",
    "collate": "tensors of a batch",
    "on_batch": "the function on_batch",
    "device": "copies to the device",
}
_BUILDING = ("read", "tokenize", "plan")
_LITTLE = 0.02
"""A consumer that waits for less than this share of its time gains nothing by a faster loader."""


@dataclasses.dataclass(frozen=True)
class LoaderProfile:
    """Where the time of a loader goes, as `Loader.explain` returns it; printed as a table.

    Attributes:
        seconds: Seconds of each part for the windows that were built: ``read``, ``tokenize`` (all stages), ``plan`` and
            ``collate``; ``on_batch`` and ``device`` where the loader has them.
        windows: Number of these windows.
        batches: Number of their batches.
        tokens: Real tokens in these.
        tokens_per_second: Real tokens per second that the loader can give: one thread builds windows, another batches, and
            workers share what they can. A consumer that takes more waits.
        stats: What the loader had handed out before: how long its consumer has waited, above all.
        advice: What to change, in a sentence.
    """

    seconds: Mapping[str, float]
    windows: int
    batches: int
    tokens: int
    tokens_per_second: float
    stats: Stats
    advice: str

    @property
    def waited(self) -> float | None:
        """Share of its time that the consumer has waited so far, 0 to 1; ``None`` before a batch was taken."""
        return self.stats.seconds_waited / self.stats.seconds if self.stats.seconds else None

    def to_dict(self) -> dict[str, float]:
        """Return the numbers under one name each: seconds of parts as ``seconds/read``, the others as the attributes."""
        shown = {f"seconds/{name}": value for name, value in self.seconds.items()}
        numbers = {name: getattr(self, name) for name in ("windows", "batches", "tokens", "tokens_per_second")}
        return {**shown, **numbers, **({} if self.waited is None else {"waited": self.waited})}

    def __str__(self) -> str:
        total = sum(self.seconds.values()) or 1.0
        lines = [f"{'part':10}{'seconds':>9}{'share':>8}{'us a batch':>12}  what it is"]
        for name, seconds in self.seconds.items():
            each = f"{1e6 * seconds / max(self.batches, 1):,.0f}"
            lines.append(f"{name:10}{seconds:9.3f}{seconds / total:8.1%}{each:>12}  {_PARTS[name]}")
        if self.waited is not None:
            stats = self.stats
            each = f"{1e6 * stats.seconds_waited / max(stats.batches, 1):,.0f}"
            so_far = f"of {stats.seconds:,.1f} seconds of the consumer so far"
            lines.append(f"{'wait':10}{stats.seconds_waited:9.3f}{self.waited:8.1%}{each:>12}  {so_far}")
        lines.append("")
        lines.append(
            f"measured on {self.batches:,} batches of {self.tokens:,} tokens, without workers: the loader gives "
            f"up to {self.tokens_per_second:,.0f} tokens/s"
        )
        return "\n".join([*lines, self.advice])


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a profile has found, and what follows from it.

    Attributes:
        seconds: Seconds by part.
        tokens: Real tokens that they made.
        num_workers: Number of processes that run the stages; 0 for a thread.
        engines: The engines that tokenise.
        is_cached: Whether the loader has a cache.
        has_functions: Whether there are stages besides `Tokenize`.
        waited: Share of its time that the consumer has waited, 0 to 1; ``None`` if nothing is known.
    """

    seconds: Mapping[str, float]
    tokens: int
    num_workers: int
    engines: tuple[str, ...]
    is_cached: bool
    has_functions: bool
    waited: float | None

    @property
    def building(self) -> float:
        """Seconds in which windows are built, with workers that share reading and tokenising."""
        return (self.seconds["read"] + self.seconds["tokenize"]) / max(self.num_workers, 1) + self.seconds["plan"]

    @property
    def tokens_per_second(self) -> float:
        """Real tokens per second of the slower of two threads: the one that builds windows, the one that makes batches."""
        batching = sum(value for name, value in self.seconds.items() if name not in _BUILDING)
        return self.tokens / max(self.building, batching, 1e-9)

    @property
    def advice(self) -> str:
        """What to change, in a sentence."""
        if self.waited is not None and self.waited < _LITTLE:
            return f"The consumer has waited for {self.waited:.1%} of its time: the loader is fast enough, change nothing."
        slowest = max(self.seconds, key=lambda name: self.seconds[name])
        if slowest == "tokenize":
            return self._tokenize()
        return {
            "read": "Most of the time goes to reading: write_tokens(...) once and read TokenFiles, or more and smaller shards "
            "that num_workers=... read at once; files on a server are read best in larger blocks.",
            "plan": "Most of the time goes to planning, which runs beside the consumer: a smaller window "
            "(Bucket(window_batches=...)) makes it less, for more padding.",
            "collate": "Most of the time goes to collating, so the data is read as fast as batches are copied: layout='jagged' "
            "copies no padding, for models that take Batch.varlen or Batch.nested.",
            "on_batch": "Most of the time goes to on_batch, which one thread runs ahead of the consumer: do in MapRecords "
            "what does not depend on the batch, where num_workers=... share it.",
            "device": "Most of the time goes to copies to the device: layout='jagged' copies no padding.",
        }[slowest]

    def _tokenize(self) -> str:
        what = "Most of the time goes to the stages"
        if not self.is_cached:
            once = "; cache='FOLDER' keeps their rows for later epochs and runs"
        else:
            once = "; the cache has them for later epochs and runs"
        slow = [name for name in self.engines if name not in FAST_ENGINES]
        if FUNCTION in slow or self.has_functions:
            more = "raise num_workers" if self.num_workers else "num_workers=... runs functions of Python in several processes"
            return f"{what}: {more}{once}."
        if slow:
            install = "pip install 'seqstream[fast]' brings engines that are several times as fast for most tokenizers"
            return f"{what}, tokenised by {', '.join(slow)}: {install}{once}."
        return f"{what}, tokenised by {', '.join(self.engines) or 'nothing'}{once}."
