"""Rows of tokens from files: the rows that a loader makes of the text, padded alike, in orders that can be resumed."""

from __future__ import annotations

import functools
import itertools
import pickle
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import seqstream as ss
from benchmarks.tokens import copies_of
from seqstream import testing
from seqstream.arrow import take_rows
from seqstream.sources import token_files
from seqstream.sources.tokens import arrow_store
from seqstream.sources.tokens.arrow_files import TokenFile
from seqstream.testing.expectations import expect_same, through_json
from tests.helpers.rank_corpora import BLOCK, SPECS, letters, pairs, some_texts, text_files
from tests.helpers.tokens import values_of, write

LETTERS = ss.Tokenize(letters, max_length=60)
KINDS: dict[str, dict[str, Any]] = {
    "blocks": {},
    "rows": {"shuffle": "rows"},
    "blocks-read": {"mmap": False},
    "rows-read": {"shuffle": "rows", "mmap": False},
}

CHAT = """{% for message in messages %}<{{ message['role'] }}> {% if message['role'] == 'assistant' %}{% generation %}\
{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %} {% endfor %}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of letters in several files of several blocks."""
    root = tmp_path_factory.mktemp("letters")
    return write(root / "tokens", text_files(root, some_texts()), LETTERS, file_bytes=2_000)


