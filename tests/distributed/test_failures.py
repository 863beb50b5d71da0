"""Ranks that die, leave, lag or are interrupted: the others raise within the timeout, and nothing is left behind."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import seqstream as ss
from seqstream.testing.expectations import rows_of
from seqstream.testing.rank_threads import Options, run_ranks, try_ranks
from tests.helpers import rank_corpora
from tests.helpers.rank_corpora import SPECS, letters, make_loader, some_texts
from tests.helpers.rank_processes import LostError, Pool

SECONDS = 4.0
"""Timeout of process groups here."""

MEANWHILE = r"rank \d of \d cannot share the next window with the other ranks: one of them has died, has left its loop"

MEET = r"ranks must take the same steps, got rank \d at epoch \d, position \d+ and rank \d at epoch \d, position \d+"


def loader_of(folder: str, tokenize: Any = letters, **options: Any) -> ss.Loader:
    """Return a loader of many small windows."""
    source = ss.TextFiles(f"{folder}/*.txt", block_bytes=256)
    return ss.Loader(source, ss.Tokenize(tokenize, max_length=60), ss.Bucket(120, window_batches=2), **options)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder of text files, of many windows."""
    rank_corpora.text_files(tmp_path, some_texts(200))
    return str(tmp_path)


def elapsed(job: Any) -> float:
    """Return how long a job takes."""
    begin = time.monotonic()
    job()
    return time.monotonic() - begin


def timed_epoch(folder: str, odd_rank: int, what: str, step: int = 3) -> tuple[str, float]:
    """Iterate to the end on all ranks except one, which misbehaves; return the error and the seconds until it was raised."""
    iterator = iter(loader_of(folder))
    for _ in range(step):
        next(iterator)
    begin = time.monotonic()
    try:
        if dist.get_rank() == odd_rank:
            misbehave(iterator, what)
            return "left", 0.0
        for _ in iterator:
            pass
    except RuntimeError as error:
        return str(error), time.monotonic() - begin
    return "ended", time.monotonic() - begin


def misbehave(iterator: Any, what: str) -> None:
    """Misbehave as a rank."""
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "slow":
        for _ in iterator:
            time.sleep(0.02)
    if what == "exits":
        iterator.close()


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_killed_rank(pool: Pool, folder: str, world_size: int) -> None:
    """When the system kills a rank, each of the others raises a clear error within the timeout of the process group."""
    killed, *others = pool.attempt(world_size, timed_epoch, folder, 0, "killed", seconds=SECONDS)
    assert isinstance(killed, LostError)
    for message, seconds in others:
        assert_matches(MEANWHILE, message)
        assert seconds < SECONDS + 3


def assert_matches(pattern: str, message: object) -> None:
    """Assert that a message matches a pattern."""
    with pytest.raises(RuntimeError, match=pattern):
        raise RuntimeError(str(message))


def test_a_rank_that_leaves_the_loop(pool: Pool, folder: str) -> None:
    """If a rank leaves the loop and ends its process group, the others raise within the timeout."""
    outcomes = pool.attempt(3, timed_epoch, folder, 1, "exits", seconds=SECONDS)
    assert outcomes[1][0] == "left"
    for message, seconds in (outcomes[0], outcomes[2]):
        assert_matches(MEANWHILE, message)
        assert seconds < SECONDS + 3


def test_a_slow_rank(pool: Pool, folder: str) -> None:
    """A slow rank delays the others, without an error."""
    outcomes = pool.attempt(3, timed_epoch, folder, 2, "slow", seconds=SECONDS)
    assert [message for message, _ in outcomes] == ["ended", "ended", "left"]


def next_epoch_early(folder: str, early: int, prefetch: int) -> str:
    """Iterate over two epochs; one rank begins the second before the end of the first."""
    loader = loader_of(folder, prefetch=prefetch)
    try:
        for number, _ in enumerate(loader):
            if dist.get_rank() == early and number == 3:
                break
        for _ in loader:
            pass
    except RuntimeError as error:
        return str(error)
    return "ended"


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_rank_that_begins_the_next_epoch(pool: Pool, folder: str, prefetch: int) -> None:
    """If a rank leaves its loop early and begins the next epoch, all ranks raise an error that names both positions."""
    for message in pool.attempt(3, next_epoch_early, folder, 1, prefetch, seconds=SECONDS):
        assert_matches(MEET, message)
        assert_matches("at epoch 0, position", message)
        assert_matches("at epoch 1, position 0", message)


def picky(texts: list[str]) -> list[list[int]]:
    """Tokenise all but one text."""
    if any(text.startswith("177 ") for text in texts):
        raise ArithmeticError("177 is a bad text")
    return letters(texts)


