"""Worker processes: the same stream whatever their number, errors with their place, and nothing left behind."""

from __future__ import annotations

import collections
import copy
import functools
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import torch

import seqstream as ss
from seqstream import testing
from seqstream.arrow import from_buffer, to_buffer
from tests.helpers.states import with_entry

Texts = list[str]


def held() -> dict[str, int]:
    """Return what this process holds: processes, threads of loaders, open files."""
    process = psutil.Process()
    threads = sum(thread.name.startswith(("seqstream", "Thread-", "QueueFeeder")) for thread in threading.enumerate())
    return {"processes": len(process.children(recursive=True)), "threads": threads, "files": process.num_fds()}


def settle(before: dict[str, int]) -> None:
    """Fail if more than before is held after some seconds."""
    until = time.monotonic() + 20
    while any(held()[name] > before[name] for name in before) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.05)
    now = held()
    assert all(now[name] <= before[name] for name in before), (before, now)


def letters(texts: Texts) -> list[list[int]]:
    """Tokenise by letters, in Python."""
    return [list(text.encode()) for text in texts]


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


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_stream_is_the_same(tmp_path: Path, workers: int) -> None:
    """Rows, states and counts of two epochs do not depend on the number of workers, which serve one epoch after the other."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    alone, helped = ss.Loader(*stages), ss.Loader(*stages, num_workers=workers)
    for _ in range(2):
        for expected, got in zip(alone, helped, strict=True):
            assert torch.equal(expected.input_ids, got.input_ids)
            assert expected.state == got.state
    counts = ("rows", "tokens", "truncated", "dropped", "empty")
    assert [getattr(alone.stats, name) for name in counts] == [getattr(helped.stats, name) for name in counts]


def test_blocks_that_take_long(tmp_path: Path) -> None:
    """Rows keep their order where blocks do not end in theirs; every worker has some of the blocks."""
    source = corpus(tmp_path, 400)
    loader = ss.Loader(source, ss.Tokenize(uneven), ss.Unbucketed(20), shuffle=False, num_workers=3)
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
    assert ids_of(ss.Loader(*stages, num_workers=2, multiprocessing_context=start_method)) == ids_of(ss.Loader(*stages))


def test_laws_with_workers(tmp_path: Path, bpe_file: Path) -> None:
    """The laws hold with two workers, resuming after every batch among them."""
    stages = (corpus(tmp_path, 12), ss.Tokenize(bpe_file, max_length=30), ss.Bucket(300, window_batches=2))
    make = functools.partial(ss.Loader, *stages, num_workers=2)
    testing.check_every_record_once(make)
    testing.check_same_stream(make)
    testing.check_resume(make)


def test_workers_may_change_between_stop_and_resume(tmp_path: Path) -> None:
    """A state does not depend on workers."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    expected = list(ss.Loader(*stages))
    state, got = ss.Loader(*stages).state_dict(), []
    for workers in (1, 0, 2, 3):
        loader = ss.Loader(*stages, num_workers=workers)
        loader.load_state_dict(json.loads(json.dumps(state)))
        iterator = iter(loader)
        got += [next(iterator).input_ids for _ in range(4)]
        state = loader.state_dict()
    assert all(torch.equal(batch.input_ids, ids) for batch, ids in zip(expected, got, strict=False))


