"""Names of folders as columns: partitions ``name=value`` for every source of files, and a folder for each class."""

from __future__ import annotations

import functools
import gzip
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import seqstream as ss

FOLDERS = {"lang=d%2Fe/year=2020": 700, "lang=en/other": 2, "lang=en/year=2020": 3, "lang=en/year=2021": 1}
"""Number of records in each folder."""


def text_lines(texts: list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def json_lines(texts: list[str]) -> bytes:
    return "\n".join(json.dumps({"text": text}) for text in texts).encode()


def parquet(texts: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts}), sink)
    return bytes(sink.getvalue())


KINDS: dict[str, tuple[Any, Callable[[list[str]], bytes], str]] = {
    "text": (ss.TextFiles, text_lines, ".txt"),
    "compressed": (ss.TextFiles, lambda texts: gzip.compress(text_lines(texts)), ".txt.gz"),
    "paragraphs": (functools.partial(ss.TextFiles, unit="paragraph"), lambda texts: "\n \n\n".join(texts).encode(), ".txt"),
    "json": (ss.JsonLines, json_lines, ".jsonl"),
    "csv": (ss.Csv, lambda texts: text_lines(["text", *texts]), ".csv"),
    "parquet": (ss.Parquet, parquet, ".parquet"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_source_of_files_has_partitions(tmp_path: Path, name: str) -> None:
    """Records have the values of their own folders, also where small files are one block, with and without ``columns``."""
    kind, write, suffix = KINDS[name]
    expected = []
    for own, count in FOLDERS.items():
        (tmp_path / own).mkdir(parents=True)
        texts = [f"{own} {number}" for number in range(count)]
        (tmp_path / own / f"a{suffix}").write_bytes(write(texts))
        year = int(own[-4:]) if "year" in own else None
        expected += [{"text": text, "lang": "d/e" if "%" in own else "en", "year": year} for text in texts]
    source = kind(f"{tmp_path}/**/a{suffix}")
    assert list(source.records()) == expected
    schema = next(source.read(0))[0].schema
    assert [(field.name, str(field.type)) for field in schema][1:] == [("lang", "string"), ("year", "int64")]
    assert pickle.loads(pickle.dumps(source)).head(1) == expected[:1]
    if hasattr(source, "columns"):
        chosen = kind(f"{tmp_path}/**/a{suffix}", columns=["year", "text"])
        assert list(chosen.records()) == [{"year": each["year"], "text": each["text"]} for each in expected]
        with pytest.raises(ValueError, match=r"columns must .* got 'x'"):
            list(kind(f"{tmp_path}/**/a{suffix}", columns=["text", "x"]).records())
    before = kind(f"{tmp_path}/lang=en/year=*/a{suffix}").fingerprint()
    (tmp_path / "lang=en/year=2021").rename(tmp_path / "lang=en/year=2022")
    after = kind(f"{tmp_path}/lang=en/year=*/a{suffix}").fingerprint()
    assert before["files"] == after["files"]
    assert before != after


@pytest.mark.parametrize(
    ("kind", "text"), [(ss.JsonLines, '{"text": "a", "lang": "xx"}\n'), (ss.Csv, "text,lang\na,xx\n"), (ss.TextFiles, "xx")]
)
def test_columns_of_files_take_precedence(tmp_path: Path, kind: Any, text: str) -> None:
    """A field of the records hides the folder of its name, and the fingerprint is that of a copy elsewhere."""
    for folder in ("lang=en", "lang=de", "plain"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text(text)
    options = {"field": "lang"} if kind is ss.TextFiles else {}
    source = kind(f"{tmp_path}/lang=*/a", **options)
    assert [record["lang"] for record in source.records()] == ["xx", "xx"]
    copy = kind([tmp_path / "plain/a", tmp_path / "plain/a"], **options)
    assert copy.fingerprint() == source.fingerprint()


def test_folders_and_records_that_disagree(tmp_path: Path) -> None:
    """A field that comes late and a folder of its name, a reserved name, and a choice of folders only are errors."""
    (tmp_path / "lang=en").mkdir()
    path = tmp_path / "lang=en" / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 100 + '{"lang": "x", "text": "a"}\n' + '{"text": "a"}\n' * 900)
    message = "a.jsonl, from byte 1,358 on: field 'lang' cannot come late, as folders have that name; pass schema={'lang': ...}"
    with pytest.raises(ValueError, match=re.escape(message)):
        list(ss.JsonLines(path, block_bytes=150).records())
    typed = ss.JsonLines(path, block_bytes=150, schema={"lang": pa.string()})
    assert [record["lang"] for record in typed.records()] == [None] * 100 + ["x"] + [None] * 900
    with pytest.raises(ValueError, match="columns must name at least one column in the files, got only folders: lang"):
        list(ss.JsonLines(path, block_bytes=150, columns=["lang"]).records())
    (tmp_path / "lang=en" / "a.csv").write_text("text\na\n")
    with pytest.raises(ValueError, match="columns must name at least one column in the files, got only folders: lang"):
        ss.Csv(tmp_path / "lang=en" / "a.csv", columns=["lang"])
    (tmp_path / "record=1").mkdir()
    (tmp_path / "record=1" / "a.txt").touch()
    with pytest.raises(ValueError, match="folders cannot give a column 'record', which the loader uses itself"):
        ss.TextFiles(tmp_path / "record=1" / "a.txt")


def test_a_folder_for_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``folder`` is a column of the folder that a file is in, as IMDb has its classes, for labels of a batch."""
    for label in ("pos", "neg", "1"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(7):
            (tmp_path / "train" / label / f"{number}_8.txt").write_text(f"{label}\n" * (number + 1))
    source = ss.TextFiles(tmp_path / "train/*/*.txt", unit="file", folder="label")
    records = list(source.records())
    assert len(records) == 21
    assert all(record["label"] == record["text"].split()[0] for record in records)
    classes = ss.ClassLabels.of(source)
    assert classes.classes == ("1", "neg", "pos")
    tokenize = ss.Tokenize(lambda texts: [[len(text.split())] * (1 + (text[0] == "p")) for text in texts])
    batches = list(ss.Loader(source, classes, tokenize, ss.Bucket(batch_size=4)))
    pairs = [pair for batch in batches for pair in zip(batch.label.tolist(), batch.lengths.tolist(), strict=True)]
    assert sorted(pairs) == [(0, 1)] * 7 + [(1, 1)] * 7 + [(2, 2)] * 7
    monkeypatch.chdir(tmp_path / "train" / "pos")
    assert ss.TextFiles("0_8.txt", folder="class").head() == [{"text": "pos", "class": "pos"}]
    others = ss.TextFiles(tmp_path / "train/*/*.txt", unit="file", folder="kind").fingerprint()
    assert others != source.fingerprint()
    for folder, paths in (("text", "0_8.txt"), ("label", {"a": "0_8.txt", "b": "0_8.txt"})):
        with pytest.raises(ValueError, match=f"folder must be the name of a column besides .*, got '{folder}'"):
            ss.TextFiles(paths, folder=folder)
