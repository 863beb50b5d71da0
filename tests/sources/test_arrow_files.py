"""`ArrowFiles` reads what was written: by ``pyarrow``, as Feather, as a stream, and by ``datasets``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import feather

import seqstream as ss

TABLE = pa.table(
    {
        "text": pa.array([f"text {number % 7}" for number in range(1_000)]).dictionary_encode(),
        "number": pa.array(range(1_000), pa.int16()),
        "words": pa.array([["a", "b"][: number % 3] for number in range(1_000)], pa.large_list(pa.large_string())),
        "view": pa.array(["x" * (number % 30) for number in range(1_000)], pa.string_view()),
    },
    metadata={"made": "here"},
)


def write(path: Path, new: Any, table: pa.Table = TABLE, **options: Any) -> Path:
    """Write a table in batches of 300 rows."""
    with pa.OSFile(str(path), "wb") as file, new(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=300)
    return path


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_files_and_streams(tmp_path: Path, compression: str | None) -> None:
    """Records are those that were written; of a file a batch is a shard; locations are rows of the file."""
    paths = [
        write(tmp_path / "a.arrow", pa.ipc.new_file, compression=compression),
        write(tmp_path / "b.arrow", pa.ipc.new_stream, compression=compression),
    ]
    for path, num_shards in zip(paths, (4, 1), strict=True):
        source = ss.ArrowFiles(path, block_bytes=1_000)
        assert source.num_shards == num_shards
        assert list(source.records()) == TABLE.to_pylist()
        kinds = [str(kind) for kind in next(source.read(0))[0].schema.types]
        assert kinds == ["string", "int16", "list<item: string>", "string"]
        last = num_shards - 1
        assert source.locate(last << 32 | 5) == f"{path}, row {(905 if last else 5):,}"
        assert source.record(last << 32 | 5)["number"] == (905 if last else 5)
        chosen = ss.ArrowFiles(path, columns=["number", "text"])
        assert list(chosen.records()) == TABLE.select(["number", "text"]).to_pylist()
        blocks = list(source.read(last))
        assert len(blocks) > 2
        for number, (_, state) in enumerate(blocks[:-1]):
            assert next(source.read(last, json.loads(json.dumps(state))))[0].equals(blocks[number + 1][0])
    both = ss.ArrowFiles(tmp_path / "*.arrow")
    assert list(both.records()) == TABLE.to_pylist() * 2
    assert both.fingerprint() != ss.ArrowFiles(paths[0]).fingerprint()


def test_what_others_write(tmp_path: Path) -> None:
    """Feather files, files of ``datasets``, and files behind a URL are read."""
    from datasets import Dataset

    rows = [{"text": f"text {number}", "tags": [number, 1]} for number in range(50)]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "data"))
    assert list(ss.ArrowFiles(tmp_path / "data" / "*.arrow").records()) == rows
    feather.write_feather(TABLE.select(["text", "number"]), str(tmp_path / "a.feather"), chunksize=100)
    expected = TABLE.select(["text", "number"]).to_pylist()
    assert list(ss.ArrowFiles(tmp_path / "a.feather").records()) == expected
    with fsspec.open("memory://arrow/a.arrow", "wb") as file:
        file.write((tmp_path / "a.feather").read_bytes())
    assert list(ss.ArrowFiles("memory://arrow/a.arrow").records()) == expected


def test_files_that_differ(tmp_path: Path) -> None:
    """A file without a column has nulls, types are united, and a file without batches has no records."""
    write(tmp_path / "a.arrow", pa.ipc.new_file, pa.table({"text": ["a"], "n": pa.array([1], pa.int8())}))
    write(tmp_path / "b.arrow", pa.ipc.new_stream, pa.table({"n": pa.array([1 << 40]), "more": [True]}))
    write(tmp_path / "c.arrow", pa.ipc.new_file, pa.table({"text": pa.array([], pa.string())}))
    source = ss.ArrowFiles(tmp_path / "*.arrow")
    assert list(source.records()) == [{"text": "a", "n": 1, "more": None}, {"text": None, "n": 1 << 40, "more": True}]
    assert list(ss.ArrowFiles(tmp_path / "*.arrow", columns=["text"]).records()) == [{"text": "a"}, {"text": None}]


def test_files_that_are_damaged(tmp_path: Path) -> None:
    """Other files, and files that are cut off or hold text that is not UTF-8, are errors with the file and the batch."""
    whole = write(tmp_path / "whole", pa.ipc.new_file).read_bytes()
    stream = write(tmp_path / "stream", pa.ipc.new_stream).read_bytes()
    for name, content in {"text": b"some text" * 9, "empty": b"", "cut": whole[:-20], "old": b"FEA1" + whole}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} must be an Arrow IPC file: "):
            ss.ArrowFiles(tmp_path / name)
    (tmp_path / "shorter").write_bytes(stream[:-3_000])
    with pytest.raises(ValueError, match=r"shorter must be an Arrow IPC file: .*; write it anew"):
        list(ss.ArrowFiles(tmp_path / "shorter").records())
    wrong = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    write(tmp_path / "wrong", pa.ipc.new_file, pa.table({"text": wrong}))
    with pytest.raises(ValueError, match=r"rows 0 to 0 of a record batch must hold what their columns' types say") as caught:
        list(ss.ArrowFiles(tmp_path / "wrong").records())
    assert caught.value.__notes__ == [f"while reading {tmp_path / 'wrong'}, record batch 0"]
    with pytest.raises(ValueError, match=re.escape("columns must be among 'text', 'number', 'words', 'view', got 'x'")):
        ss.ArrowFiles(tmp_path / "whole", columns=["x"])
    source = ss.ArrowFiles(tmp_path / "whole")
    (tmp_path / "whole").write_bytes(stream)
    with pytest.raises(RuntimeError, match="whole changed while being read"):
        list(source.read(0))
