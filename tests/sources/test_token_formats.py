"""Files of tokens of other libraries, against writers in plain Python after the descriptions of their formats."""

from __future__ import annotations

import os
import pickle
import random
import re
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.sources.locations import Location
from seqstream.sources.tokens import file_arrays
from seqstream.sources.tokens.delimited_tokens import DelimitedStore
from seqstream.sources.tokens.formats import open_store
from seqstream.sources.tokens.token_store import TokenStore
from tests.helpers.token_formats import (
    Documents,
    write_datatrove,
    write_llm_c,
    write_megatron,
    write_numpy,
    write_raw,
)

END = 7
SMALL_BLOCK = 64


def ids_of(table: pa.Table) -> Documents:
    assert table.column_names == ["input_ids"]
    table.validate(full=True)
    rows: Documents = table.column("input_ids").to_pylist()
    return rows


def read_all(store: TokenStore) -> Documents:
    return [row for block in range(store.num_blocks) for row in ids_of(store.read(block))]


def one_sequence_each(prefix: Path, documents: Documents, dtype: str = "uint16") -> None:
    write_megatron(prefix, [[document] for document in documents], dtype)


def ended(documents: Documents) -> Documents:
    return [[token for token in document if token != END] + [END] for document in documents]


def begun(documents: Documents) -> Documents:
    return [[50256, *(token for token in document if token != 50256)] for document in documents]


def unchanged(documents: Documents) -> Documents:
    return documents


FORMATS: dict[str, tuple[str, Callable[..., None], Callable[[Documents], Documents], dict[str, Any]]] = {
    "megatron": ("data{}", one_sequence_each, unchanged, {}),
    "datatrove": ("data{}.ds", write_datatrove, unchanged, {}),
    "llm.c": ("data{}.bin", write_llm_c, begun, {}),
    "numpy": ("data{}.npy", write_numpy, ended, {"end": END}),
    "raw": ("data{}.bin", write_raw, ended, {"end": END, "dtype": "uint16"}),
}
"""How each format names a file, who writes it, which documents it can hold, and which options open it."""

INDEXED = ("megatron", "datatrove")


def some_documents(seed: int, count: int = 300) -> Documents:
    draw = random.Random(seed)
    lengths = [draw.choice([0, 1, 2, 5, 9, 30, 200]) for _ in range(count)]
    return [[draw.randrange(60_000) for _ in range(length)] for length in lengths]


def write_format(name: str, folder: Path, parts: list[Documents]) -> tuple[list[Documents], dict[str, Any]]:
    """Write a file for each part, and return the documents of each as the format can hold them, and the options."""
    pattern, write, adapt, options = FORMATS[name]
    parts = [adapt(part) for part in parts]
    for number, part in enumerate(parts):
        write(folder / pattern.format(number), part)
    return parts, options


def open_written(name: str, folder: Path, **options: Any) -> TokenStore:
    return open_store(folder, **FORMATS[name][3], **options)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None)
@given(
    parts=st.lists(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=8), min_size=1, max_size=3),
    block_bytes=st.sampled_from([1, 2, 6, 16, 1024]),
    data=st.data(),
)
def test_rows_are_the_documents(name: str, mmap: bool, parts: list[Documents], block_bytes: int, data: st.DataObject) -> None:
    """Blocks have each document once and in order; rows by number are the same; locations name file and document."""
    with tempfile.TemporaryDirectory() as temporary:
        parts, _ = write_format(name, Path(temporary), parts)
        store = open_written(name, Path(temporary), mmap=mmap, block_bytes=block_bytes)
        expected = [document for part in parts for document in part]
        assert read_all(store) == expected
        assert store.num_tokens == sum(map(len, expected))
        assert store.num_bytes(np.arange(store.num_blocks)).sum() == 2 * store.num_tokens
        if isinstance(store, DelimitedStore):
            assert store.num_rows is None
            assert store.count_rows() == len(expected)
        assert store.num_rows == len(expected)
        numbers = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=10)) if expected else []
        assert ids_of(store.take(np.array(numbers, dtype=np.int64))) == [expected[number] for number in numbers]
        places = [(number, row) for number, part in enumerate(parts) for row in range(len(part))]
        pattern = FORMATS[name][0] + (".bin" if name == "megatron" else "")
        by_row = [Location(f"{temporary}/{pattern.format(number)}", row) for number, row in places]
        assert [store.location_of_row(row) for row in range(len(expected))] == by_row
        blocks = [(block, row) for block in range(store.num_blocks) for row in range(len(store.read(block)))]
        assert [store.location(block, row) for block, row in blocks] == by_row


