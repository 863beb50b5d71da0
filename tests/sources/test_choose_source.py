"""What a user gives to a loader is read by the source that fits, and what fits none is refused with the remedy."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import feather
from tokenizers import Tokenizer
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, TensorDataset

import seqstream as ss
from seqstream.sources.choose_source import SUFFIXES, format_of, source_of

ROWS = [[1, 2, 3], [4], [5, 6]]


class Squares(Dataset[Any]):
    """A map-style data set of one's own: tensors of one to three ids."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.tensor(ROWS[number])


class Stream(IterableDataset[Any]):
    """A stream of one's own."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter(ROWS)


class OldSequence:
    """An object with ``__len__`` and ``__getitem__``, and nothing else."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, number: int) -> list[int]:
        return ROWS[number]


def generate() -> Iterator[list[int]]:
    yield from ROWS


def generate_some(count: int) -> Iterator[list[int]]:
    yield from ROWS[:count]


class Frame:
    """What iterates as tables of pandas do."""

    def keys(self) -> list[str]:
        return ["a", "b"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        tuple(ROWS),
        [torch.tensor(row) for row in ROWS],
        [np.array(row) for row in ROWS],
        [{"input_ids": row} for row in ROWS],
        Squares(),
        ConcatDataset([Squares()]),
        Stream(),
        OldSequence(),
        generate,
        functools.partial(generate_some, 3),
        generate(),
        dict.fromkeys(map(tuple, ROWS)).keys(),
        datasets.Dataset.from_dict({"input_ids": ROWS}),
        datasets.Dataset.from_dict({"input_ids": ROWS}).to_iterable_dataset(),
        ss.Generator(ROWS),
    ],
    ids=lambda data: type(data).__name__,
)
def test_records_come_in_without_a_word(data: Any) -> None:
    """Each gives the three rows, whatever holds them."""
    loader = ss.Loader(data, ss.Bucket(8))
    assert isinstance(
        loader.source, ss.HFDataset if isinstance(data, datasets.Dataset | datasets.IterableDataset) else ss.Generator
    )
    assert (
        sorted(row[:size].tolist() for batch in loader for row, size in zip(batch.input_ids, batch.lengths, strict=True))
        == ROWS
    )


def test_arrays_are_their_rows() -> None:
    """A tensor of ids is its rows, and one of features too; a pair of tensors has a label."""
    (batch,) = ss.Loader(torch.arange(6).view(2, 3), ss.Bucket(8))
    assert sorted(batch.input_ids.tolist()) == [[0, 1, 2], [3, 4, 5]]
    (features,) = ss.Loader(np.ones((2, 3, 4), np.float32), ss.Bucket(8))
    assert features.features.shape == (2, 3, 4)
    (pair,) = ss.Loader(TensorDataset(torch.arange(6).view(2, 3), torch.tensor([1, 0])), ss.Bucket(8), shuffle=False)
    assert pair.label.tolist() == [1, 0]


TEXTS = ["one text", "and another, that is longer", "a third"]


def write_files(folder: Path) -> dict[str, Path]:
    """Write the texts in each format of records."""
    files = {name: folder / f"texts.{name}" for name in ("txt", "jsonl", "csv", "tsv", "parquet")}
    files["txt"].write_text("".join(f"{text}\n" for text in TEXTS))
    files["jsonl"].write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    files["csv"].write_text("text,number\n" + "".join(f'"{text}",1\n' for text in TEXTS))
    files["tsv"].write_text("text\tnumber\n" + "".join(f"{text}\t1\n" for text in TEXTS))
    pq.write_table(pa.table({"text": TEXTS}), files["parquet"])
    return files


def write_more(folder: Path) -> dict[str, Path]:
    """Write the texts in formats that are less common."""
    files = {name: folder / f"texts.{name}" for name in ("json", "arrow", "feather")}
    files["json"].write_text(json.dumps([{"text": text} for text in TEXTS]))
    feather.write_feather(pa.table({"text": TEXTS}), files["feather"])
    with pa.ipc.new_file(files["arrow"], pa.schema([("text", pa.string())])) as writer:
        writer.write_table(pa.table({"text": TEXTS}))
    return files


