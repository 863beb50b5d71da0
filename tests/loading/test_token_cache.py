"""Rows of blocks in a cache: the batches are the same without it, with half of it, and whatever happens to its files."""

from __future__ import annotations

import functools
import gzip
import json
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer

import seqstream as ss
from seqstream import testing
from seqstream.loading import token_cache
from seqstream.sources.tokens.arrow_files import FileWriter
from seqstream.testing.rank_threads import run_ranks
from tests.helpers.forked import run_code

BLOCK = 1024


@pytest.fixture(scope="module")
def lines(texts: list[str]) -> list[str]:
    """Records of very different lengths, some of them empty."""
    joined = [" ".join(texts[number : number + 1 + number % 7]) for number in range(120)]
    return ["" if number % 17 == 5 else text for number, text in enumerate(joined)]


@pytest.fixture
def corpus(tmp_path: Path, lines: list[str]) -> Path:
    """A folder of a few files."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("\n".join(lines[number::3]) + "\n")
    return folder


def text_files(corpus: Path) -> ss.Source:
    return ss.TextFiles(str(corpus / "*.txt"), block_bytes=BLOCK)


def stream_of(loader: ss.Loader, num_epochs: int = 1) -> list[Any]:
    """Return all that is in the batches of some epochs, and their states."""
    found: list[Any] = []
    for _ in range(num_epochs):
        for batch in loader:
            columns = {name: value.tolist() if torch.is_tensor(value) else list(value) for name, value in batch.items()}
            found.append((columns, batch.row_ids.tolist(), batch.lengths.tolist(), batch.state))
    return found


def counts_of(loader: ss.Loader) -> dict[str, float]:
    """Return the counts that do not depend on time or on the cache."""
    return {name: value for name, value in loader.stats.to_dict().items() if "second" not in name and name != "cached_rows"}


def damaged(number: int, folder: Path) -> None:
    """Change a byte in each file, at another place for each number."""
    for path in folder.glob("*.arrow"):
        data = bytearray(path.read_bytes())
        at = len(data) * number // 12
        data[at : at + 8] = bytes(byte ^ 0xFF for byte in data[at : at + 8])
        path.write_bytes(data)


def compressed(corpus: Path) -> ss.Source:
    (corpus / "all.gz").write_bytes(gzip.compress(b"".join(path.read_bytes() for path in sorted(corpus.glob("*.txt")))))
    return ss.TextFiles(corpus / "all.gz", block_bytes=BLOCK)


def mixture(corpus: Path) -> ss.Source:
    return ss.Mixture(
        {str(number): ss.TextFiles(corpus / f"{number}.txt", block_bytes=BLOCK) for number in range(3)},
        {"0": 3, "1": 1, "2": 1},
        tokens=3_000,
    )


def own_stages(corpus: Path) -> ss.Source:
    parts = {str(number): ss.TextFiles(corpus / f"{number}.txt", block_bytes=BLOCK) for number in range(2)}
    return ss.Mixture({"0": parts["0"], "1": (parts["1"], ss.Filter(is_long))}, {"0": 1, "1": 1}, tokens=2_000)


def is_long(table: pa.Table) -> Any:
    return [len(text) > 60 for text in table["text"].to_pylist()]


def upper(table: pa.Table) -> pa.Table:
    return pa.table({"text": [text.upper() for text in table["text"].to_pylist()]})


SOURCES: dict[str, Callable[[Path], ss.Source]] = {
    "text": text_files,
    "compressed": compressed,
    "mixture": mixture,
    "own stages": own_stages,
    "split": lambda corpus: text_files(corpus).split(valid=0.3)[0],
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("options", [{}, {"overflow": "split"}, {"overflow": "drop"}, {"empty": "keep"}], ids=str)
def test_the_stream_is_the_same(name: str, options: dict[str, Any], corpus: Path, tmp_path: Path, bpe_file: Path) -> None:
    """Batches, states and counts of two epochs are those without a cache: with a cold, a full and a half-filled one."""
    stages = (SOURCES[name](corpus), ss.Tokenize(bpe_file, max_length=24, **options), ss.Bucket(300, window_batches=3))
    alone = ss.Loader(*stages)
    expected = stream_of(alone, 2)
    cold = ss.Loader(*stages, cache=tmp_path / "cache")
    assert stream_of(cold, 2) == expected
    assert counts_of(cold) == counts_of(alone)
    if name not in ("mixture", "own stages"):  # their epochs begin and end inside of blocks
        assert cold.stats.cached_rows > 0
    full = ss.Loader(*stages, cache=tmp_path / "cache")
    assert stream_of(full, 2) == expected
    assert counts_of(full) == counts_of(alone)
    assert full.stats.cached_rows >= full.stats.rows  # a mixture counts rows of the next window as well
    half = ss.Loader(*stages, cache=tmp_path / "half")
    iterator = iter(half)
    next(iterator)
    iterator.close()
    half = ss.Loader(*stages, cache=tmp_path / "half", num_workers=2 if name == "text" and not options else 0)
    assert stream_of(half, 2) == expected
    assert counts_of(half) == counts_of(alone)


def test_a_later_run_tokenises_nothing(corpus: Path, tmp_path: Path, bpe_file: Path) -> None:
    """Each row of the first epoch is from the cache if an earlier loader has read the same records."""
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=40), ss.Bucket(400))
    expected = stream_of(ss.Loader(*stages, cache=tmp_path / "cache"))
    again = ss.Loader(*stages, cache=str(tmp_path / "cache"))
    assert stream_of(again) == expected
    assert again.stats.cached_rows == again.stats.rows
    assert again.stats.truncated > 0


def test_laws(corpus: Path, tmp_path: Path, bpe_file: Path) -> None:
    """All laws hold, of ranks and of resuming with other numbers of them too."""
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(200, window_batches=3))
    make = functools.partial(ss.Loader, *stages, cache=tmp_path / "cache")
    testing.check_loader(make)
    testing.check_ranks(make, 3)
    testing.check_elastic(make)


def test_ranks_share_a_folder(corpus: Path, tmp_path: Path, bpe_file: Path) -> None:
    """In the second epoch, and with other ranks, every row is from the cache; the batches are those without one."""
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(200, window_batches=3))

    def job(options: dict[str, Any], **more: Any) -> tuple[list[Any], int, int]:
        loader = ss.Loader(*stages, **options, **more)
        return stream_of(loader), loader.stats.cached_rows, loader.stats.rows

    expected = [each[0] for each in run_ranks(2, job)]
    cached = functools.partial(job, cache=tmp_path / "cache")
    assert [each[0] for each in run_ranks(2, cached)] == expected
    again = run_ranks(2, cached)
    assert [each[0] for each in again] == expected
    assert sum(each[1] for each in again) == sum(each[2] for each in again)
    alone = ss.Loader(*stages, cache=tmp_path / "cache")
    stream_of(alone)
    assert alone.stats.cached_rows == alone.stats.rows


@pytest.mark.parametrize("number", range(12))
def test_damaged_files_are_computed_again(
    number: int, corpus: Path, tmp_path: Path, bpe_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A changed byte anywhere gives a warning that names the file, and the same batches."""
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(300))
    expected = stream_of(ss.Loader(*stages, cache=tmp_path / "cache"))
    damaged(number, tmp_path / "cache")
    with caplog.at_level(logging.WARNING, "seqstream"):
        assert stream_of(ss.Loader(*stages, cache=tmp_path / "cache")) == expected
    assert stream_of(ss.Loader(*stages, cache=tmp_path / "cache")) == expected  # and what was in one file with that
    again = ss.Loader(*stages, cache=tmp_path / "cache")
    assert stream_of(again) == expected
    assert again.stats.cached_rows == again.stats.rows
    for record in caplog.records:
        assert "of the cache is damaged and is computed again" in record.getMessage()


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"no such file"])
def test_other_files_are_passed_over(content: bytes, corpus: Path, tmp_path: Path, bpe_file: Path) -> None:
    """Files that are cut off or of another kind are not used."""
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(300))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "0123456789abcdef.arrow").write_bytes(content)
    assert stream_of(ss.Loader(*stages, cache=tmp_path / "cache")) == stream_of(ss.Loader(*stages))


