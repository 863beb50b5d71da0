"""Files of a server: the same stream as from the disk, many requests at a time, and errors that pass."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from tokenizers import Tokenizer

import seqstream as ss
from benchmarks.harness.range_server import RangeServer
from seqstream.sources.files import remote, remote_file
from seqstream.sources.files.remote import ByteRange, read_ahead, read_remote
from seqstream.sources.source import Source
from seqstream.windows import reading_ahead as windows_ahead
from seqstream.windows.block_reader import Cursor, ReadBlock, read_blocks
from seqstream.windows.reading_ahead import reading_ahead

BLOCK = 4_096
Serve = Callable[..., RangeServer]


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    """A folder of text in two plain files, an empty one and a compressed one, and of JSON lines."""
    texts = texts * 3
    half = len(texts) // 2
    (tmp_path / "a.txt").write_text("\n".join(texts[:half]) + "\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("", encoding="utf-8")
    (tmp_path / "c.txt").write_text("\n\n".join(texts[half:]), encoding="utf-8")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress("\n".join(texts[:half]).encode()))
    with zipfile.ZipFile(tmp_path / "e.txt.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.txt", "a.txt")
    lines = "\n".join(json.dumps({"text": text, "number": number}) for number, text in enumerate(texts))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


@pytest.fixture
def serve(corpus: Path) -> Iterator[Serve]:
    """Returns a server of the folder."""
    with contextlib.ExitStack() as stack:
        yield lambda delay=0.0, **options: stack.enter_context(RangeServer(corpus, delay, **options))


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no reading ahead outlive what needs it; attempts follow each other quickly."""
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    yield
    assert remote._ahead == {}


SOURCES: dict[str, Callable[[str], Source]] = {
    "lines": lambda root: ss.TextFiles([f"{root}/{name}.txt" for name in "abc"], block_bytes=BLOCK),
    "paragraphs": lambda root: ss.TextFiles(f"{root}/c.txt", unit="paragraph", block_bytes=BLOCK),
    "files": lambda root: ss.TextFiles([f"{root}/{name}.txt" for name in "abc"], unit="file", block_bytes=BLOCK),
    "compressed": lambda root: ss.TextFiles([f"{root}/a.txt", f"{root}/d.txt.gz"], block_bytes=BLOCK),
    "zipped": lambda root: ss.TextFiles([f"{root}/e.txt.zip", f"{root}/d.txt.gz"], block_bytes=BLOCK),
    "aligned": lambda root: ss.TextFiles({"text": f"{root}/a.txt", "other": f"{root}/a.txt"}, block_bytes=BLOCK),
    "json": lambda root: ss.JsonLines(f"{root}/a.jsonl", block_bytes=BLOCK),
    "split": lambda root: ss.TextFiles(f"{root}/a.txt", block_bytes=BLOCK).split(valid=0.3)[0],
    "concatenated": lambda root: ss.Concat(
        [ss.TextFiles(f"{root}/a.txt", block_bytes=BLOCK), ss.JsonLines(f"{root}/a.jsonl", columns=["text"], block_bytes=BLOCK)]
    ),
    "mixture": lambda root: ss.Mixture(
        {"a": ss.TextFiles(f"{root}/a.txt", block_bytes=BLOCK), "c": ss.TextFiles(f"{root}/c.txt", block_bytes=BLOCK)},
        weights={"a": 2, "c": 1},
    ),
}


def tables_of(blocks: Iterable[ReadBlock]) -> list[pa.Table]:
    """Return the records of blocks, which are read ahead."""
    with reading_ahead(blocks) as ahead:
        return [block.table for block in ahead]


def stream_of(source: Source, tokenizer: Tokenizer, window_bytes: int | None = 60_000, **options: object) -> list[object]:
    """Return the batches of an epoch and the state after each, without what names the files."""
    spec = ss.Bucket(2_000, window_bytes=window_bytes)
    loader = ss.Loader(source, ss.Tokenize(tokenizer, max_length=64), spec, seed=1, **options)  # type: ignore[arg-type]
    return [(batch.input_ids.tolist(), batch.row_ids.tolist(), batch.state) for batch in loader]


