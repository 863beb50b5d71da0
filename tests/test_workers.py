"""Worker processes: the same stream whatever their number, errors with their place, and nothing left behind."""

from __future__ import annotations

import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import torch

import seqstream as ss
from seqstream import testing
from seqstream.buffers import from_buffer, to_buffer

Texts = list[str]


def letters(texts: Texts) -> list[list[int]]:
    """Tokenise by letters, in Python."""
    return [[ord(letter) % 100 + 1 for letter in text] for text in texts]


def picky(texts: Texts) -> list[list[int]]:
    """Tokenise by letters, all but one text."""
    if any("line 77" in text for text in texts):
        raise ArithmeticError("77 is not for me")
    return letters(texts)


def deadly(texts: Texts) -> list[list[int]]:
    """Tokenise by letters, and die on the way as if the system had killed the process."""
    if any("line 77" in text for text in texts) and "Spawn" not in type(os).__name__ and os.getpid() != PARENT:
        os.kill(os.getpid(), signal.SIGKILL)
    return letters(texts)


PARENT = os.getpid()


def uneven(texts: Texts) -> list[list[int]]:
    """Tokenise by letters, some blocks thirty times as slowly as others; keep the process id in the second token."""
    time.sleep(0.03 if any("line 7" in text for text in texts) else 0.001)
    return [[ids[0], os.getpid(), *ids[2:]] for ids in letters(texts)]


def corpus(folder: Path, num_lines: int = 200) -> ss.TextFiles:
    """Lines in small blocks."""
    (folder / "a.txt").write_text("".join(f"line {number} {'of many ' * (number % 9)}\n" for number in range(num_lines)))
    return ss.TextFiles(folder / "a.txt", block_bytes=512)


def ids_of(loader: ss.Loader) -> list[list[list[int]]]:
    """Return the ids of an epoch."""
    return [batch.input_ids.tolist() for batch in loader]


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_stream_is_the_same(tmp_path: Path, workers: int) -> None:
    """Rows, states and counts of two epochs do not depend on the number of workers, which serve one epoch after the other."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    alone, helped = ss.Loader(*stages), ss.Loader(*stages, workers=workers)
    for _ in range(2):
        for expected, got in zip(alone, helped, strict=True):
            assert torch.equal(expected.input_ids, got.input_ids)
            assert expected.state == got.state
    counts = ("rows", "tokens", "truncated", "dropped", "empty")
    assert [getattr(alone.stats, name) for name in counts] == [getattr(helped.stats, name) for name in counts]


def test_blocks_that_take_long(tmp_path: Path) -> None:
    """Rows keep their order where blocks do not end in theirs; every worker has some of the blocks."""
    source = corpus(tmp_path, 400)
    loader = ss.Loader(source, ss.Tokenize(uneven), ss.InOrder(20), shuffle=False, workers=3)
    batches = list(loader)
    row_ids = torch.cat([batch.row_ids for batch in batches]).tolist()
    assert row_ids == sorted(set(row_ids))
    assert len(row_ids) == 400
    assert len({pid for batch in batches for pid in batch.input_ids[:, 1].tolist()}) == 3


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_the_stream_is_the_same_however_they_start(tmp_path: Path, bpe_file: Path, start_method: str) -> None:
    """With a real tokenizer and its engine, which is built anew in each process; labels and split pieces come along."""
    stages = (
        corpus(tmp_path),
        ss.Tokenize(bpe_file, max_length=8, overflow="split"),
        ss.Pack(32, rows=2, window_batches=3),
    )
    assert ids_of(ss.Loader(*stages, workers=2, start_method=start_method)) == ids_of(ss.Loader(*stages))


def test_laws_with_workers(tmp_path: Path, bpe_file: Path) -> None:
    """The laws hold with two workers, resuming after every batch among them."""
    stages = (corpus(tmp_path, 30), ss.Tokenize(bpe_file, max_length=30), ss.Bucket(300, window_batches=3))
    make = functools.partial(ss.Loader, *stages, workers=2)
    testing.check_every_record_once(make)
    testing.check_same_stream(make)
    testing.check_resume(make)


def test_workers_may_change_between_stop_and_resume(tmp_path: Path) -> None:
    """A state says nothing of workers."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    expected = list(ss.Loader(*stages))
    state, got = ss.Loader(*stages).state_dict(), []
    for workers in (1, 0, 2, 3):
        loader = ss.Loader(*stages, workers=workers)
        loader.load_state_dict(json.loads(json.dumps(state)))
        iterator = iter(loader)
        got += [next(iterator).input_ids for _ in range(4)]
        state = loader.state_dict()
    assert all(torch.equal(batch.input_ids, ids) for batch, ids in zip(expected, got, strict=False))


