"""The laws of `seqstream.testing` over files of tokens of other libraries, and what a loader makes of them."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seqstream as ss
from seqstream import testing
from tests.helpers.token_formats import Documents, write_datatrove, write_llm_c, write_megatron, write_numpy, write_raw

END = 99


@pytest.fixture(scope="module")
def documents() -> Documents:
    """Documents of 1 to 30 ids, each with the token END where it ends."""
    draw = random.Random(0)
    return [[draw.randrange(90) for _ in range(draw.choice([1, 3, 9, 29]))] + [END] for _ in range(300)]


def megatron(folder: Path, documents: Documents) -> ss.TokenFiles:
    write_megatron(folder / "a", [[each] for each in documents[:200]])
    write_megatron(folder / "b", [[each] for each in documents[200:]])
    return ss.TokenFiles(str(folder / "*.bin"))


def datatrove(folder: Path, documents: Documents) -> ss.TokenFiles:
    write_datatrove(folder / "a.ds", documents)
    return ss.TokenFiles(folder)


def raw(folder: Path, documents: Documents) -> ss.TokenFiles:
    write_raw(folder / "a.npy", documents)
    return ss.TokenFiles(folder / "a.npy", end=END, dtype="uint16")


def numpy_array(folder: Path, documents: Documents) -> ss.TokenFiles:
    write_numpy(folder / "a.npy", documents)
    return ss.TokenFiles(folder / "a.npy", end=END)


def llm_c(folder: Path, documents: Documents) -> ss.TokenFiles:
    write_llm_c(folder / "a.bin", [[END, *each[:-1]] for each in documents])
    return ss.TokenFiles(folder / "a.bin", end=END)


FORMATS: dict[str, Callable[[Path, Documents], ss.TokenFiles]] = {
    "megatron": megatron,
    "datatrove": datatrove,
    "raw": raw,
    "numpy": numpy_array,
    "llm.c": llm_c,
}


def rows_of(loader: ss.Loader) -> Counter[tuple[int, ...]]:
    """Return the rows of an epoch without their padding."""
    return Counter(
        tuple(row[:length])
        for batch in loader
        for row, length in zip(batch.input_ids.tolist(), batch.lengths.tolist(), strict=True)
    )


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_the_documents(name: str, documents: Documents, tmp_path: Path) -> None:
    """Every document is a row of an epoch, in blocks and one by one, mapped into memory or not."""
    source = FORMATS[name](tmp_path, documents)
    expected = Counter((END, *document[:-1]) if name == "llm.c" else tuple(document) for document in documents)
    options: dict[str, Any] = {"end": source.end, "dtype": source.dtype}
    for shuffle in ("blocks", "rows"):
        for mmap in (True, False):
            same = ss.TokenFiles(source.paths, shuffle=shuffle, mmap=mmap, **options)  # type: ignore[arg-type]
            assert rows_of(ss.Loader(same, ss.Bucket(200))) == expected


@pytest.mark.parametrize("name", FORMATS)
def test_laws(name: str, documents: Documents, tmp_path: Path) -> None:
    """All laws hold, of ranks and of resuming with other numbers of them too."""
    make = functools.partial(ss.Loader, FORMATS[name](tmp_path, documents), ss.Bucket(500, window_batches=4))
    testing.check_loader(make)
    testing.check_source(make().source)
    testing.check_ranks(make, 2)
    testing.check_elastic(make)


@pytest.mark.parametrize("name", ["megatron", "raw"])
def test_laws_by_row(name: str, documents: Documents, tmp_path: Path) -> None:
    """They hold where rows are visited one by one as well."""
    source = FORMATS[name](tmp_path, documents)
    by_row = ss.TokenFiles(source.paths, shuffle="rows", end=source.end, dtype=source.dtype)
    make = functools.partial(ss.Loader, by_row, ss.Bucket(500, window_batches=4))
    testing.check_loader(make)
    testing.check_elastic(make)
