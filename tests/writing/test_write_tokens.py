"""Writing tokens: in parts and side by side, interrupted and continued, byte for byte the same, and what is refused."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import gzip
import multiprocessing
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

import seqstream as ss
from benchmarks.harness.damaged_tokens import DAMAGES, write_rows
from benchmarks.tokens import kill_writer, slowly
from seqstream.sources.tokens.arrow_files import UNFINISHED, FileWriter
from seqstream.sources.tokens.manifest import MANIFEST, PLAN
from tests.helpers.forked import run_code
from tests.helpers.rank_corpora import letters, some_texts, text_files
from tests.helpers.tokens import files_of, values_of, write

LETTERS = ss.Tokenize(letters, max_length=60)
SPEC = ss.Bucket(240, window_batches=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ss.Source:
    """Plain text in many small blocks."""
    return text_files(tmp_path_factory.mktemp("text"), some_texts(160))


@pytest.fixture(scope="module")
def written(source: ss.Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokens of it, written without an interruption."""
    return write(tmp_path_factory.mktemp("written") / "tokens", source, LETTERS, file_bytes=1_000)


# What is written


def test_what_is_returned(source: ss.Source, tmp_path: Path) -> None:
    """Rows, tokens and counts are those of a loader; a second call finds them, and changes nothing."""
    loader = ss.Loader(source, LETTERS, SPEC)
    values = values_of(loader)
    first = ss.write_tokens(source, LETTERS, to=tmp_path / "tokens", progress=False)
    assert (first.is_complete, first.num_rows, first.num_tokens) == (True, values.total(), loader.stats.tokens)
    assert first.counts == {"empty": loader.stats.empty, "truncated": loader.stats.truncated}
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert ss.write_tokens(source, LETTERS, to=tmp_path / "tokens", progress=False) == first
    assert {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


def test_any_library_reads_the_files(written: Path) -> None:
    """The files are Arrow files, of two bytes a token where the vocabulary allows it."""
    tables = [pa.ipc.open_file(path).read_all() for path in sorted(written.glob("*.arrow"))]
    assert sum(map(len, tables)) == ss.TokenFiles(written).num_rows
    assert "input_ids" in tables[0].column_names


def _gzip(folder: Path, texts: list[str]) -> ss.Source:
    for number in range(3):
        (folder / f"{number}.txt.gz").write_bytes(gzip.compress("\n".join(texts[number::3]).encode()))
    return ss.TextFiles(folder / "*.gz", block_bytes=300)


def _parquet(folder: Path, texts: list[str]) -> ss.Source:
    pq.write_table(pa.table({"text": texts, "label": range(len(texts))}), folder / "a.parquet", row_group_size=20)
    return ss.Parquet(folder / "a.parquet", block_bytes=300)


def _hf(folder: Path, texts: list[str], num_shards: int = 0) -> ss.Source:
    from datasets import Dataset

    rows = Dataset.from_list([{"text": text, "label": number % 2} for number, text in enumerate(texts)])
    return ss.HFDataset(rows.to_iterable_dataset(num_shards=num_shards) if num_shards else rows, block_bytes=300)


SOURCES: dict[str, Callable[[Path, list[str]], ss.Source]] = {
    "text": text_files,
    "gzip": _gzip,
    "parquet": _parquet,
    "list": lambda _, texts: ss.Generator(texts, block_bytes=300),
    "function": lambda _, texts: ss.Generator(lambda: iter(texts), block_bytes=300),
    "hf": _hf,
    "hf-stream": functools.partial(_hf, num_shards=3),
    "split": lambda folder, texts: text_files(folder, texts).split(valid=0.3)[0],
    "concat": lambda folder, texts: ss.Concat([_gzip(folder, texts), ss.Generator(texts[:30], block_bytes=300)]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_of_every_kind(name: str, tmp_path: Path) -> None:
    """The tokens of every kind of source are those that a loader makes of it."""
    source = SOURCES[name](tmp_path, some_texts(80))
    folder = write(tmp_path / "tokens", source, LETTERS, file_bytes=1_000)
    assert values_of(ss.Loader(ss.TokenFiles(folder), SPEC)) == values_of(ss.Loader(source, LETTERS, SPEC))
    assert not [path for path in folder.iterdir() if path.name == PLAN or path.name.endswith(UNFINISHED)]


def test_a_generator_that_was_called(tmp_path: Path) -> None:
    """Records that exist once are written once."""
    texts = some_texts(60)
    folder = write(tmp_path / "tokens", ss.Generator(iter(texts), block_bytes=300), LETTERS)
    assert values_of(ss.Loader(ss.TokenFiles(folder), SPEC)) == values_of(ss.Loader(ss.Generator(texts), LETTERS, SPEC))


@pytest.mark.parametrize(
    "stages", [[LETTERS], [ss.Filter(lambda table: [False] * len(table)), LETTERS]], ids=["none", "dropped"]
)
@pytest.mark.parametrize("texts", [[], ["a", "bb"] * 200], ids=["empty", "some"])
def test_no_rows(texts: list[str], stages: list[Any], tmp_path: Path) -> None:
    """A source without records, or whose records are all dropped, gives a folder of no rows; its counts are kept."""
    source = ss.Generator(texts, block_bytes=300)
    result = ss.write_tokens(source, *stages, to=tmp_path / "tokens", progress=False)
    tokens = ss.TokenFiles(result.folder)
    expected = len(texts) if len(stages) == 1 else 0
    assert (result.num_rows, tokens.num_rows) == (expected, expected)
    assert result.counts.get("dropped", 0) == len(texts) - expected
    if expected:
        assert list(ss.Loader(tokens, SPEC))


def test_blocks_of_other_types_get_files_of_their_own(tmp_path: Path) -> None:
    """A column whose type changes from block to block is kept, each type in its own file, and counts are exact."""

    def change(table: pa.Table) -> pa.Table:
        at = table.column("text")[0].as_py()
        return table.append_column("x", pa.array([at] * len(table)) if at.startswith("t") else pa.array([1] * len(table)))

    texts = [f"{'t' if number // 40 % 2 else 'n'}{number}" for number in range(160)]
    source = ss.Generator(texts, block_bytes=200)
    folder = write(tmp_path / "tokens", source, ss.Map(change), LETTERS, file_bytes=1 << 20)
    tables = [pa.ipc.open_file(path).read_all() for path in sorted(folder.glob("*.arrow"))]
    assert len(tables) > 1
    assert sum(map(len, tables)) == 160


def test_tokens_are_written_again(tmp_path: Path, source: ss.Source, written: Path) -> None:
    """Tokens that pass through more stages keep what is known of their padding, and of the stages that made them."""
    tokens = ss.TokenFiles(written)
    stage = ss.Filter(_keep_short)
    folder = write(tmp_path / "tokens", tokens, LETTERS, stage)
    again = ss.TokenFiles(folder)
    assert again.token_info == dataclasses.replace(tokens.token_info, **_stages_of(again))
    assert len(again.token_info.stages) == 2
    assert values_of(ss.Loader(again, LETTERS, stage, SPEC)) == values_of(ss.Loader(source, LETTERS, stage, SPEC))


def _stages_of(tokens: ss.TokenFiles) -> dict[str, Any]:
    return {"stages": tokens.token_info.stages, "functions": tokens.token_info.functions}


def _keep_short(table: pa.Table) -> list[bool]:
    return [len(row) < 30 for row in table.column("input_ids").to_pylist()]


# Interrupted, and side by side


def test_ranks_in_any_order(source: ss.Source, written: Path, tmp_path: Path) -> None:
    """The last of three calls completes the folder, whichever it is, and a fourth finds it complete."""
    folder = tmp_path / "tokens"
    parts = [
        ss.write_tokens(source, LETTERS, to=folder, rank=rank, world_size=3, progress=False, file_bytes=1_000)
        for rank in (2, 0, 1)
    ]
    assert [part.is_complete for part in parts] == [False, False, True]
    assert sum(part.num_rows for part in parts) == ss.TokenFiles(folder).num_rows
    assert files_of(folder) == files_of(written)
    for rank, world_size in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=r"rank must be|world_size must be"):
            ss.write_tokens(source, LETTERS, to=folder, rank=rank, world_size=world_size, progress=False)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_executors_change_nothing(kind: str, source: ss.Source, written: Path, tmp_path: Path) -> None:
    """Threads and processes write the same files."""
    context = multiprocessing.get_context("fork")
    executor: concurrent.futures.Executor = (
        concurrent.futures.ThreadPoolExecutor(4)
        if kind == "threads"
        else concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
    )
    with executor:
        write(tmp_path / "tokens", source, LETTERS, file_bytes=1_000, executor=executor)
    assert files_of(tmp_path / "tokens") == files_of(written)


def test_fast_engines_in_threads_and_processes(tmp_path: Path, bpe_tokenizer: Tokenizer, texts: list[str]) -> None:
    """The engine that is proved here writes the same from a pool of processes and of threads."""
    (tmp_path / "a.txt").write_text("\n".join(texts))
    source, stage = ss.TextFiles(tmp_path / "a.txt", block_bytes=2_000), ss.Tokenize(bpe_tokenizer, max_length=40)
    alone = write(tmp_path / "alone", source, stage, file_bytes=8_000)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        write(tmp_path / "threads", source, stage, file_bytes=8_000, executor=threads)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as processes:
        write(tmp_path / "processes", source, stage, file_bytes=8_000, executor=processes)
    assert files_of(alone) == files_of(tmp_path / "threads") == files_of(tmp_path / "processes")


def test_an_error_of_an_executor_ends_the_call(source: ss.Source, tmp_path: Path) -> None:
    """A text that cannot be tokenised is located, leaves no unfinished file of its range, and the call can be repeated."""
    cold = tmp_path / "cold"

    def tokenize(texts: list[str]) -> list[list[int]]:
        if not cold.exists() and any(text.startswith("100 ") for text in texts):
            raise ValueError("too hot")
        return letters(texts)

    stage = ss.Tokenize(tokenize, max_length=60)
    with concurrent.futures.ThreadPoolExecutor(2) as threads, pytest.raises(ValueError, match="too hot") as raised:
        write(tmp_path / "tokens", source, stage, file_bytes=1_000, executor=threads)
    assert any("c.txt, line" in note for note in raised.value.__notes__)
    assert not [*(tmp_path / "tokens").glob(f"*{UNFINISHED}")]
    cold.touch()
    write(tmp_path / "tokens", source, stage, file_bytes=1_000)


def test_two_writers_of_one_folder(source: ss.Source, written: Path, tmp_path: Path) -> None:
    """Two calls that write the same folder at the same time both complete it."""
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            calls = [threads.submit(write, folder, source, LETTERS, file_bytes=1_000) for _ in range(3)]
            for call in calls:
                call.result()
        assert files_of(folder) == files_of(written)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """A writer that is killed again and again goes on, and the folder ends as one that was left alone, to the byte."""
    source = text_files(tmp_path, some_texts(400))
    draw, numbers = random.Random(0), []
    for _ in range(8):
        kill_writer(source, tmp_path / "killed", draw.randrange(3), draw.uniform(0, 0.04))
        numbers.append(len([*(tmp_path / "killed").glob("*.arrow")]))
    assert not (tmp_path / "killed" / MANIFEST).exists()
    for name in ("killed", "alone"):
        write(tmp_path / name, source, ss.Tokenize(slowly), file_bytes=1_000)
    assert numbers == sorted(numbers)
    assert numbers[-1] > 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "alone")


def test_a_full_disk_leaves_no_named_file(source: ss.Source, written: Path, tmp_path: Path) -> None:
    """Where a file cannot be written to its end it gets no name, and the call goes on when there is room again."""
    code = f"""
        import resource, signal, sys
        import seqstream as ss
        from tests.helpers.rank_corpora import letters
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
        source = ss.TextFiles({str(tmp_path)!r} + "/*.txt", block_bytes=384)
        try:
            ss.write_tokens(source, ss.Tokenize(letters, max_length=60), to=sys.argv[1], progress=False, file_bytes=1 << 20)
        except OSError as error:
            print(type(error).__name__)
    """
    own = text_files(tmp_path, some_texts(160))
    folder = tmp_path / "tokens"
    done = run_code(code, str(folder), cwd=tmp_path)
    assert done.stdout == "OSError\n", done.stderr
    assert [path.name for path in folder.iterdir()] == [PLAN]
    write(folder, own, LETTERS, file_bytes=1 << 20)
    assert values_of(ss.Loader(ss.TokenFiles(folder), SPEC)) == values_of(ss.Loader(own, LETTERS, SPEC))


def test_an_error_in_any_write_leaves_no_named_file(
    source: ss.Source, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the n-th write, for every n, leaves files that are complete and are kept."""
    original = FileWriter.write
    for last in (0, 1, 3, 7):
        calls = iter(range(1_000))

        def fail(self: FileWriter, *args: Any, last: int = last, calls: Iterator[int] = calls) -> None:
            if next(calls) >= last:
                raise OSError(28, "No space left on device")
            original(self, *args)

        monkeypatch.setattr(FileWriter, "write", fail)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "tokens", source, LETTERS, file_bytes=1_000)
        complete = files_of(tmp_path / "tokens")
        complete.pop(PLAN)
        assert all(data == (written / name).read_bytes() for name, data in complete.items())
    monkeypatch.undo()
    write(tmp_path / "tokens", source, LETTERS, file_bytes=1_000)
    assert files_of(tmp_path / "tokens") == files_of(written)


# What is refused


def test_foreign_folders_and_sources_are_refused(source: ss.Source, tmp_path: Path) -> None:
    """A folder of other files is left alone, and a mixture is refused by name."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"must be empty or have tokens, got notes.txt; choose another folder"):
        write(tmp_path, source, LETTERS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(TypeError, match="got Mixture; write each of its sources to a folder of its own"):
        write(tmp_path / "a", ss.Mixture({"a": source}, {"a": 1}), LETTERS)
    with pytest.raises(TypeError, match="stages must be Map, Filter"):
        write(tmp_path / "a", source, LETTERS, ss.Bucket(240))
    with pytest.raises(TypeError, match=r"source must be a path, a glob or a folder of files, .* got int"):
        write(tmp_path / "a", 3, LETTERS)  # type: ignore[arg-type]
    with pytest.raises((NotADirectoryError, FileExistsError)):
        write(tmp_path / "notes.txt", source, LETTERS)


def _other_letters(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) % 50 + 1 for letter in text] for text in texts]


def _keep_all(table: pa.Table) -> list[bool]:
    return [True] * len(table)


def _keep_same(table: pa.Table) -> list[bool]:
    return [True for _ in range(len(table))]


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "source": ({"texts": 161}, r"origin\.source\.files\.bytes is [\d]+ there and [\d]+ here"),
    "max_length": ({"stages": [ss.Tokenize(letters, max_length=59)]}, r"stages\.stage 1\.max_length is 60 there and 59 here"),
    "overflow": (
        {"stages": [ss.Tokenize(letters, max_length=60, overflow="drop")]},
        r"stages\.stage 1\.overflow is 'truncate' there and 'drop' here",
    ),
    "tokenizer": ({"stages": [ss.Tokenize(_other_letters, max_length=60)]}, r"stage 1"),
    "stage": ({"stages": [ss.Filter(_keep_all), LETTERS]}, r"stages\.stage 2"),
    "file_bytes": ({"file_bytes": 1_001}, r"origin\.file_bytes is 1000 there and 1001 here"),
}


