"""Kinds of objects: tokenizers, states and options, each used in a small loader."""

from __future__ import annotations

import functools
import gzip
import inspect
import itertools
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import seqstream as ss
from tests.fuzz.files import make_compressed, make_text, split_compressed, split_text, text
from tests.fuzz.kind import Input, Kind
from tests.fuzz.mutations import damage_bytes, damage_json
from tests.helpers.states import with_entry

LINES = [text(Random(number)) + f" line {number}" for number in range(40)]

# Tokenizers.


@functools.cache
def tokenizers() -> list[dict[str, Any]]:
    """Return a tokenizer of each model, as the value of its ``tokenizer.json``."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    around = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    options: dict[str, Any] = {"vocab_size": 320, "show_progress": False, "special_tokens": special}
    bpe, wordpiece = Tokenizer(models.BPE()), Tokenizer(models.WordPiece(unk_token="[UNK]"))
    unigram, words = Tokenizer(models.Unigram()), Tokenizer(models.WordLevel(unk_token="[UNK]"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    wordpiece.normalizer, wordpiece.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    unigram.normalizer, unigram.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    wordpiece.post_processor = unigram.post_processor = around
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(LINES, trainers.BpeTrainer(**options, initial_alphabet=alphabet))
    wordpiece.train_from_iterator(LINES, trainers.WordPieceTrainer(**options))
    unigram.train_from_iterator(LINES, trainers.UnigramTrainer(**options, unk_token="[UNK]"))
    words.train_from_iterator(LINES, trainers.WordLevelTrainer(**options))
    words.enable_padding()
    bpe.enable_truncation(5)
    return [json.loads(tokenizer.to_str()) for tokenizer in (bpe, wordpiece, unigram, words)]


def make_tokenizer(random: Random) -> Input:
    """Return a ``tokenizer.json``, and some texts to encode."""
    texts = [text(random) for _ in range(6)] + [random.choice(["[SEP] and [CLS]", " \n ", "a" * 300, "\u0130\ufb01"])]
    return Input(json.dumps(random.choice(tokenizers())).encode(), "tokenizer", {"texts": texts})


def damage_tokenizer(random: Random, given: Input) -> Input:
    """Damage a value of a tokenizer, or bytes of its file."""
    if random.random() < 0.1:
        return given._replace(data=damage_bytes(random, given.data))
    try:
        data = json.dumps(damage_json(random, json.loads(given.data))).encode()
    except ValueError:
        return given
    # Ids of nine digits make tokenizers run out of memory and end the process.
    return given if re.search(rb"\d{9}", data) else given._replace(data=data)


def read_tokenizer(given: Input, path: Path) -> list[list[int]]:
    """Return the ids of the texts by `Tokenize`."""
    stages = ss.Generator(given.options["texts"]), ss.Tokenize(path), ss.Unbucketed(1)
    return [batch.input_ids[0].tolist() for batch in ss.Loader(*stages, shuffle=False, prefetch=0)]


def encode(given: Input) -> list[list[int]]:
    """Return the ids of the texts by ``tokenizers``, without texts that have no token."""
    tokenizer = Tokenizer.from_str(given.data.decode("utf-8-sig"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    kept = [each for each in given.options["texts"] if tokenizer.encode(each, add_special_tokens=False).ids]
    return [tokenizer.encode(each).ids for each in kept]


# States.


@functools.cache
def sources() -> dict[str, ss.Source]:
    """Return a source of each kind, all with the same records."""
    folder = Path(tempfile.mkdtemp())
    table = pa.table({"text": LINES, "label": [*range(40)]})
    whole = "\n".join(LINES)
    (folder / "a.txt").write_text(whole, encoding="utf-8")
    (folder / "a.txt.gz").write_bytes(gzip.compress(whole.encode()))
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())), encoding="utf-8")
    (folder / "a.csv").write_text("text,label\n" + "\n".join(f"{number},{number}" for number in range(40)), encoding="utf-8")
    pq.write_table(table, folder / "a.parquet", row_group_size=9)
    return {
        "text": ss.TextFiles(folder / "a.txt", block_bytes=90),
        "gzip": ss.TextFiles(folder / "a.txt.gz", block_bytes=90),
        "json": ss.JsonLines(folder / "a.jsonl", block_bytes=90),
        "csv": ss.Csv(folder / "a.csv", block_bytes=20, types={"text": "string"}),
        "parquet": ss.Parquet(folder / "a.parquet", block_bytes=90),
        "list": ss.Generator(LINES, block_bytes=90),
        "function": ss.Generator(lambda: iter(LINES), block_bytes=90),
        "data set": ss.HFDataset(datasets.Dataset(table), block_bytes=90),
        "stream": ss.HFDataset(datasets.Dataset(table).to_iterable_dataset(num_shards=3), block_bytes=90),
    }


SPECS = {
    "bucket": ss.Bucket(120, window_batches=2),
    "pack": ss.Pack(120, rows=2, window_batches=2, overflow="split"),
    "in order": ss.Unbucketed(3, window_batches=2),
    "shapes": ss.Bucket(shapes=[(2, 400), (4, 60)], window_batches=2),
}


def letters(texts: list[str]) -> list[list[int]]:
    """Return the code points of texts as ids."""
    return [[ord(letter) for letter in each] for each in texts]


def loader_of(options: dict[str, Any]) -> ss.Loader:
    """Make the loader that a state belongs to."""
    stages = sources()[options["source"]], ss.Tokenize(letters, max_length=400), SPECS[options["spec"]]
    return ss.Loader(*stages, shuffle=options["shuffle"], prefetch=0, epochs=2)


def make_state(random: Random) -> Input:
    """Return the state after a few batches."""
    options = {"source": random.choice([*sources()]), "spec": random.choice([*SPECS]), "shuffle": random.random() < 0.5}
    loader = loader_of(options)
    for _ in itertools.islice(loader, random.randrange(12)):
        pass
    return Input(json.loads(json.dumps(loader.state_dict())), "", options)


def numbers_in(value: Any, name: str = "") -> Iterator[str]:
    """Yield the names of the numbers in nested dicts, such as ``position.epoch``."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from numbers_in(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int):
        yield name


