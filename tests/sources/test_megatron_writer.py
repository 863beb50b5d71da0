"""Files that `MegatronWriter` writes, byte for byte against a writer in plain Python after the description of the format."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.sources.tokens.formats import open_store
from seqstream.sources.tokens.megatron import MegatronWriter, megatron_dtype
from tests.helpers.token_formats import Documents, write_megatron

DTYPES = ("uint8", "int16", "uint16", "int32", "int64")


def write_blocks(prefix: Path, blocks: list[Documents], dtype: str) -> None:
    writer = MegatronWriter(str(prefix), dtype)
    for documents in blocks:
        ids = np.array([token for document in documents for token in document], dtype=np.int32)
        writer.write(ids, np.array([len(document) for document in documents], dtype=np.int64))
    writer.finish()


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(st.lists(st.lists(st.integers(0, 127), max_size=6), max_size=6), max_size=4),
    dtype=st.sampled_from(DTYPES),
)
def test_files_are_those_of_megatron(blocks: list[Documents], dtype: str) -> None:
    """Both files are the same to the last byte, whatever the blocks in which documents are given; and they are read back."""
    documents = [document for block in blocks for document in block]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_blocks(folder / "ours", blocks, dtype)
        write_megatron(folder / "theirs", [[document] for document in documents], dtype)
        for suffix in (".bin", ".idx"):
            assert (folder / f"ours{suffix}").read_bytes() == (folder / f"theirs{suffix}").read_bytes()
        assert sorted(path.name for path in folder.iterdir()) == ["ours.bin", "ours.idx", "theirs.bin", "theirs.idx"]
        store = open_store(folder / "ours", block_bytes=8)
        rows = [row for block in range(store.num_blocks) for row in store.read(block).column("input_ids").to_pylist()]
        assert rows == documents


def test_types_are_those_of_megatron() -> None:
    """Vocabularies of 65,500 ids and more, and those of unknown size, take four bytes an id."""
    assert [megatron_dtype(size) for size in (1, 65_499, 65_500, None)] == ["uint16", "uint16", "int32", "int32"]


@pytest.mark.parametrize(("token", "dtype"), [(65_536, "uint16"), (-1, "uint16"), (32_768, "int16")])
def test_ids_that_do_not_fit_are_named(token: int, dtype: str, tmp_path: Path) -> None:
    """An id that the type cannot hold raises an error that names the document, and nothing of it is written."""
    writer = MegatronWriter(str(tmp_path / "a"), dtype)
    writer.write(np.array([1, 2]), np.array([1, 1]))
    message = re.escape(f"a, document 3 must have ids from {np.iinfo(dtype).min:,} to") + f".*as {dtype}, got {token:,}"
    with pytest.raises(ValueError, match=message):
        writer.write(np.array([3, 4, token]), np.array([1, 2]))
    writer.finish()
    assert open_store(tmp_path / "a").num_rows == 2


@pytest.mark.parametrize("lengths", [[1], [3], [-1, 3]])
def test_lengths_add_up(lengths: list[int], tmp_path: Path) -> None:
    """Lengths that are not those of the ids raise an error."""
    writer = MegatronWriter(str(tmp_path / "a"), "uint16")
    with pytest.raises(ValueError, match="lengths must add up to the 2 ids"):
        writer.write(np.array([1, 2]), np.array(lengths))
    writer.discard()


@pytest.mark.parametrize("dtype", ["float32", "uint32", "text"])
def test_other_types_are_refused(dtype: str, tmp_path: Path) -> None:
    """Types that Megatron-LM has no code for, and floats, raise an error."""
    with pytest.raises(ValueError, match=f"dtype must be one of uint8, int8, .*, got '{dtype}'"):
        MegatronWriter(str(tmp_path / "a"), dtype)


def test_files_appear_when_they_are_complete(tmp_path: Path) -> None:
    """Before the end no file has its name; what is discarded leaves nothing; files that were there are replaced."""
    writer = MegatronWriter(str(tmp_path / "a"), "uint16")
    writer.write(np.array([1, 2]), np.array([2]))
    assert not {"a.bin", "a.idx"} & {path.name for path in tmp_path.iterdir()}
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    for documents in ([[1, 2], [3]], [[4]]):
        write_blocks(tmp_path / "a", [documents], "uint16")
        assert open_store(tmp_path).read(0).column("input_ids").to_pylist() == documents