@pytest.fixture(autouse=True)
def _small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in random order are read few at a time, so that a window needs several reads."""
    monkeypatch.setattr(token_files, "RUN_BYTES", 3_000)


def _records(num: int = 80) -> list[dict[str, Any]]:
    """Records with every column that rows of the tests below need."""
    return [
        {"text": text, "label": ("good", "bad")[number % 2], "number": number, "title": f"t{number % 5}"}
        for number, text in enumerate(some_texts(num))
    ]


def _size_column(table: pa.Table) -> pa.Table:
    return table.append_column("size", pa.array([len(text) for text in table.column("text").to_pylist()], pa.int64()))


def _first_half(table: pa.Table) -> list[bool]:
    return [number % 3 > 0 for number in table.column("number").to_pylist()]


def _shorten(table: pa.Table) -> pa.Table:
    ids = [row[:20] for row in table.column("input_ids").to_pylist()]
    return table.set_column(table.schema.get_field_index("input_ids"), "input_ids", pa.array(ids, pa.list_(pa.int32())))


def _text_only(table: pa.Table) -> pa.Table:
    return table.append_column("kept", table.column("text"))


StagesAndSpec = tuple[Callable[[Tokenizer, Tokenizer], list[Any]], Any]

JOBS: dict[str, StagesAndSpec] = {
    "plain": (lambda bpe, _: [ss.Tokenize(bpe, max_length=40)], ss.Bucket(240, window_batches=3)),
    "no-limit": (lambda bpe, _: [ss.Tokenize(bpe)], ss.Bucket(batch_size=4, window_batches=3)),
    "wordpiece": (lambda _, wordpiece: [ss.Tokenize(wordpiece, max_length=30)], ss.Bucket(240, window_batches=3)),
    "split": (lambda bpe, _: [ss.Tokenize(bpe, max_length=9, overflow="split")], ss.Bucket(240, window_batches=3)),
    "drop": (lambda bpe, _: [ss.Tokenize(bpe, max_length=19, overflow="drop")], ss.Bucket(240, window_batches=3)),
    "keep": (lambda bpe, _: [ss.Tokenize(bpe, max_length=40, empty="keep")], ss.Bucket(240, window_batches=3)),
    "keep-pad": (lambda _, word: [ss.Tokenize(word, max_length=40, empty="keep", special_tokens=False)], ss.Unbucketed(4)),
    "pack": (lambda bpe, _: [ss.Tokenize(bpe, max_length=40)], ss.Pack(64, rows=2, window_batches=3)),
    "shapes": (lambda bpe, _: [ss.Tokenize(bpe, max_length=40)], ss.Bucket(240, shapes=2, window_batches=3)),
    "stages": (
        lambda bpe, _: [
            ss.Map(_size_column),
            ss.Filter(_first_half),
            ss.ClassLabels(["good", "bad"]),
            ss.Tokenize(bpe, max_length=40),
            ss.Map(_shorten),
        ],
        ss.Bucket(240, window_batches=3),
    ),
    "text-kept": (lambda bpe, _: [ss.Map(_text_only), ss.Tokenize(bpe, max_length=40)], ss.Bucket(240, window_batches=3)),
    "two-fields": (
        lambda bpe, word: [ss.Tokenize({"text": bpe, "title": word}, max_length=40)],
        ss.Bucket(240, window_batches=3),
    ),
    "two-texts": (lambda _, word: [ss.Tokenize(word, field=("text", "title"), max_length=40)], ss.Bucket(240)),
    "prompt": (lambda bpe, _: [ss.Tokenize(bpe, field="text", prompt="title", max_length=40)], ss.Bucket(240)),
}


@pytest.mark.parametrize("kind", ["blocks", "rows"])
@pytest.mark.parametrize("job", JOBS)
def test_rows_and_padding_are_those_of_text(
    job: str, kind: str, tmp_path: Path, bpe_tokenizer: Tokenizer, wordpiece_tokenizer: Tokenizer
) -> None:
    """A loader of token files has the rows of one that tokenises: all columns, and padded alike; so with the stages given."""
    make_stages, spec = JOBS[job]
    stages = make_stages(bpe_tokenizer, wordpiece_tokenizer)
    source = ss.Generator(_records(), block_bytes=BLOCK)
    fly = ss.Loader(source, *stages, spec)
    tokens = ss.TokenFiles(write(tmp_path / "tokens", source, *stages), **KINDS[kind])
    values, num_tokens, expected = values_of(fly), fly.stats.tokens, next(iter(fly)).layout
    for loader in (ss.Loader(tokens, spec), ss.Loader(tokens, *stages, spec)):
        assert values_of(loader) == values
        assert loader.stats.tokens == num_tokens
        got = next(iter(loader)).layout
        assert (got.pad_values, got.sequence, got.names) == (expected.pad_values, expected.sequence, expected.names)


@pytest.mark.parametrize("side", ["left", "right"])
def test_side_of_padding_and_its_token_are_kept(side: str, tmp_path: Path, wordpiece_tokenizer: Tokenizer) -> None:
    """The side on which a tokenizer pads is known from the folder, as is the token, and a loader may choose another."""
    from tests.helpers.tokenizers import transformers_of

    tokenizer = transformers_of(wordpiece_tokenizer, pad_token="[SEP]", padding_side=side)
    source = ss.Generator(_records(), block_bytes=BLOCK)
    folder = write(tmp_path / "tokens", source, ss.Tokenize(tokenizer, max_length=30))
    batch = next(each for each in ss.Loader(ss.TokenFiles(folder), ss.Unbucketed(4)) if not each.mask.all())
    assert batch.padding_side == side
    assert set(batch.input_ids[~batch.mask].tolist()) == {wordpiece_tokenizer.token_to_id("[SEP]")}
    other = ss.Loader(ss.TokenFiles(folder), ss.Unbucketed(4), pad_values={"input_ids": 7}, padding_side="left")
    batch = next(each for each in other if not each.mask.all())
    assert (batch.padding_side, set(batch.input_ids[~batch.mask].tolist())) == ("left", {7})


def test_longest_row_is_known(tmp_path: Path, folder: Path) -> None:
    """A budget below ``max_length`` warns when the loader is made, and shapes need no more than the folder says."""
    with pytest.warns(UserWarning, match="max_length=60, and a record of more than max_tokens=50"):
        ss.Loader(ss.TokenFiles(folder), ss.Bucket(50))
    assert len(ss.Loader(ss.TokenFiles(folder), ss.Bucket(240, shapes=3)).shapes()) == 3
    assert ss.Loader(ss.TokenFiles(folder), ss.Bucket(240)).worst_batch().num_slots <= 240


def test_chat_labels(tmp_path: Path, bpe_tokenizer: Tokenizer) -> None:
    """Labels of what the assistant says are the same, and padded with -100."""
    from tests.helpers.tokenizers import transformers_of

    tokenizer = transformers_of(bpe_tokenizer, chat_template=CHAT, pad_token="<|endoftext|>")
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[: 1 + len(text) // 2]}]}
        for text in some_texts(60)
        if text
    ]
    stages = [ss.Tokenize(tokenizer, field="messages", chat="assistant", max_length=60)]
    source = ss.Generator(rows, block_bytes=BLOCK)
    tokens = ss.TokenFiles(write(tmp_path / "tokens", source, *stages))
    fly = values_of(ss.Loader(source, *stages, ss.Bucket(240)))
    loader = ss.Loader(tokens, ss.Bucket(240))
    assert values_of(loader) == fly
    batches = [batch for batch in loader if not batch.mask.all()]
    assert all((batch.labels[~batch.mask] == -100).all() for batch in batches)
    assert '"labels": [-100' in next(iter(fly))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [*((kind, "tokens") for kind in KINDS), ("blocks", "in-order"), ("rows", "pack")],
)
def test_laws(kind: str, spec: str, folder: Path) -> None:
    """All laws of sources and loaders hold, in blocks and by row, mapped or read, in order or not."""
    source = ss.TokenFiles(folder, **KINDS[kind])
    testing.check_source(source)
    is_mapped = source.mmap
    testing.check_loader(functools.partial(ss.Loader, source, LETTERS, SPECS[spec], shuffle=is_mapped))


@pytest.mark.parametrize("kind", ["blocks", "rows"])
@pytest.mark.parametrize("spec", ["tokens", "pack"])
def test_laws_on_ranks(kind: str, spec: str, folder: Path) -> None:
    """Ranks share the rows in step, and go on with other numbers of ranks in the middle of a window."""
    make = functools.partial(ss.Loader, ss.TokenFiles(folder, **KINDS[kind]), SPECS[spec])
    testing.check_ranks(make, 3)
    testing.check_resume_on_ranks(make, 2, num_stops=2)
    testing.check_elastic(make, (1, 2, 4, 3, 1))


@pytest.mark.parametrize("kind", ["blocks", "rows"])
def test_workers_change_nothing(kind: str, folder: Path) -> None:
    """Worker processes give the stream of none, also with a stage after the tokens."""
    make = functools.partial(
        ss.Loader, ss.TokenFiles(folder, **KINDS[kind]), ss.Map(_shorten), ss.Bucket(240, window_batches=3), epochs=2
    )
    expect_same(list(make()), make(num_workers=2), "two workers")


@pytest.mark.parametrize("kind", ["blocks", "rows"])
def test_laws_of_parts_and_groups(kind: str, folder: Path, tmp_path: Path) -> None:
    """A split of token files, and two of them in a row, keep the laws and the padding."""
    source = ss.TokenFiles(folder, **KINDS[kind])
    train, valid = source.split(valid=0.3, seed=1)
    make = functools.partial(ss.Loader, train, SPECS["tokens"])
    testing.check_loader(make)
    testing.check_elastic(make, (1, 3, 2))
    other = ss.TokenFiles(
        write(tmp_path / "other", ss.Generator(some_texts(50, seed=1)), ss.Tokenize(letters, max_length=50)), **KINDS[kind]
    )
    both = ss.Concat([source, other])
    testing.check_loader(functools.partial(ss.Loader, both, SPECS["tokens"]))
    assert both.num_tokens == source.num_tokens + other.num_tokens  # type: ignore[operator]
    assert both.token_info is not None
    assert (both.token_info.max_length, both.token_info.stages) == (60, ())
    whole = values_of(ss.Loader(source, SPECS["tokens"]))
    assert values_of(ss.Loader(train, SPECS["tokens"])) + values_of(ss.Loader(valid, SPECS["tokens"])) == whole


def test_groups_that_do_not_fit_are_refused(folder: Path, tmp_path: Path, wordpiece_tokenizer: Tokenizer) -> None:
    """Text among tokens, or tokens that are padded with another token, are refused by name."""
    source = ss.TokenFiles(folder)
    with pytest.raises(ValueError, match=r"must all be of tokens or all of text, got tokens in '0' and none in '1'"):
        ss.Loader(ss.Concat([source, ss.Generator(["a"])]), LETTERS, ss.Bucket(240))
    stage = ss.Tokenize({"text": wordpiece_tokenizer}, max_length=30)
    other = ss.TokenFiles(write(tmp_path / "other", ss.Generator(some_texts()), stage))
    with pytest.raises(ValueError, match=r"sources must be padded alike, got columns \('input_ids',\) of '0' and"):
        ss.Loader(ss.Concat([source, other]), ss.Bucket(240))


def test_mixture_by_tokens(folder: Path, tmp_path: Path) -> None:
    """``"proportional"`` weights are of tokens where all sources know theirs, of bytes otherwise; all laws hold."""
    texts = [text * 2 for text in some_texts(70, seed=2)]
    source = ss.TokenFiles(folder)
    other = ss.TokenFiles(write(tmp_path / "other", ss.Generator(texts), LETTERS))
    assert source.num_tokens is not None
    assert other.num_tokens is not None
    mixture = ss.Mixture({"a": source, "b": other}, "proportional")
    total = source.num_tokens + other.num_tokens
    assert mixture.schedule.points == ((0, (source.num_tokens / total, other.num_tokens / total)),)
    testing.check_mixture(functools.partial(ss.Loader, mixture, ss.Bucket(240, window_batches=8)))
    rows = ss.Mixture({"a": ss.TokenFiles(folder, shuffle="rows"), "b": other}, {"a": 3, "b": 1})
    testing.check_mixture(functools.partial(ss.Loader, rows, ss.Bucket(240, window_batches=8)))
    text = ss.Mixture({"a": source, "b": (ss.Generator(texts), LETTERS)}, "proportional")
    assert text.schedule.points != mixture.schedule.points
    assert next(iter(ss.Loader(text, ss.Bucket(240)))).num_tokens > 0


def test_rows_mix_a_corpus_that_is_sorted_by_class(tmp_path: Path) -> None:
    """Of a corpus sorted by class every stretch of an epoch by row has half of each, within what random draws would give."""
    rows = [{"input_ids": [1 + number % 7] * (1 + number % 5), "label": int(number >= 3_000)} for number in range(6_000)]
    source = ss.TokenFiles(write(tmp_path / "tokens", ss.Generator(rows, block_bytes=BLOCK)), shuffle="rows")
    windows: dict[int, list[int]] = {}
    for batch in ss.Loader(source, ss.Unbucketed(20, window_batches=10)):
        windows.setdefault(batch.window, []).extend(batch.label.tolist())
    assert len(windows) > 10
    deviations = [abs(np.mean(labels) - 0.5) * 2 * np.sqrt(len(labels)) for labels in windows.values()]
    assert max(deviations) < 4
    assert np.mean(deviations) > 0.01  # drawn, not dealt in turn


ANY = pa.table(
    {
        "input_ids": pa.array([[1, 2], [3], [4, 5, 6], [7]] * 30, pa.list_(pa.uint16())),
        "some": pa.array(["a", None, "ccc", ""] * 30),
        "flag": pa.array([True, False, None, True] * 30),
        "nested": pa.array([[[1], [2, 3]], [], [[4]], [[5, 6]]] * 30, pa.list_(pa.list_(pa.int32()))),
        "fixed": pa.array([[1.5, 2.5]] * 120, pa.list_(pa.float32(), 2)),
        "names": pa.array([["x", "yy"], [], ["z"], ["w"]] * 30),
        "raw": pa.array([b"\x00", b"", b"abc", b"\xff"] * 30),
        "number": pa.array(range(120), pa.float64()),
        "struct": pa.array([{"a": 1, "b": "x"}] * 120),
        "small": pa.array([1, 2, 3, 4] * 30, pa.int8()),
        "when": pa.array([0, 1, 2, 3] * 30, pa.timestamp("us")),
    }
)


class Tables(ss.Source):
    """Some tables, a shard each."""

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        self.tables = tables

    @property
    def num_shards(self) -> int:
        return len(self.tables)

    def read(self, shard: int, state: Any = None) -> Any:
        yield self.tables[shard], None

    def fingerprint(self) -> Any:
        return {"tables": [table.num_rows for table in self.tables]}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cuts=st.lists(st.integers(0, 120), max_size=5),
    file_bytes=st.sampled_from([1, 3_000, 1 << 20]),
    mmap=st.booleans(),
    order=st.randoms(use_true_random=False),
    columns=st.sets(st.sampled_from(ANY.column_names[1:])),
)
def test_rows_by_number_equal_rows_in_order(  # noqa: PLR0917 - hypothesis passes them by name
    cuts: list[int], file_bytes: int, mmap: bool, order: Any, columns: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows taken by their numbers equal those that are read, with columns of any type, in any order, from any files."""
    table = ANY.select(["input_ids", *sorted(columns)])
    bounds = [0, *sorted(cuts), 120]
    tables = [table.slice(begin, end - begin) for begin, end in itertools.pairwise(bounds)]
    folder = write(tmp_path_factory.mktemp("any") / "tokens", Tables(tables), file_bytes=file_bytes)
    source = ss.TokenFiles(folder, shuffle="rows", mmap=mmap)
    assert source.num_rows == 120
    read = pa.concat_tables(table for table, _ in source.read(0))
    assert read.to_pylist() == table.to_pylist()
    numbers = list(range(120))
    order.shuffle(numbers)
    numbers = numbers[: order.randrange(121)]
    assert source.take(np.array(numbers, dtype=np.int64)).to_pylist() == [table.to_pylist()[number] for number in numbers]
    assert [source.record(number)["input_ids"] for number in numbers[:2]] == [
        table.column("input_ids")[number].as_py() for number in numbers[:2]
    ]


