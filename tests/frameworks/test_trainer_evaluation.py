"""Evaluation, predictions, classes and logs of a Trainer that is given loaders, against loops of PyTorch alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
)

import seqstream as ss
from seqstream.transformers import StreamMixin, StreamTrainer
from tests.frameworks.classes import Classifier, class_loader, steps_of, train_classes_by_hand
from tests.frameworks.steps_by_hand import weights
from tests.frameworks.streams import make_loader, rows_of, write_corpus
from tests.frameworks.trainer_on_ranks import STEPS, arguments, make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str], bpe_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    write_corpus(folder, texts[:100], bpe_tokenizer)
    return folder


def make_trainer(folder: Path, runs: Path, trainer: type[StreamTrainer] = StreamTrainer, **options: Any) -> StreamTrainer:
    """Make a trainer of a small language model, with a loader for training and one for evaluation."""
    options = {"model": make_model(dropout=0), "args": arguments(runs), **options}
    data = {"train_dataset": make_loader(folder, accumulate=3), "eval_dataset": make_loader(folder, ss.Bucket(120))}
    made = trainer(**{**data, **options})
    made.remove_callback(PrinterCallback)
    return made


def loss_by_hand(model: nn.Module, loader: ss.Loader) -> tuple[float, float]:
    """Return the mean loss over all labels of a loader, and the mean of the means of its batches."""
    sums, counts = [], []
    with torch.inference_mode():
        for batch in loader:
            sums.append(model(**batch, num_items_in_batch=1).loss.item())
            counts.append(batch.num_label_tokens)
    return sum(sums) / sum(counts), sum(one / count for one, count in zip(sums, counts, strict=True)) / len(sums)


def test_evaluation_weights_the_loss_by_labels(folder: Path, tmp_path: Path) -> None:
    """Between the steps of a training, of several loaders and without a data set; the mean is over labels, not over batches."""
    valid = {"short": make_loader(folder, ss.Bucket(120)), "long": make_loader(folder, ss.Bucket(480))}
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=5)
    trainer = make_trainer(folder, tmp_path, args=args, eval_dataset=valid)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_short_loss" in entry]
    assert [entry["step"] for entry in logged] in ([5, 10, STEPS], [5, 10]), "transformers 4 does not evaluate at the end"
    trainer.model.eval()
    by_labels, by_batches = loss_by_hand(trainer.model, make_loader(folder, ss.Bucket(120)))
    metrics = trainer.evaluate()
    assert abs(by_batches - by_labels) > 1e-3
    assert metrics["eval_short_loss"] == pytest.approx(by_labels, abs=1e-5)
    assert metrics["eval_long_loss"] == pytest.approx(by_labels, abs=1e-5)
    assert metrics == {
        **trainer.evaluate(),
        **{name: value for name, value in metrics.items() if "second" in name or "runtime" in name},
    }


def test_training_is_the_same_with_evaluation_between(folder: Path, tmp_path: Path) -> None:
    """Evaluation, also at the ends of epochs, changes no batch of the training, and a resumed run evaluates to the same."""
    plain = make_trainer(folder, tmp_path / "plain")
    plain.train()
    whole = make_trainer(folder, tmp_path / "whole", args=arguments(tmp_path / "whole", eval_strategy="epoch"))
    whole.train()
    assert weights(whole.model) == weights(plain.model)
    epochs = [entry["epoch"] for entry in whole.state.log_history if "eval_loss" in entry]
    assert epochs[:2] == [1, 2]
    resumed = make_trainer(folder, tmp_path / "whole", args=arguments(tmp_path / "whole", eval_strategy="epoch"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    named = ("eval_loss", "loss", "epoch", "step")
    shown = [
        [{name: entry[name] for name in named if name in entry} for entry in trainer.state.log_history[:-1]]
        for trainer in (whole, resumed)
    ]
    assert shown[0] == shown[1]
    again = make_trainer(folder, tmp_path / "whole")
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == STEPS, "a run that is over takes no step more"


def test_a_checkpoint_of_another_trainer_is_refused(folder: Path, tmp_path: Path) -> None:
    """The error names the file that is missing."""
    trainer = make_trainer(folder, tmp_path)
    trainer.train()
    (tmp_path / "checkpoint-3" / "loader_state_0.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"checkpoint-3 has no loader_state_0\.json, as checkpoints of a StreamTrainer"):
        make_trainer(folder, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_predictions_are_in_the_order_of_the_source(folder: Path, tmp_path: Path) -> None:
    """They and the labels are those of the rows one by one, and metrics are computed of them in this order too."""
    seen: list[EvalPrediction] = []

    def count(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"rows": len(prediction.predictions)}

    trainer = make_trainer(folder, tmp_path, compute_metrics=count)
    loader = make_loader(folder, ss.Bucket(240), seed=3)
    output = trainer.predict(loader)
    rows = {
        row: (ids, labels)
        for batch in make_loader(folder, ss.Unbucketed(1))
        for row, ids, labels in zip(batch.row_ids.tolist(), batch.input_ids, batch.labels, strict=True)
    }
    assert output.row_ids.tolist() == sorted(rows)
    assert output.metrics["test_rows"] == len(rows) == len(output.predictions)
    assert np.array_equal(seen[0].predictions, output.predictions)
    assert np.array_equal(seen[0].label_ids, output.label_ids)
    trainer.model.eval()
    for row, logits, labels in zip(output.row_ids.tolist(), output.predictions, output.label_ids, strict=True):
        ids, own = rows[row]
        with torch.inference_mode():
            expected = trainer.model(input_ids=ids[None]).logits[0]
        assert torch.allclose(torch.from_numpy(logits[: len(ids)]), expected, atol=1e-5)
        assert labels[: len(own)].tolist() == own.tolist()


def test_classes_reach_the_model(folder: Path, tmp_path: Path, texts: list[str]) -> None:
    """A column of classes is ``labels``, columns that ``forward`` names are there, and a step is the mean over its rows."""
    texts = texts[:80]
    loader = class_loader(folder, texts, accumulate=3)
    args = arguments(tmp_path, save_strategy="no")
    args.max_steps = 4
    trainer = make_trainer(folder, tmp_path, model=Classifier(), args=args, train_dataset=loader, eval_dataset=loader)
    trainer.train()
    other = class_loader(folder, texts, accumulate=3)
    steps = steps_of(batch for _ in range(2) for batch in other)[:4]
    expected_weights, losses = train_classes_by_hand(steps)
    assert len({len(rows_of(batch)) for batch in steps[0]}) > 1, "equal batches could not tell"
    assert weights(trainer.model) == pytest.approx(expected_weights, abs=1e-5)
    assert [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] == pytest.approx(losses, abs=1e-4)
    predicted = trainer.predict(class_loader(folder, texts))
    expected = {row: int(number) for batch in other for row, number in zip(batch.row_ids.tolist(), batch.mood, strict=True)}
    assert predicted.label_ids.tolist() == [expected[row] for row in predicted.row_ids.tolist()]


def mean_of_losses(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    """A loss of the user, who divides by the number that Trainer gives."""
    losses = nn.functional.cross_entropy(outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return losses / num_items_in_batch


def test_a_loss_of_the_user(folder: Path, tmp_path: Path) -> None:
    """``compute_loss_func`` is given the labels of the step, and of a batch in evaluation: all is as with the model's own."""
    trainers = [make_trainer(folder, tmp_path, **own) for own in ({}, {"compute_loss_func": mean_of_losses})]
    for trainer in trainers:
        trainer.train()
    assert weights(trainers[1].model) == pytest.approx(weights(trainers[0].model), abs=1e-5)
    plain, own = (trainer.evaluate()["eval_loss"] for trainer in trainers)
    assert own == pytest.approx(plain, abs=1e-5)


