"""The first window of an epoch: all of a small corpus, a full window of few shards, else small, to begin at once."""

from __future__ import annotations

import functools
import gzip
import itertools
import logging
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import seqstream as ss
from seqstream.planning.batch_spec import BatchSpec
from seqstream.windows.block_buffer import BlockBuffer
from seqstream.windows.block_reader import Cursor, UnreadBlocks
from seqstream.windows.first_window import SMALL_BYTES, FirstWindow, Patience, guess_full_bytes
from tests.helpers.sources import sequences

Make = Callable[..., ss.Loader]

BLOCK_BYTES = 32 << 10


class Ahead:
    """Upcoming blocks of given sizes; counts those that were looked at."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.looked = 0
        source = ss.Generator([])
        blocks = (UnreadBlocks(source, np.array([at]), np.array([size]), Cursor(at)) for at, size in enumerate(sizes))
        self.buffer = BlockBuffer(blocks, self._look, 1)

    def _look(self) -> None:
        self.looked += 1


def chosen(sizes: Sequence[int], first: FirstWindow) -> int:
    """Return how many of some blocks the window has."""
    return first(Ahead(sizes).buffer)


# --- Choices by hand ---


def test_all_of_a_small_corpus() -> None:
    """An epoch that is at most a quarter more than a window is one, whatever its windows begin with."""
    waits = FirstWindow(1000)
    small = FirstWindow(1000, is_read=False, small_bytes=250)
    learnt = FirstWindow(1000, is_read=False, full_bytes=lambda: 700)
    for first in (waits, small, learnt):
        assert chosen([100] * 12, first) == 12
        assert chosen([50] * 25, first) == 25
        assert chosen([100], first) == 1
    assert chosen([100] * 13, waits) == 10, "as many as fill it"
    assert chosen([100] * 13, small) == 2, "as many as are wanted to begin"
    assert chosen([100] * 13, learnt) == 7, "as many as fill it, as was learnt"


def test_a_window_holds_a_block_at_least() -> None:
    """However large a block is, a window takes one; an epoch without blocks gives none."""
    for first in (FirstWindow(10), FirstWindow(10, small_bytes=1), FirstWindow(10, full_bytes=lambda: 1)):
        assert chosen([5000, 5000], first) == 1
        assert chosen([], first) == 0


def test_records_are_not_read_to_know_how_many_there_are() -> None:
    """Where looking ahead reads them, what the source says of its size decides; to begin at once little is read."""
    for total, expected in ((1250, 12), (1251, 2), (None, 2)):
        ahead = Ahead([100] * 12)
        assert FirstWindow(1000, total, small_bytes=250)(ahead.buffer) == expected
        assert ahead.looked == (13 if expected == 12 else 3)
    wrong = Ahead([100] * 40)
    assert FirstWindow(1000, 900, small_bytes=250)(wrong.buffer) == 10, "there are more than the source estimates"
    assert wrong.looked == 13


def test_what_fills_a_window_is_asked_for_only_where_it_is_needed() -> None:
    """Measuring it reads the beginning of epoch 0, which a corpus of one window does not need."""

    def fail() -> int:
        raise AssertionError("nobody needs it")

    assert chosen([100] * 12, FirstWindow(1000, is_read=False, full_bytes=fail)) == 12


@pytest.mark.parametrize(
    ("spec", "shuffle", "world_size", "expected"),
    [
        (ss.Bucket(100, window_batches=20), True, 1, 2.0),  # 1,000 tokens are ten batches, half a window
        (ss.Bucket(100, window_batches=20), True, 4, 8.0),
        (ss.Bucket(batch_size=10, window_batches=5), True, 1, 0.5),  # 100 rows are ten batches
        (ss.Bucket(100, window_bytes=12_000), True, 1, 3.0),  # their ids are 4,000 bytes
        (ss.Bucket(100, window_bytes=12_000), True, 4, 3.0),
        (ss.Pack(10, rows=2, window_batches=100), True, 1, 2.0),  # 50 batches
        (ss.Unbucketed(10), False, 1, 25.6),  # 256 batches
    ],
    ids=repr,
)
def test_guessing_what_fills_a_window(spec: BatchSpec, shuffle: bool, world_size: int, expected: float) -> None:
    """The worked example: a multiple of the bytes of 100 records of ten ids each."""
    table = sequences([10] * 100)
    guess = guess_full_bytes(table, 2000, spec, is_text=False, shuffle=shuffle, world_size=world_size)
    assert guess == round(expected * 2000)


def test_guessing_for_texts() -> None:
    """Text is counted as a token for four bytes, and columns of no length as one step a record."""
    table = pa.table({"text": ["x" * 396] * 100})  # beside 404 bytes of offsets
    guess = functools.partial(guess_full_bytes, shuffle=True, world_size=1)
    assert guess(table, 40_000, ss.Bucket(1000, window_batches=5), is_text=True) == pytest.approx(20_000, rel=0.05)
    assert guess(table, 40_000, ss.Bucket(1000, window_bytes=1 << 20), is_text=True) == pytest.approx(1 << 20, rel=0.05)
    assert guess(pa.table({"x": np.arange(100)}), 800, ss.Bucket(20, window_batches=10), is_text=False) == 1600


# --- Patience ---


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the module reads, which a test sets."""
    now = [100.0]
    monkeypatch.setattr("seqstream.windows.first_window.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_patience_says_why_the_first_batch_takes_long(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """After a second the log says why, then every ten seconds how long it has been, and nothing once there is a window."""
    calls: list[float] = []
    with caplog.at_level(logging.WARNING, "seqstream"):
        patience = Patience(lambda: calls.append(clock[0]), 3, 80 << 20)
        logged = []
        for seconds in (0, 0.9, 1, 1.1, 10.9, 11, 20.9, 21.5):
            clock[0] = 100 + seconds
            patience()
            logged.append(len(caplog.messages))
        assert logged == [0, 0, 1, 1, 1, 2, 2, 3]
        patience.end()
        clock[0] = 500
        patience()
    assert len(calls) == 9, "what it guards is guarded all the time"
    first, *others = caplog.messages
    assert first.startswith("filling the first window, 1 s so far: a source of 3 shards is mixed no further than a window")
    assert "up to 80 MiB" in first
    assert others == ["filling the first window, 11 s so far", "filling the first window, 22 s so far"]


def test_patience_with_one_shard(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """One shard is singular, a small window counts as a MiB, and less than a second is not logged."""
    with caplog.at_level(logging.WARNING, "seqstream"):
        patience = Patience(lambda: None, 1, 1000)
        clock[0] += 0.99
        patience()
        assert not caplog.messages
        clock[0] += 0.02
        patience()
    assert "a source of 1 shard is mixed" in caplog.text
    assert "up to 1 MiB" in caplog.text


def test_patience_with_a_corpus_of_one_window(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """Many shards are waited for because they fit one window, or fill one."""
    with caplog.at_level(logging.WARNING, "seqstream"):
        patience = Patience(lambda: None, 129, 80 << 20)
        clock[0] += 1.5
        patience()
    expected = "the first batch waits for a window of up to 80 MiB, or for all of the data where that is less; the fast engines"
    assert expected in caplog.text


def test_a_guard_that_stops_is_heard_first(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """What the guard raises is raised, and nothing is logged after it."""

    def stop() -> None:
        raise InterruptedError("enough")

    with caplog.at_level(logging.WARNING, "seqstream"):
        patience = Patience(stop, 1, 1000)
        clock[0] += 5
        with pytest.raises(InterruptedError, match="enough"):
            patience()
    assert not caplog.messages


# --- Through loaders ---


def words(texts: list[str]) -> list[list[int]]:
    """Tokenise by words, in Python."""
    return [[1] * (1 + text.count(" ")) for text in texts]


def some_lines(num_bytes: int, seed: int = 0) -> list[str]:
    """Make lines of 1 to 300 words, many short ones and few long ones."""
    lengths = np.clip(np.random.default_rng(seed).lognormal(3, 0.8, num_bytes // 100).astype(int), 1, 300)
    return [("word " * length)[:-1] for length in lengths[np.cumsum(5 * lengths) < num_bytes].tolist()]


def plain(folder: Path, num_bytes: int, block_bytes: int = BLOCK_BYTES) -> ss.Source:
    """A plain file, of as many shards as it has blocks."""
    (folder / "lines.txt").write_text("\n".join(some_lines(num_bytes)))
    return ss.TextFiles(folder / "lines.txt", block_bytes=block_bytes)


def compressed(folder: Path, num_bytes: int) -> ss.Source:
    """A file that is read from its beginning: one shard."""
    with gzip.open(folder / "lines.txt.gz", "wt", compresslevel=1) as file:
        file.write("\n".join(some_lines(num_bytes)))
    return ss.TextFiles(folder / "lines.txt.gz", block_bytes=BLOCK_BYTES)


def windows_of(batches: Sequence[ss.Batch]) -> list[int]:
    """Return how many tokens each window of an epoch has, in their order."""
    groups = itertools.groupby(batches, key=lambda batch: batch.window)
    return [sum(batch.num_tokens for batch in window) for _, window in groups]


def make_words(source: ss.Source, spec: BatchSpec, **options: Any) -> ss.Loader:
    """Make a loader that tokenises by words."""
    return ss.Loader(source, ss.Tokenize(words, max_length=300), spec, **options)


@pytest.mark.parametrize("block_bytes", [16 << 10, 256 << 10])
def test_a_plain_file_of_some_megabytes_is_one_window(tmp_path: Path, block_bytes: int) -> None:
    """By default it is planned as a whole, in epoch 0 as in any, of however many shards it is."""
    loader = make_words(plain(tmp_path, 2 << 20, block_bytes), ss.Bucket(4096))
    for _ in range(2):
        assert len({batch.window for batch in loader}) == 1


@pytest.mark.parametrize("spec", [ss.Bucket(2048, window_bytes=1 << 20), ss.Pack(512, rows=4, window_bytes=1 << 20)], ids=repr)
def test_many_shards_begin_with_a_small_window(tmp_path: Path, spec: BatchSpec) -> None:
    """Of 192 shards epoch 0 begins at once with a few hundred KiB; epoch 1, which is made ahead, with a full window."""
    make = functools.partial(make_words, plain(tmp_path, 6 << 20), spec)
    loader = make()
    first, second = [*loader], [*loader]
    small, full = windows_of(first), windows_of(second)
    assert 5 * small[0] <= SMALL_BYTES < 5 * 1.2 * (small[0] + BLOCK_BYTES)
    assert len(full) >= 4
    assert full[0] > 0.8 * max(full)
    assert full[0] == pytest.approx((1 << 20) / 4, rel=0.2)
    alone = make()
    alone.set_epoch(1)
    for expected, got in zip(second[:3], alone, strict=False):
        assert expected.row_ids.tolist() == got.row_ids.tolist()


def lost(batches: Sequence[ss.Batch]) -> float:
    """Return the share of slots that are padding."""
    return 1 - sum(batch.num_tokens for batch in batches) / sum(batch.num_slots for batch in batches)


@pytest.mark.parametrize(("megabytes", "least_windows", "most"), [(6, 4, 1.3), (2, 1, 2.0)])
def test_a_small_first_window_costs_little(tmp_path: Path, megabytes: int, least_windows: int, most: float) -> None:
    """Epoch 0 pads at most 1.3 times as much as epoch 1 where that has four windows or more, at most twice where it has few."""
    loader = make_words(plain(tmp_path, megabytes << 20), ss.Bucket(8192, window_bytes=1 << 20))
    first, second = [*loader], [*loader]
    assert least_windows <= len(windows_of(second))
    assert len(windows_of(first)) > 1
    assert lost(second) < lost(first) <= most * lost(second)


@pytest.mark.parametrize("megabytes", [6, 2])
def test_a_small_first_window_is_packed_as_well(tmp_path: Path, megabytes: int) -> None:
    """Packed rows of epoch 0 are as full as those of epoch 1, to 0.3 points."""
    loader = make_words(plain(tmp_path, megabytes << 20), ss.Pack(1024, rows=4, window_bytes=1 << 20))
    first, second = [*loader], [*loader]
    assert len(windows_of(first)) > 1
    assert abs(lost(first) - lost(second)) <= 0.003


def test_a_compressed_file_fills_its_first_window(tmp_path: Path) -> None:
    """What is read front to back is mixed within windows only, so none is small, in no epoch."""
    loader = make_words(compressed(tmp_path, 2 << 20), ss.Bucket(2048, window_bytes=256 << 10))
    for _ in range(2):
        tokens = windows_of([*loader])
        assert len(tokens) >= 4
        assert tokens[0] > 0.6 * max(tokens)
    whole = make_words(compressed(tmp_path, 2 << 20), ss.Bucket(2048))
    assert len(windows_of([*whole])) == 1


def test_few_shards_fill_their_first_window(tmp_path: Path) -> None:
    """Of less than 64 shards none is the whole corpus, so the first window is as full as the others."""
    source = plain(tmp_path, 6 << 20, 128 << 10)
    assert source.num_shards < 64
    tokens = windows_of([*make_words(source, ss.Bucket(8192, window_bytes=1 << 20))])
    assert len(tokens) >= 4
    assert 5 * tokens[0] > 2 * SMALL_BYTES
    assert tokens[0] > 0.7 * max(tokens)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_loader_that_fills_its_window_logs_why(
    tmp_path: Path, prefetch: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where reading the first window takes seconds, the log says so, in any thread; later windows are not logged."""
    seconds = itertools.count(0, 5)
    monkeypatch.setattr("seqstream.windows.first_window.time", types.SimpleNamespace(monotonic=lambda: next(seconds)))
    loader = make_words(compressed(tmp_path, 1 << 20), ss.Bucket(2048, window_bytes=512 << 10), prefetch=prefetch)
    batches = iter(loader)
    next(batches)
    logged = [message for message in caplog.messages if message.startswith("filling the first window")]
    assert "a source of 1 shard is mixed" in logged[0]
    assert all("shard" not in message for message in logged[1:])
    assert len({batch.window for batch in batches}) > 1
    assert logged == [message for message in caplog.messages if message.startswith("filling the first window")]


@pytest.mark.parametrize("make_source", [plain, compressed])
def test_unshuffled_passes_are_all_the_same(make_source: Any, tmp_path: Path) -> None:
    """Without shuffling each pass has the windows and batches of the one before: epoch 0 begins with a full window too."""
    loader = make_words(make_source(tmp_path, 3 << 20), ss.Bucket(2048, window_bytes=1 << 20), shuffle=False)
    first, second = [*loader], [*loader]
    assert [batch.row_ids.tolist() for batch in first] == [batch.row_ids.tolist() for batch in second]
    tokens = windows_of(first)
    assert len(tokens) > 1
    assert tokens[0] > 0.7 * max(tokens)


def test_rows_in_order_begin_at_once(tmp_path: Path) -> None:
    """Rows in the order of the data are the same whatever the windows, so that of the first batch is small."""
    loader = make_words(plain(tmp_path, 3 << 20), ss.Unbucketed(32, window_bytes=1 << 20), shuffle=False)
    batches = [*loader]
    assert 5 * windows_of(batches)[0] <= SMALL_BYTES
    rows = [row for batch in batches for row in batch.row_ids.tolist()]
    assert rows == sorted(rows)
    assert [row for batch in loader for row in batch.row_ids.tolist()] == rows


def test_a_small_window_has_enough_for_steps_of_several_batches(tmp_path: Path) -> None:
    """With large batches and many a step the first window of epoch 0 holds two steps, so that they are fair samples."""
    make = functools.partial(make_words, plain(tmp_path, 6 << 20), ss.Bucket(16_384, window_bytes=3 << 20))
    alone, several = [*itertools.islice(make(), 30)], [*itertools.islice(make(accumulate=8), 30)]
    small, larger = (sum(batch.num_tokens for batch in found if batch.window == found[0].window) for found in (alone, several))
    assert 5 * small <= SMALL_BYTES
    assert larger > 2 * small
    assert sum(batch.is_step_end for batch in several if batch.window == several[0].window) >= 2


@pytest.mark.parametrize("block_bytes", [32 << 10, 256 << 10])
def test_many_items_by_their_numbers_begin_at_once(block_bytes: int) -> None:
    """Records that are read one by one, in any order, begin small too, in however few blocks: any of them are a fair sample."""
    rows = [[1] * length for length in np.random.default_rng(0).integers(1, 120, 20_000).tolist()]
    loader = ss.Loader(ss.Generator(rows, block_bytes=block_bytes), ss.Bucket(2048, window_bytes=1 << 20))
    small, full = windows_of([*loader]), windows_of([*loader])
    assert small[0] < 0.5 * full[0]
    assert len(small) > len(full) > 1