@pytest.mark.parametrize("empty", ["", b""])
def test_rows_by_number_of_a_column_without_values(empty: Any, tmp_path: Path) -> None:
    """Rows of a block in which all strings or bytes are empty are taken, though the file holds nothing of them."""
    table = pa.table({"input_ids": [[1], [2, 3]], "note": [empty, empty]})
    source = ss.TokenFiles(write(tmp_path / "tokens", Tables([table])), shuffle="rows")
    assert source.take(np.array([1, 0])).to_pylist() == table.to_pylist()[::-1]


def test_locations_are_files_and_rows(folder: Path) -> None:
    """A row is located by its file and its number there, whatever is shuffled."""
    blocks, rows = ss.TokenFiles(folder), ss.TokenFiles(folder, shuffle="rows")
    places = [blocks.place(shard << 32 | row) for shard in range(blocks.num_shards) for row in range(_rows(blocks, shard))]
    assert [rows.place(number) for number in range(len(places))] == places
    assert len({place.file for place in places}) > 2
    assert rows.locate(0) == f"{folder / '000000-0000.arrow'}, row 0"
    assert len(set(places)) == blocks.num_rows == len(places)


def _rows(source: ss.Source, shard: int) -> int:
    return sum(len(table) for table, _ in source.read(shard))


