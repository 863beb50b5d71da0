"""Loaders in Lightning, as the example gives them to it: in one process, and on two ranks started by torchrun."""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning_fit
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from tokenizers import Tokenizer
from torch import Tensor

import seqstream as ss
from seqstream.lightning import StreamData, log_loss, predict
from tests.frameworks.lightning_on_ranks import Words, fit
from tests.frameworks.steps_by_hand import loss_of_words, make_words, train_by_hand, weights
from tests.frameworks.streams import make_loader, write_corpus
from tests.helpers.examples import keep_part
from tests.helpers.forked import ROOT, run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str], bpe_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("lightning")
    write_corpus(folder, texts[:60], bpe_tokenizer)
    return folder


@pytest.fixture(autouse=True)
def ignored() -> Iterator[None]:
    """Ignore what Lightning warns of, among other things of its own use of torch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


def without_epoch(seen: list[tuple[int, list[int], float]]) -> list[tuple[list[int], float]]:
    """Return rows and losses: under ``max_steps`` Lightning counts epochs anew from a checkpoint at the end of one."""
    return [step[1:] for step in seen]


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": -1, "max_steps": 12},
        {"max_epochs": 3, "accumulate": 2, "is_automatic": False},
        {"max_epochs": 2, "accumulate": 3, "spec": ss.Unbucketed(6)},
    ],
    ids=["epochs", "steps", "manual", "accumulated"],
)
def test_a_resumed_run_is_the_same(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """From a checkpoint of any step or epoch, or inside of a step, the same batches come, and the same losses and weights.

    They are those of one backward for each step over all its rows.
    """
    accumulated = options.get("accumulate", 1)
    module = fit(folder, tmp_path, **options)
    assert weights(module) == pytest.approx(train_by_hand(folder, make_words(), module.steps[:-1]), abs=1e-12)
    whole = module.seen
    loader = make_loader(folder, options.get("spec"), accumulate=accumulated)
    assert [row for _, row, _ in whole] == [batch.row_ids.tolist() for _ in range(4) for batch in loader][: len(whole)]
    lengths = []
    for checkpoint in tmp_path.glob("*.ckpt"):
        module_again = fit(folder, tmp_path / "again", checkpoint, **options)
        resumed = module_again.seen
        assert without_epoch(resumed) == without_epoch(whole[len(whole) - len(resumed) :]), checkpoint.name
        assert weights(module_again) == weights(module), checkpoint.name
        lengths.append(len(resumed))
    assert bool(list(tmp_path.glob("inside-*"))) == (accumulated > 1)
    assert len(set(lengths)) >= len(whole) // accumulated > 5  # one for each step, the last too, after which nothing comes


def test_two_ranks(folder: Path, texts: list[str], bpe_tokenizer: Tokenizer) -> None:
    """Ranks take each record once an epoch, in as many steps, and go on exactly, inside of a step from its first batch.

    Where a rank has no row of its own in a step, the step is of those of the other.
    """
    (folder / "few").mkdir()
    write_corpus(folder / "few", texts[:9], bpe_tokenizer)
    run_ranks(ROOT / "tests" / "frameworks" / "lightning_on_ranks.py", str(folder), ranks=2)
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert len(first["whole"]) == len(second["whole"]) > 3
    assert [(epoch, loss) for epoch, _, loss in first["whole"]] == [(epoch, loss) for epoch, _, loss in second["whole"]]
    steps = [one + other for one, other in zip(first["steps"], second["steps"], strict=True)]
    expected = train_by_hand(folder, make_words(), steps[:-1])
    for seen in (first, second):
        assert seen["weights"] == pytest.approx(expected, abs=1e-12)
        for name in ("step-01", "inside-0-02"):  # a step of two batches, and one batch more
            assert seen[name] == [seen["whole"][2:], seen["weights"]]
    few = [one + other for one, other in zip(first["few"][0], second["few"][0], strict=True)]
    assert list(map(len, few)) == [8, 1] * 2
    assert first["few"][1] == second["few"][1]
    assert first["few"][1] == pytest.approx(train_by_hand(folder / "few", make_words(), few), abs=1e-12)
    once = sorted(row for batch in make_loader(folder) for row in batch.row_ids.tolist())
    for epoch in range(2):
        taken = [row for seen in (first, second) for number, batch, _ in seen["whole"] if number == epoch for row in batch]
        assert sorted(taken) == once


class Evaluated(Words):
    """Validates by the mean loss over labels, and predicts the logits of the last token of each row."""

    def validation_step(self, batch: ss.Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        log_loss(self, "val_loss", loss_of_words(self.model, batch.input_ids, batch.labels, batch.num_label_tokens), batch)

    def predict_step(self, batch: ss.Batch) -> list[Tensor]:
        return [self.model(ids[: length - 1]) for ids, length in zip(batch.input_ids, batch.lengths.tolist(), strict=True)]


def quiet(folder: Path, **options: Any) -> Trainer:
    """Return a trainer that prints nothing."""
    shown = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, **{**shown, **options})


def test_validation_and_predictions(folder: Path, tmp_path: Path) -> None:
    """The loss is the mean over labels, also of several loaders; predictions are those of each row in source order."""
    module, trainer = Evaluated(is_automatic=True), quiet(tmp_path, max_steps=4, val_check_interval=2)
    valid = {"short": make_loader(folder, ss.Bucket(60)), "long": make_loader(folder, ss.Bucket(480))}
    trainer.fit(module, datamodule=StreamData(train=make_loader(folder), valid=valid))
    with torch.inference_mode():
        losses = [
            (loss_of_words(module.model, batch.input_ids, batch.labels).item(), batch.num_label_tokens)
            for batch in make_loader(folder, ss.Bucket(60))
        ]
    by_labels = sum(loss for loss, _ in losses) / sum(count for _, count in losses)
    by_batches = sum(loss / count for loss, count in losses) / len(losses)
    assert abs(by_labels - by_batches) > 1e-4
    seen = [float(trainer.callback_metrics[f"val_loss/dataloader_idx_{number}"]) for number in range(2)]
    assert seen == pytest.approx([by_labels] * 2, abs=1e-6)
    predicted = predict(trainer, module, make_loader(folder, ss.Bucket(60), seed=5))
    rows = {batch.row_ids[0].item(): batch.input_ids[0] for batch in make_loader(folder, ss.Unbucketed(1))}
    assert [row for row, _, _ in predicted] == sorted(rows)
    with torch.inference_mode():
        assert all(torch.allclose(logits, module.model(rows[row][:-1])) for row, _, logits in predicted)


def test_loggers_have_what_the_loader_counts(folder: Path, tmp_path: Path) -> None:
    """Padding, speed and waiting since the step that was logged before."""
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    trainer = quiet(tmp_path, max_steps=4, log_every_n_steps=2, logger=logger)
    loader = make_loader(folder, accumulate=2)
    trainer.fit(Words(is_automatic=True), datamodule=StreamData(train=loader))
    with (Path(logger.log_dir) / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("data/padding")]
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(0 < float(row["data/padding"]) < 0.5 and float(row["data/tokens_per_second"]) > 0 for row in rows)
    assert sum(float(row["data/seconds_waited"]) for row in rows) <= loader.stats.seconds_waited


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    """Batches that Lightning counts, a checkpoint without a loader, and a loader without end to evaluate on."""
    module, data = Words(is_automatic=True), StreamData(train=make_loader(folder, accumulate=2))
    with pytest.raises(ValueError, match=r"^accumulate_grad_batches must be 1, got 3: .* write Loader\(accumulate=3\)$"):
        quiet(tmp_path, max_steps=1, accumulate_grad_batches=3).fit(module, datamodule=data)
    trainer = quiet(tmp_path, max_steps=1)
    trainer.fit(module, iter(make_loader(folder)))
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt has no state of a loader, as checkpoints of a training with StreamData"):
        quiet(tmp_path, max_steps=2).fit(module, datamodule=data, ckpt_path=tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"^a loader to evaluate on must have epochs=1, got None"):
        StreamData(valid=make_loader(folder, epochs=None))


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes on exactly, and validates to the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(keep_part(tmp_path, 4_000)))
    lightning_fit.main()
    printed = capsys.readouterr().out
    first, last, validated = map(float, re.findall(r"\d+\.\d+", printed))
    assert max(last, validated) < first
    assert printed.endswith("resumed after step 5: 7 more steps have the same losses, to the last bit\n")