def test_an_iteration_that_is_left_does_not_disturb_the_next(tmp_path: Path) -> None:
    """Blocks under way for an epoch that nobody goes on with are thrown away, and the same processes go on."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    loader = ss.Loader(*stages, workers=2)
    for _ in range(3):
        next(iter(loader))
        loader.set_epoch(0)
    assert ids_of(loader) == ids_of(ss.Loader(*stages))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_keeps_its_type_and_place(tmp_path: Path, prefetch: int) -> None:
    """What a stage raises in a worker is raised here, with the place in the data and the traceback of the worker."""
    stages = (corpus(tmp_path), ss.Tokenize(picky, max_length=40), ss.Bucket(400, window_batches=3))
    loader = ss.Loader(*stages, workers=2, prefetch=prefetch, shuffle=False)
    with pytest.raises(ArithmeticError, match="77 is not for me") as caught:
        list(loader)
    notes = "\n".join(caught.value.__notes__)
    assert "a.txt, line" in notes
    assert "in the tokenizer" in notes
    assert "in a worker process:" in notes
    assert "in picky" in notes


def test_an_error_that_cannot_be_sent_is_told(tmp_path: Path) -> None:
    """An error that holds something which no process can send comes as its text."""

    def raising(table: pa.Table) -> pa.Table:
        error = ValueError("of a lambda")
        error.held = lambda: table  # type: ignore[attr-defined]
        raise error

    loader = ss.Loader(corpus(tmp_path), ss.Map(raising), ss.Tokenize(letters), ss.Bucket(batch_size=4), workers=1)
    loader.load_state_dict({**loader.state_dict(), "engine": {"input_ids": "function"}})
    with pytest.raises(RuntimeError, match="ValueError: of a lambda\nin a worker process:"):
        list(loader)


def test_a_killed_worker_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    """A process that the system kills ends the epoch within seconds, saying so; the loader can begin again."""
    stages = (corpus(tmp_path), ss.Tokenize(deadly, max_length=40), ss.Bucket(400, window_batches=3))
    loader = ss.Loader(*stages, workers=2, shuffle=False)
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*(killed by signal|exited unexpectedly)"):
        list(loader)
    assert time.monotonic() - begun < 30
    again = ss.Loader(*stages, workers=0, shuffle=False)
    assert len(ids_of(again)) > 3


def test_no_process_is_left(tmp_path: Path) -> None:
    """Workers end with their loader, and with a process that is interrupted."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    before = set(psutil.Process().children(recursive=True))
    loader: Any = ss.Loader(*stages, workers=2)
    next(iter(loader))
    started = set(psutil.Process().children(recursive=True)) - before
    assert len(started) >= 2
    del loader
    _, alive = psutil.wait_procs(list(started), timeout=20)
    assert not alive
    code = f"""
        import os, time
        import seqstream as ss
        def slow(texts):
            time.sleep(0.01 * len(texts))
            return [[1] * len(text) for text in texts]
        loader = ss.Loader(ss.TextFiles({str(tmp_path / "a.txt")!r}, block_bytes=512), ss.Tokenize(slow, max_length=40),
                           ss.Bucket(400, window_batches=3), workers=2, epochs=None)
        for number, batch in enumerate(loader):
            print(number, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to all of them
        assert process.wait(timeout=30) != 0
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_tables_cross_as_one_buffer() -> None:
    """Slices send their own rows only, and come back equal, on the memory of the buffer."""
    table = pa.table({"input_ids": pa.array([[1, 2], [3], []] * 1000, pa.list_(pa.int32())), "name": ["a", "b", None] * 1000})
    part = table.slice(3, 3)
    buffer = to_buffer(part)
    assert len(buffer) < 3000
    assert from_buffer(buffer).equals(part)
    assert pickle.loads(pickle.dumps(buffer)) == buffer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers must be 0 or more processes, got -1"),
        ({"start_method": "thread"}, "start_method must be one of None, 'fork', 'spawn', 'forkserver', got 'thread'"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """When the loader is made."""
    with pytest.raises(ValueError, match=message):
        ss.Loader(corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400), **options)