READERS = {
    "txt": ss.TextFiles,
    "jsonl": ss.JsonLines,
    "csv": ss.Csv,
    "tsv": ss.Csv,
    "parquet": ss.Parquet,
    "json": ss.JsonArrays,
    "arrow": ss.ArrowFiles,
    "feather": ss.ArrowFiles,
}


@pytest.mark.parametrize("name", READERS)
def test_paths_are_read_by_their_ending(name: str, tmp_path: Path, bpe_tokenizer: Tokenizer) -> None:
    """A path, a string, a glob, a list of paths and a folder give the texts; all make the same source."""
    file = {**write_files(tmp_path), **write_more(tmp_path)}[name]
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden.bin").touch()
    (folder / "_SUCCESS").touch()
    file = file.rename(folder / "below" / file.name)
    found = [source_of(data) for data in (file, str(file), str(folder / "**" / f"*.{name}"), [file], folder, f"file://{file}")]
    for source in found:
        assert type(source) is READERS[name]
        assert [record["text"] for record in source.records()] == TEXTS
        assert source.fingerprint() == found[0].fingerprint()
    (batch,) = ss.Loader(folder, ss.Tokenize(bpe_tokenizer, max_length=64), ss.Bucket(512), shuffle=False)
    assert sorted(batch.lengths.tolist()) == sorted(len(bpe_tokenizer.encode(text).ids) for text in TEXTS)


def test_lines_of_json_named_json(tmp_path: Path) -> None:
    """A file whose name ends in ``.json`` is read as lines unless it begins with an array."""
    (tmp_path / "a.json").write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    assert type(source_of(tmp_path / "a.json")) is ss.JsonLines


def test_words_with_labels(tmp_path: Path) -> None:
    """Files of CoNLL's formats are known by their endings."""
    (tmp_path / "a.conll").write_text("one\tDET\nword\tNOUN\n\ntwo\tNUM\n")
    assert [*source_of(tmp_path).records()] == [
        {"words": ["one", "word"], "tags": ["DET", "NOUN"]},
        {"words": ["two"], "tags": ["NUM"]},
    ]


def test_a_data_set_saved_to_disk(tmp_path: Path) -> None:
    """The folder of ``save_to_disk`` is read as files of Arrow."""
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved", num_shards=2)
    source = source_of(tmp_path / "saved")
    assert type(source) is ss.ArrowFiles
    assert [record["text"] for record in source.records()] == TEXTS


def test_folders_of_tokens(tmp_path: Path, bpe_tokenizer: Tokenizer) -> None:
    """A folder that `write_tokens` has made gives its rows again."""
    ss.write_tokens(ss.Generator(TEXTS), ss.Tokenize(bpe_tokenizer), to=tmp_path / "tokens", progress=False)
    (batch,) = ss.Loader(str(tmp_path / "tokens"), ss.Bucket(512))
    assert isinstance(source_of(tmp_path / "tokens"), ss.TokenFiles)
    assert sorted(batch.lengths.tolist()) == sorted(len(bpe_tokenizer.encode(text).ids) for text in TEXTS)


