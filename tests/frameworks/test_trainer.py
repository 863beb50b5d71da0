"""Loaders in Hugging Face's Trainer, as the example gives them to it: in one process, and on two ranks started by torchrun."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hf_trainer
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Trainer

import seqstream as ss
from tests.frameworks.classes import class_loader, train_classes_by_hand
from tests.frameworks.steps_by_hand import train_by_hand, weights
from tests.frameworks.streams import make_loader, rows_of, write_corpus
from tests.frameworks.trainer_on_ranks import (
    ACCUMULATED,
    SAVE_EVERY,
    STEPS,
    WatchedTrainer,
    arguments,
    loss_of_gpt2,
    make_model,
    train,
)
from tests.helpers.examples import keep_part
from tests.helpers.forked import ROOT, run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str], bpe_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    write_corpus(folder, texts[:100], bpe_tokenizer)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> WatchedTrainer:
    """A training that nothing interrupted, with dropout, over more than two epochs."""
    trainer = train(folder, folder / "runs", dropout=0.1)
    assert trainer.train_dataset.epoch >= 2
    return trainer


def test_trainer_trains_on_the_batches_of_the_loader(folder: Path, trained: WatchedTrainer) -> None:
    """In their order, none left out, each a batch still, of rows of similar length, and a step for each that is planned."""
    batches = [batch for step in trained.trained for batch in step]
    loader = make_loader(folder, accumulate=ACCUMULATED)
    expected = itertools.islice((batch for _ in range(9) for batch in loader), len(batches))
    assert [batch.state for batch in batches] == [batch.state for batch in expected]
    assert [batch.is_step_end for batch in batches].count(True) == trained.state.global_step == STEPS
    assert all(step[-1].is_step_end for step in trained.trained)
    assert trained.train_dataset.stats.steps == STEPS
    assert trained.train_dataset.stats.padding < 0.2


@pytest.mark.parametrize("step", range(SAVE_EVERY, STEPS, SAVE_EVERY))
def test_a_resumed_run_is_the_same(folder: Path, trained: WatchedTrainer, step: int) -> None:
    """From any checkpoint, in whatever epoch, a new trainer sees the same batches and has the same losses to the last bit."""
    resumed = train(folder, folder / "runs", step, dropout=0.1)
    assert resumed.rows() == trained.rows()[step:]
    assert resumed.logged("loss") == trained.logged("loss")
    assert resumed.logged("grad_norm") == trained.logged("grad_norm")
    assert weights(resumed.model) == weights(trained.model)


def test_steps_are_those_of_their_unions(folder: Path, tmp_path: Path) -> None:
    """The weights are those of one backward for each step over all its rows, and the losses are those that are logged."""
    trainer = train(folder, tmp_path, dropout=0)
    assert len({batch.num_label_tokens for batch in trainer.trained[0]}) > 1, "equal batches could not tell"
    expected = train_by_hand(folder, make_model(dropout=0), trainer.rows(), loss_of_gpt2)
    assert weights(trainer.model) == pytest.approx(expected, abs=1e-6)


class CountingTrainer(Trainer):
    """Trainer as it is, which takes so many batches for a step and counts their labels."""

    def __init__(self, loader: ss.Loader, **options: Any) -> None:
        super().__init__(**options)
        self.loader = loader
        self.trained: list[tuple[ss.Batch, int]] = []

    def get_train_dataloader(self) -> Iterator[ss.Batch]:
        return iter(self.loader)

    def training_step(self, model: nn.Module, inputs: ss.Batch, num_items_in_batch: Tensor) -> Tensor:
        self.trained.append((inputs, int(num_items_in_batch)))
        return super().training_step(model, inputs, num_items_in_batch)


def test_trainer_counts_to_the_same(folder: Path, tmp_path: Path, trained: WatchedTrainer) -> None:
    """Where each step has as many batches, counting them gives the same steps, of as many labels as are told, and weights."""
    loader = make_loader(folder, epochs=None, accumulate=ACCUMULATED)
    options = arguments(tmp_path, gradient_accumulation_steps=ACCUMULATED)
    trainer = CountingTrainer(loader, model=make_model(dropout=0.1), args=options)
    trainer.train()
    assert [batch.is_step_end for batch, _ in trainer.trained] == [*[False] * (ACCUMULATED - 1), True] * STEPS
    assert all(count == batch.step_num_label_tokens for batch, count in trainer.trained)
    assert loader.stats.steps == STEPS
    assert weights(trainer.model) == pytest.approx(weights(trained.model), abs=1e-6)


def test_a_last_step_of_fewer_batches(folder: Path, tmp_path: Path) -> None:
    """Where epochs end with a step of fewer batches, steps end there, and are of the rows that they have."""
    loader = make_loader(folder, ss.Unbucketed(24), epochs=None, accumulate=ACCUMULATED)
    trainer = WatchedTrainer(train_dataset=loader, model=make_model(dropout=0), args=arguments(tmp_path))
    trainer.train()
    assert {len(step) for step in trainer.trained} == {ACCUMULATED, 2}
    assert loader.stats.steps == trainer.state.global_step == STEPS
    expected = train_by_hand(folder, make_model(dropout=0), trainer.rows(), loss_of_gpt2)
    assert weights(trainer.model) == pytest.approx(expected, abs=1e-6)


def test_trainer_moves_a_batch_as_a_dict(folder: Path, trained: WatchedTrainer) -> None:
    """Trainer rebuilds what it moves to the device by the type of the batch, and gets what models take."""
    batch = next(iter(make_loader(folder)))
    moved = trained._prepare_inputs(batch)
    assert type(moved) is dict
    assert set(moved) == {"input_ids", "attention_mask", "labels"}
    assert all(torch.equal(moved[name], batch[name]) for name in moved)


def check_evaluation(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Two ranks evaluate and predict as one process does with the same weights, each row once and in order."""
    for name in ("eval_loss", "eval_rows", "eval_labels"):
        assert first[name] == second[name]
    model = make_model(dropout=0)
    nn.utils.vector_to_parameters(torch.tensor(first["weights"]), model.parameters())
    model.eval()
    with torch.inference_mode():
        sums = [(model(**batch, num_items_in_batch=1).loss.item(), batch) for batch in make_loader(folder)]
    count = sum(batch.num_label_tokens for _, batch in sums)
    assert first["eval_loss"] == pytest.approx(sum(loss for loss, _ in sums) / count, abs=1e-5)
    assert first["eval_rows"] == sorted(row for _, batch in sums for row in batch.row_ids.tolist())
    assert sum(first["eval_labels"]) == count
    check_classes(folder, first["classes"], second["classes"])