@pytest.mark.parametrize("name", SOURCES)
def test_the_stream_is_that_of_local_files(name: str, corpus: Path, serve: Serve, bpe_tokenizer: Tokenizer) -> None:
    """Every source reads from a server what it reads from the disk, into the same batches; states go from one to the other."""
    server = serve()
    local, served = (SOURCES[name](root) for root in (str(corpus), server.url))
    expected = stream_of(local, bpe_tokenizer)
    assert stream_of(served, bpe_tokenizer) == expected
    assert len(expected) > 1


def test_many_requests_are_in_flight(corpus: Path, serve: Serve) -> None:
    """Of 100 blocks, as many are requested at a time as a process may request, each once; none if nothing is iterated."""
    server = serve(0.05)
    source = ss.TextFiles(f"{server.url}/a.jsonl", block_bytes=BLOCK)
    assert source.num_shards > 100
    blocks = list(read_blocks(source, range(100), Cursor()))
    begun = time.perf_counter()
    ahead = tables_of(blocks)
    seconds = time.perf_counter() - begun
    assert 64 <= server.most_in_flight <= remote.MOST_REQUESTS
    assert server.num_requests == 100
    assert seconds < 100 * server._delay / 2
    local = ss.TextFiles(corpus / "a.jsonl", block_bytes=BLOCK)
    assert ahead == [block.table for block in read_blocks(local, range(100), Cursor())]


