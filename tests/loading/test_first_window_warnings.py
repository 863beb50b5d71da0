"""What is easily written and not meant: vectors beside texts, text without a tokenizer, a budget meant as rows."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import seqstream as ss
from seqstream.records import RecordError


def codes(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def records(number: int = 600, **others: Any) -> list[dict[str, Any]]:
    return [{"text": "a" * (1 + item % 60), **others} for item in range(number)]


def shapes(rows: list[dict[str, Any]], *stages: Any) -> list[tuple[int, ...]]:
    return [tuple(batch.input_ids.shape) for batch in ss.Loader(ss.Generator(rows), *stages)]


def test_a_vector_beside_the_text_is_no_text() -> None:
    """Ids that `Tokenize` makes are what the budget counts: batches are those that there would be without the vector."""
    stages = (ss.Tokenize(codes, max_length=60), ss.Bucket(1024))
    assert shapes(records(vector=[0.5] * 768), *stages) == shapes(records(), *stages)
    batch = next(iter(ss.Loader(ss.Generator(records(vector=[0.5] * 768)), *stages)))
    assert batch.vector.shape == (len(batch.lengths), 768)


@pytest.mark.parametrize("is_tokenized", [False, True])
def test_the_longest_column_is_named(is_tokenized: bool) -> None:
    """Where the longest column counts, and is over the budget, the error names it and the cure, and the cure works."""
    rows = [{"input_ids": [1] * 9, "vector": [0.5] * 768}] * 9 if is_tokenized else records(vector=[0.5] * 768)
    stages: list[Any] = [] if is_tokenized else [ss.Tokenize(codes, max_length=60), ss.Map(lambda table: table)]
    message = r"^sequence of 768 tokens .*; the longest column is 'vector', and if .* set Bucket\(columns=\('input_ids',\)\)"
    with pytest.raises(RecordError, match=message):
        shapes(rows, *stages, ss.Bucket(400))
    assert shapes(rows, *stages, ss.Bucket(400, columns=("input_ids",)))


def test_text_that_is_not_tokenized() -> None:
    """Records of text count as one token each, which a bucket warns of; batches in order may be wanted so."""
    with pytest.warns(UserWarning, match=r"^Bucket counts each record as one token.*put Tokenize\(tokenizer, field='text'\)"):
        list(ss.Loader(ss.Generator(records()), ss.Bucket(512)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(ss.Loader(ss.Generator(records()), ss.Unbucketed(64)))) == 10


def test_a_budget_that_is_meant_as_rows() -> None:
    """A small budget of less than two average rows is warned of, and named in the error of a row that is over it."""
    with pytest.warns(UserWarning, match=r"^max_tokens=32 are tokens, and rows have 24 on average; .*Bucket\(batch_size=32\)$"):
        shapes(records(), ss.Tokenize(codes, max_length=32), ss.Bucket(32))
    with (
        pytest.warns(UserWarning, match=r"no max_length.*; for batches of 32 rows write Bucket\(batch_size=32\)$"),
        pytest.raises(RecordError, match=r"cannot fit max_tokens=32; .*; for batches of 32 rows write Bucket\(batch_size=32\)"),
    ):
        shapes(records(), ss.Tokenize(codes), ss.Bucket(32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shapes(records(), ss.Tokenize(codes, max_length=32), ss.Bucket(128))
        shapes([{"text": "a" * 300}] * 9, ss.Tokenize(codes, max_length=300), ss.Bucket(300))


def classes(name: str, least: int = 0) -> list[dict[str, Any]]:
    return [{"input_ids": [7] * (1 + item % 9), name: [least + item % 5] * (1 + item % 3)} for item in range(90)]


def pads_of(rows: list[dict[str, Any]], name: str, *stages: Any, **options: Any) -> set[int]:
    """Return what the padding of a column holds."""
    found: set[int] = set()
    for batch in ss.Loader(rows, *stages, ss.Bucket(batch_size=8), **options):
        is_real = torch.arange(batch[name].shape[1]) < batch.layout.column_lengths[name][:, None]
        found.update(batch[name][~is_real].tolist())
    return found


def test_lists_of_classes_that_are_padded_with_a_class() -> None:
    """Lists of class numbers of several lengths are padded with 0, which a warning says; each of its remedies ends it."""
    message = r"^column 'genres' is padded with 0, which is also one of its values; .*pad_values=\{'genres': -100\}"
    with pytest.warns(UserWarning, match=message) as warned:
        assert pads_of(classes("genres"), "genres", epochs=2) == {0}
    assert len(warned) == 1
    for value in (-100, 0):
        assert pads_of(classes("genres"), "genres", pad_values={"genres": value}) == {value}
    assert pads_of(classes("genres"), "genres", ss.ClassLabels(range(5), "genres")) == {-100}
    several = ss.ClassLabels(range(5), "genres", multi_hot=True)
    assert all(batch.genres.shape[1:] == (5,) for batch in ss.Loader(classes("genres"), several, ss.Bucket(batch_size=8)))


@pytest.mark.parametrize(("name", "least", "fill"), [("genre_labels", 0, -100), ("genres", 1, 0), ("target_ids", 0, 0)])
def test_lists_whose_padding_is_no_class(name: str, least: int, fill: int) -> None:
    """There is no warning for labels by name, for numbers of which 0 is none, and for ids."""
    assert pads_of(classes(name, least), name) == {fill}


def test_shuffle_is_true_or_false() -> None:
    """A word that is true is no answer."""
    with pytest.raises(TypeError, match=r"^shuffle must be True or False, got 'yes'$"):
        ss.Loader(ss.Generator(records()), ss.Tokenize(codes), ss.Unbucketed(4), shuffle="yes")  # type: ignore[arg-type]