@pytest.mark.parametrize("name", FORMATS)
def test_mapped_and_read_files_are_the_same(name: str, tmp_path: Path) -> None:
    """Larger files give the same rows, mapped or not, pickled or not, and in any order; the blocks are about as asked."""
    parts, _ = write_format(name, tmp_path, [some_documents(0), some_documents(1)])
    expected = [document for part in parts for document in part]
    numbers = np.random.default_rng(0).permutation(len(expected))
    for mmap in (True, False):
        store = open_written(name, tmp_path, mmap=mmap, block_bytes=SMALL_BLOCK)
        assert read_all(store) == expected
        assert ids_of(store.take(numbers)) == [expected[number] for number in numbers]
        copy = pickle.loads(pickle.dumps(store))
        assert copy.fingerprint() == store.fingerprint()
        assert ids_of(copy.take(numbers)) == [expected[number] for number in numbers]
    assert open_written(name, tmp_path).num_blocks <= 2 * len(parts[0])
    assert store.num_blocks == sum(-(-2 * sum(map(len, part)) // SMALL_BLOCK) for part in parts)


@pytest.mark.parametrize("name", FORMATS)
def test_mapped_rows_share_the_memory_of_the_file(name: str, tmp_path: Path) -> None:
    """A block that is read again has its ids at the same address: they are not copied."""
    write_format(name, tmp_path, [some_documents(2)])
    store = open_written(name, tmp_path)
    assert _address(store.read(1)) == _address(store.read(1))
    read = open_written(name, tmp_path, mmap=False)
    first, second = read.read(1), read.read(1)
    assert _address(first) != _address(second)


def _address(table: pa.Table) -> int:
    address: int = table.column("input_ids").chunk(0).values.buffers()[1].address
    return address


@pytest.mark.parametrize("name", FORMATS)
def test_fingerprints_are_of_the_content(name: str, tmp_path: Path) -> None:
    """A copy in another folder has the same fingerprint; one other id, or other blocks, give another."""
    documents = [[1, 2, 3], [4, 5]] * 20
    for folder in ("one", "other", "copy"):
        (tmp_path / folder).mkdir()
    write_format(name, tmp_path / "one", [documents])
    write_format(name, tmp_path / "other", [[[1, 2, 4], *documents[1:]]])
    for file in (tmp_path / "one").iterdir():
        shutil.copy(file, tmp_path / "copy")
    one, other, copy = (open_written(name, tmp_path / folder).fingerprint() for folder in ("one", "other", "copy"))
    assert one == copy
    assert one != other
    assert open_written(name, tmp_path / "one", block_bytes=8).fingerprint() != one


@pytest.mark.parametrize("name", INDEXED)
def test_empty_documents_are_rows(name: str, tmp_path: Path) -> None:
    """Documents without tokens are rows of length 0, at the beginning, at the end, and where nothing else is."""
    write_format(name, tmp_path, [[[], [], [1], [], [2, 3], [], []], [[], []], []])
    store = open_written(name, tmp_path, block_bytes=2)
    assert read_all(store) == [[], [], [1], [], [2, 3], [], [], [], []]
    assert ids_of(store.take(np.array([8, 4, 0]))) == [[], [2, 3], []]


@pytest.mark.parametrize("name", INDEXED)
def test_empty_documents_begin_where_the_next_does(name: str, tmp_path: Path) -> None:
    """An empty document at the boundary of two blocks is a row of the second."""
    write_format(name, tmp_path, [[[1], [], [2], []]])
    store = open_written(name, tmp_path, block_bytes=2)
    assert [ids_of(store.read(block)) for block in range(store.num_blocks)] == [[[1]], [[], [2], []]]


def test_ids_that_no_document_has_are_not_counted(tmp_path: Path) -> None:
    """Where the file of ids is longer than its index says, the documents are read, but the number of tokens is not known."""
    one_sequence_each(tmp_path / "a", [[1, 2], [3]])
    _grow("a.bin", 6)(tmp_path)
    store = open_store(tmp_path / "a", block_bytes=4)
    assert read_all(store) == [[1, 2], [3]]
    assert (store.num_tokens, store.num_rows) == (None, 2)


def test_rows_that_no_table_can_hold_are_named(tmp_path: Path) -> None:
    """A document of 2**31 tokens raises an error that names its file, and is not read."""
    (tmp_path / "a.ds").touch()
    os.truncate(tmp_path / "a.ds", 2 << 31)
    (tmp_path / "a.ds.index").write_bytes(struct.pack("<Q", 1 << 31))
    message = r"rows 0 to 0 of .*a.ds must have at most 2,147,483,647 tokens, got 2,147,483,648; cut the documents"
    with pytest.raises(ValueError, match=message):
        open_store(tmp_path).read(0)


@pytest.mark.parametrize("mmap", [True, False])
def test_documents_of_several_sequences_are_one_row(mmap: bool, tmp_path: Path) -> None:
    """A row of Megatron's files is a document, with all its sequences; one may have none, and modes are left out."""
    write_megatron(tmp_path / "a", [[[1], [2, 3]], [], [[4], [], [5]], [[6]]], "int32", modes=True)
    store = open_store(tmp_path / "a", mmap=mmap, block_bytes=4)
    assert read_all(store) == [[1, 2, 3], [], [4, 5], [6]]
    assert ids_of(store.take(np.array([3, 2, 1]))) == [[6], [4, 5], []]
    assert store.num_blocks == 6


def test_sequences_may_lie_in_any_order(tmp_path: Path) -> None:
    """Pointers of Megatron's index that do not ascend are followed; the documents lie apart from each other."""
    write_megatron(tmp_path / "a", [[[1, 2]], [[3, 4, 5]], [[6]]])
    index = bytearray((tmp_path / "a.idx").read_bytes())
    struct.pack_into("<3i", index, 34, 3, 1, 2)
    struct.pack_into("<3q", index, 34 + 12, 4, 10, 0)
    (tmp_path / "a.idx").write_bytes(index)
    for mmap in (True, False):
        store = open_store(tmp_path / "a", mmap=mmap)
        assert ids_of(store.take(np.array([0, 1, 2]))) == [[3, 4, 5], [6], [1, 2]]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64"])
def test_rows_have_the_type_of_the_file(dtype: str, tmp_path: Path) -> None:
    """Ids keep the type in which they are stored."""
    one_sequence_each(tmp_path / "a", [[1, 2], [3]], dtype)
    assert open_store(tmp_path / "a").read(0).schema.field("input_ids").type.value_type == pa.type_for_alias(dtype)


def test_files_of_two_types_give_the_wider(tmp_path: Path) -> None:
    """All rows of a store have one type, so that batches can be built from any of them."""
    write_datatrove(tmp_path / "a.ds", [[1, 2]], "uint16")
    write_datatrove(tmp_path / "b.ds", [[100_000]], "uint32")
    store = open_store(tmp_path)
    assert {store.read(block).schema.field("input_ids").type.value_type for block in range(store.num_blocks)} == {pa.uint32()}
    assert ids_of(store.take(np.array([1, 0]))) == [[100_000], [1, 2]]


def test_signed_and_unsigned_numbers_stay_whole(tmp_path: Path) -> None:
    """Unsigned ids of eight bytes beside signed ones become signed ones, and not floats, as NumPy would make them."""
    np.save(tmp_path / "a.npy", np.array([1, END], dtype=np.uint64))
    np.save(tmp_path / "b.npy", np.array([2, END], dtype=np.int32))
    store = open_store(tmp_path, end=END)
    assert store.read(0).schema.field("input_ids").type.value_type == pa.int64()
    assert read_all(store) == [[1, END], [2, END]]


def test_documents_longer_than_blocks_belong_to_the_first(tmp_path: Path) -> None:
    """A document is a row of the block in which it begins; blocks inside of it are empty."""
    long = list(range(100, 1_000))
    write_raw(tmp_path / "a.bin", [[1, END], [*long, END], [2, END]])
    write_datatrove(tmp_path / "a.ds", [[1], long, [2]])
    for store in (
        open_store(tmp_path / "a.bin", end=END, dtype="uint16", block_bytes=20),
        open_store(tmp_path / "a.ds", block_bytes=20),
    ):
        lengths = [len(store.read(block)) for block in range(store.num_blocks)]
        assert (lengths[0], lengths[-1], sum(lengths)) == (2, 1, 3)


def test_the_next_document_may_be_far(tmp_path: Path) -> None:
    """The end of a document is found however far it is, across the parts that are searched at a time."""
    documents = [[1] * 70_000 + [END], [1] * 300_000 + [END], [END], [2, 3]]
    write_raw(tmp_path / "a.bin", documents)
    store = open_store(tmp_path / "a.bin", end=END, dtype="uint16", block_bytes=1 << 16)
    assert [len(row) for row in read_all(store)] == [70_001, 300_001, 1, 2]


def test_what_lies_before_the_first_and_after_the_last_token_is_a_row(tmp_path: Path) -> None:
    """A document that a writer has cut where a file was full is a row in both files."""
    write_raw(tmp_path / "a.npy", [[1, END], [2, 3]])
    write_llm_c(tmp_path / "b.bin", [[5, 6], [50256, 1], [50256]])
    assert read_all(open_store(tmp_path / "a.npy", end=END, dtype="uint16")) == [[1, END], [2, 3]]
    assert read_all(open_store(tmp_path / "b.bin")) == [[5, 6], [50256, 1], [50256]]


def test_files_of_llm_c_for_llama_3_have_four_bytes_an_id(tmp_path: Path) -> None:
    """Their documents begin with 128000, unless another token is given."""
    write_llm_c(tmp_path / "a.bin", [[128000, 1, 2], [128000, 3]], "uint32")
    assert read_all(open_store(tmp_path / "a.bin")) == [[128000, 1, 2], [128000, 3]]
    assert read_all(open_store(tmp_path / "a.bin", end=2)) == [[128000, 1], [2, 128000, 3]]


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_datatrove_needs_no_metadata(dtype: str, metadata: bool, tmp_path: Path) -> None:
    """The width of an id follows from the sizes of the files where the metadata does not say it."""
    write_datatrove(tmp_path / "a.ds", [[1, 2], [3]], dtype, metadata=metadata)
    store = open_store(tmp_path / "a.ds")
    assert read_all(store) == [[1, 2], [3]]
    assert store.read(0).schema.field("input_ids").type.value_type == pa.type_for_alias(dtype)


@pytest.mark.parametrize("paths", ["data", "data.bin", "data.idx", "", "data*", ["data.bin", "data.idx"]])
def test_either_of_two_files_names_both(paths: Any, tmp_path: Path) -> None:
    """Megatron's files are found by either path, their prefix, their folder, or a glob, and counted once."""
    one_sequence_each(tmp_path / "data", [[1], [2]])
    joined = [tmp_path / path for path in paths] if isinstance(paths, list) else str(tmp_path / paths)
    assert read_all(open_store(joined)) == [[1], [2]]


def test_files_beside_the_ids_are_left_out(tmp_path: Path) -> None:
    """A folder or glob may have the metadata, losses and lists that datatrove and dolma write beside the ids."""
    write_datatrove(tmp_path / "a.ds", [[1]])
    for suffix in (".loss", ".datalist"):
        (tmp_path / f"a.ds{suffix}").write_bytes(b"1")
    assert read_all(open_store(tmp_path)) == [[1]]
    assert read_all(open_store(f"{tmp_path}/*")) == [[1]]
    (tmp_path / "olmo").mkdir()
    write_raw(tmp_path / "olmo" / "part-0.npy", [[1, END]])
    (tmp_path / "olmo" / "part-0.csv.gz").write_bytes(b"1")
    assert read_all(open_store(tmp_path / "olmo", end=END, dtype="uint16")) == [[1, END]]


def test_names_do_not_decide(tmp_path: Path) -> None:
    """Files are known by what is in them, whatever their names are."""
    write_numpy(tmp_path / "a.bin", [[1, END]])
    write_llm_c(tmp_path / "b.npy", [[50256, 1]])
    assert read_all(open_store(tmp_path / "a.bin", end=END)) == [[1, END]]
    assert read_all(open_store(tmp_path / "b.npy")) == [[50256, 1]]


def _written(folder: Path) -> None:
    one_sequence_each(folder / "m", [[1, 2], [3], [4]])
    write_datatrove(folder / "d.ds", [[1, 2], [3], [4]])
    write_llm_c(folder / "c.bin", [[50256, 1]])
    write_numpy(folder / "n.npy", [[1, END]])
    write_raw(folder / "r.bin", [[1, END], [2]])


def _patch(name: str, place: int, layout: str, *values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        struct.pack_into(layout, data, place if place >= 0 else len(data) + place, *values)
        (folder / name).write_bytes(data)

    return damage


def _cut(name: str, count: int = 1) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-count]) and None


def _grow(name: str, count: int = 1) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + bytes(count)) and None


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