@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "begun"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_arguments_are_refused(name: str, is_complete: bool, tmp_path: Path, written: Path) -> None:
    """Another source, stage or size than those of the folder is named, whether it is complete or was begun."""
    changes, message = OTHERS[name]
    source = text_files(tmp_path, some_texts(160))
    folder = tmp_path / "tokens"
    ss.write_tokens(source, LETTERS, to=folder, file_bytes=1_000, progress=False, rank=0, world_size=1 if is_complete else 2)
    before = files_of(folder)
    if "texts" in changes:
        source = text_files(tmp_path, some_texts(changes["texts"]))
    with pytest.raises(ValueError, match=f"must have tokens of this source and these stages, but .*{message}"):
        write(folder, source, *changes.get("stages", [LETTERS]), file_bytes=changes.get("file_bytes", 1_000))
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([ss.Filter(_keep_all), ss.Tokenize(letters, max_length=59)], r"stage 2\.max_length 60 there, 59 here"),
        ([ss.Filter(_keep_all), ss.Tokenize(_other_letters, max_length=60)], "stage 2"),
        ([ss.Filter(_keep_same), LETTERS], "stage 1"),
        ([LETTERS], "stage 1.*stage 2"),
    ],
    ids=["max_length", "tokenizer", "function", "missing"],
)
def test_other_stages_of_a_loader_are_refused(stages: list[Any], message: str, source: ss.Source, tmp_path: Path) -> None:
    """A loader that is given stages must be given those that made the tokens; what differs is named."""
    tokens = ss.TokenFiles(write(tmp_path / "tokens", source, ss.Filter(_keep_all), LETTERS))
    with pytest.raises(ValueError, match=f"stages must be those that the tokens were made with.*{message}"):
        ss.Loader(tokens, *stages, SPEC)
    more = ss.Loader(tokens, ss.Filter(_keep_all), LETTERS, ss.Filter(_keep_same), SPEC)
    assert values_of(more) == values_of(ss.Loader(source, LETTERS, SPEC))