def check_classes(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    """A loss that is a mean over a batch is weighted by its rows, also where a rank has none and repeats those of another."""
    texts = (folder / "corpus.txt").read_text(encoding="utf-8").splitlines()[:9]
    rows = {rows_of(batch)[0]: batch for batch in class_loader(folder, texts, ss.Unbucketed(1))}
    steps = [one + other for one, other in zip(first.pop("steps"), second.pop("steps"), strict=True)]
    assert list(map(len, steps[:2])) == [8, 1], "one rank has no row in the second step"
    expected, _ = train_classes_by_hand([rows[row] for row in step] for step in steps)
    assert first == second
    assert first["weights"] == pytest.approx(expected, abs=1e-6)
    assert first["row_ids"] == sorted(rows)
    assert first["labels"] == [int(rows[row].mood) for row in sorted(rows)]
    logits = torch.tensor(first["predictions"])
    assert first["loss"] == pytest.approx(nn.functional.cross_entropy(logits, torch.tensor(first["labels"])).item(), abs=1e-6)


def test_two_ranks(folder: Path) -> None:
    """Ranks take other rows, each as often as one process would, have the gradient of all, and go on exactly."""
    run_ranks(ROOT / "tests" / "frameworks" / "trainer_on_ranks.py", str(folder), ranks=2)
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2))
    steps = [one + other for one, other in zip(first["rows"], second["rows"], strict=True)]
    expected = train_by_hand(folder, make_model(dropout=0), steps, loss_of_gpt2)
    for seen in (first, second):
        assert seen["rows again"] == seen["rows"][2 * SAVE_EVERY :]
        assert seen["losses again"] == seen["losses"] == first["losses"]
        assert seen["weights again"] == seen["weights"] == pytest.approx(expected, abs=1e-6)
        assert seen["num_steps"] == STEPS
    check_evaluation(folder, first, second)
    taken = Counter(row for rows in steps for row in rows)
    assert max(taken.values()) - min(taken.values()) <= 1
    assert min(taken.values()) >= 2


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It evaluates between its steps, and goes on exactly."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(keep_part(tmp_path, 4_000)))
    hf_trainer.main()
    printed = capsys.readouterr().out
    first, last, evaluated = map(float, re.findall(r"\d+\.\d+", printed.splitlines()[0]))
    assert max(last, evaluated) < first
    assert printed.endswith("resumed after step 5: 7 more steps have the same losses, to the last bit\n")