RAW = {"end": END, "dtype": "uint16"}
POINTERS = 34 + 4 * 3
BOUNDS = POINTERS + 8 * 3


class Damage(NamedTuple):
    """What is opened, after what has happened to the files, and the message."""

    name: str
    options: dict[str, Any]
    damage: Callable[[Path], None]
    message: str


DAMAGES = [
    Damage("m", {}, _patch("m.idx", 0, "<c", b"X"), "m.idx must begin with b'MMIDIDX"),
    Damage("m.bin", {}, _patch("m.idx", 0, "<c", b"X"), "m.idx must begin with b'MMIDIDX"),
    Damage("m", {}, _patch("m.idx", 9, "<Q", 2), "m.idx must be of version 1, got 2"),
    Damage("m", {}, _patch("m.idx", 17, "<B", 6), "m.idx must hold whole numbers, got the type float64"),
    Damage("m", {}, _patch("m.idx", 17, "<B", 99), "m.idx must hold whole numbers, got the type of code 99"),
    Damage("m", {}, _patch("m.idx", 26, "<Q", 0), "m.idx must have a bound of documents, got none"),
    Damage("m", {}, _cut("m.idx"), "m.idx must have 102 bytes for 3 sequences of 3 documents, got 101"),
    Damage("m", {}, _cut("m.idx", 80), "m.idx must begin with a header of 34 bytes, got a file of 22"),
    Damage("m", {}, _grow("m.idx"), "m.idx must have 102 bytes for 3 sequences of 3 documents, got 103"),
    Damage("m", {}, _cut("m.bin"), "m.bin must have 8 bytes, as .*m.idx says, got 7"),
    Damage("m", {}, _remove("m.bin"), "m.bin must be beside .*m.idx, but is not there"),
    Damage("m", {}, _remove("m.idx"), "m.idx must be beside .*m.bin, but is not there"),
    Damage("m", {}, _patch("m.idx", -8, "<q", 2), "m.idx must have documents from sequence 0 to 3, got 0 to 2"),
    Damage("m", {}, _patch("m.idx", BOUNDS + 8, "<q", 3), "m.idx, document 1 must have sequences from 0 to 3, got 3 to 2"),
    Damage("m", {}, _patch("m.idx", BOUNDS + 8, "<q", -1), "m.idx, document 0 must have sequences from 0 to 3, got 0 to -1"),
    Damage("m", {}, _patch("m.idx", POINTERS + 8, "<q", 5), "m.idx, sequence 1 must begin at a multiple of 2 bytes, got 5"),
    Damage("m", {}, _patch("m.idx", 34 + 4, "<i", 9), "m.idx, document 1 must lie in the 4 tokens .*, got tokens 2 to 11"),
    Damage("m", {}, _patch("m.idx", 34 + 4, "<i", -1), "m.idx, document 1 must lie in the 4 tokens .*, got tokens 2 to 1"),
    Damage("m", {"end": END}, lambda _: None, "end must be None for files of megatron, which say it themselves, got 7"),
    Damage("d.ds", {}, _remove("d.ds.index"), "files of one known format, got 1 unknown"),
    Damage("d.ds.index", {}, _remove("d.ds"), "d.ds must be beside .*d.ds.index, but is not there"),
    Damage("d.ds", {}, _cut("d.ds.index"), "d.ds.index must have 8 bytes a document, got 23 bytes"),
    Damage("d.ds", {}, _cut("d.ds", 2), "d.ds must have 2 bytes for each of the 4 tokens of .*d.ds.index, got 6 bytes"),
    Damage("d.ds", {}, _cut("d.ds"), "d.ds must have 2 bytes for each of the 4 tokens of .*d.ds.index, got 7 bytes"),
    Damage("d.ds", {}, _patch("d.ds.metadata", 5, "<c", b"4"), "d.ds must have 4 bytes for each of the 4 tokens"),
    Damage("d.ds", {}, _patch("d.ds.index", 0, "<Q", 4), "d.ds.index, document 1 must lie in the 4 tokens .* tokens 4 to 3"),
    Damage("d.ds", {}, _patch("d.ds.index", 8, "<Q", 5), "d.ds.index, document 1 must lie in the 4 tokens .* tokens 2 to 5"),
    Damage("d.ds", {"dtype": "uint16"}, lambda _: None, "dtype must be None for files of datatrove"),
    Damage("c.bin", {}, _patch("c.bin", 4, "<i", 3), "c.bin must be of version 1, got 3"),
    Damage("c.bin", {}, _cut("c.bin"), "c.bin must have 1,028 bytes for 2 tokens, got 1,027"),
    Damage("c.bin", {}, _cut("c.bin", 100), "c.bin must begin with a header of 1,024 bytes, got a file of 928"),
    Damage("c.bin", {}, _patch("c.bin", 0, "<i", 20240522), "files of one known format, got 1 unknown"),
    Damage("c.bin", {"end": 1}, _patch("c.bin", 0, "<i", 20240522), "files of one known format, got 1 unknown"),
    Damage("n.npy", {"end": END}, _cut("n.npy"), "n.npy must have 132 bytes for 2 ids, got 131"),
    Damage("n.npy", {"end": END}, _patch("n.npy", 10, "<4s", b"????"), "n.npy must be a file that numpy.save has written"),
    Damage("n.npy", {"end": END}, _patch("n.npy", 22, "<c", b"f"), "must hold one row of whole numbers, got shape .* float16"),
    Damage("n.npy", {}, lambda _: None, "end must be the token that ends each document of .*n.npy, got None"),
    Damage("n.npy", RAW, lambda _: None, "dtype must be None for files of numpy"),
    Damage("r.bin", RAW, _grow("r.bin"), "r.bin must have 2 bytes an id, as dtype='uint16' says, got 7 bytes"),
    Damage("r.bin", {"end": END}, lambda _: None, "dtype must be given for .*r.bin, which holds bare ids"),
    Damage("r.bin", {}, lambda _: None, "files of one known format, got 1 unknown .such as .*r.bin.; known are"),
    Damage("r.bin", {**RAW, "end": 1 << 16}, lambda _: None, "end must be an id that uint16 can hold, got 65,536 for .*r.bin"),
    Damage("r.bin", {**RAW, "end": 3, "block_bytes": 2}, lambda _: None, "r.bin must have the token 3 between documents"),
    Damage("r.bin", {**RAW, "end": -1}, lambda _: None, "end must be a token id, got -1"),
    Damage("r.bin", {**RAW, "dtype": "int8"}, lambda _: None, "dtype must be 'uint16' or 'uint32', got 'int8'"),
    Damage("*.bin", RAW, lambda _: None, "one known format, got 1 llm.c .such as .*c.bin., 1 megatron .such as .*m., 1 raw"),
    Damage("nothing", {}, lambda _: None, "paths must name files of tokens, got .*nothing', which names none"),
]


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("case", DAMAGES, ids=lambda case: case.message[:60])
def test_damage_is_named(case: Damage, mmap: bool, tmp_path: Path) -> None:
    """Files that are damaged, and options that do not fit, raise an error that names the file and the place."""
    _written(tmp_path)
    case.damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=case.message):
        read_all(open_store(tmp_path / case.name, mmap=mmap, **case.options))