def test_texts_are_a_list_of_strings(bpe_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Strings are texts, unless they may be names of files."""
    (batch,) = ss.Loader(TEXTS, ss.Tokenize(bpe_tokenizer, max_length=64), ss.Bucket(512), shuffle=False)
    assert sorted(batch.lengths.tolist()) == sorted(len(bpe_tokenizer.encode(text).ids) for text in TEXTS)
    files = [str(file) for file in write_files(tmp_path).values()]
    with pytest.raises(
        ValueError, match=r"^source must be texts or a path, got a list whose first text '.*txt' is the name of a file"
    ):
        source_of(files)


def test_mixed_and_unknown_files_are_listed(tmp_path: Path) -> None:
    """The message lists what a folder holds, by format, or the endings that are known."""
    write_files(tmp_path)
    (tmp_path / "more.JSONL.gz").touch()
    (tmp_path / "README").touch()
    (tmp_path / "picture.png").touch()
    listed = (
        "source must be files of one format, got 1 csv (such as texts.csv), 2 jsonl (such as more.JSONL.gz), 1 parquet (such "
        "as texts.parquet), 1 text (such as texts.txt), 1 tsv (such as texts.tsv), 1 unknown (such as README), 1 unknown .png "
        f"(such as picture.png) in the folder '{tmp_path}'; pass a glob such as '{tmp_path}/**/*.txt'"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(listed)}$"):
        source_of(tmp_path)
    with pytest.raises(
        ValueError, match=r"^source must be files whose names end in one of \.txt .*, got .*README; pass a source such"
    ):
        source_of(str(tmp_path / "README"))
    with pytest.raises(ValueError, match=r"got A text\. Of two sentences\; pass .* or a list for texts of your own$"):
        source_of("A text. Of two sentences")
    with pytest.raises(
        ValueError, match=r"^source must be files of one format, got 1 csv .* 1 text \(such as texts\.txt\) in the list$"
    ):
        source_of([tmp_path / "texts.txt", tmp_path / "texts.csv"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="source must be a folder that has files"):
        source_of(tmp_path / "empty")
    for missing in ("missing.txt", "missing/*.txt"):
        with pytest.raises(FileNotFoundError, match="paths must"):
            source_of(str(tmp_path / missing))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, r"^source must be a path, a glob or a folder of files, a datasets\.Dataset, a list of strings, .* got int$"),
        (None, "got NoneType$"),
        (b"bytes", "got bytes$"),
        (torch.tensor(3), "got Tensor$"),
        (ss.Bucket(8), "got Bucket$"),
        (Squares, "^source cannot be a type, pass an object of this class, not the class$"),
        (torch.nn.Linear(1, 1), "^source cannot be a Linear, a model gives no records; pass the data first$"),
        ({1, 2}, r"^source cannot be a set, it has no order that a resume could follow; pass sorted\(\.\.\.\)$"),
        ({"text": TEXTS}, r"^source cannot be a dict, it has columns, not records; pass datasets\.Dataset\.from_dict"),
        (pa.table({"text": TEXTS}), "^source cannot be a Table, it has columns"),
        (
            Frame(),
            r"^source cannot be a Frame, whose iteration gives the names of its columns; pass datasets\.Dataset\.from_pandas",
        ),
        (DataLoader(ROWS), "^source cannot be a DataLoader, it makes batches itself; pass its dataset$"),  # type: ignore[arg-type]
        (
            datasets.DatasetDict(train=datasets.Dataset.from_dict({"a": [1]})),
            r"dataset must be one split, .* pass dataset\['train'\]",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_gives_no_records_is_refused(data: Any, message: str) -> None:
    """Each with what to pass in its place."""
    with pytest.raises(TypeError, match=message):
        source_of(data)


def test_open_files_are_refused(tmp_path: Path) -> None:
    """An open file gives its lines once."""
    file = write_files(tmp_path)["txt"]
    with (
        file.open() as opened,
        pytest.raises(TypeError, match=r"^source cannot be a TextIOWrapper, an open file cannot be read twice"),
    ):
        source_of(opened)


def test_endings() -> None:
    """Endings count in any case, behind one of a compression too."""
    assert [format_of(name) for name in ("a.TXT", "b.x.jsonl.gz", "s3://c/*.parquet", "d", "e.gz", ".csv")] == [
        "text",
        "jsonl",
        "parquet",
        None,
        None,
        None,
    ]
    assert set(SUFFIXES.values()) == {"text", "jsonl", "csv", "tsv", "parquet", "arrow", "conll", "tokens"}
