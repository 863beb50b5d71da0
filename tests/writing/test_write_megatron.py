"""Tokens written as Megatron-LM's files: byte for byte its own, interrupted and continued, and read with what made them."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import seqstream as ss
from seqstream.sources.tokens.arrow_files import UNFINISHED
from seqstream.sources.tokens.manifest import MANIFEST, PLAN
from seqstream.sources.tokens.megatron import MegatronWriter
from tests.helpers.rank_corpora import letters, some_texts, text_files
from tests.helpers.token_formats import write_megatron
from tests.helpers.tokens import files_of, values_of, write

LETTERS = ss.Tokenize(letters, max_length=60)
SPEC = ss.Bucket(240, window_batches=4)
OPTIONS: dict[str, Any] = {"file_bytes": 1_000, "format": "megatron"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ss.Source:
    """Plain text in many small blocks."""
    return text_files(tmp_path_factory.mktemp("text"), some_texts(160))


@pytest.fixture(scope="module")
def written(source: ss.Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokens of it, written without an interruption."""
    return write(tmp_path_factory.mktemp("written") / "tokens", source, LETTERS, **OPTIONS)


def rows_in(folder: Path) -> list[list[int]]:
    """All rows of token files, in their order."""
    tokens = ss.TokenFiles(folder)
    return [
        row for shard in range(tokens.num_shards) for table, _ in tokens.read(shard) for row in table["input_ids"].to_pylist()
    ]


@pytest.mark.parametrize(("knows_vocabulary", "dtype"), [(True, "uint16"), (False, "int32")])
def test_files_are_those_of_megatron(
    knows_vocabulary: bool, dtype: str, tmp_path: Path, bpe_tokenizer: Tokenizer, texts: list[str]
) -> None:
    """A pair has the bytes that Megatron-LM writes for the same documents, in two bytes an id if its rule says so."""
    stage = ss.Tokenize(bpe_tokenizer if knows_vocabulary else letters, max_length=30)
    source = ss.Generator(texts[:50])
    write(tmp_path / "tokens", source, stage, format="megatron")
    rows = rows_in(write(tmp_path / "arrow", source, stage))
    write_megatron(tmp_path / "theirs", [[row] for row in rows], dtype)
    assert {path.suffix for path in (tmp_path / "tokens").iterdir()} == {".bin", ".idx", ".json"}
    for suffix in (".bin", ".idx"):
        (ours,) = (tmp_path / "tokens").glob(f"*{suffix}")
        assert ours.read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()
    assert rows_in(tmp_path / "tokens") == rows


def test_a_loader_reads_them_as_the_text(source: ss.Source, written: Path) -> None:
    """The folder knows the stages, so that they may be given again, and other ones are refused; each pair is read alone."""
    assert len([*written.glob("*.bin")]) > 3
    expected = values_of(ss.Loader(source, LETTERS, SPEC))
    tokens = ss.TokenFiles(written)
    assert values_of(ss.Loader(tokens, SPEC)) == values_of(ss.Loader(tokens, LETTERS, SPEC)) == expected
    with pytest.raises(ValueError, match="stages must be those that the tokens were made with"):
        ss.Loader(tokens, ss.Tokenize(letters, max_length=61), SPEC)
    alone = [ss.TokenFiles(path) for path in sorted(written.glob("*.idx"))]
    assert sum(each.num_rows or 0 for each in alone) == tokens.num_rows == expected.total()
    assert sum(each.num_tokens or 0 for each in alone) == tokens.num_tokens


def test_side_by_side(source: ss.Source, written: Path, tmp_path: Path) -> None:
    """Ranks in any order and threads write the same files; a call that finds them complete changes nothing."""
    parts = [write_part(source, tmp_path / "ranks", rank) for rank in (2, 0, 1)]
    assert [part.is_complete for part in parts] == [False, False, True]
    assert files_of(tmp_path / "ranks") == files_of(written)
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        write(tmp_path / "threads", source, LETTERS, executor=threads, **OPTIONS)
    assert files_of(tmp_path / "threads") == files_of(written)
    again = write_part(source, tmp_path / "ranks", 0)
    assert (again.num_rows, again.num_tokens) == (153, ss.TokenFiles(written).num_tokens)
    assert again.counts == parts[-1].counts
    assert min(again.counts.values()) > 0


def write_part(source: ss.Source, folder: Path, rank: int) -> ss.WrittenTokens:
    return ss.write_tokens(source, LETTERS, to=folder, rank=rank, world_size=3, progress=False, **OPTIONS)


@pytest.mark.parametrize("method", ["write", "finish"])
def test_an_error_in_any_write_leaves_no_named_file(
    method: str, source: ss.Source, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the n-th write leaves files that are complete and are kept, and the next call goes on."""
    original = getattr(MegatronWriter, method)
    for last in (0, 1, 3):
        calls = itertools.count()

        def fail(self: MegatronWriter, *args: Any, last: int = last, calls: Iterator[int] = calls) -> None:
            if next(calls) >= last:
                raise OSError(28, "No space left on device")
            original(self, *args)

        monkeypatch.setattr(MegatronWriter, method, fail)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "tokens", source, LETTERS, **OPTIONS)
        complete = files_of(tmp_path / "tokens")
        complete.pop(PLAN)
        assert all(data == (written / name).read_bytes() for name, data in complete.items())
        assert not [name for name in complete if name.endswith(UNFINISHED)]
    monkeypatch.undo()
    write(tmp_path / "tokens", source, LETTERS, **OPTIONS)
    assert files_of(tmp_path / "tokens") == files_of(written)


def test_no_rows(tmp_path: Path) -> None:
    """A range without rows gets no pair of files, which could not be mapped, and its counts are kept."""
    found = ss.write_tokens(ss.Generator(["", ""]), LETTERS, to=tmp_path / "none", progress=False, format="megatron")
    assert (found.num_tokens, found.counts["empty"]) == (0, 2)
    assert sorted(path.suffix for path in found.folder.iterdir()) == [".json", ".json"]
    tokens = ss.TokenFiles(found.folder)
    assert (tokens.num_rows, tokens.num_tokens) == (0, 0)


def test_what_is_refused(source: ss.Source, written: Path, tmp_path: Path) -> None:
    """Other columns than ids, another format than the folder has, and a format that is not known."""
    items = [{"text": "some words", "label": 1}]
    with pytest.raises(ValueError, match=r"no columns but 'input_ids'.*got (input_ids, label|label, input_ids)"):
        write(tmp_path / "labels", ss.Generator(items), LETTERS, format="megatron")
    with pytest.raises(ValueError, match=r"origin\.format is 'megatron' there and 'arrow' here"):
        write(written, source, LETTERS, file_bytes=1_000)
    with pytest.raises(ValueError, match=r"format must be one of 'arrow', 'megatron', got 'nemo'"):
        write(tmp_path / "other", source, LETTERS, format="nemo")


def test_damage_is_refused(source: ss.Source, tmp_path: Path) -> None:
    """A file that is missing or shorter is named."""
    folder = write(tmp_path / "tokens", source, LETTERS, **OPTIONS)
    (first, second, *_) = sorted(folder.glob("*.bin"))
    first.with_suffix(".idx").rename(tmp_path / "idx")
    with pytest.raises(FileNotFoundError, match=f"{first.with_suffix('.idx').name} must be beside"):
        ss.TokenFiles(folder)
    (tmp_path / "idx").rename(first.with_suffix(".idx"))
    second.write_bytes(second.read_bytes()[:-4])
    with pytest.raises(ValueError, match=f"{second.name} must have .* bytes, as {MANIFEST} says"):
        ss.TokenFiles(folder)
