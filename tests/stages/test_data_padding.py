"""Padding that is in the data is removed by the mask of the ids, for every kind of source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import seqstream as ss
from seqstream.records import RecordError
from seqstream.stages.data_padding import without_padding

datasets = pytest.importorskip("datasets")

ROWS = [[5, 6], [5, 6, 7, 8, 9], [3]]
WIDTH, PAD = 7, 0


def padded(rows: list[list[int]], value: int, *, left: bool = False) -> list[list[int]]:
    return [[value] * (WIDTH - len(row)) + row if left else row + [value] * (WIDTH - len(row)) for row in rows]


def records(*, left: bool = False) -> dict[str, list[list[int]]]:
    """Return columns of rows that are padded by a tokenizer, and labels that are copied from the ids."""
    ids = padded(ROWS, PAD, left=left)
    return {
        "input_ids": ids,
        "attention_mask": padded([[1] * len(row) for row in ROWS], 0, left=left),
        "token_type_ids": padded([[1] * len(row) for row in ROWS], 3, left=left),
        "labels": ids if left else padded(ROWS, -100),
    }


def sources(folder: Path, columns: dict[str, Any]) -> dict[str, ss.Source]:
    """Return the same columns as every kind of source that can hold ids."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.table(columns), folder / "a.parquet")
    fixed = {name: pa.array(values, pa.list_(pa.int16(), WIDTH)) for name, values in columns.items()}
    pq.write_table(pa.table(fixed), folder / "fixed.parquet")
    made = datasets.Dataset.from_dict(columns)
    return {
        "generator": ss.Generator(rows),
        "json": ss.JsonLines(folder / "a.jsonl"),
        "parquet": ss.Parquet(folder / "a.parquet"),
        "fixed": ss.Parquet(folder / "fixed.parquet"),
        "data set": ss.HFDataset(made),
        "stream": ss.HFDataset(made.to_iterable_dataset()),
    }


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("kind", ["generator", "json", "parquet", "fixed", "data set", "stream"])
def test_padding_is_removed(tmp_path: Path, kind: str, left: bool) -> None:
    """Ids, token types and labels lose the padding that the mask marks, on either side; lengths and counts are of tokens."""
    loader = ss.Loader(sources(tmp_path, records(left=left))[kind], ss.Unbucketed(1), shuffle=False)
    batches = list(loader)
    assert [batch.input_ids.tolist() for batch in batches] == [[row] for row in ROWS]
    assert [batch.labels.tolist() for batch in batches] == [[row] for row in ROWS]
    assert [batch.token_type_ids.tolist() for batch in batches] == [[[1] * len(row)] for row in ROWS]
    assert [batch.lengths.tolist() for batch in batches] == [[2], [5], [1]]
    assert all(batch.mask.all() and batch["attention_mask"].all() for batch in batches)
    assert loader.stats.tokens == loader.stats.slots == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_planned_has_no_padding(workers: int) -> None:
    """A bucket is as wide as its longest row without padding, a packed row holds tokens alone, attention inside of each."""
    columns = records()
    source = ss.HFDataset(datasets.Dataset.from_dict({name: columns[name] for name in ("input_ids", "attention_mask")}))
    (batch,) = ss.Loader(source, ss.Bucket(100), on_batch=ss.CausalLabels(), workers=workers)
    assert batch.input_ids.shape == (2, 5), "the row of one token has nothing to predict"
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch.num_label_tokens == 1 + 4
    (packed,) = ss.Loader(source, ss.Pack(8, rows=1))
    assert packed.num_tokens == 7
    assert packed.num_label_tokens == 1 + 4
    assert "attention_mask" not in list(packed)


def test_by_hand() -> None:
    """A worked example: rows of only padding, columns that are not padded with the ids, and a mask of the decoder."""
    table = pa.table(
        {
            "input_ids": [[7, 8, 0], [0, 0, 0]],
            "attention_mask": [[True, True, False], [False] * 3],
            "vector": [[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]],
            "weights": [[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]],
            "label": [[1, 2, 0], [0, 1, 0]],
            "labels": [[4, 5, 6], [4, 0, 0]],
            "decoder_input_ids": [[1, 4, 5], [1, 4, 0]],
            "decoder_attention_mask": [[1, 1, 1], [1, 1, 0]],
        }
    )
    assert without_padding(table).to_pydict() == {
        "input_ids": [[7, 8], []],
        "attention_mask": [[True, True], []],
        "vector": [[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]],
        "weights": [[1.0, 0.5], []],
        "label": [[1, 2, 0], [0, 1, 0]],
        "labels": [[4, 5, 6], [4, 0]],
        "decoder_input_ids": [[1, 4, 5], [1, 4]],
        "decoder_attention_mask": [[1, 1, 1], [1, 1]],
    }


def test_labels_of_another_sequence_stay() -> None:
    """Labels with values where ids are padding belong to a target of another length, and stay."""
    table = pa.table({"input_ids": [[7, 8, 0]], "attention_mask": [[1, 1, 0]], "labels": [[4, 5, 6]]})
    assert without_padding(table)["labels"].to_pylist() == [[4, 5, 6]]


def test_a_mask_without_padding_changes_nothing() -> None:
    """Masks of ones, of floats that are weights, and of two dimensions leave the table unchanged."""
    for mask in ([[1, 1], [1]], [[0.5, 0.0], [1.0]], [[[1, 0], [1, 1]], [[1]]]):
        table = pa.table({"input_ids": [[7, 8], [9]], "attention_mask": mask})
        assert without_padding(table) is table


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            [1, 0, 1],
            r"^column 'attention_mask' must have 1 from the first token to the last, got 0 before step 2; mend",
        ),
        ([1, 1], r"^column 'attention_mask' must have as many steps as 'input_ids', got 2 and 3; mend or drop it in a Map"),
        ([1, None, 1], r"^column 'attention_mask' must have 0 or 1 for each token, got null; mend"),
        (None, r"^column 'attention_mask' must not be null; mend"),
    ],
)
def test_a_mask_that_does_not_fit_names_the_record(mask: Any, message: str) -> None:
    """For a mask with holes, of another length, or with nulls, the error names the record."""
    table = pa.table({"input_ids": [[1, 2], [1, 2, 3]], "attention_mask": pa.array([[1, 0], mask], pa.list_(pa.int8()))})
    with pytest.raises(RecordError, match=message) as caught:
        without_padding(table.append_column("row_id", pa.array([4, 6])))
    assert caught.value.row_id == 6


def test_a_record_of_padding_alone_is_empty() -> None:
    """A row of only padding is dropped, and counted as empty."""
    rows = [{"input_ids": [1, 2], "attention_mask": [1, 1]}, {"input_ids": [0, 0], "attention_mask": [0, 0]}]
    loader = ss.Loader(ss.Generator(rows), ss.Unbucketed(4))
    (batch,) = loader
    assert batch.input_ids.tolist() == [[1, 2]]
    assert loader.stats.empty == 1


def test_a_model_learns_the_same(tmp_path: Path) -> None:
    """The loss of rows that were padded before is that of the rows without padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    stages = ss.Bucket(100), ss.CausalLabels()
    losses = []
    for columns in (records(), {"input_ids": ROWS}):
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for row in rows:
            row.pop("labels", None), row.pop("token_type_ids", None)
        (batch,) = ss.Loader(ss.Generator(rows), stages[0], on_batch=stages[1])
        losses.append(model(**batch).loss.item())
    assert losses[0] == losses[1]
    assert np.isfinite(losses[0])
