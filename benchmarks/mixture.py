"""Does a mixture give each source its share of the tokens, and what does that cost?

*Shares*: 3, 30 and 1,000 sources whose rows have 20 to 2,000 tokens in the mean, with weights by Zipf's law. At the end of
every window each source is compared with its weight times the tokens of all; the furthest counts. Other ways are measured at
the same numbers of tokens: `datasets.interleave_datasets`, which draws the source of each row, and a row of the source that
lacks most rows, as in Megatron-LM. Their shares are of rows, so both run twice: with the weights, and with these divided by the
mean lengths, which must be known for that. For 1,000 sources `interleave_datasets` takes minutes, so the sources are drawn by
its rule; a test shows that the rows are the same. A percentage is of the tokens that a source should have at the end; the
sources of least weight should have a few rows then.

*Speed*: text in three sets of files, as a mixture with weights by size and as one source, in turn, in fresh processes with
proven engines. *Planning*: the CPU time in which the rows of each source are counted out for a window of 16 million tokens, and
how much more that is for 1,000 sources than for the same rows as one. *Opening*: from listing 1,000 text files of 4 kB to the
first batch. *Other weights*: five changes in mid-window, each with a state that went through JSON; the records that were served
are compared with those that each source has to give.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

import seqstream as ss
from benchmarks.harness import corpora, peers
from benchmarks.harness.proven_engine import prove
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from benchmarks.harness.unlike_sources import Numbers, Rows, UnlikeSources
from benchmarks.throughput import Run
from seqstream.arrays import Index
from seqstream.planning.token_quotas import Flow, SourceRows
from seqstream.records import Json
from seqstream.sources.mixture import Mixture
from seqstream.testing.mixture_laws import records_in_order, sources_and_lengths

MANY = 1_000
TOKENS = {3: 2_000_000, 30: 2_000_000, MANY: 6_000_000}
"""Tokens that are served of each number of sources."""
PLANNED_TOKENS = 16_000_000
SPEC = ss.Bucket(16_384, window_batches=16)

SETS = {"a": 6, "b": 3, "c": 1}
"""Sets of files, and how many of ten files each has."""
PARTS = 8
"""The text is this many times as large as a window of several."""
OPENED_BYTES = 4_000_000
SMALL_WINDOW = 1 << 20

CHANGES = 5
TURN_BATCHES = 24
"""Batches after which weights change, in the middle of a window."""

SHARE_TARGET = Target("<=", 1)
SPEED_TARGET = 0.97
PLANNING_TARGET = Target("<=", 10)
OPENING_TARGET = Target("<=", 1)
NONE = Target("<=", 0)

OURS = "seqstream"
INTERLEAVED = "interleave_datasets"
DEFICIT = "largest deficit in rows"
BY_MEANS = "weights divided by mean lengths"
BY_RULE = ", interleave_datasets by its rule"


def measure(settings: Settings) -> Iterator[Record]:
    """Measure shares, speed, planning, opening and changes of weights."""
    for num, tokens in TOKENS.items():
        if settings.max_bytes is not None:
            num, tokens = min(num, settings.max_bytes // 1_000), min(tokens, settings.max_bytes)
        settings.show_progress(f"shares of {num:,} sources")
        yield from _shares(num, tokens)
    yield from _speed(settings)
    settings.show_progress("planning")
    yield from _planning(MANY, PLANNED_TOKENS if settings.max_bytes is None else 10 * settings.max_bytes, 3 * settings.repeats)
    yield from _opening(settings)
    settings.show_progress("other weights")
    yield from _other_weights(30)


# Shares


def _shares(num: int, tokens: int) -> Iterator[Record]:
    sources = UnlikeSources.draw(num, tokens)
    ours, ends = _served(sources, tokens)
    longest = np.maximum.accumulate(ours.lengths)[np.searchsorted(np.cumsum(ours.lengths), ends)]
    ways = [(OURS, ours), *_other_ways(sources, int(ends[-1]))]
    corpus = f"{num:,} sources{BY_RULE if num >= MANY else ''}"
    for way, rows in ways:
        off = np.abs(rows.deviations(sources.weights, ends))
        target = SHARE_TARGET if way == OURS else None
        what = f"{way}, furthest source, in longest rows"
        value = float((off.max(axis=1) / longest).max())
        yield Record(benchmark="mixture", corpus=corpus, what=what, value=value, unit="", target=target)
        percent = float(100 * (off[-1] / (sources.weights * ends[-1])).max())
        yield Record(benchmark="mixture", corpus=corpus, what=f"{way}, furthest source at the end", value=percent, unit="%")


def _served(sources: UnlikeSources, tokens: int) -> tuple[Rows, Index]:
    """Return the rows that a loader of the mixture serves, and how many tokens it has served after each window."""
    loader = ss.Loader(sources.mixture(sources.weights, tokens), SPEC, seed=0)
    found: list[tuple[Index, Index]] = []
    ends: list[int] = []
    for _, window in itertools.groupby(loader, key=lambda batch: batch.window):
        found += (sources_and_lengths(batch) for batch in window)
        ends.append(sum(int(lengths.sum()) for _, lengths in found))
    return Rows(*map(np.concatenate, zip(*found, strict=True))), np.array(ends, dtype=np.int64)


def _other_ways(sources: UnlikeSources, tokens: int) -> Iterator[tuple[str, Rows]]:
    for shares, given in ((sources.weights, ""), (sources.row_weights, f", {BY_MEANS}")):
        interleave = sources.interleaved if len(shares) < MANY else sources.drawn
        yield f"{INTERLEAVED}{given}", interleave(shares, tokens)
        yield f"{DEFICIT}{given}", sources.by_deficit(shares, tokens)


# Speed


def _speed(settings: Settings) -> Iterator[Record]:
    text = settings.text(corpora.FIXED)
    name = corpora.FIXED if corpora.data_folder() else corpora.DOCSTRINGS
    with tempfile.TemporaryDirectory() as folder:
        files = _split(text, Path(folder), [f"{part}/{number}" for part, num in SETS.items() for number in range(num)])
        for windows, window_bytes in (("one window", None), ("several windows", text.stat().st_size // PARTS)):
            found: dict[bool, list[Run]] = {False: [], True: []}
            for repeat, (is_mixture, runs) in itertools.product(range(settings.repeats), found.items()):
                settings.show_progress(f"speed, {windows}, {repeat + 1} of {settings.repeats}")
                runs.append(settings.isolate(_run, files, corpora.tokenizer(), is_mixture, window_bytes))
            one, mixed = (
                Record(
                    benchmark="mixture",
                    corpus=name,
                    what=f"{'three sources' if is_mixture else 'one source'}, {windows}",
                    value=statistics.median(run.tokens / run.seconds for run in runs),
                    unit="tokens/s",
                )
                for is_mixture, runs in found.items()
            )
            yield one
            yield mixed.against(one, ">=", SPEED_TARGET)


def _run(files: Sequence[Path], tokenizer: Path, is_mixture: bool, window_bytes: int | None) -> Run:
    proven = prove(tokenizer)
    begun = time.perf_counter()
    folders = {file.parent.name: file.parent for file in files}
    sources = {name: ss.TextFiles(str(folder / "*.txt")) for name, folder in folders.items()}
    source = Mixture(sources, "proportional") if is_mixture else ss.Concat(list(sources.values()))
    loader = proven.loader(source, ss.Bucket(peers.MAX_TOKENS, window_bytes=window_bytes))
    for _ in loader:
        pass
    return Run(time.perf_counter() - begun, loader.stats.tokens, loader.stats.rows)


def _split(text: Path, folder: Path, names: Sequence[str], num_bytes: int | None = None) -> list[Path]:
    """Write the lines of a text, or of its beginning, to files in turn, and return these."""
    with text.open("rb") as file:
        lines = file.read(num_bytes).splitlines(keepends=True)
    found = [folder / f"{name}.txt" for name in names]
    for number, file in enumerate(found):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"".join(lines[number :: len(names)]))
    return found


# Planning


def _planning(num: int, tokens: int, repeats: int) -> Iterator[Record]:
    sources = UnlikeSources.draw(num, tokens)
    wanted = (sources.weights * tokens).tolist()
    lengths = [_first(own, need) for own, need in zip(sources.lengths, wanted, strict=True)]
    one = [np.concatenate(lengths)]
    found = [(_plan(sources.weights, lengths, tokens), _plan(np.ones(1), one, tokens)) for _ in range(repeats)]
    many, alone = (1_000 * statistics.median(times) for times in zip(*found, strict=True))
    rows = f"{len(one[0]):,} rows of {tokens:,} tokens"
    for what, value, target in (
        (f"planning, {num:,} sources", many, None),
        ("planning, one source", alone, None),
        (f"planning, more for {num:,} sources than for one", many - alone, PLANNING_TARGET),
    ):
        yield Record(benchmark="mixture", corpus=rows, what=what, value=value, unit="ms", target=target)


def _first(lengths: Index, tokens: float) -> Index:
    """Return the first rows of a source that have more than some tokens, as a window reads them."""
    total = np.cumsum(np.resize(lengths, len(lengths) * (1 + int(tokens / lengths.sum()))))
    return np.resize(lengths, int(np.searchsorted(total, tokens)) + 2)


def _plan(weights: Numbers, lengths: Sequence[Index], tokens: int) -> float:
    """Return the CPU seconds in which the rows of each source are counted out."""
    begun = time.thread_time()
    flow = Flow.of(weights, np.full(len(weights), np.inf), tokens)
    SourceRows.of(lengths, flow, np.zeros(len(weights))).first_tokens(tokens)
    return time.thread_time() - begun


# Opening


def _opening(settings: Settings) -> Iterator[Record]:
    text = settings.text(corpora.FIXED)
    num = min(MANY, text.stat().st_size // 2_000)
    corpus = f"{num:,} text files"
    with tempfile.TemporaryDirectory() as folder:
        files = _split(text, Path(folder), [f"{number:04}" for number in range(num)], OPENED_BYTES)
        ways: dict[str, tuple[bool, int | None]] = {
            "first batch of one source": (False, None),
            "first batch of a mixture": (True, None),
            "first batch of a mixture, windows of 1 MiB": (True, SMALL_WINDOW),
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        for (way, given), _ in itertools.product(ways.items(), range(min(3, settings.repeats))):
            settings.show_progress(way)
            found[way].append(settings.isolate(_open, files, corpora.tokenizer(), *given))
    for way, seconds in found.items():
        target = OPENING_TARGET if ways[way][0] else None
        value = statistics.median(seconds)
        yield Record(benchmark="mixture", corpus=corpus, what=way, value=value, unit="s", target=target)


def _open(files: Sequence[Path], tokenizer: Path, is_mixture: bool, window_bytes: int | None) -> float:
    """Return the seconds until the first batch."""
    proven = prove(tokenizer)
    begun = time.perf_counter()
    if is_mixture:
        sources = {file.stem: ss.TextFiles(str(file)) for file in files}
        source: Mixture | ss.TextFiles = Mixture(sources, dict.fromkeys(sources, 1.0))
    else:
        source = ss.TextFiles(str(files[0].parent / "*.txt"))
    batches = iter(proven.loader(source, ss.Bucket(peers.MAX_TOKENS, window_bytes=window_bytes)))
    next(batches)
    seconds = time.perf_counter() - begun
    del batches
    return seconds


# Other weights


def _other_weights(num: int) -> Iterator[Record]:
    tokens = SPEC.max_tokens * TURN_BATCHES * (CHANGES + 1)
    sources = UnlikeSources.draw(num, tokens)
    draw = np.random.default_rng(0)
    given = [sources.weights, *(draw.permutation(sources.weights) for _ in range(CHANGES))]
    served, loader = served_with(lambda weights: ss.Loader(sources.mixture(weights, 10 * tokens), SPEC, seed=0), given)
    lost = repeated = 0
    for member, own in zip(loader.source.members, served, strict=True):  # type: ignore[attr-defined]
        expected = Counter(itertools.islice(records_in_order(loader, member), own.total()))
        lost += (expected - own).total()
        repeated += (own - expected).total()
    for what, value in (("lost", lost), ("repeated", repeated)):
        yield Record(
            benchmark="mixture",
            corpus=f"{num} sources",
            what=f"records {what} by {CHANGES} changes of weights in mid-window",
            value=value,
            unit="",
            target=NONE,
        )


def served_with(make: Callable[[Numbers], ss.Loader], given: Sequence[Numbers]) -> tuple[list[Counter[int]], ss.Loader]:
    """Serve some batches with each of several weights, the last up to the end of a window.

    Returns:
        How often each record of each source was served, and the last loader.
    """
    served: list[Counter[int]] = [Counter() for _ in given[0]]
    state: Json = None
    for number, weights in enumerate(given):
        loader = make(weights)
        if state is not None:
            loader.load_state_dict(state, strict=False)
        for count, batch in enumerate(loader, start=1):
            ids = batch.row_ids[batch.row_ids >= 0].tolist()
            for source, row_id in zip(sources_and_lengths(batch)[0].tolist(), ids, strict=True):
                served[source][row_id] += 1
            state = batch.state
            is_inside = bool(state["position"]["window"]["served"])
            if count >= TURN_BATCHES and is_inside == (number + 1 < len(given)):
                break
        state = json.loads(json.dumps(state))
    return served, loader