def test_an_iteration_that_is_left_does_not_disturb_the_next(tmp_path: Path) -> None:
    """Blocks in work for an iteration that was left are dropped, and the same processes go on."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    loader = ss.Loader(*stages, num_workers=2)
    for _ in range(3):
        next(iter(loader))
        loader.set_epoch(0)
    assert ids_of(loader) == ids_of(ss.Loader(*stages))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_keeps_its_type_and_place(tmp_path: Path, prefetch: int) -> None:
    """What a stage raises in a worker is raised here, with the place in the data and the traceback of the worker."""
    stages = (corpus(tmp_path), ss.Tokenize(picky, max_length=40), ss.Bucket(400, window_batches=3))
    loader = ss.Loader(*stages, num_workers=2, prefetch=prefetch, shuffle=False)
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

    loader = ss.Loader(corpus(tmp_path), ss.Map(raising), ss.Tokenize(letters), ss.Bucket(batch_size=4), num_workers=1)
    loader.load_state_dict(with_entry(loader.state_dict(), "calibration.engines", {"input_ids": "function"}))
    with pytest.raises(RuntimeError, match="ValueError: of a lambda\nin a worker process:"):
        list(loader)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_killed_worker_is_an_error_and_not_a_hang(tmp_path: Path, prefetch: int) -> None:
    """A process that the system kills ends the epoch within seconds, saying how it ended; the loader can begin again."""
    stages = (corpus(tmp_path), ss.Tokenize(deadly, max_length=40), ss.Bucket(400, window_batches=3))
    loader = ss.Loader(*stages, num_workers=2, shuffle=False, prefetch=prefetch)
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match=r"worker process \d+ was killed by SIGKILL; iterate again to start new ones"):
        list(loader)
    assert time.monotonic() - begun < 30
    again = ss.Loader(*stages, num_workers=0, shuffle=False)
    assert len(ids_of(again)) > 3


def test_workers_killed_again_and_again(tmp_path: Path, bpe_file: Path) -> None:
    """Killed at any moment, also while one writes a large answer: an error in `next`, and new processes for the next."""
    (tmp_path / "a.txt").write_text("".join(f"line {number} {'of many ' * (number % 9)}\n" for number in range(12_000)))
    source = ss.TextFiles(tmp_path / "a.txt", block_bytes=1 << 16)
    loader = ss.Loader(
        source, ss.Tokenize(bpe_file, max_length=60), ss.Bucket(2000, window_batches=20), num_workers=2, epochs=None
    )
    before, others = held(), set(psutil.Process().children())
    for turn in range(4):
        iterator = iter(loader)
        next(iterator)
        worker = [child for child in psutil.Process().children() if child not in others][turn % 2]
        threading.Timer(0.02 * turn, worker.kill).start()
        begun = time.monotonic()
        with pytest.raises(RuntimeError, match="worker process"):
            collections.deque(iterator, maxlen=0)
        assert time.monotonic() - begun < 30
        with pytest.raises(RuntimeError, match="this iterator cannot go on, it was interrupted or has raised"):
            next(iterator)
    state = loader.state_dict()
    (resumed := ss.Loader(source, *loader.stages, epochs=None)).load_state_dict(state)
    loader.load_state_dict(state)
    assert [next(iter(loader)).row_ids.tolist()] == [next(iter(resumed)).row_ids.tolist()]
    del loader, iterator
    settle(before)


def test_a_worker_killed_while_nobody_iterates(tmp_path: Path) -> None:
    """The next epoch starts new processes."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    others = set(psutil.Process().children())
    loader = ss.Loader(*stages, num_workers=2)
    alone = ss.Loader(*stages)
    assert ids_of(loader) == ids_of(alone)
    worker = next(child for child in psutil.Process().children() if child not in others)
    worker.kill()
    psutil.wait_procs([worker], timeout=10)
    assert ids_of(loader) == ids_of(alone)