def damage_state(random: Random, given: Input) -> Input:
    """Damage a value of a state, or of its fingerprint, which is text of JSON."""
    state = given.data
    if random.random() < 0.15 and isinstance(state, dict) and isinstance(state.get("fingerprint"), str):
        try:
            changed = json.dumps(damage_json(random, json.loads(state["fingerprint"])))
        except ValueError:
            return given
        return given._replace(data={**state, "fingerprint": changed})
    if random.random() < 0.3 and (names := [*numbers_in(state)]):
        number = random.choice([0, 1, 2, 3, 7, 40, 1000, 1 << 30, 1 << 40])
        return given._replace(data=with_entry(state, random.choice(names), number))
    return given._replace(data=damage_json(random, state))


def read_state(given: Input, path: Path) -> int:
    """Resume at a state and count some batches."""
    loader = loader_of(given.options)
    loader.load_state_dict(given.data)
    return sum(1 for _ in itertools.islice(loader, 30))


# Options.

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    1 << 31,
    1 << 63,
    10**30,
    0.5,
    1.5,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "x",
    "text",
    "\ud83d",
    "\0",
    b"x",
    [],
    (),
    {},
    set(),
    [1],
    [None],
    ("text", "label"),
    ["text"],
    [[2, 400]],
    [(0, 0)],
    {"text": 1},
    {"text": None},
    {1: 2},
    object(),
    str,
    len,
    lambda *given: None,
    iter([]),
    range(3),
    np.int64(3),
    np.float32(2),
    np.array([1, 2]),
    np.array("x"),
    torch.tensor(3),
    torch.tensor([1.0, 2.0]),
    pa.int64(),
    pa.table({"a": [1]}),
    Path("x"),
    Path("/"),
]


def _run(*stages: Any, **options: Any) -> int:
    return sum(1 for _ in itertools.islice(ss.Loader(*stages, **{"prefetch": 0, **options}), 4))


_TOKENIZE = functools.partial(ss.Tokenize, letters)
_SEQUENCES = [[1, 2, 3, number] for number in range(12)]


def _path(name: str) -> Any:
    return sources()[name].paths  # type: ignore[attr-defined]


