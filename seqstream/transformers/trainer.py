"""A Trainer that takes loaders where it takes data sets."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from seqstream.accelerate.mean_loss import MeanLoss
from seqstream.batches.batch import Batch
from seqstream.loading.evaluation import EvaluationBatches
from seqstream.loading.loader import Loader
from seqstream.loading.stats import Stats
from seqstream.transformers.evaluation import EvaluatedRows, Predictions
from seqstream.transformers.steps import STATE_FILE, CountEpochs, TrainingSteps, read_state, with_labels


class StreamMixin:
    """What `StreamTrainer` adds to `Trainer`, for other classes too: ``class MyTrainer(StreamMixin, Seq2SeqTrainer): ...``."""

    args: Any
    accelerator: Any
    state: Any
    train_dataset: Any
    eval_dataset: Any
    compute_loss_func: Callable[..., Any] | None
    compute_metrics: Callable[..., Any] | None
    current_gradient_accumulation_steps: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._logged_stats = Stats()
        self._evaluated: _Evaluation | None = None
        if isinstance(self.train_dataset, Loader):
            _check_arguments(self.args)  # transformers 4 has no _validate_args
            self.args.ignore_data_skip = True  # the loader goes on by itself
            self.add_callback(CountEpochs(self.train_dataset))  # type: ignore[attr-defined]

    def _validate_args(self) -> None:
        """Raise unless the arguments fit a loader."""
        if isinstance(self.train_dataset, Loader):
            _check_arguments(self.args)
        super()._validate_args()  # type: ignore[misc]

    # Training

    def get_train_dataloader(self) -> Any:
        if not isinstance(self.train_dataset, Loader):
            return super().get_train_dataloader()  # type: ignore[misc]
        return TrainingSteps(self.train_dataset, lambda: self.state.global_step >= self.state.max_steps)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Return the loss of an optimiser step, a list of its batches, after a backward pass for each."""
        if not isinstance(inputs, list):
            return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc,no-any-return]
        step = [with_labels(batch, self.train_dataset) for batch in inputs]
        items = self._count_items(step)
        losses = []
        for batch in step:
            self.accelerator.gradient_state._set_sync_gradients(batch.is_step_end)
            with contextlib.nullcontext() if batch.is_step_end else self.accelerator.no_sync(model):
                losses.append(self._train_on(model, batch, items))
        return torch.stack(losses).sum()

    def _train_on(self, model: nn.Module, batch: Batch, items: int) -> Tensor:
        """Return the part of a batch in the loss of its step, after the backward pass.

        Losses that the model or a function of the user divides by ``num_items_in_batch`` are parts already. Others are means
        over the batch, which Trainer divides by ``current_gradient_accumulation_steps``: here one over the share of the batch.

        Args:
            model: The model.
            batch: Its batch.
            items: Labels of the step on all ranks; 0 where there are no labels.
        """
        num_ranks = self.accelerator.num_processes
        own, total = (batch.num_label_tokens, items) if items else (batch.num_tokens, batch.step_num_tokens)
        self.current_gradient_accumulation_steps = total / (own * num_ranks) if own else math.inf
        inputs = self._inputs_of(batch)
        divisor = None
        if items:
            divisor = torch.tensor(items if self.args.average_tokens_across_devices else items / num_ranks)
            divisor = divisor.to(self.args.device)
            if not own and not self._is_divided:  # a mean over no label would be NaN; this one is divided by infinity
                inputs["labels"] = torch.zeros_like(inputs["labels"])
        return super().training_step(model, inputs, divisor)  # type: ignore[misc,no-any-return]

    @property
    def _is_divided(self) -> bool:
        """Whether losses are divided by ``num_items_in_batch``, as Trainer decides it."""
        known: bool | None = getattr(self, "loss_is_scaled_for_ga", None)
        return known if known is not None else self.model_accepts_loss_kwargs or self.compute_loss_func is not None  # type: ignore[attr-defined]

    def _count_items(self, step: list[Batch]) -> int:
        """Return the number of labels in the batches of a step on all ranks, 0 without labels."""
        if "labels" not in step[0]:
            return 0
        with contextlib.suppress(RuntimeError):  # labels that are drawn at random
            if known := step[0].step_num_label_tokens:
                return known
        own = torch.tensor(sum(batch.num_label_tokens for batch in step), device=self.args.device)
        return int(self.accelerator.reduce(own, "sum"))

    def _inputs_of(self, batch: Batch) -> dict[str, Any]:
        """Return the columns of a batch that the model accepts by name, of whatever name, and the labels."""
        self._set_signature_columns_if_needed()  # type: ignore[attr-defined]
        accepted = {"labels", *self._signature_columns} - {"label", "label_ids"}  # type: ignore[attr-defined]
        names = dict.fromkeys([*batch, *(name for name in batch.layout.names if batch.layout.is_tensor(name))])
        inputs = {name: batch[name] for name in names if name in accepted}
        return inputs if inputs.keys() - {"labels"} else dict(batch)  # a model may accept **batch only

    def floating_point_ops(self, inputs: Any) -> int:
        batches = inputs if isinstance(inputs, list) else [inputs]
        return sum(super(StreamMixin, self).floating_point_ops(batch) for batch in batches)  # type: ignore[misc]

    def _track_num_input_tokens(self, inputs: Any) -> None:
        for batch in inputs if isinstance(inputs, list) else [inputs]:
            super()._track_num_input_tokens(batch)  # type: ignore[misc]

    # Checkpoints and logs

    def _save_rng_state(self, output_dir: str) -> None:
        """Save where this rank is: its random numbers, and its loader."""
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        if isinstance(self.train_dataset, Loader):
            file = Path(output_dir, STATE_FILE.format(rank=self.args.process_index))
            file.write_text(json.dumps(self.train_dataset.state_dict(stats=True)), encoding="utf-8")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Go on where this rank was."""
        super()._load_rng_state(checkpoint)  # type: ignore[misc]
        if checkpoint is not None and isinstance(self.train_dataset, Loader):
            self.train_dataset.load_state_dict(read_state(Path(checkpoint), self.args.process_index))
            self._logged_stats = self.train_dataset.stats

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log what Trainer logs, and with each training loss what the loader has counted since the one before."""
        if "loss" in logs and isinstance(self.train_dataset, Loader):
            logs |= self.train_dataset.stats.to_log(self._logged_stats)
            self._logged_stats = self.train_dataset.stats
        super().log(logs, *args, **options)  # type: ignore[misc]

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        chosen = self.eval_dataset[chosen] if isinstance(chosen, str) else chosen
        if isinstance(chosen, Loader):
            return EvaluationBatches(chosen)
        return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc]

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        if isinstance(test_dataset, Loader):
            return EvaluationBatches(test_dataset)
        return super().get_test_dataloader(test_dataset)  # type: ignore[misc]

    def evaluation_loop(self, dataloader: Any, *args: Any, **options: Any) -> EvalLoopOutput:
        """Return what Trainer returns, with the mean loss over all labels, and predictions in the order of the source."""
        if not isinstance(dataloader, EvaluationBatches):
            return super().evaluation_loop(dataloader, *args, **options)  # type: ignore[misc,no-any-return]
        _check_evaluation(self.args)
        evaluated = self._evaluated = _Evaluation(self.accelerator, dataloader.loader)
        compute = self.compute_metrics
        if compute is not None:
            self.compute_metrics = lambda prediction: compute(evaluated.rows.sort_for_metrics(prediction))
        try:
            output = super().evaluation_loop(dataloader, *args, **options)  # type: ignore[misc]
        finally:
            self.compute_metrics, evaluated.num_labels = compute, None
        name = options.get("metric_key_prefix", "eval") + "_loss"
        if name in output.metrics and (loss := evaluated.loss.value()) is not None:
            output.metrics[name] = loss
        rows = evaluated.rows
        return EvalLoopOutput(rows.sort(output.predictions), rows.sort(output.label_ids), output.metrics, len(rows.order))

    def prediction_step(self, model: nn.Module, inputs: Any, prediction_loss_only: bool, *args: Any, **options: Any) -> Any:
        evaluated = self._evaluated
        if not isinstance(inputs, Batch) or evaluated is None:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **options)  # type: ignore[misc]
        batch = with_labels(inputs, evaluated.loader)
        evaluated.num_labels = batch.num_label_tokens if "labels" in batch else batch.num_tokens
        own = self._inputs_of(batch)
        loss, logits, labels = super().prediction_step(model, own, prediction_loss_only, *args, **options)  # type: ignore[misc]
        if loss is not None:
            is_scaled = self.compute_loss_func is not None and self.args.average_tokens_across_devices
            evaluated.loss.add(loss / self.accelerator.num_processes if is_scaled else loss, evaluated.num_labels)
        if logits is not None and len(batch.row_ids) != batch.num_rows:
            raise ValueError("predictions must be of one record each, and rows of Pack have several; use Bucket to predict")
        evaluated.rows.add(batch)
        return loss, evaluated.rows.align(logits), evaluated.rows.align(labels)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Return ``None`` while a loader is evaluated, so that a model returns the mean of its batch.

        A function of the user needs the number.
        """
        num_labels = None if self._evaluated is None else self._evaluated.num_labels
        if num_labels is None:
            return super()._get_num_items_in_batch(batch_samples, device)  # type: ignore[misc]
        return None if self.compute_loss_func is None else torch.tensor(num_labels, device=device)

    def predict(self, test_dataset: Any, *args: Any, **options: Any) -> Any:
        """Return what Trainer returns; for a loader its `Predictions`, in the order of the source."""
        output = super().predict(test_dataset, *args, **options)  # type: ignore[misc]
        if not isinstance(test_dataset, Loader) or self._evaluated is None:
            return output
        return Predictions.of(output, self._evaluated.rows)


class StreamTrainer(StreamMixin, Trainer):
    """A `Trainer` that takes a `Loader` as ``train_dataset``, as ``eval_dataset``, or one of a dict of these, and to predict.

    - An optimiser step is the one that the loader plans: ``Loader(accumulate=4)`` has four batches in each, and
      ``gradient_accumulation_steps`` stays 1. Its loss is the mean over all labels of the step, on all ranks.
    - ``train(resume_from_checkpoint=...)`` goes on with exactly the next batch: each checkpoint has the state of the loader of
      each rank, and no batch is read to be skipped.
    - ``max_steps`` ends the training; `Loader.count_steps` and `Loader.estimate_steps` return those of an epoch. A loader of
      one epoch is read again and again, and ``eval_strategy="epoch"`` evaluates after each; ``state.epoch`` is the number of
      epochs that are over.
    - ``eval_loss`` is the mean over all labels, not a mean of means of batches, and ``compute_metrics`` receives each row once,
      in the order of the source. So does the caller of `predict`, with the ids of the rows.
    - The model receives the columns that its ``forward`` names, and a column of classes, of whatever name, as ``labels``.
    - With each loss, what the loader has counted since the one before is logged: ``data/padding`` and others, see
      `Stats.to_log`.

    Override ``compute_loss`` to compute losses: ``training_step`` is given a list of the batches of a step. A data set of
    another kind is treated as `Trainer` does.

    Raises:
        ValueError: ``max_steps`` is not given, ``gradient_accumulation_steps`` is not 1, or several GPUs are in one process.
    """


class _Evaluation:
    """What is known of an evaluation under way.

    Attributes:
        loader: What is evaluated.
        loss: The mean loss so far.
        rows: The rows so far.
        num_labels: Labels of the batch under way; ``None`` when none is.
    """

    def __init__(self, accelerator: Any, loader: Loader) -> None:
        self.loader, self.loss, self.rows = loader, MeanLoss(), EvaluatedRows(accelerator)
        self.num_labels: int | None = None


def _check_arguments(args: Any) -> None:
    if args.max_steps <= 0:
        raise ValueError(
            f"max_steps must be given for a Loader, which has no length, got {args.max_steps}; for three epochs write "
            "TrainingArguments(max_steps=3 * loader.count_steps()), or estimate_steps(), which is quick"
        )
    if args.gradient_accumulation_steps != 1:
        raise ValueError(
            f"gradient_accumulation_steps must be 1, got {args.gradient_accumulation_steps}: the loader plans the batches of a "
            f"step; write Loader(accumulate={args.gradient_accumulation_steps})"
        )
    if args.n_gpu > 1:
        raise ValueError(f"a process must have one GPU, got {args.n_gpu}; run torchrun --nproc-per-node {args.n_gpu}")


def _check_evaluation(args: Any) -> None:
    if args.batch_eval_metrics or not args.eval_do_concat_batches:
        raise ValueError(
            "metrics of a Loader must be computed from all rows in the order of the source; leave batch_eval_metrics and "
            "eval_do_concat_batches as they are, and let preprocess_logits_for_metrics make the logits small"
        )
    if "inputs" in args.include_for_metrics and args.world_size > 1:
        raise ValueError("include_for_metrics cannot have inputs on several ranks, whose batches differ in rows; leave it out")