def test_nothing_old_is_served(corpus: Path, tmp_path: Path, bpe_file: Path, wordpiece_tokenizer: Tokenizer) -> None:
    """Changed records, even with the size and time of the file as before, other stages and other options are computed."""
    cache = tmp_path / "cache"
    changes: list[tuple[ss.Map | ss.Tokenize, ...]] = [
        (ss.Tokenize(bpe_file, max_length=24),),
        (ss.Tokenize(bpe_file, max_length=25),),
        (ss.Tokenize(bpe_file, max_length=24, overflow="split"),),
        (ss.Tokenize(wordpiece_tokenizer, max_length=24),),
        (ss.Map(upper), ss.Tokenize(bpe_file, max_length=24)),
        (
            ss.Map(lambda table: {"text": [text[::-1] for text in table["text"].to_pylist()]}),
            ss.Tokenize(bpe_file, max_length=24),
        ),
        (
            ss.Map(lambda table: {"text": [text[1:] for text in table["text"].to_pylist()]}),
            ss.Tokenize(bpe_file, max_length=24),
        ),
    ]
    for stages in changes:
        arguments = (text_files(corpus), *stages, ss.Bucket(900))
        cached = ss.Loader(*arguments, cache=cache)
        assert stream_of(cached) == stream_of(ss.Loader(*arguments))
        assert cached.stats.cached_rows == 0
    path = corpus / "1.txt"
    times = path.stat()
    text = path.read_text()
    path.write_text(text[:2000].swapcase() + text[2000:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    arguments = (text_files(corpus), *changes[0], ss.Bucket(900))
    cached = ss.Loader(*arguments, cache=cache)
    assert stream_of(cached) == stream_of(ss.Loader(*arguments))
    assert 0 < cached.stats.cached_rows < cached.stats.rows


def test_two_loaders_on_one_folder(corpus: Path, tmp_path: Path, bpe_file: Path) -> None:
    """Loaders that read and write at the same time serve the same batches."""
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(100, window_batches=2))
    expected = stream_of(ss.Loader(*stages))
    loaders = [ss.Loader(*stages, cache=tmp_path / "cache", cache_bytes=20_000) for _ in range(2)]
    both = [[(batch.input_ids.tolist(), batch.row_ids.tolist()) for batch in pair] for pair in zip(*loaders, strict=True)]
    wanted = [(columns["input_ids"], row_ids) for columns, row_ids, _, _ in expected]
    assert both == [[each, each] for each in wanted]


def test_the_folder_stays_within_its_size(
    corpus: Path, tmp_path: Path, bpe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least used files go when there are more bytes than allowed; the batches stay the same."""
    monkeypatch.setattr(token_cache, "FILE_BYTES", 4_000)
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(300))
    expected = stream_of(ss.Loader(*stages), 3)
    bounded = ss.Loader(*stages, cache=tmp_path / "cache", cache_bytes=15_000)
    assert stream_of(bounded, 3) == expected
    sizes = [path.stat().st_size for path in (tmp_path / "cache").iterdir()]
    assert len(sizes) > 1
    assert sum(sizes) <= 15_000
    unbounded = ss.Loader(*stages, cache=tmp_path / "all")
    assert stream_of(unbounded, 3) == expected
    assert sum(path.stat().st_size for path in (tmp_path / "all").iterdir()) > 15_000


def test_a_full_disk_costs_one_warning(
    corpus: Path, tmp_path: Path, bpe_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that fails ends the writing, leaves no file, and changes no batch."""
    write = FileWriter.write

    def fails_at_third(self: FileWriter, *arguments: Any) -> None:
        if len(self._summary.end().rows) == 2:
            raise OSError(28, "No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(FileWriter, "write", fails_at_third)
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(300))
    with caplog.at_level(logging.WARNING, "seqstream"):
        assert stream_of(ss.Loader(*stages, cache=tmp_path / "cache"), 2) == stream_of(ss.Loader(*stages), 2)
    assert [record.getMessage().split(" /")[0] for record in caplog.records] == ["no more is kept in the cache"]
    assert "No space left on device" in caplog.text
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_one_warning(
    corpus: Path, tmp_path: Path, bpe_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a folder cannot be made, all is computed."""
    (tmp_path / "file").write_text("")
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(300))
    with caplog.at_level(logging.WARNING, "seqstream"):
        assert stream_of(ss.Loader(*stages, cache=tmp_path / "file" / "cache")) == stream_of(ss.Loader(*stages))
    assert len(caplog.records) == 1


def test_a_killed_writer(corpus: Path, tmp_path: Path, bpe_file: Path) -> None:
    """What a process has left that was killed while it wrote is passed over."""
    code = f"""
        import os, signal
        import seqstream as ss
        source = ss.TextFiles({str(corpus / "*.txt")!r}, block_bytes={BLOCK})
        loader = ss.Loader(
            source, ss.Tokenize({str(bpe_file)!r}, max_length=24), ss.Bucket(100, window_batches=2),
            cache={str(tmp_path / "cache")!r}, prefetch=0
        )
        for number, batch in enumerate(loader):
            if number == 12:
                os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_code(code, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".unfinished"]
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(100, window_batches=2))
    cached = ss.Loader(*stages, cache=tmp_path / "cache")
    assert stream_of(cached, 2) == stream_of(ss.Loader(*stages), 2)
    old = next((tmp_path / "cache").glob("*.unfinished"))
    os.utime(old, (0, 0))
    longer = ss.Loader(text_files(corpus), ss.Tokenize(bpe_file, max_length=9), ss.Bucket(100), cache=tmp_path / "cache")
    stream_of(longer)
    assert not old.exists()


def test_chats_and_labels(tmp_path: Path, bpe_file: Path) -> None:
    """Labels are kept, and rows that a function of labels drops are dropped and counted as without a cache."""
    records = [{"prompt": "p" * (number % 40), "text": "an answer " * (number % 9 + 1)} for number in range(90)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    stages = (
        ss.JsonLines(path, block_bytes=BLOCK),
        ss.Tokenize(bpe_file, prompt="prompt", max_length=30),
        ss.Bucket(300),
    )
    alone = ss.Loader(*stages, on_batch=ss.CausalLabels())
    expected = stream_of(alone, 2)
    cached = ss.Loader(*stages, on_batch=ss.CausalLabels(), cache=tmp_path / "cache")
    assert stream_of(cached, 2) == expected
    assert counts_of(cached) == counts_of(alone)
    without = ss.Loader(*stages, cache=tmp_path / "cache")
    assert stream_of(without) == stream_of(ss.Loader(*stages))


def test_records_that_are_read_one_by_one_are_not_kept(tmp_path: Path, bpe_file: Path, lines: list[str]) -> None:
    """A list is read in another order each epoch; nothing is written for it."""
    stages = (ss.Generator([{"text": line} for line in lines]), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(300))
    assert stream_of(ss.Loader(*stages, cache=tmp_path / "cache"), 2) == stream_of(ss.Loader(*stages), 2)
    assert not (tmp_path / "cache").exists()


def test_a_copy_uses_the_same_folder(corpus: Path, tmp_path: Path, bpe_file: Path) -> None:
    """A loader with a cache can be pickled, before it was used and after."""
    stages = (text_files(corpus), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(300))
    loader = ss.Loader(*stages, cache=tmp_path / "cache")
    copied = pickle.loads(pickle.dumps(loader))
    assert stream_of(copied) == stream_of(loader)
    again = pickle.loads(pickle.dumps(loader))
    stream_of(again)
    assert again.stats.cached_rows - loader.stats.cached_rows == loader.stats.rows


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cache": 3}, TypeError, "cache must be a path of a folder or None, got 3"),
        ({"cache": "", "cache_bytes": 0}, ValueError, "cache_bytes must be"),
        ({"cache": sys.executable}, NotADirectoryError, "cache must be a folder, got the file"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str, corpus: Path, bpe_file: Path) -> None:
    """Options that cannot be meant are refused when the loader is made."""
    with pytest.raises(error, match=message):
        ss.Loader(text_files(corpus), ss.Tokenize(bpe_file), ss.Bucket(300), **options)


def test_dictionaries_are_not_strings(tmp_path: Path, bpe_file: Path, lines: list[str]) -> None:
    """Records of equal values are other ones to a function that sees that a column is a dictionary."""
    first = sorted(filter(None, lines))
    plain = pa.table({"text": first})
    encoded = pa.table({"text": plain["text"].dictionary_encode()})
    for table in (plain, encoded):
        stages = (OneTable(table), ss.Map(add_type), ss.Tokenize(bpe_file, max_length=24), ss.Bucket(900))
        cached = ss.Loader(*stages, cache=tmp_path / "cache")
        assert stream_of(cached) == stream_of(ss.Loader(*stages))
        assert cached.stats.cached_rows == 0


class OneTable(ss.Source):
    """A table as one block."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @property
    def num_shards(self) -> int:
        return 1

    def read(self, shard: int, state: Any = None) -> Any:
        yield self.table, None

    def fingerprint(self) -> Any:
        return "one table"


def add_type(table: pa.Table) -> pa.Table:
    is_dictionary = pa.types.is_dictionary(table.schema.field("text").type)
    return pa.table({"text": table["text"].cast(pa.string()), "is_dictionary": [is_dictionary] * len(table)})