@pytest.mark.parametrize(("name", "file"), [("megatron", "data0.idx"), ("datatrove", "data0.ds.index"), ("llm.c", "data0.bin")])
@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 200), value=st.binary(min_size=1, max_size=8), mmap=st.booleans())
def test_any_damage_is_an_error_or_gives_ids_of_the_file(name: str, file: str, place: int, value: bytes, mmap: bool) -> None:
    """Whatever bytes of an index are damaged, reading raises an error that names a file, or returns ids of the file."""
    with tempfile.TemporaryDirectory() as temporary:
        documents = [[10, 11], [], [12], [13, 14, 15], [16]]
        write_format(name, Path(temporary), [documents])
        path = Path(temporary) / file
        data = path.read_bytes()
        place %= len(data)
        path.write_bytes((data[:place] + value + data[place + len(value) :])[: len(data)])
        rows = _rows_or_message(lambda: open_written(name, Path(temporary), mmap=mmap, block_bytes=4))
        if isinstance(rows, str):
            assert temporary in rows
        elif name in INDEXED:
            assert {token for row in rows for token in row} <= set(range(10, 17))


def _rows_or_message(opened: Callable[[], TokenStore]) -> Documents | str:
    """Return the rows of all blocks, as many as the store counts; or the message of the error."""
    try:
        store = opened()
        rows = read_all(store)
    except ValueError as error:
        return str(error)
    assert store.num_rows in (None, len(rows))
    return rows


