"""Bad input through a whole loader: a clear error with file and location, no hang, no thread left, no silent loss."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import seqstream as ss

Case = Callable[[Path, ss.Tokenize], list[Any]]


def good_lines(count: int) -> str:
    """Return some lines of text."""
    return "".join(f"line {number} of a corpus\n" for number in range(count))


def missing_file(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A path that does not exist."""
    return [ss.TextFiles(folder / "nowhere.txt"), tokenize]


def glob_without_match(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A glob that matches nothing."""
    return [ss.TextFiles(str(folder / "*.txt")), tokenize]


def directory(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A directory instead of a file."""
    return [ss.TextFiles(folder), tokenize]


def unreadable(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A file that even root cannot open: a symbolic link to itself."""
    (folder / "loop.txt").symlink_to("loop.txt")
    return [ss.TextFiles(folder / "loop.txt"), tokenize]


def invalid_utf8(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A line that is not UTF-8."""
    (folder / "a.txt").write_bytes(good_lines(30).encode() + b"caf\xe9\n" + good_lines(3).encode())
    return [ss.TextFiles(folder / "a.txt", block_bytes=128), tokenize]


def broken_json(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A truncated line of JSON."""
    lines = [json.dumps({"text": f"line {number}"}) for number in range(40)]
    lines[20] = lines[20][:-2]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return [ss.JsonLines(folder / "a.jsonl", block_bytes=128), tokenize]


def missing_field(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A field that no record has."""
    (folder / "a.jsonl").write_text(json.dumps({"body": "text"}) + "\n")
    return [ss.JsonLines(folder / "a.jsonl"), tokenize]


def field_missing_once(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A field that one record lacks."""
    lines = [json.dumps({"text": f"line {number}", "label": 1}) for number in range(40)]
    lines[20] = json.dumps({"label": 1})
    (folder / "a.jsonl").write_text("\n".join(lines))
    return [ss.JsonLines(folder / "a.jsonl"), tokenize]


def wrong_type(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A field of numbers instead of text."""
    (folder / "a.jsonl").write_text(json.dumps({"text": 17}) + "\n")
    return [ss.JsonLines(folder / "a.jsonl"), tokenize]


def type_changes(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A label that is a number at first and text later."""
    lines = [json.dumps({"text": f"line {number}", "label": number}) for number in range(60)]
    lines[50] = json.dumps({"text": "x", "label": "positive"})
    (folder / "a.jsonl").write_text("\n".join(lines))
    return [ss.JsonLines(folder / "a.jsonl", block_bytes=128), tokenize]


def truncated_gzip(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A compressed file without its end."""
    whole = gzip.compress(os.urandom(20_000).hex().encode() + b"\n" + good_lines(500).encode())
    (folder / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    return [ss.TextFiles(folder / "a.txt.gz"), tokenize]


def changed_file(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A file that grew after the source was made."""
    (folder / "a.txt").write_text(good_lines(30))
    source = ss.TextFiles(folder / "a.txt")
    assert source.num_shards == 1
    (folder / "a.txt").write_text(good_lines(40))
    return [source, tokenize]


def vanished_file(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A file that was deleted before it is read."""
    (folder / "a.txt").write_text(good_lines(30))
    source = ss.TextFiles(folder / "a.txt")
    assert source.num_shards == 1
    (folder / "a.txt").unlink()
    return [source, tokenize]


def empty_corpus(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """Files without a byte."""
    (folder / "a.txt").write_text("")
    return [ss.TextFiles(folder / "a.txt"), tokenize]


def only_empty_records(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """Empty lines only."""
    (folder / "a.txt").write_text("\n" * 7)
    return [ss.TextFiles(folder / "a.txt"), tokenize]


def raising_generator(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A generator that raises in the middle."""

    def items() -> Iterator[str]:
        yield from good_lines(1500).splitlines()
        raise KeyError("no such speaker")

    return [ss.Generator(items), tokenize]


def bad_item(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A generator that yields None once."""
    return [ss.Generator([*good_lines(10).splitlines(), None]), tokenize]


def map_changes_rows(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A function of Map that drops a row."""
    (folder / "a.txt").write_text(good_lines(30))
    return [ss.TextFiles(folder / "a.txt"), ss.Map(lambda table: table.slice(1)), tokenize]


def map_raises(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A function that raises on one block."""
    (folder / "a.txt").write_text(good_lines(300))

    def picky(table: pa.Table) -> pa.Table:
        if "line 250 of a corpus" in table.column("text").to_pylist():
            raise ArithmeticError("250 is not for me")
        return table

    return [ss.TextFiles(folder / "a.txt", block_bytes=512), ss.Map(picky), tokenize]


def callable_nonsense(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A tokenizer function that returns too few rows for many texts."""
    (folder / "a.txt").write_text(good_lines(300))
    return [ss.TextFiles(folder / "a.txt"), ss.Tokenize(lambda texts: [[1]] * min(len(texts), 100), max_length=30)]


def too_long(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A record that does not fit, with ``overflow="error"``."""
    (folder / "a.txt").write_text(good_lines(30) + "word " * 100 + "\n")
    return [ss.TextFiles(folder / "a.txt"), ss.Tokenize(tokenize.tokenizer, max_length=30, overflow="error")]


def huge_record(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A line longer than ``max_record_bytes``."""
    (folder / "a.txt").write_text(good_lines(30) + "x" * 5000 + "\n")
    return [ss.TextFiles(folder / "a.txt", max_record_bytes=1000), tokenize]


def small_budget(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A budget smaller than one row of the longest shape."""
    (folder / "a.txt").write_text(good_lines(30))
    return [ss.TextFiles(folder / "a.txt"), tokenize, ss.Bucket(50, shapes=4)]


def small_shapes(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """Shapes that cannot hold a record."""
    (folder / "a.txt").write_text(good_lines(30) + "word " * 30 + "\n")
    return [ss.TextFiles(folder / "a.txt"), tokenize, ss.Bucket(shapes=[(4, 10), (2, 20)])]


def short_rows(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """Packed rows that cannot hold a record."""
    (folder / "a.txt").write_text(good_lines(30) + "word " * 30 + "\n")
    source = ss.TextFiles(folder / "a.txt")
    with pytest.warns(UserWarning, match="a record of more than row_length=20 tokens will stop the run"):
        ss.Loader(source, tokenize, ss.Pack(20, rows=2))
    return [source, ss.Tokenize(tokenize.tokenizer, max_length=20), ss.Map(twice), ss.Pack(20, rows=2)]


def twice(table: pa.Table) -> pa.Table:
    """Double every row."""
    return pa.table({"input_ids": pa.array([ids + ids for ids in table.column("input_ids").to_pylist()])})


def long_labels(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """More labels than tokens in one record."""
    rows = [{"input_ids": [1] * size, "labels": [1] * (size + (size == 7))} for size in range(1, 20)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [ss.JsonLines(folder / "a.jsonl"), ss.Pack(20, rows=2)]


def unknown_side(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """A budget of columns that do not exist."""
    (folder / "a.txt").write_text(good_lines(30))
    return [ss.TextFiles(folder / "a.txt"), tokenize, ss.Bucket(500, columns=("source_ids", "target_ids"))]


def nothing_to_pack(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """Text without a tokenizer."""
    (folder / "a.txt").write_text(good_lines(30))
    return [ss.TextFiles(folder / "a.txt"), ss.Pack(20, rows=2)]


def all_dropped(folder: Path, tokenize: ss.Tokenize) -> list[Any]:
    """Sequences that are all too long for a row, and dropped."""
    (folder / "a.txt").write_text(good_lines(30))
    return [
        ss.TextFiles(folder / "a.txt"),
        ss.Tokenize(lambda texts: [[1] * 9] * len(texts)),
        ss.Pack(8, rows=2, overflow="drop"),
    ]


CASES: list[tuple[Case, list[str]]] = [
    (missing_file, ["nowhere.txt"]),
    (glob_without_match, ["*.txt"]),
    (directory, ["directory", "*.txt"]),
    (unreadable, ["loop.txt"]),
    (invalid_utf8, ["a.txt", "line 31", "errors='replace'"]),
    (broken_json, ["a.jsonl", "line 21"]),
    (missing_field, ["'text'", "body"]),
    (field_missing_once, ["'text'", "a.jsonl, line 21"]),
    (wrong_type, ["'text'", "int64"]),
    (type_changes, ["a.jsonl", "line 51", "label"]),
    (truncated_gzip, ["a.txt.gz"]),
    (changed_file, ["a.txt", "changed"]),
    (vanished_file, ["a.txt"]),
    (empty_corpus, ["source must have at least one record, got none"]),
    (only_empty_records, ["7 records were empty"]),
    (raising_generator, ["no such speaker", "item 1500"]),
    (bad_item, ["item 10"]),
    (map_changes_rows, ["Filter", "a.txt, line 1"]),
    (map_raises, ["250 is not for me", "a.txt, line 2"]),
    (callable_nonsense, ["must return the ids of each of", "texts, got 100", "a.txt, line 1"]),
    (too_long, ["max_length=30", "a.txt, line 31"]),
    (huge_record, ["a.txt", "max_record_bytes"]),
    (small_budget, ["sequence of 64 tokens cannot fit max_tokens=50; raise max_tokens or set Tokenize(max_length=...)"]),
    (small_shapes, ["cannot fit the longest shape, 20; add a longer shape or set Tokenize(max_length=20)", "a.txt, line 31"]),
    (short_rows, ["sequence of 40 tokens cannot fit row_length=20; raise row_length", "Pack(overflow=", "a.txt, line 31"]),
    (long_labels, ["column 'labels' must have as many steps as 'input_ids' to be packed beside it, got 8 and 7", "line 7"]),
    (unknown_side, ["Bucket(columns=...) must name columns of sequences, which are input_ids, got 'source_ids'"]),
    (nothing_to_pack, ["Pack needs a column of sequences, got none; tokenise text with Tokenize before"]),
    (all_dropped, ["source must give at least one row, got none: 0 records were empty and 30 were dropped"]),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(("case", "expected"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_bad_input(case: Case, expected: list[str], prefetch: int, tmp_path: Path, bpe_file: Path) -> None:
    """The error and its notes name the file, the location and the remedy, and no thread is left."""

    def run() -> list[ss.Batch]:
        source, *stages = case(tmp_path, ss.Tokenize(bpe_file, max_length=64))
        if isinstance(stages[-1], ss.Map | ss.Filter | ss.Tokenize):
            stages.append(ss.Bucket(512, window_batches=2))
        return list(ss.Loader(source, *stages, prefetch=prefetch))

    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is checked below
        run()
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    for part in expected:
        assert part in text
    assert not isinstance(caught.value, AssertionError | AttributeError)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("seqstream")]


def test_empty_windows_are_skipped(tmp_path: Path, bpe_file: Path) -> None:
    """A filter may drop all records of many blocks in a row; those after them are read."""
    (tmp_path / "a.txt").write_text(good_lines(400))
    keeps = ss.Filter(lambda table: [int(text.split()[1]) > 380 for text in table.column("text").to_pylist()])
    for spec in (ss.Bucket(100, window_batches=2), ss.Pack(64, rows=1, window_batches=2), ss.Bucket(128, shapes=2)):
        stages = (ss.TextFiles(tmp_path / "a.txt", block_bytes=64), keeps, ss.Tokenize(bpe_file, max_length=64), spec)
        loader = ss.Loader(*stages, shuffle=False)
        for _ in loader:
            pass
        assert (loader.stats.rows, loader.stats.dropped) == (19, 381)


def test_invalid_utf8_can_be_replaced(tmp_path: Path, bpe_file: Path) -> None:
    """With ``errors="replace"`` the line is read, with U+FFFD in place of the byte."""
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\nplain\n")
    loader = ss.Loader(ss.TextFiles(tmp_path / "a.txt", errors="replace"), ss.Tokenize(bpe_file, max_length=64), ss.Bucket(512))
    assert sum(batch.num_rows for batch in loader) == 2


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(tmp_path: Path) -> None:
    """The error of a file without read permission names it."""
    (tmp_path / "a.txt").write_text(good_lines(3))
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(PermissionError, match=r"a\.txt"):
        list(ss.Loader(ss.TextFiles(tmp_path / "a.txt"), ss.Unbucketed(1)))