def test_resume_of_a_copy_of_the_folder(folder: Path, tmp_path: Path) -> None:
    """A state goes on with a copy of the folder elsewhere, and not with other tokens or another way to shuffle."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    loader = ss.Loader(ss.TokenFiles(folder), SPECS["tokens"])
    batches = list(loader)
    other = ss.Loader(ss.TokenFiles(copy, mmap=False), LETTERS, SPECS["tokens"])
    other.load_state_dict(through_json(batches[3].state))
    expect_same(batches[4:], other, "a copy")
    with pytest.raises(ValueError, match=r"source\.shuffle blocks, this loader has nothing"):
        ss.Loader(ss.TokenFiles(folder, shuffle="rows"), SPECS["tokens"]).load_state_dict(batches[3].state)
    changed = write(tmp_path / "changed", text_files(tmp_path, some_texts(120, seed=4)), LETTERS, file_bytes=2_000)
    with pytest.raises(ValueError, match=r"state was saved for.*source"):
        ss.Loader(ss.TokenFiles(changed), SPECS["tokens"]).load_state_dict(batches[3].state)


def test_pickled_sources_read_on(folder: Path) -> None:
    """A source that was read can be pickled, and the copy reads the same."""
    for options in KINDS.values():
        source = ss.TokenFiles(folder, **options)
        first = source.head(3)
        copy = pickle.loads(pickle.dumps(source))
        assert copy.head(3) == first
        assert copy == source


def test_ten_thousand_files_open_without_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening reads the manifest and lists the folder, whatever the number of files."""
    folder = copies_of(write(tmp_path / "one", ss.Generator([[1, 2, 3]] * 10)), tmp_path / "many", 10_000)
    opened: list[Path] = []
    monkeypatch.setattr(TokenFile, "__init__", lambda self, path, **_: opened.append(path))
    source = ss.TokenFiles(folder)
    assert (source.num_rows, source.num_shards, source.num_tokens, opened) == (100_000, 10_000, 300_000, [])
    loader = ss.Loader(source, ss.Bucket(240))
    assert loader.state_dict()
    assert opened == []
    monkeypatch.undo()
    batch = next(iter(ss.Loader(source, ss.Bucket(240, window_batches=2), prefetch=0)))
    assert torch.equal(batch.input_ids[0], torch.tensor([1, 2, 3]))


