"""Options of sources, stages and batch specs: a wrong type is an error that names the option, as soon as it is given."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import seqstream as ss


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each kind, of the same lines."""
    folder = tmp_path_factory.mktemp("files")
    lines = [f"line {number}" for number in range(60)]
    (folder / "a.txt").write_text("\n".join(lines))
    (folder / "a.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (folder / "a.csv").write_text("text\n" + "\n".join(lines))
    pq.write_table(pa.table({"text": lines}), folder / "a.parquet")
    return folder


FILES = {ss.TextFiles: "a.txt", ss.JsonLines: "a.jsonl", ss.Csv: "a.csv", ss.Parquet: "a.parquet"}


@pytest.mark.parametrize("source", FILES, ids=lambda source: source.__name__)
@pytest.mark.parametrize("value", ["64", 1.5, True, [1], np.array([1, 2]), torch.tensor(3), int])
def test_sizes_are_whole_numbers(source: Any, value: Any, folder: Path) -> None:
    """Numbers of bytes must be integers: no text, float, bool, list, array or tensor."""
    for name in ("block_bytes", "max_record_bytes")[: 1 if source is ss.Parquet else 2]:
        with pytest.raises(TypeError, match=rf"^{name} must be a whole number of bytes, got "):
            source(folder / FILES[source], **{name: value})


@pytest.mark.parametrize("source", [ss.TextFiles, ss.Csv, ss.Parquet, ss.Generator], ids=lambda source: source.__name__)
def test_sizes_of_numpy_are_ints_in_a_state(source: Any, folder: Path) -> None:
    """The fingerprint of a source with a size of NumPy is JSON."""
    given = ["text"] * 9 if source is ss.Generator else folder / FILES[source]
    assert json.loads(json.dumps(source(given, block_bytes=np.int64(64)).fingerprint()))["block_bytes"] == 64


@pytest.mark.parametrize("value", [3, b"text", {"text": 1}, [1], [None], object(), np.array(1), torch.tensor([1.0])])
def test_columns_are_names(value: Any, folder: Path) -> None:
    """Columns must be a list of strings, in every source that has the option and in `Bucket`."""
    for source in (ss.JsonLines, ss.Csv, ss.Parquet):
        with pytest.raises(TypeError, match=r"^columns must be a list of names, got "):
            source(folder / FILES[source], columns=value)
    with pytest.raises(TypeError, match=r"^columns must be a list of names, got "):
        ss.Bucket(90, columns=value)


@pytest.mark.parametrize("paths", [3, b"a.txt", [1], [b"a.txt"], np.array(1), torch.tensor(3)])
def test_paths_are_paths(paths: Any) -> None:
    """Paths must be a path or a list of paths."""
    with pytest.raises(TypeError, match=r"^paths must be a path or a list of paths, got "):
        ss.TextFiles(paths)


@pytest.mark.parametrize("path", ["a\0.txt", "\ud83d.txt"])
def test_paths_that_no_file_has(path: str) -> None:
    """A path with a zero byte, or with half of a surrogate pair, is an error."""
    with pytest.raises(ValueError, match=r"^paths must be names that a file can have, got "):
        ss.TextFiles(path)


@pytest.mark.parametrize("character", [None, 1, "\0", "\n", b","])
def test_delimiters(character: Any, folder: Path) -> None:
    """A delimiter is one ASCII character that does not end a line."""
    with pytest.raises(ValueError, match=r"^delimiter must be one ASCII character, got "):
        ss.Csv(folder / "a.csv", delimiter=character)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ss.Bucket(int), ValueError, "max_tokens must be a positive whole number, got <class 'int'>"),
        (lambda: ss.Bucket(np.array([1, 2])), ValueError, "max_tokens must be a positive whole number"),
        (lambda: ss.Bucket(9, multiple_of=None), ValueError, "multiple_of must be a positive whole number, got None"),
        (
            lambda: ss.Bucket(shapes="nowhere.json"),
            FileNotFoundError,
            "shapes must be a number, a list of .*, got 'nowhere.json'",
        ),
        (lambda: ss.Bucket(shapes="\0"), ValueError, "shapes must be a number, a list of"),
        (lambda: ss.Bucket(9, cost=[1]), ValueError, "cost must be one of"),
        (lambda: ss.Pack(None, rows=1), ValueError, "row_length must be a positive whole number, got None"),
        (lambda: ss.Pack(9, rows=1, causal=1), TypeError, "causal must be True or False, got 1"),
        (lambda: ss.Unbucketed(2, drop_last="no"), TypeError, "drop_last must be True or False, got 'no'"),
        (lambda: ss.Tokenize(len, special_tokens=1), TypeError, "special_tokens must be True or False, got 1"),
        (
            lambda: ss.Tokenize(len, end=1 << 31),
            ValueError,
            "end must be a token or its id, .* below 2\\*\\*31, got 2147483648",
        ),
        (lambda: ss.Tokenize(len, max_length=int), TypeError, "max_length must be a whole number, got"),
        (lambda: ss.CausalLabels(len), TypeError, "column must be the name of a column, got"),
        (lambda: ss.TeacherForcing(0, target=1), TypeError, "target must be the name of a column, got 1"),
        (lambda: ss.ClassLabels([0, 1], counts=3), TypeError, "counts must be a list of whole numbers, one a class, got 3"),
        (lambda: ss.ClassLabels([0, 1], to="\ud83d"), ValueError, "to must be the name of a column, which is UTF-8"),
        (
            lambda: ss.Loader(ss.Generator([[1]]), ss.Unbucketed(1), accumulate=1 << 63),
            ValueError,
            "accumulate must be at most",
        ),
    ],
)
def test_an_option_of_another_kind_is_named(make: Any, error: type[Exception], message: str) -> None:
    """The error has the name of the option, what it must be and what it is."""
    with pytest.raises(error, match=f"^{message}"):
        make()


@pytest.mark.parametrize("own", [{}, "x", {"next": 2}, ["x"], [1, 2, 3], -1, 1.5, True])
@pytest.mark.parametrize("name", ["a.txt.gz", "a.csv", "a.parquet", "list"])
def test_a_state_of_a_shard_that_no_source_saved(own: Any, name: str, folder: Path) -> None:
    """Such a state is an error with its value, when the shard is read."""
    kinds: dict[str, Any] = {"a.txt.gz": ss.TextFiles, "a.csv": ss.Csv, "a.parquet": ss.Parquet}
    source = kinds[name](folder / name, block_bytes=64) if name in kinds else ss.Generator(lambda: iter(["text"] * 60))
    with pytest.raises(ValueError, match=r"^state of a shard must be .*, got .*; load it as it was saved"):
        next(source.read(0, own))