def with_a_bad_record(folder: str, prefetch: int) -> list[str]:
    """Iterate to the end; return the error and its notes."""
    try:
        for _ in loader_of(folder, picky, prefetch=prefetch):
            pass
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return [type(error).__name__, str(error), *getattr(error, "__notes__", ())]
    return ["ended"]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_bad_record(pool: Pool, folder: str, prefetch: int) -> None:
    """The rank with a bad record names it; the others name the rank and its error."""
    outcomes = pool.attempt(3, with_a_bad_record, folder, prefetch, seconds=SECONDS)
    (bad,) = [rank for rank, outcome in enumerate(outcomes) if outcome[0] == "ArithmeticError"]
    assert outcomes[bad][1] == "177 is a bad text"
    assert any("c.txt" in note for note in outcomes[bad][2:])
    for rank, outcome in enumerate(outcomes):
        if rank != bad:
            expected = (
                f"rank {bad} has failed, so rank {rank} cannot go on; the error there was ArithmeticError: 177 is a bad text"
            )
            assert outcome[:2] == ["RuntimeError", expected]


def interrupted(folder: str) -> tuple[str, list[str]]:
    """Iterate to the end; rank 0 interrupts itself. Return the error, and the remaining threads."""
    loader = loader_of(folder)
    raised = "nothing"
    try:
        for number, _ in enumerate(loader):
            if dist.get_rank() == 0 and number == 3:
                signal.raise_signal(signal.SIGINT)
    except (KeyboardInterrupt, RuntimeError) as error:
        raised = type(error).__name__
    del loader
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(thread.name.startswith("seqstream") for thread in threading.enumerate()):
        time.sleep(0.05)
    return raised, [thread.name for thread in threading.enumerate() if thread.name.startswith("seqstream")]


def test_an_interrupted_rank(pool: Pool, folder: str) -> None:
    """Ctrl-C on a rank leaves no thread there, nor on the others, which raise."""
    outcomes = pool.attempt(2, interrupted, folder, seconds=SECONDS)
    assert outcomes == [("KeyboardInterrupt", []), ("RuntimeError", [])]


def interrupted_inside(folder: str) -> tuple[str, list[str]]:
    """Rank 1 is late; a timer interrupts rank 0, which waits for it."""
    loader = loader_of(folder)
    raised = "nothing"
    iterator = iter(loader)
    next(iterator)
    try:
        if dist.get_rank() == 0:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.5)
        else:
            time.sleep(1.5)
        for _ in iterator:
            pass
    except (KeyboardInterrupt, RuntimeError) as error:
        raised = type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    del loader, iterator
    return raised, [thread.name for thread in threading.enumerate() if thread.name.startswith("seqstream")]


def test_an_interrupt_while_waiting(pool: Pool, folder: str) -> None:
    """Ctrl-C on a rank that waits for another raises in the end, and leaves no thread."""
    outcomes = pool.attempt(2, interrupted_inside, folder, seconds=SECONDS)
    assert outcomes[0] == ("KeyboardInterrupt", [])
    assert outcomes[1][1] == []


class Counting:
    """Tokenises by letters and counts the texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, texts: list[str]) -> list[list[int]]:
        with self.lock:
            self.texts += texts
        return letters(texts)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("spec", ["tokens", "rows", "shapes", "pack", "pack-split", "in-order"])
def test_each_record_is_tokenised_once(spec: str, world_size: int, tmp_path: Path) -> None:
    """All ranks together tokenise each record once, even rows that are left over for the next window."""
    texts = [text for text in some_texts(160) if text]
    own = {*texts}
    source = rank_corpora.text_files(tmp_path, texts)
    calls: list[list[str]] = []

    def job(options: Options) -> list[ss.Batch]:
        count = Counting()
        calls.append(count.texts)
        return list(ss.Loader(source, ss.Tokenize(count, max_length=60), SPECS[spec], **options))

    found = try_ranks(world_size, job)
    rows = rows_of(batch for batches in found for batch in batches)  # type: ignore[union-attr]
    assert len({row_id for row_id, _ in rows}) == len(texts)
    every = sorted(text for text in itertools.chain.from_iterable(calls) if text in own)
    assert len(every) == len(texts), f"{len(every) / len(texts)} times a record"
    assert every == sorted(texts)
    if world_size > 1:
        assert max(map(len, calls)) < 0.9 * len(texts), "ranks share the work"


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_iterator_that_ended_keeps_no_group(prefetch: int, tmp_path: Path) -> None:
    """No reference cycle keeps it: the garbage collector may run in a forked process, where ending a process group crashes."""
    source = rank_corpora.text_files(tmp_path, some_texts(160))

    def left(options: Options) -> weakref.ref[object]:
        loader = make_loader(source, SPECS["tokens"], prefetch=prefetch, **options)
        batches = iter(loader)
        next(batches)
        batches.close()
        return weakref.ref(loader._ranks())

    gc.disable()
    try:
        assert [found() for found in run_ranks(2, left)] == [None, None]
    finally:
        gc.enable()