def test_memory_is_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more bytes are read ahead than the limit, and at least one block; blocks that are not taken are dropped."""
    server = serve()
    source = ss.TextFiles(f"{server.url}/a.jsonl", block_bytes=BLOCK)
    for most, expected in ((10 * BLOCK, 10), (1, 1)):
        monkeypatch.setattr(windows_ahead, "MOST_BYTES", most)
        with reading_ahead(read_blocks(source, range(50), Cursor())) as ahead:
            for _ in range(5):
                assert next(ahead).table.num_rows
                assert sum(map(len, remote._ahead.values())) == expected - 1
        assert remote._ahead == {}


def test_blocks_may_be_read_after_the_next_ones(serve: Serve) -> None:
    """Blocks are requested once, also if several are taken before the first of them is read."""
    server = serve()
    source = ss.TextFiles(f"{server.url}/a.txt", block_bytes=BLOCK)
    with reading_ahead(read_blocks(source, range(20), Cursor())) as ahead:
        first = [next(ahead) for _ in range(8)]
        assert all(block.table.num_rows for block in reversed(first))
        assert all(block.table.num_rows for block in list(ahead))
    assert server.num_requests == 20


def _write_long_lines(folder: Path, longest: int = 120_000) -> Path:
    """Write lines most of which end long after the range that they begin in."""
    sizes = [40_000, 10, 65_000, 30_000, longest, 50, 35_000] * 4
    path = folder / "long.txt"
    path.write_text("\n".join(f"{number} " + "x" * size for number, size in enumerate(sizes)), encoding="utf-8")
    return path


@pytest.mark.parametrize(("kind", "longest"), [(None, 120_000), ("cut body", 120_000), (None, 900_000)])
def test_ends_of_long_records_are_read_ahead(kind: str | None, longest: int, corpus: Path, serve: Serve) -> None:
    """What a range lacks of its last record is requested as soon as that is known, once, and again after an error."""
    local = ss.TextFiles(_write_long_lines(corpus, longest), block_bytes=64 << 10)
    expected = [block.table for block in read_blocks(local, range(local.num_shards), Cursor())]
    server = serve(0.001)
    served = ss.TextFiles(f"{server.url}/long.txt", block_bytes=64 << 10)
    if kind is not None:
        server.answer = Faults(kind, 1)
    with reading_ahead(read_blocks(served, range(served.num_shards), Cursor())) as ahead:
        first = next(ahead)
        while any(each.future and not each.future.done() for readings in list(remote._ahead.values()) for each in readings):
            time.sleep(0.01)
        num_ahead = server.num_requests
        assert [first.table, *(block.table for block in ahead)] == expected
    assert num_ahead > served.num_shards * (1 if kind is None else 2)
    assert (server.num_requests == num_ahead) == (longest == 120_000)  # the ends of longer ones are read when they are needed


def test_whole_files_are_read_in_two_requests(corpus: Path, serve: Serve) -> None:
    """The rest of a file that is one record is requested at once, as its end is known."""
    path = _write_long_lines(corpus)
    server = serve()
    source = ss.TextFiles(f"{server.url}/long.txt", unit="file", block_bytes=64 << 10)
    tables = tables_of(read_blocks(source, range(1), Cursor()))
    assert [table["text"].to_pylist() for table in tables] == [[path.read_text()]]
    assert server.num_requests == 2


def test_ends_of_long_records_are_dropped(corpus: Path, serve: Serve) -> None:
    """Nothing is requested any more when the blocks are not needed any more."""
    _write_long_lines(corpus)
    server = serve(0.05)
    source = ss.TextFiles(f"{server.url}/long.txt", block_bytes=64 << 10)
    with reading_ahead(read_blocks(source, range(source.num_shards), Cursor())) as ahead:
        next(ahead)
        while server.num_requests < source.num_shards:
            time.sleep(0.001)
    while server._in_flight:
        time.sleep(0.001)
    num_requests = server.num_requests
    time.sleep(0.05)
    assert server.num_requests == num_requests


def test_a_loader_that_is_closed_drops_its_requests(serve: Serve, bpe_tokenizer: Tokenizer) -> None:
    """Nothing is kept for a loader that ended in the middle of an epoch."""
    server = serve(0.01)
    loader = ss.Loader(
        ss.TextFiles(f"{server.url}/a.jsonl", block_bytes=BLOCK),
        ss.Tokenize(bpe_tokenizer, max_length=64),
        ss.Bucket(500, window_bytes=20_000),
    )
    iterator = iter(loader)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]


FAULTS: dict[str, Callable[[int], tuple[int, int, int]]] = {
    "status 500": lambda _: (500, 0, 0),
    "status 429": lambda _: (429, 0, 0),
    "short body": lambda size: (206, size // 2, size // 2),
    "cut body": lambda size: (206, size, size // 2),
    "closed socket": lambda size: (206, size, 0),
}


class Faults:
    """Answers the first requests of each range wrongly: with an error, with less than was announced, or with nothing."""

    def __init__(self, kind: str, times: int) -> None:
        self._answer = FAULTS[kind]
        self._times = times
        self._seen = Counter[int]()

    def __call__(self, path: str, begin: int, size: int) -> tuple[int, int, int]:
        self._seen[begin] += 1
        return self._answer(size) if self._seen[begin] <= self._times else (206, size, size)


@pytest.mark.parametrize("kind", FAULTS)
def test_errors_that_pass(kind: str, corpus: Path, serve: Serve) -> None:
    """Requests that fail are made again, and the records are those of the file."""
    server = serve(answer=Faults(kind, remote.ATTEMPTS - 1))
    served = ss.TextFiles(f"{server.url}/a.txt", block_bytes=BLOCK)
    local = ss.TextFiles(corpus / "a.txt", block_bytes=BLOCK)
    tables = tables_of(read_blocks(served, range(12), Cursor()))
    assert tables == [block.table for block in read_blocks(local, range(12), Cursor())]
    assert server.num_requests == 12 * remote.ATTEMPTS
    assert served.fingerprint() == local.fingerprint()


def test_streams(corpus: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed file is read in parts, several at once, each again after an error that passes, or the error is raised."""
    monkeypatch.setattr(remote_file, "PART_BYTES", 1_000)
    server = serve(0.02, answer=Faults("cut body", 1))
    local, served = (ss.TextFiles(f"{root}/d.txt.gz", block_bytes=BLOCK) for root in (corpus, server.url))
    assert list(served.read(0)) == list(local.read(0))
    num_parts = -(-(corpus / "d.txt.gz").stat().st_size // 1_000)
    assert server.num_requests == 2 * num_parts
    assert server.most_in_flight == remote_file.NUM_AHEAD
    blocks = served.read(0)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    server.answer = Faults("status 500", 1_000)
    with pytest.raises(OSError, match=r"http://.*/d\.txt\.gz cannot be read from byte 0 on, it was tried"):
        next(served.read(0))


@pytest.mark.parametrize("kind", ["status 500", "cut body", "closed socket"])
def test_errors_that_stay(kind: str, serve: Serve) -> None:
    """An error that does not pass is raised after a few attempts, with the URL and the offset; so is one of a loader."""
    server = serve(answer=Faults(kind, 1_000))
    source = ss.TextFiles(f"{server.url}/a.txt", block_bytes=BLOCK)
    message = rf"http://.*/a\.txt cannot be read from byte 4,088 on, it was tried {remote.ATTEMPTS} times: \w+"
    with pytest.raises(OSError, match=message):
        next(source.read(1))
    assert server.num_requests == remote.ATTEMPTS
    with pytest.raises(OSError, match=message):
        tables_of(read_blocks(source, range(1, 9), Cursor()))


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (416, 1), (408, remote.ATTEMPTS)])
def test_errors_that_no_attempt_changes(status: int, attempts: int, serve: Serve) -> None:
    """A request that is refused is not made again."""
    server = serve(answer=lambda *_: (status, 0, 0))
    source = ss.TextFiles(f"{server.url}/a.txt", block_bytes=BLOCK)
    times = f"{attempts} time{'s' if attempts > 1 else ''}"
    with pytest.raises(OSError, match=rf"a\.txt cannot be read from byte 0 on, it was tried {times}: .*{status}"):
        next(source.read(0))
    assert server.num_requests == attempts