@pytest.mark.parametrize("mmap", [True, False])
def test_a_mapped_block_is_verified_once(mmap: bool, tmp_path: Path) -> None:
    """A block that has become damaged is refused when it is first read, when it is read again and not mapped, and by verify."""
    folder = write(tmp_path / "tokens", ss.Generator([[70_000, 70_001]] * 10))
    source = ss.TokenFiles(folder, mmap=mmap)
    source.verify()
    before = source.head(10)
    (file,) = folder.glob("*.arrow")
    ids = np.array([70_000, 70_001], dtype=np.int32).tobytes()
    with file.open("r+b") as opened:
        opened.seek(file.read_bytes().index(ids))
        opened.write(ids[::-1])
    if mmap:
        assert [record["input_ids"] for record in source.head(10)] != [record["input_ids"] for record in before]
    else:
        with pytest.raises(ValueError, match="block 0 must have the checksum"):
            source.head(10)
    for read in (source.verify, ss.TokenFiles(folder, mmap=mmap).head, pickle.loads(pickle.dumps(source)).head):
        with pytest.raises(ValueError, match="block 0 must have the checksum"):
            read()


@pytest.mark.parametrize("has_text", [False, True])
def test_more_files_than_may_be_open(has_text: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in random order are found in a file without opening it again, unless Arrow must read a column."""
    records = [{"input_ids": [number, 1], **({"text": [str(number)]} if has_text else {})} for number in range(40)]
    folder = write(tmp_path / "tokens", ss.Generator(records, block_bytes=50), file_bytes=1)
    expected = ss.TokenFiles(folder, shuffle="rows").take(np.arange(40))
    monkeypatch.setattr(arrow_store, "_MOST_OPEN", 4)
    opened: list[Path] = []
    begin = TokenFile.__init__
    monkeypatch.setattr(
        TokenFile, "__init__", lambda self, path, **options: opened.append(path) or begin(self, path, **options)
    )
    source = ss.TokenFiles(folder, shuffle="rows")
    for _ in range(3):
        order = np.random.default_rng(0).permutation(40)
        assert source.take(order).to_pylist() == take_rows(expected, order).to_pylist()
    num_files = len(list(folder.glob("*.arrow")))
    assert num_files > 4
    assert (len(opened) == num_files) != has_text
    file = opened[0]
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(ValueError, match=re.escape(f"{file}")):
        source.take(np.arange(40))


def test_folders_that_are_none(folder: Path, tmp_path: Path) -> None:
    """A path that is missing, a file, an empty folder, and tokens that are still being written say what to do."""
    with pytest.raises(FileNotFoundError, match=r"must name files of tokens, got '.*missing', which names none"):
        ss.TokenFiles(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"folders of write_tokens"):
        ss.TokenFiles(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must name files of tokens, got '.*empty', which names none"):
        ss.TokenFiles(tmp_path / "empty")
    written = ss.write_tokens(
        text_files(tmp_path, some_texts()), LETTERS, to=tmp_path / "part", world_size=2, progress=False, file_bytes=500
    )
    assert (written.is_complete, written.num_tokens) == (False, None)
    with pytest.raises(FileNotFoundError, match="write_tokens has not ended there; call it again"):
        ss.TokenFiles(tmp_path / "part")
    with pytest.raises(ValueError, match="shuffle must be one of"):
        ss.TokenFiles(folder, shuffle="row")  # type: ignore[arg-type]


def test_pairs_of_two_columns(tmp_path: Path) -> None:
    """Rows of two sides are planned by both, as those of the text."""
    source = ss.Generator(lambda: pairs(some_texts(80)), block_bytes=BLOCK)
    stage = ss.Tokenize({"source": letters, "target": letters}, max_length=60, overflow="drop")
    tokens = ss.TokenFiles(write(tmp_path / "tokens", source, stage), shuffle="rows")
    spec = ss.Bucket(240, window_batches=3)
    assert values_of(ss.Loader(tokens, spec)) == values_of(ss.Loader(source, stage, spec))
    make = functools.partial(ss.Loader, tokens, spec)
    testing.check_loader(make)
    testing.check_elastic(make, (1, 2, 3))


def test_order_by_row_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    """Each row occurs once an epoch, and another seed gives another order."""
    source = ss.TokenFiles(folder, shuffle="rows")
    orders = [[batch.row_ids.tolist() for batch in ss.Loader(source, ss.Bucket(240), seed=seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert Counter(row for order in orders[2] for row in order) == Counter(range(source.num_rows or 0))
