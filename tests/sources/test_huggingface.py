"""Data sets and streams of ``datasets``, made from rows and files on disk."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets.distributed import split_dataset_by_node

import seqstream as ss
from seqstream.sources.blocks import Block
from seqstream.sources.huggingface import HFDataset
from seqstream.sources.source import Source

SMALL_BLOCK = 4_096


def rows(count: int, first: int = 0) -> dict[str, list[Any]]:
    numbers = range(first, first + count)
    return {"text": [f"{i} " * (i % 40) for i in numbers], "label": [i % 7 for i in numbers]}


def records(shards: list[int]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for i in range(150):
            yield {"text": f"{shard}-{i} " * (i % 30), "number": i, "note": None if i < 100 else f"note {i}"}


def numbers(shards: list[int]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from ({"number": 1000 * shard + i} for i in range(50))


def mapped() -> datasets.Dataset:
    return datasets.Dataset.from_dict(rows(2_000))


def stream(num_shards: int = 3, count: int = 600, first: int = 0) -> datasets.IterableDataset:
    return datasets.Dataset.from_dict(rows(count, first)).to_iterable_dataset(num_shards=num_shards)


def generated() -> datasets.IterableDataset:
    return datasets.IterableDataset.from_generator(records, gen_kwargs={"shards": [0, 1, 2, 3]})


def typed() -> datasets.IterableDataset:
    features = datasets.Features({name: datasets.Value(kind) for name, kind in KINDS.items()})
    return datasets.IterableDataset.from_generator(records, gen_kwargs={"shards": [0, 1]}, features=features)


KINDS = {"text": "string", "number": "int32", "note": "string"}

DATASETS: dict[str, Callable[[], Any]] = {
    "dataset": mapped,
    "selected": lambda: mapped().select(range(7, 1_900, 3)),
    "shuffled": lambda: mapped().shuffle(seed=0),
    "formatted": lambda: mapped().with_format("torch", columns=["label"]),
    "empty": lambda: mapped().select([]),
    "one row": lambda: mapped().select([5]),
}

STREAMS: dict[str, Callable[[], Any]] = {
    "stream": stream,
    "map": lambda: stream().map(lambda row: {"size": len(row["text"])}),
    "map batched": lambda: stream().map(lambda batch: {"double": [2 * x for x in batch["label"]]}, batched=True, batch_size=7),
    "map indices": lambda: stream().map(lambda row, index: {"index": index}, with_indices=True),
    "add column": lambda: stream().add_column("position", list(range(600))),
    "filter of first shards": lambda: (
        generated().map(lambda row: {"note": row["number"]}).filter(lambda row: row["text"] > "2")
    ),
    "nothing left": lambda: stream().map(lambda row: row).filter(lambda row: False),
    "filter": lambda: stream().filter(lambda row: row["label"] % 2 == 0),
    "select": lambda: stream().select_columns(["label"]).rename_column("label", "kind"),
    "take": lambda: stream().take(250),
    "skip": lambda: stream().skip(250),
    "repeat": lambda: stream().repeat(2),
    "typed generator": typed,
    "concatenated": lambda: datasets.concatenate_datasets([stream(), stream(2, 100, 5_000)]),
    "side by side": lambda: datasets.concatenate_datasets(
        [stream(3, 200), datasets.IterableDataset.from_generator(numbers, gen_kwargs={"shards": [0, 1, 2, 3]})], axis=1
    ),
    "interleaved": lambda: datasets.interleave_datasets(
        [stream(3, 60), stream(2, 20, 5_000)], stopping_strategy="all_exhausted"
    ),
    "mixed": lambda: datasets.interleave_datasets([stream(2, 100), stream(2, 90, 5_000)], probabilities=[0.8, 0.2], seed=1),
}


def read_all(source: Source) -> list[dict[str, Any]]:
    return [row for shard in range(source.num_shards) for table, _ in source.read(shard) for row in table.to_pylist()]


def assert_resumes_everywhere(source: Source, shard: int) -> None:
    """From the state of every block of a shard, and again from there, reading goes on with the next block."""
    whole = list(source.read(shard))
    for i, (_, state) in enumerate(whole[:-1]):
        rest = list(source.read(shard, json.loads(json.dumps(state))))
        assert_same(rest, whole[i + 1 :])
        if len(rest) > 1:
            assert_same(list(source.read(shard, rest[0][1])), whole[i + 2 :])


def assert_same(left: list[Block], right: list[Block]) -> None:
    assert [(table.to_pydict(), state) for table, state in left] == [(table.to_pydict(), state) for table, state in right]


@pytest.mark.parametrize("name", [*DATASETS, *STREAMS])
def test_every_record_is_read_once(name: str) -> None:
    """The source reads the rows of the data set, in its order."""
    dataset = (DATASETS | STREAMS)[name]()
    expected = dataset.with_format(None)
    if name == "formatted":
        expected = expected.select_columns(["label"])
    assert read_all(HFDataset(dataset, block_bytes=SMALL_BLOCK)) == list(expected)


@pytest.mark.parametrize("name", list(STREAMS))
def test_streams_resume_after_every_block(name: str) -> None:
    """A stream resumes exactly after each block, also from a reader that was itself resumed."""
    source = HFDataset(STREAMS[name](), block_bytes=SMALL_BLOCK)
    for shard in range(source.num_shards):
        assert_resumes_everywhere(source, shard)


@pytest.mark.parametrize("name", list(STREAMS))
def test_two_readers_of_one_stream_do_not_disturb_each_other(name: str) -> None:
    """Readers that take turns read the same as each alone, although a stream holds its own position."""
    source = HFDataset(STREAMS[name](), block_bytes=SMALL_BLOCK)
    alone = list(source.read(0))
    first, second = source.read(0), source.read(0)
    seen = [next(first, None), next(first, None)]
    turns = list(itertools.zip_longest(second, first))
    assert_same([block for block, _ in turns if block], alone)
    assert_same([block for block in [*seen, *(block for _, block in turns)] if block], alone)


@pytest.mark.parametrize("name", [*DATASETS, *STREAMS])
def test_all_blocks_have_one_schema(name: str) -> None:
    """Columns have the same types in every block of every shard, so that tables can be joined."""
    source = HFDataset((DATASETS | STREAMS)[name](), block_bytes=SMALL_BLOCK)
    schemas = {table.schema for shard in range(source.num_shards) for table, _ in source.read(shard)}
    assert len(schemas) <= 1


def test_rows_of_a_data_set_come_in_small_shards() -> None:
    """A data set is cut into ranges of rows of about block_bytes, each one block."""
    source = HFDataset(mapped(), block_bytes=SMALL_BLOCK)
    blocks = [list(source.read(shard)) for shard in range(source.num_shards)]
    assert all(len(block) == 1 and block[0][1] is None for block in blocks)
    sizes = [block[0][0].nbytes for block in blocks[:-1]]
    assert len(sizes) > 10
    assert max(sizes) < 2 * SMALL_BLOCK
    assert source.approx_blocks() == source.num_shards


def test_a_row_larger_than_a_block_is_a_shard_by_itself() -> None:
    """Each shard has at least one row."""
    source = HFDataset(datasets.Dataset.from_dict({"text": ["x" * 100] * 5}), block_bytes=10)
    assert source.num_shards == 5
    assert len(read_all(source)) == 5


def test_stream_blocks_are_about_as_large_as_asked() -> None:
    """A stream of small tables and one large table have blocks of the same size."""
    source = HFDataset(stream(1, 5_000), block_bytes=SMALL_BLOCK)
    sizes = [table.nbytes for table, _ in source.read(0)]
    assert len(sizes) > 20
    assert all(SMALL_BLOCK / 2 <= size <= 1.6 * SMALL_BLOCK for size in sizes[:-1])


def test_shards_of_files_are_read_as_arrow(tmp_path: Path) -> None:
    """A stream over Parquet files has a shard a file; lists, class labels and dictionaries are plain columns."""
    for number in range(3):
        ids = pa.array([[number, i] for i in range(20)], pa.list_(pa.int32()))
        kinds = pa.array(["a", "b"] * 10).dictionary_encode()
        pq.write_table(pa.table({"input_ids": ids, "kind": kinds, "label": range(20)}), tmp_path / f"{number}.parquet")
    files = {"train": sorted(map(str, tmp_path.glob("*.parquet")))}
    dataset = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=str(tmp_path))
    source = HFDataset(dataset.cast_column("label", datasets.ClassLabel(num_classes=20)))
    table, state = next(source.read(2))
    assert source.num_shards == 3
    assert state is None
    assert table.schema.types == [pa.list_(pa.int32()), pa.string(), pa.int64()]
    assert table.column("input_ids").to_pylist()[7] == [2, 7]


def test_arrays_lose_their_extension_type() -> None:
    """Columns of Array2D are nested lists."""
    features = datasets.Features({"grid": datasets.Array2D((2, 2), "float32")})
    dataset = datasets.Dataset.from_dict({"grid": [[[1.0, 2.0], [3.0, 4.0]]] * 3}, features=features)
    for kind in (dataset, dataset.to_iterable_dataset()):
        table, _ = next(HFDataset(kind).read(0))
        assert table.column("grid").type == pa.list_(pa.list_(pa.float32()))


def test_a_value_that_changes_its_kind_says_how_to_declare_it() -> None:
    """If a later value of a stream without features is of another type than the first, the error has the remedy."""
    for later, kind in (("x", "one kind of value: .*"), (0.5, "int64, got double: .*")):

        def changing(later: Any = later) -> Iterator[dict[str, Any]]:
            yield from ({"note": i} for i in range(100))
            yield {"note": later}

        source = HFDataset(datasets.IterableDataset.from_generator(changing))
        message = rf"column 'note' must hold {kind}; say what .* dataset\.cast\(features\)"
        with pytest.raises(ValueError, match=message) as info:
            read_all(source)
        assert info.value.__notes__ == ["while reading shard 0 of the stream"]


def test_what_is_missing_in_the_first_rows_of_a_stream_is_kept() -> None:
    """A column that is null or empty in the first 64 rows has the values of later rows, at any depth."""

    def late() -> Iterator[dict[str, Any]]:
        for i in range(240):
            yield {
                "id": i,
                "ids": [i],
                "note": f"note {i}" if i > 99 else None,
                "tags": ["x"] * (i > 199),
                "said": [{"a": i, "b": i > 99 or None}],
            }

    stream = datasets.IterableDataset.from_generator(late)
    for block_bytes in (400, 1 << 20):
        source = HFDataset(stream, block_bytes=block_bytes)
        assert read_all(source) == list(late())
        assert_resumes_everywhere(source, 0)
    batches = list(ss.Loader(HFDataset(stream, block_bytes=500), ss.Unbucketed(7)))
    notes = {number: note for batch in batches for number, note in zip(batch.id.tolist(), batch.note, strict=True)}
    assert notes == {row["id"]: row["note"] for row in late()}


@pytest.mark.parametrize("features", [None, {"number": "int32", "ids": "int64"}])
def test_whole_numbers_of_streams_are_exact(features: Any) -> None:
    """A number beyond 64 bits is an error with its column and value, and none is truncated or rounded."""

    def large(number: Any, ids: Any) -> datasets.IterableDataset:
        items = [{"number": 1, "ids": [2, 3]}, {"number": number, "ids": ids}]
        kinds = features and datasets.Features(
            number=datasets.Value(features["number"]), ids=datasets.List(datasets.Value(features["ids"]))
        )
        return datasets.IterableDataset.from_generator(lambda: iter(items), features=kinds)

    for number, ids, message in (
        (5, [2**64], "column 'ids' must hold .*int64.*, got 18446744073709551616; say what"),
        (5, np.array([1, 2**63], np.uint64), "column 'ids' must hold .*int64"),
        (2**64, [1], "column 'number' must hold int.*, got 18446744073709551616; say what"),
    ):
        with pytest.raises((ValueError, OverflowError), match=message):
            read_all(HFDataset(large(number, ids)))


def test_a_generator_of_a_stream_may_fill_its_objects_again() -> None:
    """Dicts, lists, arrays and tensors are read as they were when yielded, in the record and inside of it."""

    def filling() -> Iterator[dict[str, Any]]:
        message, ids = {"role": "user", "content": ""}, []
        array, tensor, record = np.zeros(2, np.int64), torch.zeros(2, dtype=torch.int64), {}
        for i in range(150):
            message["content"] = str(i)
            ids.append(i)
            array.fill(i)
            tensor.fill_(i)
            record |= {"messages": [message], "ids": ids, "array": array, "tensor": tensor, "number": i}
            yield record

    expected = [
        {
            "messages": [{"role": "user", "content": str(i)}],
            "ids": list(range(i + 1)),
            "array": [i, i],
            "tensor": [i, i],
            "number": i,
        }
        for i in range(150)
    ]
    stream = datasets.IterableDataset.from_generator(filling)
    assert read_all(HFDataset(stream)) == expected
    assert read_all(HFDataset(stream.with_format("torch"))) == expected
    assert read_all(HFDataset(stream.map(lambda row: {"number": row["number"]}))) == expected


def lowered(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Transform rows as they are read: other texts, another column, and one less."""
    return {"text": [text[:2].upper() for text in batch["text"]], "ids": [torch.arange(n) for n in batch["label"]]}


