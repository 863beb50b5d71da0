"""Errors for those who use a loader as a data set."""

from __future__ import annotations

from typing import NoReturn


class NotADataset:
    """The members of a data set that a loader cannot have; each raises an error that says what to use instead."""

    @property
    def dataset(self) -> NoReturn:
        """Raise: a loader has no data set, from which frameworks would skip batches one by one to resume."""
        raise AttributeError(
            "a Loader has no dataset of which batches could be skipped; load_state_dict(batch.state) goes on at once. "
            "In place of Trainer use seqstream.transformers.StreamTrainer, which keeps the state of the loader in "
            "its checkpoints: with ignore_data_skip=True alone a new loader begins at its first batch"
        )

    def __len__(self) -> NoReturn:
        raise TypeError(
            "a seqstream.Loader has no len() and cannot be wrapped in torch.utils.data.DataLoader, it makes batches itself; "
            "iterate over it directly, and ask estimate_steps() for the number of batches"
        )
