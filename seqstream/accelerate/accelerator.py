"""An `Accelerator` whose optimiser steps are those of a loader."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from seqstream.accelerate.mean_loss import MeanLoss
from seqstream.batches.batch import Batch
from seqstream.batches.zero_loss import zero_loss
from seqstream.loading.evaluation import EvaluationBatches, Predicted
from seqstream.loading.loader import Loader


class StreamAccelerator(Accelerator):  # type: ignore[misc]  # accelerate has no types
    """An `Accelerator` for loops over a `Loader`; all it does without a loader or a batch is as in accelerate.

    - `prepare` registers the loader to train on, so that ``save_state`` and ``load_state`` go on with exactly the next batch.
      Gradients are not saved: save at the end of a step. A scheduler makes one step for each of the optimiser, on any number of
      ranks.
    - `accumulate` and `backward` take the batch: prepared optimisers and schedulers step, and ranks synchronise, at the last
      batch of a step of the loader, and gradients are those of the mean over all labels of the step, on all ranks.
      ``Loader(accumulate=4)`` has four batches in each, and ``gradient_accumulation_steps`` stays 1.
    - `evaluate` and `predict` need no `prepare`.
    """

    def prepare(self, *args: Any, **options: Any) -> Any:
        """Return objects prepared, and loaders as they are, registered for checkpoints.

        Raises:
            ValueError: A loader leaves its batches on the CPU, and the model is on another device.
        """
        for loader in args:
            if isinstance(loader, Loader):
                if loader.device is None and self.device.type != "cpu":
                    raise ValueError(
                        f"a Loader must have its batches on {self.device}, got device=None; write device=accelerator.device"
                    )
                if all(loader is not known for known in self._custom_objects):
                    self.register_for_checkpointing(loader)
        return super().prepare(*args, **options)

    def prepare_scheduler(self, scheduler: Any) -> Any:
        prepared = super().prepare_scheduler(scheduler)
        prepared.split_batches = True  # else it steps once a rank, for data of which each rank takes a batch by itself
        return prepared

    @contextlib.contextmanager
    def accumulate(self, *models: Any, batch: Batch | None = None) -> Iterator[None]:
        """Train on a batch: all that steps or synchronises in this context does so only if the batch ends a step.

        Args:
            models: The models that are trained.
            batch: The batch.

        Raises:
            ValueError: ``gradient_accumulation_steps`` is not 1.
        """
        if batch is None:
            with super().accumulate(*models):
                yield
            return
        if (number := self.gradient_accumulation_steps) != 1:
            raise ValueError(
                f"gradient_accumulation_steps must be 1, got {number}: the loader plans the batches of a step; write "
                f"Loader(accumulate={number})"
            )
        self.gradient_state._set_sync_gradients(batch.is_step_end)
        with contextlib.ExitStack() as stack:
            if not batch.is_step_end:
                for model in models:
                    stack.enter_context(self.no_sync(model))
            yield

    def backward(self, loss: Tensor, *, batch: Batch | None = None, **options: Any) -> Tensor | None:
        """Add the gradients of a batch to those of its step.

        Args:
            loss: The mean over the labels of the batch, as models of transformers return it.
            batch: The batch.
            options: As in accelerate.

        Returns:
            The part of the batch in the mean loss of its step, detached: those of all batches of all ranks add up to it.
        """
        if batch is None:
            super().backward(loss, **options)
            return None
        part = loss * batch.step_share
        if not batch.step_share and not part.isfinite():
            part = zero_loss(parameter for model in self._models for parameter in model.parameters())
        super().backward(part * self.num_processes, **options)  # the gradients of ranks are averaged, not summed
        return part.detach()

    def evaluate(self, function: Callable[[Batch], Tensor], loader: Loader) -> float | None:
        """Return the mean loss over all labels of a loader, on all ranks; ``None`` without labels.

        Args:
            function: Returns the mean loss over the labels of a batch.
            loader: What to evaluate on.

        Raises:
            ValueError: The loader does not end after one epoch.
        """
        mean = MeanLoss()
        with torch.no_grad():
            for batch in EvaluationBatches(loader):
                mean.add(function(batch), batch.num_label_tokens)
        return mean.value()

    def predict(self, function: Callable[[Batch], Any], loader: Loader) -> list[Predicted]:
        """Return the value of each row, in the order of the source, of all ranks on each of them.

        Args:
            function: Returns one value for each row of a batch: a tensor ``(B, ...)`` or a sequence.
            loader: The rows; in any order.

        Returns:
            ``(row id, piece, value)``, ascending, as `restore_order` yields them.

        Raises:
            ValueError: The loader does not end after one epoch, or there is not one value a row.
        """
        batches = EvaluationBatches(loader)
        with torch.no_grad():
            outputs = [function(batch) for batch in batches]
        return batches.in_order(outputs, gather_object)
