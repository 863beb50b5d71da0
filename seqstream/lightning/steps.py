"""Optimiser steps of a loader in Lightning: where they end, how batches weigh, and the state after each."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from seqstream.batches.batch import Batch
from seqstream.batches.zero_loss import zero_loss
from seqstream.loading.loader import Loader


class _StepBatches(int):
    """The number of batches of a step for Lightning, which divides losses by it, and asks which numbers of batches it divides.

    It is 1, and divides the number of a batch, counted from 0, if that begins a step; and counted from 1 if that ends one.
    """

    _divides: tuple[int, ...]

    @classmethod
    def of(cls, index: int, *, is_first: bool, is_last: bool) -> _StepBatches:
        """Return the number to use while a batch is trained on.

        Args:
            index: Which batch of the epoch, from 0.
            is_first: Whether it begins a step.
            is_last: Whether it ends a step.
        """
        number = cls(1)
        number._divides = (index,) * is_first + (index + 1,) * is_last
        return number

    def __rmod__(self, value: int) -> int:
        return 0 if value in self._divides else 1


class StepCallback(Callback):
    """Follows the optimiser steps of a training.

    Args:
        loader: What is trained on.

    Attributes:
        state: State of the loader after the last step.
    """

    def __init__(self, loader: Loader) -> None:
        self.state = loader.state_dict()
        self._loader = loader
        self._logged = loader.stats
        self._batch: Batch | None = None
        self._is_loaded = False

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self._loader.load_state_dict(state)
        self.state, self._is_loaded = state, True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise unless the trainer and the checkpoint fit a loader.

        Raises:
            ValueError: Trainer counts the batches of a step itself, or the checkpoint has no state of a loader.
        """
        if trainer.accumulate_grad_batches != 1:
            number = trainer.accumulate_grad_batches
            raise ValueError(
                f"accumulate_grad_batches must be 1, got {number}: the loader plans the batches of a step; write "
                f"Loader(accumulate={number})"
            )
        if trainer.ckpt_path is not None and not self._is_loaded:
            raise ValueError(
                f"{trainer.ckpt_path} has no state of a loader, as checkpoints of a training with StreamData have; to go on "
                "from it with the data from the beginning, load the module of the checkpoint instead of giving ckpt_path"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Have Lightning end a step, and zero gradients, where the loader says so."""
        is_first = self._batch is None or self._batch.is_step_end
        self._batch = batch
        if pl_module.automatic_optimization and self._loader.accumulate > 1:
            trainer.accumulate_grad_batches = _StepBatches.of(batch_idx, is_first=is_first, is_last=batch.is_step_end)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Turn the mean loss of a batch into its part in the mean of the step; the gradients of ranks are averaged."""
        if self._batch is None or not pl_module.automatic_optimization:
            return
        weight = self._batch.step_share * trainer.world_size
        if not weight and not loss.isfinite():
            loss.detach_().zero_().add_(zero_loss(pl_module.parameters()))
        elif weight != 1:
            loss.mul_(weight)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the state after a step, and log what the loader has counted."""
        if not batch.is_step_end:
            return
        self.state = self._loader.state_dict() if trainer.is_last_batch else batch.state  # after the last: the next epoch
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if trainer.loggers and trainer.global_step % every == 0:
            metrics = self._loader.stats.to_log(self._logged)
            self._logged = self._loader.stats
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the trainer as it was."""
        trainer.accumulate_grad_batches = 1
        self._batch = None