def test_a_file_that_is_gone_or_shorter(corpus: Path, serve: Serve) -> None:
    """A file that was removed or has shrunk is an error that says so, with its URL."""
    server = serve()
    source = ss.TextFiles(f"{server.url}/a.txt", block_bytes=BLOCK)
    server.answer = lambda _, __, size: (206, size - 1, size - 1)
    with pytest.raises(RuntimeError, match=r"http://.*/a\.txt changed while being read: was [\d,]+ bytes, is "):
        next(source.read(2))
    (corpus / "a.txt").unlink()
    with pytest.raises(RuntimeError, match=r"http://.*/a\.txt changed while being read: .* is gone"):
        next(source.read(2))


def test_systems_that_are_not_asynchronous() -> None:
    """Files of other systems are read when they are needed, one range at a time, and again after an error."""
    fsspec.filesystem("memory").pipe("/remote/a.txt", b"one\ntwo\nthree\n")
    source = ss.TextFiles("memory://remote/a.txt", block_bytes=4)
    (file,) = (source._corpus.files[0],)
    failing = FailingOnce(file.system)
    wanted = ByteRange(file._replace(system=failing), 4, 8)
    read_ahead([wanted])()
    assert failing.num_calls == 0
    assert read_remote(wanted) == b"two\n"
    assert failing.num_calls == 2
    tables = tables_of(read_blocks(source, range(4), Cursor()))
    assert [text for table in tables for text in table["text"].to_pylist()] == ["one", "two", "three"]


class FailingOnce:
    """A file system whose first read fails."""

    def __init__(self, system: fsspec.AbstractFileSystem) -> None:
        self._system = system
        self.num_calls = 0

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.num_calls += 1
        if self.num_calls == 1:
            raise ConnectionResetError("the peer has closed the connection")
        data: bytes = self._system.cat_file(path, start=start, end=end)
        return data


def test_two_readers_of_one_range(serve: Serve) -> None:
    """Each of two readers ahead has a reading of its own; one that drops its reading takes none from the other."""
    server = serve(0.01)
    file = ss.TextFiles(f"{server.url}/a.txt")._corpus.files[0]
    wanted = ByteRange(file, 10, 500)
    drop_first, drop_second = read_ahead([wanted]), read_ahead([wanted])
    drop_first()
    assert len(read_remote(wanted)) == 490
    threads = [threading.Thread(target=read_remote, args=(wanted,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drop_second()
    assert server.num_requests <= 6


@pytest.mark.parametrize("options", [{}, {"num_workers": 1, "multiprocessing_context": "fork"}], ids=["here", "workers"])
def test_loaders_read_ahead(options: dict[str, object], serve: Serve, bpe_tokenizer: Tokenizer) -> None:
    """A loader has many requests in flight, whichever process tokenises, and requests each block about once."""
    server = serve(0.03)
    source = ss.TextFiles(f"{server.url}/a.jsonl", block_bytes=BLOCK)
    batches = stream_of(source, bpe_tokenizer, None, **options)
    assert batches
    assert server.most_in_flight >= 64
    assert server.num_requests <= source.num_shards + 12
