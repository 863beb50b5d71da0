"""Corpora, tokenizers and loaders that each rank builds, in threads and in processes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import seqstream as ss
from seqstream.planning.batch_spec import BatchSpec

ROWS = st.lists(st.lists(st.integers(1, 50), max_size=24), min_size=1, max_size=30).filter(
    lambda rows: any(len(row) > 1 for row in rows)
)
"""Rows of ids, of which one at least has a label in every batch spec: `Pack` predicts nothing of a single token."""
windows = st.integers(1, 4)
any_spec = (
    st.builds(ss.Unbucketed, st.integers(1, 5), drop_last=st.just(False))
    | st.builds(ss.Bucket, st.integers(24, 120), batch_size=st.none() | st.integers(1, 5), window_batches=windows)
    | st.builds(ss.Bucket, st.integers(24, 120), step=st.just("alike"), window_batches=windows)
    | st.builds(ss.Bucket, batch_size=st.integers(1, 5), window_batches=windows)
    | st.builds(ss.Bucket, st.integers(96, 200), window_batches=windows, rows_multiple_of=st.integers(1, 4))
    | st.builds(ss.Bucket, shapes=st.sampled_from([[(3, 24)], [(2, 24), (4, 9)]]), window_batches=windows)
    | st.builds(
        ss.Pack,
        st.integers(5, 30),
        rows=st.integers(1, 3),
        window_batches=windows,
        overflow=st.sampled_from(["truncate", "split"]),
    )
)

BLOCK = 384
MAX_LENGTH = 60


_IDS = bytes(number % 100 + 1 for number in range(256))


def letters(texts: list[str]) -> list[list[int]]:
    """Tokenise by letters, in Python."""
    return [list(text.encode().translate(_IDS)) for text in texts]


def some_texts(num: int = 90, seed: int = 0) -> list[str]:
    """Return records of very different lengths, a few of them empty or longer than the greatest length."""
    lengths = np.random.default_rng(seed).integers(1, 70, num).tolist()
    return ["" if number % 23 == 7 else f"{number} " + "x" * length for number, length in enumerate(lengths)]


def text_files(folder: Path, texts: list[str]) -> ss.Source:
    """Plain files, one of them empty."""
    parts = {"a": texts[: len(texts) // 3], "b": [], "c": texts[len(texts) // 3 :]}
    for name, part in parts.items():
        (folder / f"{name}.txt").write_text("".join(text + "\n" for text in part))
    return ss.TextFiles(folder / "*.txt", block_bytes=BLOCK)


def json_lines(folder: Path, texts: list[str]) -> ss.Source:
    """JSON lines with a class, -100 where it is not known."""
    rows = ({"text": text, "label": -100 if number % 5 == 0 else number % 3} for number, text in enumerate(texts))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ss.JsonLines(folder / "rows.jsonl", block_bytes=BLOCK)


def compressed(folder: Path, texts: list[str]) -> ss.Source:
    """Streams of many blocks beside a plain file."""
    for number in range(3):
        with gzip.open(folder / f"{number}.txt.gz", "wt") as file:
            file.writelines(text + "\n" for text in texts[number::4])
    (folder / "3.txt").write_text("".join(text + "\n" for text in texts[3::4]))
    return ss.TextFiles(folder / "*", block_bytes=BLOCK)


def generator(folder: Path, texts: list[str]) -> ss.Source:
    """A generator: one shard, which every rank reads, and tokenises its own blocks."""
    return ss.Generator(lambda: ({"text": text, "score": float(len(text))} for text in texts), block_bytes=BLOCK)


def items(folder: Path, texts: list[str]) -> ss.Source:
    """A list: a rank reads only the items that it tokenises."""
    return ss.Generator([{"text": text, "number": number} for number, text in enumerate(texts)], block_bytes=BLOCK)


def split_items(folder: Path, texts: list[str]) -> ss.Source:
    """The larger part of a split of a list."""
    return items(folder, texts).split(valid=0.2, seed=3)[0]


def split(folder: Path, texts: list[str]) -> ss.Source:
    """The larger part of a split of files."""
    return text_files(folder, texts).split(valid=0.2, seed=3)[0]


def hf_dataset(folder: Path, texts: list[str]) -> ss.Source:
    """A map-style data set whose rows are chosen by indices."""
    from datasets import Dataset

    rows = Dataset.from_list([{"text": text, "label": number % 2} for number, text in enumerate(texts)])
    return ss.HFDataset(rows.shuffle(seed=1), block_bytes=BLOCK)


def hf_stream(folder: Path, texts: list[str]) -> ss.Source:
    """A stream of several shards."""
    from datasets import Dataset

    rows = Dataset.from_list([{"text": text} for text in texts])
    return ss.HFDataset(rows.to_iterable_dataset(num_shards=4), block_bytes=BLOCK)


MakeSource = Callable[[Path, list[str]], ss.Source]

SOURCES: list[MakeSource] = [text_files, json_lines, compressed, generator, items, split, split_items, hf_dataset, hf_stream]

SPECS: dict[str, BatchSpec] = {
    "in-order": ss.Unbucketed(4),
    "in-order-full": ss.Unbucketed(4, drop_last=True),
    "tokens": ss.Bucket(240, window_batches=3),
    "rows": ss.Bucket(batch_size=3, window_batches=4),
    "both": ss.Bucket(256, batch_size=5, window_batches=3, multiple_of=8),
    "shapes": ss.Bucket(240, shapes=3, window_batches=3),
    "given": ss.Bucket(shapes=[(2, 60), (5, 32)], window_batches=3),
    "multiple": ss.Bucket(240, rows_multiple_of=2, window_batches=3),
    "attention": ss.Bucket(400, cost="attention", hidden_size=16, window_batches=3),
    "pack": ss.Pack(64, rows=2, window_batches=3),
    "pack-truncate": ss.Pack(32, rows=2, window_batches=3, overflow="truncate"),
    "pack-split": ss.Pack(24, rows=3, window_batches=3, overflow="split"),
    "pack-drop": ss.Pack(40, rows=2, window_batches=3, overflow="drop", causal=False),
}

PAIRS: dict[str, BatchSpec] = {
    "in-order": ss.Unbucketed(3),
    "tokens": ss.Bucket(240, window_batches=3),
    "rows": ss.Bucket(batch_size=3, window_batches=3),
}


def pairs(texts: list[str]) -> Iterator[dict[str, Any]]:
    """Yield records with a source and a target."""
    for text in texts:
        yield {"source": text, "target": text[::-1][: 1 + len(text) // 2]}


def make_loader(source: ss.Source, spec: BatchSpec, **options: Any) -> ss.Loader:
    """Return a loader that tokenises by letters."""
    return ss.Loader(source, ss.Tokenize(letters, max_length=MAX_LENGTH), spec, **options)


def make_pairs(texts: list[str], spec: BatchSpec, **options: Any) -> ss.Loader:
    """Return a loader of pairs that tokenises both sides by letters."""
    tokenize = ss.Tokenize({"source": letters, "target": letters}, max_length=MAX_LENGTH, overflow="drop")
    return ss.Loader(ss.Generator(lambda: pairs(texts), block_bytes=BLOCK), tokenize, spec, **options)


def make_ids(rows: list[list[int]], spec: BatchSpec, block_bytes: int = 64, **options: Any) -> ss.Loader:
    """Return a loader of rows of ids."""
    return ss.Loader(ss.Generator(rows, block_bytes=block_bytes), spec, **options)
