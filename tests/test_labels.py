"""Labels for causal models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from seqstream.batch import Batch
from seqstream.collating import Padding, collate
from seqstream.labels import CausalLabels
from seqstream.planning.specs import InOrder
from seqstream.reading import Place, ReadBlock
from seqstream.sources.protocol import ROW_ID
from seqstream.window import Recipe, WindowStart, read_windows


def batch_of(side: str = "right", **columns: list[list[int]]) -> Batch:
    """Collate some columns as one batch, rows in their order."""
    table = pa.table(columns)
    table = table.append_column(ROW_ID, pa.array(np.arange(len(table))))
    block = ReadBlock(table, Place(), Place(1))
    (window,) = read_windows([block], WindowStart(), Recipe((), InOrder(len(table)), (), shuffle=False))
    return collate(window, 0, Padding({"input_ids": 9}, side), {}, 0)


@pytest.mark.parametrize(
    ("side", "expected"),
    [("right", [[1, 9, 3], [9, -100, -100], [5, 6, -100]]), ("left", [[1, 9, 3], [-100, -100, 9], [-100, 5, 6]])],
)
def test_labels_are_the_ids_and_ignored_on_padding(side: str, expected: list[list[int]]) -> None:
    """Padding is told by the mask: an id that happens to be the padding value is predicted."""
    batch = batch_of(side, input_ids=[[1, 9, 3], [9], [5, 6]])
    labelled = CausalLabels()(batch)
    assert labelled["labels"].tolist() == expected
    assert labelled["labels"].dtype == torch.int64
    assert labelled.input_ids.equal(batch.input_ids)
    assert "labels" not in batch.columns
    assert list(labelled) == ["input_ids", "labels", "attention_mask"]


@pytest.mark.parametrize(
    ("side", "expected"),
    [("right", [[4, 5], [6, -100], [7, 8]]), ("left", [[4, 5], [-100, 6], [7, 8]])],
)
def test_another_column_has_its_own_padding(side: str, expected: list[list[int]]) -> None:
    """Labels from targets are ignored where targets are padded, not where sources are, of whatever width."""
    batch = batch_of(side, source_ids=[[1], [2, 3], [1]], target_ids=[[4, 5], [6], [7, 8]])
    assert CausalLabels("target_ids")(batch).labels.tolist() == expected
    batch = batch_of(side, source_ids=[[1], [2, 3, 4], [1]], target_ids=[[4, 5], [6], [7, 8]])
    assert CausalLabels("target_ids")(batch).labels.tolist() == expected


def test_a_missing_column_is_named() -> None:
    """The message says which columns there are."""
    with pytest.raises(AttributeError, match=r"^batch has no column 'input_ids'; it has source_ids$"):
        CausalLabels()(batch_of(source_ids=[[1]]))


def test_a_model_computes_the_loss_of_next_tokens() -> None:
    """The labels are not shifted; the loss is the mean over real next tokens, as computed by hand."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    model.eval()
    batch = CausalLabels()(batch_of(input_ids=[[1, 9, 3, 4], [9], [5, 6]]))
    scores = model(batch.input_ids, attention_mask=batch.mask.long()).logits.log_softmax(-1)
    pairs = [(0, 0, 9), (0, 1, 3), (0, 2, 4), (2, 0, 6)]
    expected = -torch.stack([scores[row, step, token] for row, step, token in pairs]).mean()
    torch.testing.assert_close(model(**batch).loss, expected)