TRANSFORMED: dict[str, Callable[[datasets.Dataset], datasets.Dataset]] = {
    "with": lambda data: data.with_transform(lowered),
    "set": lambda data: data.set_transform(lowered) or data,
    "select": lambda data: data.with_transform(lowered).select(range(900, 20, -7)),
    "shuffle": lambda data: data.with_transform(lowered).shuffle(seed=1),
    "filter": lambda data: data.filter(lambda row: row["label"] > 2).with_transform(lowered),
    "split": lambda data: data.with_transform(lowered).train_test_split(0.2, seed=0)["test"],
    "shard": lambda data: data.with_transform(lowered).shard(3, 1),
    "columns": lambda data: data.with_transform(lambda batch: {"text": batch["text"]}, columns=["text"]),
    "all columns": lambda data: data.with_transform(lambda batch: {"text": batch["text"]}, ["text"], output_all_columns=True),
    "format": lambda data: data.with_format("numpy", columns=["label"]),
    "format of all": lambda data: data.with_format("numpy", columns=["label"], output_all_columns=True),
}


@pytest.mark.parametrize("name", list(TRANSFORMED))
def test_rows_are_what_the_data_set_gives(name: str) -> None:
    """A transform is applied, and columns that a format hides are left out, in any order of the calls."""
    dataset = TRANSFORMED[name](mapped())
    expected = [{key: getattr(value, "tolist", lambda value=value: value)() for key, value in row.items()} for row in dataset]
    source = HFDataset(dataset, block_bytes=SMALL_BLOCK)
    assert source.num_shards > 1
    assert read_all(source) == expected
    assert repr(source).startswith("HFDataset(Dataset of ")


