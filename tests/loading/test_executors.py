"""Executors of users, on real Ray and Dask: the same stream whatever computes it or is killed, and nothing left behind."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import seqstream as ss
from seqstream import testing
from seqstream.loading import ray_executor
from seqstream.sources.blocks import Block

Texts = list[str]
KINDS = ("actors", "dask", "processes", "threads")
PARENT = os.getpid()

NUM_KILLS = int(os.environ.get("SEQSTREAM_KILLS", "3"))
"""How many actors are killed: more of them take some seconds each."""


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'seqstream[ray]'")
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=100 << 20)
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def actors(ray_cluster: Any) -> Iterator[ss.RayExecutor]:
    """Three actors on two processors."""
    with ss.RayExecutor(3, num_cpus=0.5) as executor:
        yield executor


@pytest.fixture(scope="module")
def dask_client() -> Iterator[Any]:
    """Two processes of Dask."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install distributed")
    options = {"host": "127.0.0.1", "scheduler_port": 0, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def dask(dask_client: Any) -> Executor:
    executor: Executor = dask_client.get_executor()
    return executor


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


@pytest.fixture
def executor(request: pytest.FixtureRequest) -> Executor:
    """The executor of a kind, for `any_executor`."""
    found: Executor = request.getfixturevalue(request.param)
    return found


any_executor = pytest.mark.parametrize("executor", KINDS, indirect=True)
clusters = pytest.mark.parametrize("executor", KINDS[:2], indirect=True)


def letters(texts: Texts) -> list[list[int]]:
    """Tokenise by letters, in Python."""
    return [[ord(letter) % 100 + 1 for letter in text] for text in texts]


def picky(texts: Texts) -> list[list[int]]:
    """Tokenise by letters, all but one text."""
    if any(text.startswith("line 77 ") for text in texts):
        raise ArithmeticError("77 is not for me")
    return letters(texts)


def strict(record: dict[str, Any]) -> dict[str, Any]:
    """Refuse one record."""
    if record["text"].startswith("line 77 "):
        raise ArithmeticError("77 is not for me")
    return record


@dataclasses.dataclass
class Deadly:
    """Ends the process that tokenises one text, unless it is of a certain id."""

    pid: int = PARENT

    def __call__(self, texts: Texts) -> list[list[int]]:
        if any("line 77 " in text for text in texts) and os.getpid() != self.pid:
            os.kill(os.getpid(), signal.SIGKILL)
        return letters(texts)


def slow(texts: Texts) -> list[list[int]]:
    """Tokenise by letters, slowly."""
    time.sleep(0.2)
    return letters(texts)


@dataclasses.dataclass(frozen=True)
class Recorded(ss.TextFiles):
    """Lines with the process that has read them; a process that is not ``pid`` may not be able to."""

    only: int | None = None

    def read(self, shard: int, state: Any = None) -> Iterator[Block]:
        if self.only not in (None, os.getpid()):
            raise FileNotFoundError("no such file here")
        for table, after in super().read(shard, state):
            yield table.append_column("reader", pa.array([os.getpid()] * len(table))), after


def corpus(folder: Path, num_lines: int = 400, kind: type[ss.TextFiles] = ss.TextFiles, **options: Any) -> ss.TextFiles:
    """Lines in small blocks."""
    (folder / "a.txt").write_text("".join(f"line {number} {'of many ' * (number % 9)}\n" for number in range(num_lines)))
    return kind(folder / "a.txt", block_bytes=1024, **options)


def stream_of(batches: Any) -> list[tuple[Any, ...]]:
    """Return the content of batches: ids, labels, row ids and states."""
    return [(each.input_ids.tolist(), each.labels.tolist(), each.row_ids.tolist(), each.state) for each in batches]


@pytest.fixture
def make(tmp_path: Path, bpe_file: Path) -> Callable[..., ss.Loader]:
    """A loader of several windows, with a real tokenizer."""
    stages = (corpus(tmp_path), ss.Tokenize(bpe_file, max_length=30), ss.Bucket(300, window_batches=4))
    return lambda **options: ss.Loader(*stages, on_batch=ss.CausalLabels(), **options)


@any_executor
def test_the_stream_is_the_same(make: Callable[..., ss.Loader], executor: Executor) -> None:
    """Rows, ids, labels, row ids and states of two epochs are those without workers."""
    alone, helped = make(), make(executor=executor)
    for _ in range(2):
        assert stream_of(helped) == stream_of(alone)
    counts = ("rows", "tokens", "truncated", "dropped", "empty")
    assert [getattr(alone.stats, name) for name in counts] == [getattr(helped.stats, name) for name in counts]


def test_a_state_goes_from_one_kind_of_workers_to_another(
    make: Callable[..., ss.Loader], request: pytest.FixtureRequest
) -> None:
    """A run that stops in mid-window and goes on with other workers, again and again, has the batches of one that does not."""
    expected = stream_of(make())
    state, got = make().state_dict(), []
    kinds = itertools.cycle((*KINDS, None))
    while True:
        kind = next(kinds)
        loader = make(executor=None if kind is None else request.getfixturevalue(kind))
        loader.load_state_dict(state)
        got += stream_of(itertools.islice(loader, 5))
        if len(got) == len(expected):
            break
        state = loader.state_dict()
    assert got == expected
    assert len(got) > 20


def test_laws_with_actors(tmp_path: Path, actors: ss.RayExecutor) -> None:
    """The laws hold, resuming after every batch among them."""
    stages = (corpus(tmp_path, 25), ss.Tokenize(letters, max_length=30), ss.Bucket(300, window_batches=3))

    def make(**options: Any) -> ss.Loader:
        return ss.Loader(*stages, executor=actors, **options)

    testing.check_every_record_once(make)
    testing.check_same_stream(make)
    testing.check_resume(make)


def test_ranks_with_executors(tmp_path: Path, threads: Executor, dask: Executor) -> None:
    """Each rank has an executor of its own, or none, and the batches are the same."""
    stages = (corpus(tmp_path, 90), ss.Tokenize(letters, max_length=30), ss.Bucket(300, window_batches=3))
    executors: tuple[Executor | None, ...] = (threads, dask, None)

    def rows(options: dict[str, Any], *, is_helped: bool) -> list[Any]:
        executor = executors[options["rank"]] if is_helped else None
        return [batch.row_ids.tolist() for batch in ss.Loader(*stages, executor=executor, **options)]

    alone, helped = (testing.run_ranks(3, lambda options, each=each: rows(options, is_helped=each)) for each in (False, True))
    assert alone == helped


@pytest.mark.parametrize("kind", [*KINDS[:3], "workers"])
def test_workers_read_what_they_can(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """Ranges of files are read where they are tokenised, and not here; the records of a list are sent."""
    options = {"num_workers": 2} if kind == "workers" else {"executor": request.getfixturevalue(kind)}
    files = corpus(tmp_path, 600, Recorded)
    words = ss.Generator([{"text": f"word {number}", "reader": 0} for number in range(300)])
    mixture = ss.Mixture({"words": words, "files": files}, {"words": 0.2, "files": 0.8}, epochs={"words": 1, "files": 1})
    for source in (files, files.split(valid=0.1)[0], mixture):
        stages = (source, ss.Tokenize(letters, max_length=90), ss.Bucket(2000, window_batches=3))
        batches, alone = list(ss.Loader(*stages, **options)), list(ss.Loader(*stages))
        assert [batch.row_ids.tolist() for batch in batches] == [batch.row_ids.tolist() for batch in alone]
        assert all(torch.equal(batch.input_ids, other.input_ids) for batch, other in zip(batches, alone, strict=True))
        readers = torch.cat([batch["reader"] for batch in batches])
        cut = (0.3 if isinstance(source, ss.Mixture) else 0.1) * len(readers)  # the first block, and blocks of two windows
        assert (readers == os.getpid()).sum() <= cut
        assert set(readers.tolist()) - {0, os.getpid()}


def test_json_lines_that_workers_read(tmp_path: Path) -> None:
    """Fields of known types are read by workers; others are read here, as the first value of a field decides on its type."""
    (tmp_path / "a.jsonl").write_text('{"text": "a b", "n": 1, "x": null}\n' * 3)
    known, late, all_fields = (ss.JsonLines(tmp_path / "a.jsonl", columns=names) for names in (["text", "n"], ["x"], None))
    assert [source.is_read_by_workers for source in (known, late, all_fields)] == [True, False, False]
    assert not ss.Concat([known, ss.Generator(["a"])]).is_read_by_workers


@clusters
def test_files_that_workers_do_not_have(tmp_path: Path, executor: Executor) -> None:
    """Where workers cannot read a source, the loader reads it, warns once, and the stream is the same."""
    source = corpus(tmp_path, 200, Recorded, only=os.getpid())
    stages = (source, ss.Tokenize(letters, max_length=90), ss.Bucket(400, window_batches=3))
    loader = ss.Loader(*stages, executor=executor)
    with pytest.warns(UserWarning, match=r"workers cannot read Recorded.*no such file here") as caught:
        batches = [*loader, *loader]
    assert len(caught) == 1
    alone = ss.Loader(*stages)
    assert [batch.row_ids.tolist() for batch in batches] == [batch.row_ids.tolist() for batch in [*alone, *alone]]
    assert {*torch.cat([batch["reader"] for batch in batches]).tolist()} == {os.getpid()}


@any_executor
def test_stages_are_opened_once(tmp_path: Path, executor: Executor) -> None:
    """Each worker receives the stages once, however many blocks and loaders there are; threads need not receive them."""
    log = tmp_path / "log"
    log.touch()
    stages = (corpus(tmp_path), ss.Map(Logged(log)), ss.Tokenize(letters, max_length=30), ss.Bucket(300, window_batches=4))
    for _ in range(2):
        loader = ss.Loader(*stages, executor=executor)
        assert len({*loader, *loader}) > 20
    pids = log.read_text().split()
    assert len(pids) == len(set(pids))
    assert len(pids) <= 3
    assert str(os.getpid()) not in pids


class Logged:
    """A function that writes the process id to a file when it is unpickled."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self, table: pa.Table) -> pa.Table:
        return table

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with self.log.open("a") as log:
            log.write(f"{os.getpid()} ")


@any_executor
def test_errors_are_those_without_workers(tmp_path: Path, executor: Executor) -> None:
    """An error of a function of the user has the same type, text and notes, and then the traceback of the worker."""
    for tokenize, stage in ((letters, ss.MapRecords(strict)), (picky, ss.Filter(is_text))):
        stages = (corpus(tmp_path), stage, ss.Tokenize(tokenize, max_length=90), ss.Bucket(3000))
        raised = []
        for options in ({}, {"executor": executor}):
            with pytest.raises((ArithmeticError, ss.RecordError), match="77 is not for me") as caught:
                list(ss.Loader(*stages, shuffle=False, **options))
            notes = [note for note in caught.value.__notes__ if not note.startswith("in a worker process:\n")]
            raised.append((type(caught.value), str(caught.value), notes))
            assert len(notes) + len(options) == len(caught.value.__notes__)
        assert raised[0] == raised[1]
        assert "a.txt, line 78" in "".join(raised[0][2])


def is_text(table: pa.Table) -> list[bool]:
    """Keep all lines."""
    return [True] * len(table)


@clusters
def test_functions_of_the_script_are_sent(tmp_path: Path, executor: Executor) -> None:
    """Functions that workers cannot import are sent with their code, and so is the class of an error."""

    class OwnError(Exception):
        pass

    def raising(table: pa.Table) -> pa.Table:
        if "line 77 " + "of many " * 5 in table.column("text").to_pylist():
            raise OwnError("not 77")
        return table

    stages = (
        corpus(tmp_path),
        ss.Map(raising),
        ss.Tokenize(lambda texts: [[len(text)] for text in texts], max_length=9),
        ss.Bucket(99),
    )
    with pytest.raises(OwnError, match="not 77"):
        list(ss.Loader(*stages, shuffle=False, executor=executor))


@any_executor
def test_a_loop_that_is_left(tmp_path: Path, executor: Executor) -> None:
    """Leaves no block waiting in the executor, which goes on; so does the next iteration, from the same epoch."""
    stages = (corpus(tmp_path), ss.Tokenize(slow, max_length=30), ss.Bucket(300, window_batches=1))
    loader = ss.Loader(*stages, executor=executor)
    for _ in range(2):
        for batch in loader:
            assert len(batch.lengths)
            break
        loader.set_epoch(0)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        list(loader)
    begun = time.monotonic()
    assert executor.submit(os.getpid).result(timeout=30) > 0
    assert time.monotonic() - begun < 4  # of 12 blocks that were ahead, those in work
    del loader
    assert executor.submit(os.getpid).result(timeout=30) > 0


def test_actors_are_killed_again_and_again(tmp_path: Path, ray_cluster: Any, actors: ss.RayExecutor) -> None:
    """Their blocks are processed by others, and no batch differs."""
    stages = (corpus(tmp_path, 200), ss.Tokenize(letters, max_length=40), ss.Bucket(200, window_batches=2))
    alone, helped = (ss.Loader(*stages, epochs=None, **options) for options in ({}, {"executor": actors}))
    killed = set[Any]()
    for number, (expected, got) in enumerate(zip(alone, helped, strict=False)):
        assert torch.equal(expected.input_ids, got.input_ids)
        assert expected.state == got.state
        running = [actor.handle for actor in actors._pool._actors if actor.handle not in killed]
        if len(killed) == NUM_KILLS:
            break
        if running and number % 2:
            killed.add(running[number % len(running)])
            ray_cluster.kill(running[number % len(running)])
    assert number > NUM_KILLS


def test_a_process_of_dask_is_killed(tmp_path: Path, dask_client: Any) -> None:
    """Dask gives its blocks to another, and no batch differs."""
    stages = (corpus(tmp_path, 1000), ss.Tokenize(letters, max_length=40), ss.Bucket(400, window_batches=2))
    alone, helped = (ss.Loader(*stages, **options) for options in ({}, {"executor": dask_client.get_executor()}))
    for number, (expected, got) in enumerate(zip(alone, helped, strict=True)):
        assert torch.equal(expected.input_ids, got.input_ids)
        if number == 3:
            os.kill(next(iter(dask_client.run(os.getpid).values())), signal.SIGKILL)
    dask_client.wait_for_workers(2, timeout=60)


def test_a_block_that_ends_its_workers(
    tmp_path: Path, actors: ss.RayExecutor, dask_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error after some attempts, and not an endless loop."""
    stages = (corpus(tmp_path, 100), ss.Tokenize(Deadly(), max_length=40), ss.Bucket(400, window_batches=3))
    monkeypatch.setattr(ray_executor, "_MOST_LOSSES", 1)
    with pytest.raises(Exception, match="died") as caught:
        list(ss.Loader(*stages, executor=actors))
    assert "a call was lost 2 times" in "".join(caught.value.__notes__)
    monkeypatch.setattr(dask_client.cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(Exception, match="died"):
        list(ss.Loader(*stages, executor=dask_client.get_executor()))
    dask_client.wait_for_workers(2, timeout=60)
    assert dask_client.get_executor().submit(os.getpid).result(timeout=60) != actors.submit(os.getpid).result(timeout=60)


def test_one_actor_and_its_shutdown(make: Callable[..., ss.Loader], ray_cluster: Any) -> None:
    """One actor gives the same stream; errors are those of Python; calls end before the actor does, and then it takes none."""
    with pytest.raises(ValueError, match="max_workers must be 1 or more actors, got 0"):
        ss.RayExecutor(0)
    executor = ss.RayExecutor(1, num_cpus=0.5)
    assert stream_of(make(executor=executor)) == stream_of(make())
    numbers = executor.map(pow, range(20), itertools.repeat(2))
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(timeout=60)
    with pytest.raises(TypeError, match="lock"):
        executor.submit(id, threading.Lock()).result(timeout=60)
    executor.shutdown()
    assert list(numbers) == [number**2 for number in range(20)]
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(os.getpid)


def test_actors_that_no_machine_can_run(ray_cluster: Any) -> None:
    """Their calls wait, and can be cancelled."""
    with ss.RayExecutor(1, resources={"not there": 1}) as executor:
        assert executor.submit(os.getpid).cancel()


def test_executors_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the loader is made, with what to do."""
    stages = (corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400))

    class Client:
        def get_executor(self) -> None:
            """As the client of Dask has it."""

    with pytest.raises(TypeError, match=r"executor must be a .*Executor.*, got Client; pass client.get_executor\(\)$"):
        ss.Loader(*stages, executor=Client())  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as threads:
        for name in ("workers", "num_workers"):
            options: dict[str, Any] = {name: 2}
            with pytest.raises(ValueError, match="executor has workers of its own, got num_workers=2 as well; leave one"):
                ss.Loader(*stages, executor=threads, **options)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        ss.RayExecutor(2)
    assert "pip install 'seqstream[ray]'" in "".join(caught.value.__notes__)


@clusters
def test_what_cannot_be_pickled_is_named(tmp_path: Path, executor: Executor) -> None:
    """Before anything is read: the stage, or the source that workers would read."""
    held = {"lock": threading.Lock()}
    source, tokenize, bucket = corpus(tmp_path), ss.Tokenize(letters, max_length=40), ss.Bucket(400)

    def locked(table: pa.Table) -> pa.Table:
        with held["lock"]:
            return table

    for stages, name in (
        ((source, ss.Map(locked), tokenize), r"Map\(.*locked"),
        ((dataclasses.replace(source, errors=Held("strict")), tokenize), r"TextFiles\("),
    ):
        with pytest.raises(TypeError, match="lock") as caught:
            iter(ss.Loader(*stages, bucket, executor=executor))
        notes = "".join(caught.value.__notes__)
        assert re.search(f"while pickling {name}", notes), notes


class Held(str):
    """A text that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle a lock")


def test_ray_that_was_shut_down_is_an_error() -> None:
    """Calls do not wait for ever for a cluster that is gone."""

    class Gone:
        """What of Ray a pool without actors needs."""

        def is_initialized(self) -> bool:
            return False

    pool = ray_executor._ActorPool.__new__(ray_executor._ActorPool)
    pool.__dict__.update(events=ray_executor.SimpleQueue(), _ray=Gone(), _waiting=[call := ray_executor._Call(int)], _actors=[])
    pool.run()
    with pytest.raises(RuntimeError, match="Ray was shut down"):
        call.future.result(timeout=0)
