"""The steps of a loader as Trainer takes them, and the state of the loader in a checkpoint."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.records import IGNORE_INDEX
from seqstream.stages.class_labels import ClassLabels

STATE_FILE = "loader_state_{rank}.json"
"""Name of the file in a checkpoint that holds the state of the loader of a rank."""


class TrainingSteps:
    """The optimiser steps of a loader, each a list of its batches, of which Trainer takes each for a batch.

    Trainer would call ``set_epoch`` of the loader itself with a number of its own, and take a step more where it goes on from
    a checkpoint after the last.
    """

    def __init__(self, loader: Loader, is_over: Callable[[], bool]) -> None:
        self._loader, self._is_over = loader, is_over

    def __iter__(self) -> Iterator[list[Batch]]:
        if self._is_over():
            return
        batches = iter(self._loader)
        first = next(batches, None)
        if first is None:  # a state after the last batch of an epoch was loaded; Trainer would end at an epoch without steps
            batches = iter(self._loader)
        step: list[Batch] = []
        for batch in batches if first is None else itertools.chain([first], batches):
            step.append(batch)
            if batch.is_step_end:
                yield step
                step = []


class CountEpochs(TrainerCallback):
    """Sets the epoch that is logged to that of the loader, which Trainer cannot know."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.epoch = float(self._loader.epoch)

    on_epoch_end = on_step_end


def with_labels(batch: Batch, loader: Loader) -> Batch:
    """Return a batch whose one column of classes, or of ``label_ids``, is called ``labels``, unless it has labels."""
    if "labels" in batch:
        return batch
    classes = [stage.to or stage.field for stage in loader.stages if isinstance(stage, ClassLabels)]
    found = [name for name in ("label_ids", *classes) if name in batch.layout]
    if len(found) != 1:
        return batch
    batch = batch.renamed(**{found[0]: "labels"})
    weighs = batch.weights.view(-1, *[1] * (batch["labels"].ndim - 1)) > 0  # the loader hides labels of repeated rows by name
    return batch.with_columns(labels=batch["labels"].masked_fill(~weighs, IGNORE_INDEX))


def read_state(checkpoint: Path, rank: int) -> Any:
    """Return the state that a rank has saved, or the first one, without its stats, where there were fewer ranks.

    Raises:
        FileNotFoundError: The checkpoint has none.
    """
    own, first = (checkpoint / STATE_FILE.format(rank=each) for each in (rank, 0))
    if own.exists():
        return json.loads(own.read_text(encoding="utf-8"))
    if first.exists():
        return {name: value for name, value in json.loads(first.read_text(encoding="utf-8")).items() if name != "stats"}
    raise FileNotFoundError(
        f"{checkpoint} has no {first.name}, as checkpoints of a StreamTrainer have; to go on from it with the data from the "
        "beginning, load the model of the checkpoint instead of resuming"
    )