MESSAGES = {
    **{name: r"manifest.json must be as it was written" for name in DAMAGES if name.startswith("manifest, ")},
    "truncated": r"\.arrow must have [\d,]+ bytes, as manifest.json says, got [\d,]+",
    "extra bytes": r"\.arrow must have [\d,]+ bytes, as manifest.json says",
    "missing": r"\.arrow must be there, as manifest.json says",
    "swapped": r"\.arrow must hold the \d+ rows of [\d,]+ tokens that manifest.json says",
    "flip in the data": r"\.arrow, block 0 must have the checksum",
    "flip in a checksum": r"\.arrow, block 0 must have the checksum",
    "flip in the name of the summary": r"\.arrow must end with a summary of its tokens",
    "flip in the summary": r"\.arrow must end with the summary it was written with",
    "flip in the numbers of the summary": r"\.arrow must (hold|end with the summary)",
    "flip in the footer": r"\.arrow",
    "flip in the end": r"\.arrow must be a complete Arrow file",
    "manifest of another folder": r"\.arrow must (hold|have)",
    "manifest cut": r"manifest.json must be JSON as it was written",
    "manifest of another kind": r"manifest.json must be of kind 'seqstream tokens'",
    "manifest of another version": r"manifest.json must be of version 1, got 2",
}