@pytest.mark.parametrize("mmap", [True, False])
def test_files_cut_after_they_were_opened_are_named(mmap: bool, tmp_path: Path) -> None:
    """A file that has become shorter raises an error instead of ending the process."""
    write_datatrove(tmp_path / "a.ds", [[1, 2], [3]])
    store = open_store(tmp_path / "a.ds", mmap=mmap)
    _cut("a.ds", 2)(tmp_path)
    with pytest.raises(ValueError, match=r"a.ds must have 6 bytes, as when it was opened, got 4"):
        store.read(0)


def test_other_paths_are_refused(tmp_path: Path) -> None:
    """URLs and folders without files raise errors that say what to pass."""
    with pytest.raises(ValueError, match=r"paths must be local files, .*, got 's3://bucket/a.ds'"):
        open_store("s3://bucket/a.ds")
    with pytest.raises(FileNotFoundError, match="which names none"):
        open_store(tmp_path)
    with pytest.raises(ValueError, match=re.escape("paths must name files of tokens, got []")):
        open_store([])


@pytest.mark.parametrize("mmap", [True, False])
def test_few_files_are_open_at_a_time(mmap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files used last stay open, older ones are closed, and rows read from them stay as they are."""
    monkeypatch.setattr(file_arrays, "_MOST_OPEN", 4)
    for number in range(10):
        write_datatrove(tmp_path / f"{number}.ds", [[number, 1], [number]])
    store = open_store(tmp_path, mmap=mmap)
    tables = [store.read(block) for block in range(store.num_blocks)]
    assert len(store._files) == 4  # type: ignore[attr-defined]
    assert [row for table in tables for row in ids_of(table)] == [row for i in range(10) for row in ([i, 1], [i])]


@pytest.mark.parametrize("mmap", [True, False])
def test_threads_read_side_by_side(mmap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that share a store, whose files open and close all the time, get the right rows."""
    monkeypatch.setattr(file_arrays, "_MOST_OPEN", 2)
    parts, _ = write_format("datatrove", tmp_path, [some_documents(seed, 40) for seed in range(6)])
    store = open_written("datatrove", tmp_path, mmap=mmap)
    expected = [document for part in parts for document in part]
    wrong: list[int] = []

    def read(seed: int) -> None:
        for _ in range(30):
            numbers = np.random.default_rng(seed).integers(0, len(expected), 20)
            if ids_of(store.take(numbers)) != [expected[number] for number in numbers]:
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_many_files_open_at_once(tmp_path: Path) -> None:
    """A thousand files open in little time, without reading ids."""
    one_sequence_each(tmp_path / "first", [[5]])
    (tmp_path / "all").mkdir()
    for number in range(1_000):
        for suffix in (".bin", ".idx"):
            os.link(tmp_path / f"first{suffix}", tmp_path / "all" / f"{number:04}{suffix}")
    begin = time.process_time()
    store = open_store(tmp_path / "all")
    assert time.process_time() - begin < 1
    assert (store.num_rows, store.num_tokens, store.num_blocks) == (1_000, 1_000, 1_000)
    assert ids_of(store.take(np.array([999, 0]))) == [[5], [5]]
