"""The laws of `seqstream.testing` over every kind of source, stage and batch spec.

A new source gets them all by one entry in `SOURCES`.
"""

from __future__ import annotations

import csv
import functools
import gzip
import json
import os
import signal
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import seqstream as ss
from seqstream import testing
from seqstream.planning.batch_spec import BatchSpec
from seqstream.windows.columns import read_column
from tests.helpers.batches import padded
from tests.helpers.forked import Program

NUM_RECORDS = 60
BLOCK = 1024

Texts = list[str]


@pytest.fixture(scope="module")
def lines(texts: Texts) -> Texts:
    """Records of very different lengths, some of them empty."""
    joined = [" ".join(texts[number : number + 1 + number % 7]) for number in range(NUM_RECORDS)]
    return ["" if number % 17 == 5 else text for number, text in enumerate(joined)]


def text_files(folder: Path, lines: Texts) -> ss.Source:
    """Plain files, one of them empty."""
    (folder / "a.txt").write_text("\n".join(lines[:35]) + "\n")
    (folder / "b.txt").write_text("")
    (folder / "c.txt").write_text("\r\n".join(lines[35:]))
    return ss.TextFiles(str(folder / "*.txt"), block_bytes=BLOCK)


def paragraphs(folder: Path, lines: Texts) -> ss.Source:
    """Paragraphs between blank lines."""
    (folder / "a.txt").write_text("\n\n\n".join(text.replace(". ", ".\n") for text in lines))
    return ss.TextFiles(folder / "a.txt", unit="paragraph", block_bytes=BLOCK)


def whole_files(folder: Path, lines: Texts) -> ss.Source:
    """A file a record."""
    for number, text in enumerate(lines[:30]):
        (folder / f"{number:02}.txt").write_text(text)
    return ss.TextFiles(folder / "*.txt", unit="file", block_bytes=BLOCK)


def folders(folder: Path, lines: Texts) -> ss.Source:
    """A folder for each class, in folders of languages; several files are in one block."""
    for number, text in enumerate(lines):
        own = folder / f"lang={'de' if number % 3 else 'en'}" / ("pos" if number % 2 else "neg")
        own.mkdir(parents=True, exist_ok=True)
        (own / f"{number:02}.txt").write_text(text)
    return ss.TextFiles(folder / "*/*/*.txt", folder="class", block_bytes=BLOCK)


def compressed(folder: Path, lines: Texts) -> ss.Source:
    """Plain and compressed files mixed: shards of one and of many blocks."""
    for number in range(3):
        with gzip.open(folder / f"{number}.txt.gz", "wt") as file:
            file.write("\n".join(lines[number * 16 : number * 16 + 16]))
    (folder / "1b.txt").write_text("\n".join(lines[48:]))
    return ss.TextFiles(folder / "*", block_bytes=BLOCK)


def memory_url(folder: Path, lines: Texts) -> ss.Source:
    """A URL that fsspec opens."""
    import fsspec

    url = f"memory://{folder.name}/lines.txt"
    with fsspec.open(url, "w") as file:
        file.write("\n".join(lines))
    return ss.TextFiles(url, block_bytes=BLOCK)


def part_of_a_split(folder: Path, lines: Texts) -> ss.Source:
    """The validation part of a split."""
    return text_files(folder, lines).split(valid=0.6, seed=3)[1]


