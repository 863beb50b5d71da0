"""Loaders in Hugging Face's Trainer, as the example gives them to it: in one process, and on two ranks started by torchrun."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tests.frameworks.streams import ROOT, make_loader, torchrun, write_corpus
from tests.frameworks.trainer_on_ranks import ACCUMULATED, SAVE_EVERY, STEPS, WatchedTrainer, train, union_norm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str], bpe_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    write_corpus(folder, texts[:100], bpe_tokenizer)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> WatchedTrainer:
    """A training that nothing interrupted, with dropout, over more than two epochs."""
    trainer = train(folder, folder / "runs", dropout=0.1)
    assert trainer.stream.loader.epoch >= 2
    return trainer


def test_trainer_trains_on_the_batches_of_the_loader(folder: Path, trained: WatchedTrainer) -> None:
    """In their order, none left out, each a batch still, of rows of similar length."""
    expected = itertools.islice(make_loader(folder, epochs=None), STEPS * ACCUMULATED)
    assert [batch.state for batch in trained.trained] == [batch.state for batch in expected]
    assert trained.state.global_step == STEPS
    assert trained.stream.loader.stats.waste < 0.2


@pytest.mark.parametrize("step", range(SAVE_EVERY, STEPS, SAVE_EVERY))
def test_a_resumed_run_is_the_same(folder: Path, trained: WatchedTrainer, step: int) -> None:
    """From any checkpoint, in whatever epoch, a new trainer sees the same batches and has the same losses to the last bit."""
    resumed = train(folder, folder / "runs", step, dropout=0.1)
    states = [batch.state for batch in trained.trained[step * ACCUMULATED :]]
    assert [batch.state for batch in resumed.trained] == states
    assert resumed.logged("loss") == trained.logged("loss")
    assert resumed.logged("grad_norm") == trained.logged("grad_norm")


def test_accumulated_gradients_are_those_of_all_labels(folder: Path, tmp_path: Path) -> None:
    """The gradient of a step is that of the sum of the losses of its batches, divided by all their labels."""
    trainer = train(folder, tmp_path, dropout=0)
    first = [dict(batch) for batch in trainer.trained[:ACCUMULATED]]
    assert len({int((batch["labels"] != -100).sum()) for batch in first}) > 1, "equal batches could not tell"
    assert trainer.logged("grad_norm")[0] == pytest.approx(union_norm(first), rel=1e-5)


def test_trainer_moves_a_batch_as_a_dict(folder: Path, trained: WatchedTrainer) -> None:
    """Trainer rebuilds what it moves to the device by the type of the batch, and gets what models take."""
    batch = next(iter(make_loader(folder)))
    moved = trained._prepare_inputs(batch)
    assert type(moved) is dict
    assert set(moved) == {"input_ids", "attention_mask", "labels"}
    assert all(torch.equal(moved[name], batch[name]) for name in moved)


def test_two_ranks(folder: Path) -> None:
    """Ranks take other rows, each as often as one process would, have the gradient of all, and go on exactly."""
    torchrun(ROOT / "tests" / "frameworks" / "trainer_on_ranks.py", str(folder), ranks=2)
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2))
    for seen in (first, second):
        assert seen["rows again"] == seen["rows"][2 * SAVE_EVERY * ACCUMULATED :]
        assert seen["losses again"] == seen["losses"] == first["losses"]
        assert seen["norm"] == pytest.approx(seen["union norm"], rel=1e-5)
    taken = Counter(row for seen in (first, second) for batch in seen["rows"] for row in batch)
    assert max(taken.values()) - min(taken.values()) <= 1
    assert min(taken.values()) >= 2