class StreamSeq2SeqTrainer(StreamMixin, Seq2SeqTrainer):
    """The mixin before another Trainer."""


def test_another_trainer_class(folder: Path, tmp_path: Path, texts: list[str]) -> None:
    """Seq2SeqTrainer trains, evaluates, and generates one text for each record in the order of the source."""
    pairs = [{"source": text, "target": text[::-1]} for text in texts[:24]]
    stages = (
        ss.Tokenize({"source": folder / "tokenizer.json", "target": folder / "tokenizer.json"}, max_length=16),
        ss.Bucket(256),
    )

    def loader() -> ss.Loader:
        return ss.Loader(ss.Generator(pairs), *stages, on_batch=ss.TeacherForcing(0))

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=600, **sizes, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    torch.manual_seed(0)
    args = Seq2SeqTrainingArguments(
        str(tmp_path),
        max_steps=4,
        predict_with_generate=True,
        generation_max_length=6,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = T5ForConditionalGeneration(config)
    trainer = StreamSeq2SeqTrainer(model=model, args=args, train_dataset=loader(), eval_dataset=loader())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    expected = 0.0
    model.eval()
    with torch.inference_mode():
        for batch in (batches := list(loader())):
            expected += model(**batch).loss.item() * batch.num_label_tokens
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected / sum(each.num_label_tokens for each in batches), abs=1e-4)
    output = trainer.predict(loader())
    assert output.row_ids.tolist() == sorted(output.row_ids.tolist())
    assert len(output.predictions) == len(pairs)