def test_transforms_are_part_of_the_fingerprint() -> None:
    """A state saved before a transform was set is an error; a random transform changes nothing else."""
    plain, transformed = HFDataset(mapped()), HFDataset(mapped().with_transform(lowered))
    assert transformed.fingerprint() != plain.fingerprint()
    assert transformed.fingerprint() == HFDataset(mapped().with_transform(lowered)).fingerprint()
    assert transformed.fingerprint()["transform"] == "lowered"


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda batch: batch["text"], "transform must return a dict of columns, got "),
        (
            lambda batch: {"text": batch["text"][1:]},
            "transform must return a value for each row, got 40 of column 'text' for 41 rows; use dataset.map",
        ),
        (lambda batch: {"n": [2**64 for _ in batch["text"]]}, "column 'n' must hold int64, got 18446744073709551616; make the"),
    ],
)
def test_what_a_transform_must_return_is_said(transform: Any, message: str) -> None:
    """A transform must return a dict with a value for each row, and numbers of 64 bits."""
    with pytest.raises((TypeError, ValueError), match=message):
        read_all(HFDataset(mapped().with_transform(transform)))


def test_a_format_that_casts_is_refused() -> None:
    """Tensors have the types of the columns; a format with another type is an error."""
    with pytest.raises(
        ValueError, match=r"dataset cannot have the format dtype=.*float32.*; pass dataset\.with_format\(None\)"
    ):
        HFDataset(mapped().with_format("numpy", dtype=np.float32))