@pytest.mark.parametrize("shuffle", ["blocks", "rows"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused(name: str, shuffle: Any, tmp_path: Path) -> None:
    """A damaged or exchanged file is found at the latest when it is read, by an error that names it; and `verify` finds it."""
    folder, message = write_rows(tmp_path / "tokens"), MESSAGES[name]
    DAMAGES[name](folder)
    with pytest.raises(ValueError, match=message):
        ss.TokenFiles(folder).verify()
    if shuffle == "rows" and name in ("flip in the data", "flip in a checksum"):
        return  # rows are read without the blocks that they lie in
    with pytest.raises(ValueError, match=message):
        list(ss.Loader(ss.TokenFiles(folder, shuffle=shuffle), SPEC))


def test_any_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    """After one bit anywhere in a file is flipped the rows are refused, or they are the same."""
    rows = [{"input_ids": [number % 50 + 1] * (number % 9 + 1), "name": f"n{number}"} for number in range(60)]
    folder = write(tmp_path / "tokens", ss.Generator(rows, block_bytes=500), file_bytes=1 << 20)
    (path,) = folder.glob("*.arrow")
    data, draw = path.read_bytes(), random.Random(1)
    expected = list(ss.TokenFiles(folder).records())
    num_refused = 0
    for _ in range(160):
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            got = list(ss.TokenFiles(folder, mmap=False).records())
        except ValueError as error:
            num_refused += str(path) in str(error)
        else:
            assert got == expected
    assert num_refused > 40