def json_lines(folder: Path, lines: Texts) -> ss.Source:
    """JSON lines with a label, which an LSTM would learn."""
    rows = [{"text": text, "label": len(text) % 3, "name": f"r{number}"} for number, text in enumerate(lines)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ss.JsonLines(folder / "rows.jsonl", block_bytes=BLOCK)


def json_arrays(folder: Path, lines: Texts) -> ss.Source:
    """Arrays in an object around them, one of them compressed."""
    rows = [{"text": text, "label": len(text) % 3} for text in lines]
    (folder / "a.json").write_text(json.dumps({"data": rows[:40]}, indent=1))
    (folder / "b.json.gz").write_bytes(gzip.compress(json.dumps({"version": 1, "data": rows[40:]}).encode()))
    return ss.JsonArrays(folder / "*", key="data", block_bytes=BLOCK)


def conll(folder: Path, lines: Texts) -> ss.Source:
    """Words with tags, a line each, in two files with marks between documents; one of them is compressed."""
    sentences = ["\n".join(f"{word}\t{len(word)}" for word in text.split()) for text in lines]
    (folder / "a.conll").write_text("-DOCSTART-\tO\n\n" + "\n\n \n".join(sentences[:35]))
    with gzip.open(folder / "b.conll.gz", "wt") as file:
        file.write("\n\n".join(sentences[35:]))
    return ss.Conll(folder / "*", columns=("text", "tags"), block_bytes=BLOCK)


def csv_files(folder: Path, lines: Texts) -> ss.Source:
    """CSV with newlines inside quotes."""
    for number in range(2):
        with (folder / f"{number}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "score"])
            writer.writerows((text.replace(". ", ".\n"), len(text) / 7) for text in lines[number * 30 : number * 30 + 30])
    return ss.Csv(folder / "*.csv", block_bytes=BLOCK)


def parquet(folder: Path, lines: Texts) -> ss.Source:
    """Two files of three row groups each."""
    for number in range(2):
        part = lines[number * 30 : number * 30 + 30]
        pq.write_table(
            pa.table({"text": part, "label": list(range(len(part)))}), folder / f"{number}.parquet", row_group_size=10
        )
    return ss.Parquet(folder / "*.parquet", block_bytes=BLOCK)


def arrow_files(folder: Path, lines: Texts) -> ss.Source:
    """A file of three record batches, with dictionaries, and a stream, in folders of a partition."""
    for number, new in enumerate([pa.ipc.new_file, pa.ipc.new_stream]):
        part = lines[number * 30 : number * 30 + 30]
        table = pa.table({"text": pa.array(part).dictionary_encode(), "label": list(range(len(part)))})
        (folder / f"year={number}").mkdir()
        with pa.OSFile(str(folder / f"year={number}" / "a.arrow"), "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    return ss.ArrowFiles(folder / "*/*.arrow", block_bytes=BLOCK)


def hf_dataset(folder: Path, lines: Texts) -> ss.Source:
    """A map-style data set whose rows are chosen by indices."""
    from datasets import Dataset

    rows = Dataset.from_list([{"text": text, "label": number % 2} for number, text in enumerate(lines)])
    return ss.HFDataset(rows.shuffle(seed=1).select(range(50)), block_bytes=BLOCK)


def hf_stream(folder: Path, lines: Texts) -> ss.Source:
    """A stream of several shards with a function mapped over it."""
    from datasets import Dataset

    rows = Dataset.from_list([{"text": text, "label": number % 2} for number, text in enumerate(lines)])
    stream = rows.to_iterable_dataset(num_shards=4).map(_shout)
    return ss.HFDataset(stream, block_bytes=BLOCK)


def _shout(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": row["text"].upper()}


def generator(folder: Path, lines: Texts) -> ss.Source:
    """A generator function of dicts."""
    return ss.Generator(lambda: ({"text": text, "label": float(len(text))} for text in lines), block_bytes=BLOCK)


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """A map-style data set of dicts."""

    def __init__(self, lines: Texts) -> None:
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"text": self.lines[number], "label": float(number)}


def map_style(folder: Path, lines: Texts) -> ss.Source:
    """Items that are read by their numbers."""
    return ss.Generator(Rows(lines), block_bytes=BLOCK)


def part_of_a_list(folder: Path, lines: Texts) -> ss.Source:
    """The training part of a split of items that are read by their numbers."""
    return ss.Generator(lines, block_bytes=BLOCK).split(valid=0.4, seed=3)[0]


SOURCES: list[Callable[[Path, Texts], ss.Source]] = [
    text_files,
    paragraphs,
    whole_files,
    folders,
    compressed,
    memory_url,
    part_of_a_split,
    json_lines,
    json_arrays,
    conll,
    csv_files,
    parquet,
    arrow_files,
    hf_dataset,
    hf_stream,
    generator,
    map_style,
    part_of_a_list,
]

SPECS: list[BatchSpec] = [
    ss.Bucket(512, window_batches=3),
    ss.Bucket(batch_size=7, window_batches=2),
    ss.Bucket(640, batch_size=6, window_batches=3, multiple_of=8),
    ss.Unbucketed(8, drop_last=True),
    ss.Bucket(batch_size=8, drop_last=True),
    ss.Bucket(512, window_batches=3, shapes=3),
    ss.Bucket(window_batches=3, shapes=[(2, 120), (6, 60), (5, 20)]),
    ss.Bucket(960, window_batches=3, rows_multiple_of=4, cost="attention", hidden_size=64),
    ss.Pack(128, rows=2, window_batches=4),
]


def name_of(spec: BatchSpec) -> str:
    return type(spec).__name__ + str(SPECS.index(spec))


MET = [
    pytest.param(make_source, spec, id=f"{make_source.__name__}-{name_of(spec)}")
    for at, make_source in enumerate(SOURCES)
    for number, spec in enumerate(SPECS)
    if number == 0 or (at + number) % 4 == 0
]
"""Each source with the first batch spec and with some others; each batch spec with many sources."""


@pytest.mark.parametrize(("make_source", "spec"), MET)
def test_laws(
    make_source: Callable[[Path, Texts], ss.Source], spec: BatchSpec, tmp_path: Path, lines: Texts, bpe_file: Path
) -> None:
    """Every record once, within the budget, the same stream, resumed anywhere: for every source and batch spec."""
    source = make_source(tmp_path, lines)
    tokenize = ss.Tokenize(bpe_file, max_length=120)
    if spec is SPECS[0]:
        testing.check_source(source)
    testing.check_loader(functools.partial(ss.Loader, source, tokenize, spec))


@pytest.mark.parametrize("make_source", SOURCES, ids=lambda make: make.__name__)
def test_workers_change_nothing(
    make_source: Callable[[Path, Texts], ss.Source], tmp_path: Path, lines: Texts, bpe_file: Path
) -> None:
    """Two worker processes make the stream of none, in the second epoch too, from every kind of source (law 3)."""
    stages = (make_source(tmp_path, lines), ss.Tokenize(bpe_file, max_length=120), ss.Bucket(512, window_batches=3))
    alone, helped = ss.Loader(*stages, epochs=2), ss.Loader(*stages, epochs=2, num_workers=2)
    for expected, got in zip(alone, helped, strict=True):
        assert torch.equal(expected.input_ids, got.input_ids)
        assert expected.state == got.state


@pytest.mark.parametrize("overflow", ["truncate", "split", "drop"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_laws_of_stages(tmp_path: Path, lines: Texts, wordpiece_tokenizer: Tokenizer, overflow: Any, shuffle: bool) -> None:
    """The laws hold with functions before and after tokenising, for each way to treat long records, shuffled or not."""
    stages = (
        ss.Map(lambda table: table.append_column("size", pa.array([len(text) for text in table.column("text").to_pylist()]))),
        ss.Filter(lambda table: [size % 3 > 0 for size in table.column("size").to_pylist()]),
        ss.Tokenize(wordpiece_tokenizer, max_length=40, overflow=overflow),
        ss.Map(lambda table: table.append_column("labels", table.column("input_ids"))),
    )
    source = json_lines(tmp_path, lines)
    make = functools.partial(ss.Loader, source, *stages, ss.Bucket(512, window_batches=3))
    testing.check_loader(functools.partial(make, shuffle=shuffle))


def test_laws_of_float_features(tmp_path: Path) -> None:
    """The laws hold for sequences of numbers: float features of steps by numbers, with a label."""
    steps = [{"features": torch.full((1 + number % 23, 3), number + 0.5), "label": number} for number in range(80)]
    for spec in SPECS:
        if isinstance(spec, ss.Bucket) and spec.shapes == 3:
            spec = ss.Bucket(512, window_batches=3, shapes=[(10, 50), (30, 15)])  # nothing says how long a row can be
        testing.check_loader(functools.partial(ss.Loader, ss.Generator(steps, block_bytes=BLOCK), spec))


ROWS = st.lists(st.lists(st.integers(1, 50_000), min_size=0, max_size=40), min_size=1, max_size=60)


windows = st.integers(1, 5)
any_specs = (
    st.builds(
        ss.Bucket,
        st.integers(40, 300),
        batch_size=st.none() | st.integers(1, 9),
        window_batches=windows,
        multiple_of=st.sampled_from([1, 8]),
    )
    | st.builds(ss.Bucket, st.integers(160, 300), window_batches=windows, rows_multiple_of=st.integers(1, 4))
    | st.builds(
        ss.Bucket, shapes=st.lists(st.integers(1, 39), max_size=3).map(lambda found: [(4, each) for each in {*found, 40}])
    )
    | st.builds(
        ss.Pack,
        st.integers(20, 80),
        rows=st.integers(1, 3),
        window_batches=windows,
        overflow=st.sampled_from(["truncate", "split", "drop"]),
    )
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=ROWS.filter(any),
    spec=any_specs,
    block_bytes=st.integers(1, 600),
    shuffle=st.booleans(),
    layout=st.sampled_from(["padded", "jagged"]),
    seed=st.integers(0, 2**63),
)
def test_laws_hold_for_any_rows(
    rows: list[list[int]], spec: ss.Bucket | ss.Pack, block_bytes: int, *, shuffle: bool, layout: str, seed: int
) -> None:
    """The laws hold whatever the lengths, budgets, shapes, window and block sizes are."""
    if isinstance(spec, ss.Pack):  # a single token has no label there
        longest = spec.row_length if spec.overflow == "drop" else 40
        assume(any(1 < len(row) <= longest for row in rows))
    source = ss.Generator(rows, block_bytes=block_bytes)

    def make(**options: Any) -> ss.Loader:
        return ss.Loader(source, spec, **{"shuffle": shuffle, "seed": seed, "prefetch": 0, "layout": layout, **options})

    testing.check_every_record_once(make)
    testing.check_budget(make)
    testing.check_resume(make)


@pytest.mark.parametrize("layout", ["padded", "jagged"])
@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
def test_laws_of_pairs(lines: Texts, wordpiece_tokenizer: Tokenizer, engine: Any, layout: str) -> None:
    """The laws hold for rows of two sides, planned in two dimensions, with either kind of engine and in either layout."""
    rows = [{"source": text, "target": text[::-1][: 1 + len(text) // 2], "number": at} for at, text in enumerate(lines)]
    tokenize = ss.Tokenize(
        {"source": wordpiece_tokenizer, "target": wordpiece_tokenizer}, max_length=60, overflow="drop", engine=engine
    )
    stages = (ss.Generator(rows, block_bytes=BLOCK), tokenize, ss.Bucket(512, window_batches=3))
    testing.check_loader(functools.partial(ss.Loader, *stages, layout=layout))


@pytest.mark.parametrize("spec", SPECS[::2], ids=name_of)
def test_laws_with_the_engine_of_reference(tmp_path: Path, lines: Texts, bpe_file: Path, spec: BatchSpec) -> None:
    """The laws hold with `tokenizers` as they do with the fast engine, sequences made flat first."""
    source, tokenize = json_lines(tmp_path, lines), ss.Tokenize(bpe_file, max_length=120, engine="tokenizers")
    testing.check_loader(functools.partial(ss.Loader, source, tokenize, spec, layout="jagged", padding_side="left"))


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_batches_equal_pad_sequence(tmp_path: Path, lines: Texts, bpe_file: Path, padding_side: str) -> None:
    """Each batch is, element for element, what ``pad_sequence`` makes of its rows' own ids (law 8)."""
    source, tokenize = json_lines(tmp_path, lines), ss.Tokenize(bpe_file, max_length=60)
    tokenizer = Tokenizer.from_file(str(bpe_file))
    for batch in ss.Loader(source, tokenize, ss.Bucket(512), padding_side=padding_side):
        texts = [lines[int(name[1:])] for name in batch.name]
        rows = [torch.tensor(tokenizer.encode(text).ids[:60]) for text in texts]
        assert torch.equal(batch.input_ids, padded(rows, side=padding_side))
        assert batch.lengths.tolist() == [len(row) for row in rows]


def test_another_corpus_tokenizer_or_budget_is_refused(
    tmp_path: Path, lines: Texts, bpe_file: Path, wordpiece_tokenizer: Tokenizer
) -> None:
    """A state for other data, another tokenizer or another batch spec is refused, naming what differs (law 9)."""
    source = text_files(tmp_path, lines)
    tokenize = ss.Tokenize(bpe_file, max_length=60)
    loader = ss.Loader(source, tokenize, ss.Bucket(512))
    next(iter(loader))
    state = json.loads(json.dumps(loader.state_dict()))
    with pytest.raises(ValueError, match=r"stage 1.*this loader has"):
        ss.Loader(source, ss.Tokenize(wordpiece_tokenizer, max_length=60), ss.Bucket(512)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"stage 1\.max_length 60, this loader has 61"):
        ss.Loader(source, ss.Tokenize(bpe_file, max_length=61), ss.Bucket(512)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"batches\.max_tokens 512, this loader has 1024"):
        ss.Loader(source, tokenize, ss.Bucket(1024)).load_state_dict(state)
    (tmp_path / "a.txt").write_text("\n".join(lines[:34]) + "\n")
    other = ss.TextFiles(str(tmp_path / "*.txt"), block_bytes=BLOCK)
    with pytest.raises(ValueError, match="source"):
        ss.Loader(other, tokenize, ss.Bucket(512)).load_state_dict(state)


def test_a_copy_of_the_corpus_is_the_same(tmp_path: Path, lines: Texts, bpe_file: Path) -> None:
    """A state goes on with a copy of the files in another folder, written at another time (law 9)."""
    sources = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text_files(tmp_path / name, lines)
        os.utime(tmp_path / name / "a.txt", (len(sources), len(sources)))
        sources.append(ss.TextFiles(str(tmp_path / name / "*.txt"), block_bytes=BLOCK))
    loaders = [ss.Loader(source, ss.Tokenize(bpe_file, max_length=60), ss.Bucket(512)) for source in sources]
    batches = list(loaders[0])
    loaders[1].load_state_dict(batches[3].state)
    assert torch.equal(next(iter(loaders[1])).input_ids, batches[4].input_ids)


def test_resuming_after_kill_minus_nine(tmp_path: Path, lines: Texts, bpe_file: Path) -> None:
    """A process killed in mid-epoch is continued by another, which gives exactly the batches that follow (law 4)."""
    json_lines(tmp_path, lines)
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            f"""
            import json, os, sys
            import seqstream as ss
            loader = ss.Loader(ss.JsonLines({str(tmp_path / "rows.jsonl")!r}, block_bytes={BLOCK}),
                               ss.Tokenize({str(bpe_file)!r}, max_length=120), ss.Bucket(512, window_batches=3))
            if os.path.exists("state.json"):
                loader.load_state_dict(json.load(open("state.json")))
            for number, batch in enumerate(loader):
                print(batch.row_ids.tolist(), flush=True)
                json.dump(loader.state_dict(), open("new.json", "w"))
                os.replace("new.json", "state.json")
                if number == 4 and sys.argv[1] == "die":
                    os.kill(os.getpid(), {int(signal.SIGKILL)})
            """
        )
    )

    def run(argument: str) -> list[list[int]]:
        with Program(tmp_path / "program.py", [argument], cwd=tmp_path) as program:
            done = program.wait()
        assert done.returncode == (-signal.SIGKILL if argument == "die" else 0)
        return [json.loads(line) for line in done.stdout.splitlines()]

    died, again, ended = run("die"), run("die"), run("live")
    assert [len(each) for each in (died, again)] == [5, 5]
    source, tokenize = ss.JsonLines(tmp_path / "rows.jsonl", block_bytes=BLOCK), ss.Tokenize(bpe_file, max_length=120)
    straight = [batch.row_ids.tolist() for batch in ss.Loader(source, tokenize, ss.Bucket(512, window_batches=3))]
    assert died + again + ended == straight


def test_a_law_that_is_broken_is_noticed(tmp_path: Path, lines: Texts) -> None:
    """The checks can fail: a source that loses, repeats or forgets records is caught."""

    class Losing(ss.Source):
        """Gives other records when it is read from a state."""

        num_shards = 3

        def read(self, shard: int, state: Any = None) -> Any:
            for block in range(state or 0, 3):
                ids = [[shard + 1] * (block + row + 1) for row in range(5 if state is None else 4)]
                yield pa.table({"input_ids": pa.array(ids, pa.list_(pa.int32()))}), block + 1 if block < 2 else None

    with pytest.raises(AssertionError, match="must give the other"):
        testing.check_source(Losing())
    with pytest.raises(AssertionError, match="must"):
        testing.check_loader(functools.partial(ss.Loader, Losing(), ss.Bucket(30, window_batches=2)))


def test_columns_of_a_law_are_what_arrow_says() -> None:
    """A column read for collating has the rows that Arrow has, sliced and in chunks."""
    values = pa.chunked_array([pa.array([[1], [2, 3]]), pa.array([[9], [4, 5, 6], []])[1:]])
    column = read_column("x", values)
    rows = [
        column.values[start : start + length, 0].tolist() for start, length in zip(column.starts, column.lengths, strict=True)
    ]  # type: ignore[union-attr]
    assert rows == values.to_pylist()
