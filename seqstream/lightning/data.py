"""Loaders as the data of a Lightning Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, distributed

from seqstream.batches.batch import Batch
from seqstream.lightning.steps import StepCallback
from seqstream.loading.evaluation import EvaluationBatches, Predicted
from seqstream.loading.loader import Loader

Loaders: TypeAlias = Loader | Sequence[Loader] | Mapping[str, Loader]


class StreamData(LightningDataModule):
    """The loaders of a Lightning Trainer: ``trainer.fit(module, datamodule=StreamData(train=loader, valid=valid))``.

    - A checkpoint has the state of the loader at the end of the last optimiser step, and ``ckpt_path=...`` goes on with exactly
      the next batch, though Lightning itself reads a batch ahead. Gradients are not saved: a checkpoint within a step goes on
      at its first batch.
    - With automatic optimisation an optimiser step ends where the loader says so: ``Loader(accumulate=4)`` has four batches in
      each, and ``accumulate_grad_batches`` of Trainer stays 1. ``training_step`` returns the mean loss over the labels of the
      batch, as models of transformers do, and each is weighted by `Batch.step_share`: gradients are those of the mean over
      all labels of the step, on all ranks. With manual optimisation the module does this itself.
    - Where a step is logged, each logger receives what the loader has counted since: ``data/padding`` and others, see
      `Stats.to_log`.

    Rows are weighted by their labels where the column is ``labels`` or ``label``, as by ``ClassLabels(..., to="label")``, and
    by their tokens where there is no such column.

    Args:
        train: The loader to train on. An epoch of Lightning is an iteration of it.
        valid: The loader to validate on, or several: a list or a dict of them.
        test: The same for ``trainer.test``.

    Raises:
        ValueError: A loader to evaluate on does not end after one epoch.
    """

    def __init__(self, train: Loader | None = None, valid: Loaders | None = None, test: Loaders | None = None) -> None:
        super().__init__()
        self.train, self.valid, self.test = train, valid, test
        self._steps = None if train is None else StepCallback(train)
        # Lightning asks which of these there are, and warns of those that the module has no step for.
        given = {"train": None if train is None else _Batches(train), "val": _evaluated(valid), "test": _evaluated(test)}
        for name, batches in given.items():
            if batches is not None:
                setattr(self, f"{name}_dataloader", _returning(batches))

    def setup(self, stage: str) -> None:
        """Have the trainer call the hooks that follow the steps, before others save checkpoints."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[union-attr]  # there is a trainer by now
        if self._steps is not None and self._steps not in callbacks:
            callbacks.insert(0, self._steps)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._steps is None else self._steps.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._steps is not None:
            self._steps.load(state)


class _Batches:
    """The batches of a loader, without its other methods, by which Lightning would save a state that is a batch ahead."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)


def _returning(value: Any) -> Callable[[], Any]:
    return lambda: value


def _evaluated(loaders: Loaders | None) -> Any:
    """Return loaders as Lightning takes them to evaluate on."""
    if loaders is None:
        return None
    if isinstance(loaders, Loader):
        return EvaluationBatches(loaders)
    if isinstance(loaders, Mapping):
        return {name: EvaluationBatches(loader) for name, loader in loaders.items()}
    return [EvaluationBatches(loader) for loader in loaders]


def log_loss(module: LightningModule, name: str, loss: Tensor, batch: Batch) -> None:
    """Log the mean loss of a batch so that Lightning shows the mean over all labels of the epoch, on all ranks.

    Lightning would weight it by the rows of the batch.

    Args:
        module: The module, in its ``validation_step`` or ``test_step``.
        name: Name of the loss, such as ``"val_loss"``.
        loss: Mean over the labels of the batch.
        batch: The batch.
    """
    num_labels = batch.num_label_tokens
    value = loss if num_labels else loss.nan_to_num()  # a mean of nothing weighs nothing
    module.log(name, value, on_step=False, on_epoch=True, batch_size=num_labels, sync_dist=True)


def predict(trainer: Trainer, module: LightningModule, loader: Loader) -> list[Predicted]:
    """Return what ``predict_step`` returns for each row, in the order of the source, of all ranks on each of them.

    Args:
        trainer: Runs ``module.predict_step`` on the batches.
        module: Its ``predict_step`` returns one value for each row of the batch: a tensor ``(B, ...)`` or a sequence.
        loader: The rows; in any order.

    Returns:
        ``(row id, piece, value)``, ascending, as `restore_order` yields them.

    Raises:
        ValueError: The loader does not end after one epoch, or there is not one value a row.
    """
    batches = EvaluationBatches(loader)
    outputs = trainer.predict(module, batches)

    def gather(rows: list[Predicted]) -> list[Predicted]:
        if trainer.world_size == 1:
            return rows
        ranks: list[Any] = [None] * trainer.world_size
        distributed.all_gather_object(ranks, rows)
        return [row for rank in ranks for row in rank]

    return batches.in_order(outputs or [], gather)