def test_a_column_that_comes_late_is_not_lost() -> None:
    """A column that the first rows do not have is an error."""

    def late() -> Iterator[dict[str, Any]]:
        yield from ({"a": i} for i in range(100))
        yield {"a": 1, "b": 2}

    with pytest.raises(ValueError, match=r"column 'b' must be in the first records, which have 'a'; say what"):
        read_all(HFDataset(datasets.IterableDataset.from_generator(late)))


@pytest.mark.parametrize(
    "shuffled",
    [
        lambda: stream().shuffle(seed=0),
        lambda: stream().shuffle(seed=0, buffer_size=10).map(lambda row: row).filter(lambda row: True),
        lambda: datasets.interleave_datasets([stream(), stream().shuffle(seed=0)]),
        lambda: datasets.concatenate_datasets([stream().shuffle(seed=0).take(5), stream()]),
    ],
)
def test_a_shuffle_buffer_is_refused(shuffled: Callable[[], Any]) -> None:
    """A shuffle buffer anywhere in a stream is an error that says that the loader shuffles."""
    with pytest.raises(ValueError, match=r"dataset cannot have a shuffle buffer.*; the loader shuffles, remove \.shuffle\(\)"):
        HFDataset(shuffled())


def test_other_streams_that_the_loader_replaces_are_refused() -> None:
    """A stream that repeats without end, or is divided among nodes, is an error."""
    with pytest.raises(ValueError, match=r"cannot repeat without end; remove \.repeat\(\) and set Loader\(epochs=None\)"):
        HFDataset(stream().repeat(None))
    divided = split_dataset_by_node(stream(), rank=0, world_size=3)
    with pytest.raises(ValueError, match="cannot be divided by split_dataset_by_node; pass all of it"):
        HFDataset(divided)


