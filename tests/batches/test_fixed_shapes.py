"""Batches of fixed shapes: which they are, what is made up to fill them, and the largest that can occur."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

import seqstream as ss
from seqstream.testing import rows_of

Texts = list[str]


def labelled(texts: Texts) -> ss.Generator:
    """Texts with a label and a name."""
    rows = [{"text": text, "label": number % 3, "name": f"r{number}"} for number, text in enumerate(texts)]
    return ss.Generator(rows, block_bytes=4096)


def test_shapes_are_chosen_once_and_kept_in_the_state(texts: Texts, bpe_file: Path) -> None:
    """The first 64 batches decide; the state has the shapes, and a loader that resumes from it chooses none."""
    source, tokenize, spec = labelled(texts), ss.Tokenize(bpe_file, max_length=64), ss.Bucket(256, shapes=4)
    loader = ss.Loader(source, tokenize, spec)
    assert loader.state_dict()["calibration"]["shapes"] is None
    batches = list(loader)
    shapes = loader.shapes()
    assert {tuple(batch.input_ids.shape) for batch in batches} == set(shapes)
    assert len(shapes) == 4
    assert shapes[-1][1] == 64
    state = json.loads(json.dumps(batches[5].state))
    assert [tuple(shape) for shape in state["calibration"]["shapes"]] == shapes
    resumed = ss.Loader(source, tokenize, spec)
    resumed.load_state_dict(state)
    assert resumed.shapes() == shapes
    assert torch.equal(next(iter(resumed)).input_ids, batches[6].input_ids)
    again = ss.Loader(source, tokenize, spec)
    assert again.shapes() == shapes, "the shapes are known before the first batch"
    assert all(torch.equal(one.input_ids, two.input_ids) for one, two in zip(again, batches, strict=True)), "and change nothing"


def test_shapes_of_one_run_serve_another(texts: Texts, bpe_file: Path, tmp_path: Path) -> None:
    """A file of ``loader.shapes()`` gives the same shapes at once."""
    stages = (labelled(texts), ss.Tokenize(bpe_file, max_length=64))
    loader = ss.Loader(*stages, ss.Bucket(256, shapes=4))
    (tmp_path / "shapes.json").write_text(json.dumps(loader.shapes()))
    again = ss.Loader(*stages, ss.Bucket(256, shapes=tmp_path / "shapes.json"))
    assert again.shapes() == loader.shapes()
    assert {tuple(batch.input_ids.shape) for batch in again} <= set(loader.shapes())


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("layout", ["padded", "jagged"])
def test_rows_made_up_weigh_nothing(texts: Texts, wordpiece_tokenizer: Tokenizer, side: str, layout: str) -> None:
    """A row made up is one pad token: it has a mask and a length, no label, weight or row id, and does not count as real."""
    stages = (ss.Tokenize(wordpiece_tokenizer, max_length=64), ss.Bucket(shapes=[(4, 64), (16, 16)], window_batches=5))
    loader = ss.Loader(labelled(texts[:101]), *stages, padding_side=side, layout=layout, pad_values={"input_ids": 7})
    filled = [batch for batch in loader if batch.layout.num_made_up]
    assert filled
    for batch in filled:
        real, num_made_up = batch.num_rows - batch.layout.num_made_up, batch.layout.num_made_up
        assert batch.lengths[real:].tolist() == [1] * num_made_up
        assert batch.weights.tolist() == [1] * real + [0] * num_made_up
        assert batch.row_ids[real:].tolist() == [-1] * num_made_up
        assert batch.label[real:].tolist() == [-100] * num_made_up
        assert batch.name[real:] == [None] * num_made_up
        assert (batch.input_ids[real:] == 7).all()
        assert batch.mask[real:].sum(1).tolist() == [1] * num_made_up
        assert batch.num_tokens == int(batch.lengths[:real].sum())
    assert loader.stats.rows == 101
    assert loader.stats.made_up_rows == sum(batch.layout.num_made_up for batch in filled)
    assert len(rows_of(loader)) == 101


def test_the_worst_batch_is_as_large_as_any(texts: Texts, bpe_file: Path) -> None:
    """It has every column of a real one, passes through ``on_batch``, and moves nothing."""
    stages = (labelled(texts), ss.Tokenize(bpe_file, max_length=50), ss.Bucket(500))
    loader = ss.Loader(*stages, on_batch=ss.CausalLabels())
    worst = loader.worst_batch()
    assert worst.input_ids.shape == worst.labels.shape == (10, 50)
    assert worst.mask.all()
    number = int(worst.name[0].removeprefix("r"))
    assert worst.label.tolist() == [number % 3] * 10
    assert worst.name == [f"r{number}"] * 10
    assert worst.weights.tolist() == [1] * 10
    fresh = ss.Loader(*stages, on_batch=ss.CausalLabels())
    assert loader.state_dict() == fresh.state_dict() | {"calibration": loader.state_dict()["calibration"]}
    sizes = [(batch.num_slots, max(batch.input_ids.shape)) for batch in loader]
    assert max(size for size, _ in sizes) <= 500
    assert loader.worst_batch(max_tokens=100).input_ids.shape == (2, 50)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (ss.Pack(64, rows=3), (3, 64)),
        (ss.Unbucketed(6), (6, 50)),
        (ss.Bucket(batch_size=5), (5, 50)),
        (ss.Bucket(shapes=[(4, 64), (16, 16)]), (4, 64)),
        (ss.Bucket(600, shapes=3), (12, 50)),
        (ss.Bucket(640, rows_multiple_of=8), (16, 40)),
    ],
    ids=repr,
)
def test_the_worst_batch_of_every_spec(texts: Texts, bpe_file: Path, spec: Any, shape: tuple[int, int]) -> None:
    """The shape follows from the spec and the longest row."""
    worst = ss.Loader(labelled(texts), ss.Tokenize(bpe_file, max_length=50), spec).worst_batch()
    assert tuple(worst.input_ids.shape) == shape
    assert worst.num_tokens == worst.num_slots == shape[0] * shape[1]


def test_the_worst_batch_of_features_and_of_sides(wordpiece_tokenizer: Tokenizer) -> None:
    """Steps of several numbers keep their shape; each side is as long as it can be."""
    features = ss.Generator([torch.rand(5, 3), torch.rand(2, 3)])
    assert ss.Loader(features, ss.Bucket(40)).worst_batch().features.shape == (1, 40, 3)
    pairs = ss.Generator([{"source": "argument parser", "target": "a parser of arguments"}])
    tokenize = ss.Tokenize({"source": wordpiece_tokenizer, "target": wordpiece_tokenizer}, max_length=20)
    worst = ss.Loader(pairs, tokenize, ss.Bucket(200)).worst_batch()
    assert worst.source_ids.shape == worst.target_ids.shape == (5, 20)
    assert (worst.num_tokens, worst.num_slots) == (200, 200)


def test_sides_share_the_budget_of_a_loader(texts: Texts, wordpiece_tokenizer: Tokenizer) -> None:
    """Rows times the sum of both padded lengths is what counts: as slots, and against ``max_tokens``."""
    rows = [{"source": text, "target": text[: 1 + len(text) // 2]} for text in texts[:300]]
    tokenize = ss.Tokenize({"source": wordpiece_tokenizer, "target": wordpiece_tokenizer}, max_length=40)
    loader = ss.Loader(ss.Generator(rows, block_bytes=2000), tokenize, ss.Bucket(512, window_batches=20))
    for batch in loader:
        assert batch.num_slots == batch.source_ids.numel() + batch.target_ids.numel() <= 512
        lengths = batch.layout.column_lengths
        assert batch.num_tokens == int(lengths["source_ids"].sum() + lengths["target_ids"].sum())
        assert torch.equal(batch.lengths, lengths["source_ids"])
        assert torch.equal(batch.lengths, batch.lengths.sort(descending=True).values)
    assert loader.stats.rows == 300
    assert loader.stats.padding < 0.25


def test_a_column_longer_than_its_shape_is_refused(wordpiece_tokenizer: Tokenizer) -> None:
    """Where shapes are planned by one of two columns, the other must fit them as well."""
    pairs = ss.Generator([{"source": "log", "target": "a log record that is logged " * 3}])
    tokenize = ss.Tokenize({"source": wordpiece_tokenizer, "target": wordpiece_tokenizer}, max_length=40)
    loader = ss.Loader(pairs, tokenize, ss.Bucket(shapes=[(4, 12)], columns=("source_ids",)))
    with pytest.raises(ValueError, match=r"column 'target_ids' of \d+ steps cannot fit its batch, whose shape has a length"):
        next(iter(loader))


def test_what_a_generator_gives_once_is_not_looked_at(texts: Texts, bpe_file: Path) -> None:
    """Looking at records would take them from the epoch."""
    loader = ss.Loader(
        ss.Generator(text for text in texts[:50]), ss.Tokenize(bpe_file, max_length=50), ss.Bucket(512, shapes=2)
    )
    with pytest.raises(ValueError, match=r"worst_batch\(\) cannot look at records that a generator gives only once; pass the"):
        loader.worst_batch()
    with pytest.raises(ValueError, match=r"shapes\(\) cannot look at records that a generator gives only once; pass the"):
        loader.shapes()
    assert sum(batch.num_rows - batch.layout.num_made_up for batch in loader) == 50
    assert len(loader.shapes()) == 2, "once they are chosen they are known"


def test_looking_for_the_worst_batch_names_what_is_wrong(tmp_path: Path, bpe_file: Path) -> None:
    """A corpus of empty records is reported as such, and a record that raises an error is located."""
    (tmp_path / "a.txt").write_text("\n\n\n")
    tokenize, spec = ss.Tokenize(bpe_file, max_length=50), ss.Bucket(500)
    with pytest.raises(ValueError, match="source must give at least one row, got none: 3 records were empty"):
        ss.Loader(ss.TextFiles(tmp_path / "a.txt"), tokenize, spec).worst_batch()
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": null}\n')
    with pytest.raises(ValueError, match="field 'text' must not be null") as caught:
        ss.Loader(ss.JsonLines(tmp_path / "a.jsonl"), tokenize, spec).worst_batch()
    assert any("a.jsonl, line 2" in note for note in caught.value.__notes__)


def test_shapes_need_a_longest_row(texts: Texts, bpe_file: Path) -> None:
    """The last shape must hold any record, whose length is known from ``max_length`` alone."""
    with pytest.raises(ValueError, match=r"shapes=8 must know the longest row there can be; set Tokenize\(max_length=\.\.\.\)"):
        ss.Loader(labelled(texts), ss.Tokenize(bpe_file), ss.Bucket(512, shapes=8))
    loader = ss.Loader(labelled(texts), ss.Tokenize(bpe_file, max_length=50), ss.Bucket(512))
    with pytest.raises(
        ValueError, match=r"batches of Bucket\(max_tokens=512, .*\) have no fixed shapes; set Bucket\(shapes=\.\.\.\)"
    ):
        loader.shapes()
    with pytest.raises(ValueError, match="max_tokens cannot be tried with Unbucketed"):
        ss.Loader(labelled(texts), ss.Tokenize(bpe_file, max_length=50), ss.Unbucketed(4)).worst_batch(max_tokens=5)