TARGETS: dict[str, tuple[Any, Any]] = {
    "Loader": (ss.Loader, lambda **given: _run(ss.Generator(_SEQUENCES), ss.Bucket(20, window_batches=2), **given)),
    "Bucket": (ss.Bucket, lambda **given: _run(ss.Generator(_SEQUENCES), ss.Bucket(**{"max_tokens": 400, **given}))),
    "Pack": (ss.Pack, lambda **given: _run(ss.Generator(_SEQUENCES), ss.Pack(**{"row_length": 9, "rows": 2, **given}))),
    "Unbucketed": (ss.Unbucketed, lambda **given: _run(ss.Generator(_SEQUENCES), ss.Unbucketed(**{"batch_size": 2, **given}))),
    "Tokenize": (
        ss.Tokenize,
        lambda **given: _run(
            ss.Generator(LINES), ss.Tokenize(**{"tokenizer": letters, "max_length": 400, **given}), ss.Bucket(9000)
        ),
    ),
    "TextFiles": (
        ss.TextFiles,
        lambda **given: _run(
            ss.TextFiles(**{"paths": _path("text"), **given}), _TOKENIZE(field=_field(given)), ss.Bucket(90_000)
        ),
    ),
    "JsonLines": (
        ss.JsonLines,
        lambda **given: _run(ss.JsonLines(**{"paths": _path("json"), **given}), _TOKENIZE(), ss.Unbucketed(3)),
    ),
    "Csv": (ss.Csv, lambda **given: _run(ss.Csv(**{"paths": _path("csv"), **given}), ss.Unbucketed(3))),
    "Parquet": (ss.Parquet, lambda **given: _run(ss.Parquet(**{"paths": _path("parquet"), **given}), ss.Unbucketed(3))),
    "Generator": (ss.Generator, lambda **given: _run(ss.Generator(**{"make": LINES, **given}), ss.Unbucketed(3))),
    "HFDataset": (
        ss.HFDataset,
        lambda **given: _run(ss.HFDataset(**{"dataset": datasets.Dataset(pa.table({"a": [1, 2]})), **given}), ss.Unbucketed(3)),
    ),
    "CausalLabels": (
        ss.CausalLabels,
        lambda **given: _run(ss.Generator(_SEQUENCES), ss.Bucket(90), on_batch=ss.CausalLabels(**given)),
    ),
    "ClassLabels": (
        ss.ClassLabels,
        lambda **given: _run(
            sources()["json"], ss.ClassLabels(**{"classes": range(40), **given}), _TOKENIZE(), ss.Unbucketed(3)
        ),
    ),
    "Map": (ss.Map, lambda **given: _run(sources()["json"], ss.Map(**{"fn": lambda table: table, **given}), ss.Unbucketed(3))),
    "Filter": (
        ss.Filter,
        lambda **given: _run(
            sources()["json"], ss.Filter(**{"fn": lambda table: [True] * len(table), **given}), ss.Unbucketed(3)
        ),
    ),
    "MapRecords": (
        ss.MapRecords,
        lambda **given: _run(sources()["json"], ss.MapRecords(**{"fn": dict, **given}), ss.Unbucketed(3)),
    ),
    "set_epoch": (
        ss.Loader.set_epoch,
        lambda **given: ss.Loader(ss.Generator(_SEQUENCES), ss.Unbucketed(3)).set_epoch(**{"epoch": 1, **given}),
    ),
}
"""The callable that takes the options, and a function that uses them."""

_LEFT_OUT = {
    "self",
    "source",
    "stages",
    "executor",
    "num_workers",
    "workers",
    "multiprocessing_context",
    "progress",
    "pin_memory",
    "all_gather",
}

_SHOWN = {"fn": "", "make": "", "on_batch": "", "dataset": "", "classes": "", "names": ""}
"""What errors must contain instead of the name of an option."""


def _field(given: dict[str, Any]) -> str:
    field = given.get("field", "text")
    return field if isinstance(field, str) else "text"


def make_options(random: Random) -> Input:
    """Return no options, for one of the targets."""
    return Input({}, "", {"target": random.choice([*TARGETS])})


def damage_options(random: Random, given: Input) -> Input:
    """Set one option to an odd value."""
    names = [name for name in inspect.signature(TARGETS[given.options["target"]][0]).parameters if name not in _LEFT_OUT]
    name = random.choice(names)
    return Input({name: random.choice(ODD)}, _SHOWN.get(name, name), given.options)


def read_options(given: Input, path: Path) -> Any:
    """Use the options."""
    return TARGETS[given.options["target"]][1](**given.data)


# Whole loaders.


def make_stream(random: Random) -> Input:
    """Return text, plain or compressed, with options of a loader."""
    given = random.choice([make_text, make_compressed])(random)
    options = {
        "spec": random.choice(["bucket", "in order"]),
        "prefetch": random.choice([0, 2]),
        "shuffle": random.random() < 0.5,
    }
    return given._replace(options={**given.options, "loader": options})


def damage_stream(random: Random, given: Input) -> Input:
    """Damage the file."""
    return given._replace(data=damage_bytes(random, given.data))


def read_stream(given: Input, path: Path) -> list[list[int]]:
    """Return the ids of all rows of a loader, in the order of the file."""
    options = dict(given.options)
    loader_options = options.pop("loader")
    spec = {"bucket": ss.Bucket(8_000, window_batches=2), "in order": ss.Unbucketed(3, window_batches=2)}[
        loader_options.pop("spec")
    ]
    stages = ss.TextFiles(path, **options), ss.Tokenize(letters, max_length=8_000), spec
    rows: list[tuple[int, list[int]]] = []
    try:
        for batch in ss.Loader(*stages, **loader_options):
            ids = (row[mask].tolist() for row, mask in zip(batch.input_ids, batch.mask, strict=True))
            rows += zip(batch.row_ids.tolist(), ids, strict=True)
    except ValueError as error:
        # An error that is about no single file.
        if str(error).startswith(("source must have at least one record", "source must give at least one row")):
            return []
        raise
    return [ids for _, ids in sorted(rows)]


def split_stream(given: Input) -> list[list[int]]:
    """Return the code points of the records that are not empty."""
    records = split_text(given) if given.name == "a.txt" else split_compressed(given)
    return [[ord(letter) for letter in record][:8_000] for record in records if record]


KINDS = {
    "loaders": Kind(make_stream, damage_stream, read_stream, split_stream),
    "tokenizers": Kind(make_tokenizer, damage_tokenizer, read_tokenizer, encode),
    "states": Kind(make_state, damage_state, read_state, None),
    "options": Kind(make_options, damage_options, read_options, None),
}