def test_several_splits_are_refused() -> None:
    """A dictionary of splits is an error that names a split to pass."""
    splits = datasets.DatasetDict({"train": mapped(), "test": mapped()})
    with pytest.raises(TypeError, match=r"must be one split, got DatasetDict with 'train', 'test'; pass dataset\['train'\]"):
        HFDataset(splits)
    with pytest.raises(TypeError, match=r"got IterableDatasetDict with 'valid'; pass dataset\['valid'\]"):
        HFDataset(datasets.IterableDatasetDict({"valid": stream()}))


def test_other_things_are_refused() -> None:
    """A value that is not a data set is an error."""
    with pytest.raises(TypeError, match=r"dataset must be a datasets\.Dataset or datasets\.IterableDataset, got list"):
        HFDataset([{"text": "a"}])
    with pytest.raises(ValueError, match="block_bytes must be at least 1, got 0"):
        HFDataset(mapped(), block_bytes=0)


def test_reserved_names_are_refused() -> None:
    """A column that the loader would overwrite is an error."""
    source = HFDataset(datasets.Dataset.from_dict({"record": [1], "text": ["a"]}))
    with pytest.raises(ValueError, match=r"column 'record' cannot have that name.*; use dataset\.rename_column"):
        read_all(source)


def test_a_state_of_other_data_is_refused() -> None:
    """A state inside a block is an error."""
    source = HFDataset(stream(1))
    with pytest.raises(ValueError, match="state was saved after 17 records, where no block ends now; the data has changed"):
        list(source.read(0, 17))


FINGERPRINTS = """
import json, datasets
import seqstream as ss
from seqstream.sources.huggingface import HFDataset
data = datasets.Dataset.from_dict({"text": [str(i) for i in range(100)], "label": [i % 7 for i in range(100)]})
stream = data.to_iterable_dataset(num_shards=2).map(lambda row: {"double": 2 * row["label"]})
print(json.dumps([HFDataset(d).fingerprint() for d in (data, data.shuffle(seed=3), stream)]))
"""


def test_fingerprints_are_the_same_in_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    """A fingerprint depends on the data, not on the process or on how the data set was created."""
    there = subprocess.run([sys.executable, "-c", FINGERPRINTS], capture_output=True, text=True, check=True).stdout
    exec(FINGERPRINTS)
    assert capsys.readouterr().out == there
    same = datasets.Dataset.from_list([{"text": str(i), "label": i % 7} for i in range(100)])
    assert json.loads(there)[0] == HFDataset(same).fingerprint()


def test_fingerprints_differ_where_the_data_does() -> None:
    """Another number of rows, another order, another column and other content give other fingerprints."""
    data = mapped()
    kinds = [data, data.select(range(1_999)), data.shuffle(seed=0), data.rename_column("text", "body"), stream(), stream(2)]
    kinds += [stream(3, 600, 1), stream().map(lambda row: {"text": row["text"].upper() + "!"})]
    assert len({json.dumps(HFDataset(kind).fingerprint()) for kind in kinds}) == len(kinds)


def test_places_are_named() -> None:
    """The location of a record of a data set is its row, that of a stream its shard and number."""
    source = HFDataset(mapped(), block_bytes=SMALL_BLOCK)
    table, _ = next(source.read(1))
    first = next(source.read(0))[0].num_rows
    assert source.locate(1 << 32 | 2) == f"row {first + 2} of the data set"
    assert table.to_pylist()[2] == mapped()[first + 2]
    assert HFDataset(stream()).locate(1 << 32 | 2) == "record 2 of shard 1 of the stream"


def test_it_prints_what_it_is() -> None:
    """The columns and the size are shown, not the data."""
    assert repr(HFDataset(mapped())) == "HFDataset(Dataset of text, label; 2,000 rows)"
    assert repr(HFDataset(stream())) == "HFDataset(IterableDataset of text, label; 3 shards)"


def test_it_can_be_pickled() -> None:
    """The source can be pickled for worker processes."""
    source = pickle.loads(pickle.dumps(HFDataset(mapped())))
    assert read_all(source) == list(mapped())