def test_logs_have_what_the_loader_counts(folder: Path, tmp_path: Path, texts: list[str]) -> None:
    """Each loss is logged with padding, speed and waiting since the one before, and with share and epochs of each source."""
    parts = {"short": ss.Generator(texts[:40]), "long": ss.Generator(texts[40:100])}
    mixture = ss.Mixture(parts, weights={"short": 1, "long": 3})
    stages = ss.Tokenize(folder / "tokenizer.json", max_length=24), ss.Bucket(192, window_batches=8)
    loader = ss.Loader(mixture, *stages, on_batch=ss.CausalLabels(), epochs=None)
    trainer = make_trainer(folder, tmp_path, train_dataset=loader)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == STEPS
    names = ["padding", "tokens_per_second", "seconds_waited"]
    names += [f"source/{name}/{field}" for name in ("short", "long") for field in ("share", "epochs")]
    assert {name for name in logged[3] if name.startswith("data/")} == {f"data/{name}" for name in names}
    assert logged[3]["data/source/short/share"] + logged[3]["data/source/long/share"] == pytest.approx(1)
    assert logged[3]["data/tokens_per_second"] > 0
    epochs = [entry["data/source/long/epochs"] for entry in logged]
    assert epochs == sorted(epochs)
    assert epochs[-1] > 0
    assert sum(entry["data/seconds_waited"] for entry in logged) == pytest.approx(loader.stats.seconds_waited)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_steps": -1},  # transformers 4 has a message of its own
            r"max_steps (must be given for a Loader, which has no length, got -1; .*count_steps\(\)\)|has to be specified)",
        ),
        (
            {"gradient_accumulation_steps": 4},
            r"^gradient_accumulation_steps must be 1, got 4: .* write Loader\(accumulate=4\)$",
        ),
    ],
)
def test_arguments_that_do_not_fit(folder: Path, tmp_path: Path, change: dict[str, int], message: str) -> None:
    """The error gives the value and what to write."""
    args = arguments(tmp_path)
    vars(args).update(change)
    with pytest.raises(ValueError, match=message):
        make_trainer(folder, tmp_path, args=args)


def _endless(folder: Path) -> ss.Loader:
    return make_loader(folder, epochs=None)


def _packed(folder: Path) -> ss.Loader:
    source, tokenize = ss.TextFiles(str(folder / "corpus.txt")), ss.Tokenize(folder / "tokenizer.json", max_length=24)
    return ss.Loader(source, tokenize, ss.Pack(24, rows=8), on_batch=ss.CausalLabels())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_endless, "^a loader to evaluate on must have epochs=1, got None; make a Loader of its own for it$"),
        (_packed, "^predictions must be of one record each, and rows of Pack have several; use Bucket to predict$"),
    ],
)
def test_loaders_that_cannot_be_predicted(
    folder: Path, tmp_path: Path, make: Callable[[Path], ss.Loader], message: str
) -> None:
    """The error says what to use."""
    with pytest.raises(ValueError, match=message):
        make_trainer(folder, tmp_path).predict(make(folder))


def test_packed_rows_are_evaluated(folder: Path, tmp_path: Path) -> None:
    """Their loss is that of the sequences in them, each by itself."""
    trainer = make_trainer(folder, tmp_path, eval_dataset=_packed(folder))
    trainer.model.eval()
    expected, _ = loss_by_hand(trainer.model, make_loader(folder))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-4)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra that brings it."""
    from seqstream import options

    monkeypatch.setattr(options, "find_spec", lambda name: SimpleNamespace() if name == "transformers" else None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r'^seqstream.transformers needs accelerate, which is not installed; pip install "seqstream\[transformers\]"$',
    ):
        options.require("transformers>=4.57", "accelerate>=1.3")


def test_a_library_that_is_too_old_is_named() -> None:
    """The error gives its version, the oldest that is good, and the extra."""
    from seqstream import options

    message = r'^seqstream.transformers needs accelerate>=99.1, got \d+\.\S+; pip install "seqstream\[transformers\]"$'
    with pytest.raises(ImportError, match=message):
        options.require("transformers>=4.57", "accelerate>=99.1")


class InterruptedTrainer(StreamTrainer):
    """A trainer that is interrupted in its eighth step, two after its last checkpoint."""

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return super().training_step(*args, **options)


def test_an_interrupted_run_goes_on_where_its_last_checkpoint_was(folder: Path, tmp_path: Path) -> None:
    """``resume_from_checkpoint=True`` is all it takes: losses, padding and weights are those of a run without a break."""
    whole = make_trainer(folder, tmp_path / "whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(folder, tmp_path / "broken", InterruptedTrainer).train()
    resumed = make_trainer(folder, tmp_path / "broken")
    resumed.train(resume_from_checkpoint=True)
    named = ("loss", "grad_norm", "data/padding", "epoch", "step")
    shown = [[[entry.get(name) for name in named] for entry in each.state.log_history[:-1]] for each in (whole, resumed)]
    assert shown[0] == shown[1]
    assert weights(resumed.model) == weights(whole.model)
    names = ("batches", "steps", "rows", "tokens", "slots")
    counted = [[each.train_dataset.stats.to_dict()[name] for name in names] for each in (whole, resumed)]
    assert counted[0] == counted[1]
