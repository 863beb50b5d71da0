"""How large is the state of many ranks, and what do saving it at every step and resuming with another number of ranks cost?

Four ranks share the windows of the second epoch, which are full; they are threads that share the cores of this machine. So the
time to the first batch after a resume is compared with the time that the engine takes on the same cores to tokenise the window
in progress: ranks on machines of their own take their part of either. A state is ``loader.state_dict()`` as JSON. Saving it is
compared with a step by processor time in all threads, since some of them work on the next window at the same time.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.proven_engine import Proven, prove
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from benchmarks.harness.simulated_ranks import tokenise
from seqstream.loading.state import read_state
from seqstream.records import Json
from seqstream.shuffling import EvenOrder
from seqstream.testing.rank_threads import Options, run_ranks
from seqstream.windows.block_reader import read_blocks

MAX_TOKENS = 16_384
WINDOW_BATCHES = 64
EPOCH = 1
WORLD_SIZE = 4
RESUMED_SIZES = (1, 2, 4, 8)
STATE_TARGET = Target("<=", 4_096)
SAVING_TARGET = 0.01


def measure(settings: Settings) -> Iterator[Record]:
    """Measure on mixed texts."""
    proven = prove(corpora.tokenizer())
    source = ss.TextFiles(str(settings.text(corpora.FIXED)))
    name = corpora.FIXED if corpora.data_folder() else corpora.DOCSTRINGS

    def record(what: str, value: float, unit: str, target: Target | None = None) -> Record:
        return Record(benchmark="elastic", corpus=name, what=what, value=value, unit=unit, target=target)

    def median(step: Callable[[], float]) -> float:
        return 1e3 * statistics.median(step() for _ in range(settings.repeats))

    settings.show_progress("states")
    largest, middle = _states(source, proven)
    yield record(f"largest state of {WORLD_SIZE} ranks", largest, "bytes", STATE_TARGET)
    saving, rest = _saving(source, proven)
    step = record(f"a step of one of {WORLD_SIZE} ranks, processor time", 1e6 * rest, "us")
    yield step
    yield record("saving the state at each step", 1e6 * saving, "us").against(step, "<=", SAVING_TARGET)
    tokenised = record(f"tokenising a window of {WORLD_SIZE} ranks", median(lambda: _tokenise(source, proven, middle)), "ms")
    yield tokenised
    for size in RESUMED_SIZES:
        settings.show_progress(f"{size} ranks go on")
        value = median(lambda size=size: _resume(source, proven, middle, size))  # type: ignore[misc]
        yield record(f"first batch of {size} ranks in the middle of it", value, "ms").against(tokenised)


def _loader(source: ss.TextFiles, proven: Proven, options: Options) -> ss.Loader:
    loader = proven.loader(source, ss.Bucket(MAX_TOKENS, window_batches=WINDOW_BATCHES), **options)
    loader.set_epoch(EPOCH)
    return loader


def _states(source: ss.TextFiles, proven: Proven) -> tuple[int, dict[str, Json]]:
    """Return the size of the largest state of an epoch, and the state in the middle of its longest window."""

    def run(options: Options) -> list[dict[str, Json]]:
        loader = _loader(source, proven, options)
        return [loader.state_dict() for _ in loader]

    states, *_ = run_ranks(WORLD_SIZE, run)
    windows = [list(window) for _, window in itertools.groupby(states, key=_window_of)]
    longest = max(windows, key=len)
    return max(len(json.dumps(state).encode()) for state in states), longest[len(longest) // 2]


def _window_of(state: dict[str, Json]) -> tuple[Json, int]:
    """Return what the states of one window have in common."""
    window = state["position"]["window"]
    return window["cursor"], window["skip"]


def _saving(source: ss.TextFiles, proven: Proven) -> tuple[float, float]:
    """Return the mean processor seconds of saving a state at a step of a rank, and those of the step itself."""

    def run(options: Options) -> tuple[float, int]:
        saving, num_steps = 0.0, 0
        loader = _loader(source, proven, options)
        for _ in loader:
            num_steps += 1
            if not options["rank"]:
                first, begun = time.thread_time(), time.thread_time()  # reading the clock takes time too
                json.dumps(loader.state_dict())
                saving += time.thread_time() - begun - (begun - first)
        return saving, num_steps

    begun = time.process_time()
    (saving, num_steps), *_ = run_ranks(WORLD_SIZE, run)
    return saving / num_steps, (time.process_time() - begun - saving) / (num_steps * WORLD_SIZE)


def _tokenise(source: ss.TextFiles, proven: Proven, state: dict[str, Json]) -> float:
    """Return the seconds of reading and tokenising the window of a state, several blocks at a time as in a loader."""
    stage = proven.open()
    window = read_state(state).position.window
    order = EvenOrder(source.num_shards, state["seed"], state["position"]["epoch"], "shards")
    begun = time.perf_counter()
    blocks = itertools.islice(read_blocks(source, order, window.cursor), window.blocks)
    tokenise((block.table for block in blocks), stage)
    return time.perf_counter() - begun


def _resume(source: ss.TextFiles, proven: Proven, state: dict[str, Json], world_size: int) -> float:
    """Return the seconds until all ranks have a batch."""

    def first(options: Options) -> None:
        loader = _loader(source, proven, options)
        loader.load_state_dict(state)
        batches = iter(loader)
        next(batches, None)  # a corpus that was cut may have no batch left

    begun = time.perf_counter()
    run_ranks(world_size, first)
    return time.perf_counter() - begun