def test_no_process_is_left(tmp_path: Path) -> None:
    """Workers end with their loader, and with a process that is interrupted."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    before = set(psutil.Process().children(recursive=True))
    loader: Any = ss.Loader(*stages, num_workers=2)
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
                           ss.Bucket(400, window_batches=3), num_workers=2, epochs=None)
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
        ({"num_workers": -1}, "num_workers must be 0 or more processes, got -1"),
        ({"num_workers": "2"}, "num_workers must be 0 or more processes, got '2'"),
        ({"multiprocessing_context": "thread"}, "multiprocessing_context must be one of .*, a context or None, got 'thread'"),
        ({"executor": 2}, "executor must be a concurrent.futures.Executor such as ProcessPoolExecutor.2., got int"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """When the loader is made."""
    with pytest.raises((TypeError, ValueError), match=message):
        ss.Loader(corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400), **options)


def make_executor(kind: str) -> Executor:
    """Return two threads or processes."""
    if kind == "threads":
        return ThreadPoolExecutor(2)
    return ProcessPoolExecutor(2, multiprocessing.get_context(kind))


@pytest.mark.parametrize("kind", ["threads", "fork", "forkserver"])
def test_an_executor_of_the_user(tmp_path: Path, bpe_file: Path, kind: str) -> None:
    """Any executor runs the blocks of several loaders, one after the other and in turn; it is not shut down by them."""
    source, tokenize = corpus(tmp_path, 1000), ss.Tokenize(bpe_file, max_length=30)
    stages = (source, tokenize, ss.Bucket(300, window_batches=30))
    others = (source, ss.Filter(is_even), tokenize, ss.Bucket(200, window_batches=3))
    with make_executor(kind) as executor:
        executor.submit(os.getpid).result()  # processes run before they are given to a loader
        train, valid = (ss.Loader(*each, executor=executor) for each in (stages, others))
        for batch, expected in zip(train, ss.Loader(*stages), strict=True):
            assert batch.input_ids.equal(expected.input_ids)
            if batch.state["position"]["window"]["served"] == 0:
                valid.set_epoch(0)
                assert ids_of(valid) == ids_of(ss.Loader(*others))
        del train, valid
        assert executor.submit(os.getpid).result() > 0


def is_even(table: pa.Table) -> list[bool]:
    """Keep every second line."""
    return [int(text.split()[1]) % 2 == 0 for text in table.column("text").to_pylist()]


def second_epoch(loader: ss.Loader) -> ss.Loader:
    """Return a loader whose next iteration is epoch 1."""
    loader.set_epoch(1)
    return loader


def test_an_executor_of_the_user_that_cannot_go_on(tmp_path: Path) -> None:
    """Where it was shut down, or one of its processes was killed, the error names the executor."""
    stages = (corpus(tmp_path), ss.Tokenize(deadly, max_length=40), ss.Bucket(400, window_batches=3))
    with ThreadPoolExecutor(1) as ended:
        pass
    with pytest.raises(RuntimeError, match=r"executor must run as long as the loader does, got .*ThreadPoolExecutor"):
        list(ss.Loader(*stages, executor=ended))
    with (
        ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor,
        pytest.raises(
            RuntimeError, match="a worker process has died; this executor cannot go on, so give the loader a new one"
        ),
    ):
        list(ss.Loader(*stages, executor=executor))


def test_stages_that_cannot_be_sent(tmp_path: Path) -> None:
    """A lambda reaches forked processes only: with others the error explains that, and nothing is left behind."""
    before = held()
    stages = (corpus(tmp_path), ss.Tokenize(lambda texts: [[len(text)] for text in texts], max_length=40), ss.Bucket(400))
    loader = ss.Loader(*stages, num_workers=2, multiprocessing_context="spawn")
    with pytest.raises(Exception, match=r"(?i)pickle|local object") as caught:
        next(iter(loader))
    assert "functions must be defined in a module" in "".join(caught.value.__notes__)
    del loader
    settle({name: count for name, count in before.items() if name == "threads"})


def test_processes_that_may_not_have_children(tmp_path: Path) -> None:
    """Such as those of a pool: an error that says what to do."""
    loader = ss.Loader(corpus(tmp_path), ss.Tokenize(letters, max_length=90), ss.Bucket(400), num_workers=2)
    with multiprocessing.get_context("fork").Pool(1) as pool, pytest.raises(AssertionError) as caught:
        pool.map(ids_of, [loader])
    assert "a daemonic process needs num_workers=0" in "".join(caught.value.__notes__)


def test_few_open_files(tmp_path: Path) -> None:
    """A window of any number of blocks needs a few open files: here of 1,200 blocks, in a process that may open 100."""
    code = f"""
        import os, resource
        import seqstream as ss
        from tests.loading.test_workers import is_rare, letters
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        source = ss.TextFiles({str(tmp_path / "a.txt")!r}, block_bytes=256)
        loader = ss.Loader(source, ss.Filter(is_rare), ss.Tokenize(letters, max_length=90), ss.Bucket(4096), num_workers=2)
        most = max(len(os.listdir("/proc/self/fd")) for batch in loader)
        print(source.num_shards, loader.stats.rows, most)
    """
    (tmp_path / "a.txt").write_text("".join(f"line {number} of the corpus\n" for number in range(12_000)))
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    num_shards, num_rows, most_files = map(int, found.stdout.split())
    assert num_shards > 1000
    assert num_rows == 240
    assert most_files < 50


def is_rare(table: pa.Table) -> list[bool]:
    """Keep one line in fifty."""
    return [int(text.split()[1]) % 50 == 0 for text in table.column("text").to_pylist()]


@pytest.mark.parametrize(("start_method", "waits"), [("fork", False), ("spawn", True), ("forkserver", True)])
def test_a_parent_that_is_killed_leaves_no_worker(tmp_path: Path, start_method: str, waits: bool) -> None:
    """Killed as soon as there is a worker, or killed while blocks are under way."""
    (tmp_path / "a.txt").write_text("line of text\n" * 5000)
    code = f"""
        import seqstream as ss
        from tests.loading.test_workers import letters
        if __name__ == "__main__":
            source = ss.TextFiles({str(tmp_path / "a.txt")!r}, block_bytes=512)
            loader = ss.Loader(source, ss.Tokenize(letters), ss.Bucket(400, window_batches=3), num_workers=2, epochs=None,
                               multiprocessing_context={start_method!r})
            for batch in loader:
                print(batch.num_rows, flush=True)
    """
    (tmp_path / "train.py").write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    command = [sys.executable, str(tmp_path / "train.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        if waits:
            process.stdout.readline()
        until, children = time.monotonic() + 60, list[psutil.Process]()
        while not children and time.monotonic() < until:
            children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_parallelism_of_tokenizers_changes_nothing(tmp_path: Path, bpe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of ``tokenizers`` that ran here do not exist in forked workers, which do without: no hang, the same stream."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    stages = (corpus(tmp_path), ss.Tokenize(bpe_file, max_length=30, engine="tokenizers"), ss.Bucket(300, window_batches=3))
    expected = ids_of(ss.Loader(*stages))
    assert ids_of(ss.Loader(*stages, num_workers=2, multiprocessing_context="fork")) == expected
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
        assert ids_of(ss.Loader(*stages, executor=executor)) == expected
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_a_used_loader_can_be_copied_and_sent(tmp_path: Path) -> None:
    """Copies go on by themselves, from where the loader is: in mid-epoch and at its end, whatever runs for the original."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    loader = ss.Loader(*stages, num_workers=2)
    iterator = iter(loader)
    expected = [next(iterator).input_ids.tolist() for _ in range(3)]
    for other in (copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert other.state_dict() == loader.state_dict()
        other.load_state_dict(other.state_dict())
        assert ids_of(other) == ids_of(resumed_at(ss.Loader(*stages), loader.state_dict()))
        assert other.epoch == 1
    rest = [batch.input_ids.tolist() for batch in iterator]
    assert expected + rest == ids_of(ss.Loader(*stages))
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as executor:
        sent = executor.submit(ids_of, loader).result()
    assert sent == ids_of(second_epoch(ss.Loader(*stages)))
    with ThreadPoolExecutor(1) as executor, pytest.raises(TypeError, match="a Loader with executor= cannot be copied"):
        pickle.dumps(ss.Loader(*stages, executor=executor))


def resumed_at(loader: ss.Loader, state: dict[str, Any]) -> ss.Loader:
    """Return a loader that goes on at a state."""
    loader.load_state_dict(state)
    return loader


def test_a_forked_process_has_workers_of_its_own(tmp_path: Path) -> None:
    """A process that was forked in mid-epoch leaves those of its parent alone."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=3))
    loader = ss.Loader(*stages, num_workers=2)
    expected = ids_of(ss.Loader(*stages))
    iterator = iter(loader)
    got = [next(iterator).input_ids.tolist()]
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            again = ids_of(second_epoch(loader))
            os.write(writer, b"same" if again == ids_of(second_epoch(ss.Loader(*stages))) else b"other")
            del loader
            gc.collect()
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 10) == b"same"
    os.close(reader)
    os.waitpid(pid, 0)
    assert got + [batch.input_ids.tolist() for batch in iterator] == expected


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("on_batch", [None, copy.copy])
def test_threads_may_share_an_iterator(tmp_path: Path, prefetch: int, on_batch: Any) -> None:
    """Each batch goes to one of them, and all of them end."""
    loader = ss.Loader(
        corpus(tmp_path, 2000), ss.Tokenize(letters, max_length=90), ss.Bucket(400), prefetch=prefetch, on_batch=on_batch
    )
    iterator = iter(loader)
    with ThreadPoolExecutor(4) as executor:
        parts = list(executor.map(lambda _: [row for batch in iterator for row in batch.row_ids.tolist()], range(4)))
    rows = list(itertools.chain(*parts))
    assert len(rows) == len(set(rows)) == 2000
    iterator = iter(loader)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(collections.deque, iterator, 0)
        iterator.close()
        with pytest.raises(RuntimeError, match="this iterator cannot go on, it was closed; call iter"):
            waiting.result()
