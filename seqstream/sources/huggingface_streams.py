"""Steps of a Hugging Face stream: which of them a loader can resume, and which read each shard by itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

_SEPARATE = {
    "ExamplesIterable",
    "ArrowExamplesIterable",
    "RebatchedArrowExamplesIterable",
    "SelectColumnsIterable",
    "FormattedExamplesIterable",
    "VerticallyConcatenatedMultiSourcesExamplesIterable",
}
"""Classes of steps that read each shard by itself."""


def check_stream(dataset: datasets.IterableDataset) -> None:
    """Raise unless a loader can resume a stream and divide it among ranks.

    Raises:
        ValueError: The stream is divided among nodes already, has a shuffle buffer, or repeats without end.
    """
    if dataset._distributed is not None:
        raise ValueError(
            "dataset cannot be divided by split_dataset_by_node; pass all of it, the loader divides it among the ranks"
        )
    for step in _walk(dataset._ex_iterable):
        if "BufferShuffledExamplesIterable" in _kinds(step):
            raise ValueError(
                "dataset cannot have a shuffle buffer, which is lost on resume; the loader shuffles, remove .shuffle()"
            )
        if "RepeatExamplesIterable" in _kinds(step) and step.num_times is None:
            raise ValueError("dataset cannot repeat without end; remove .repeat() and set Loader(epochs=None)")


def _children(step: Any) -> list[Any]:
    return [step.ex_iterable] if hasattr(step, "ex_iterable") else list(getattr(step, "ex_iterables", ()))


def _walk(step: Any) -> Iterator[Any]:
    yield step
    for child in _children(step):
        yield from _walk(child)


def has_separate_shards(step: Any) -> bool:
    """Return whether the shards of a stream, each read by itself, have the same records as the whole stream."""
    kinds = _kinds(step)
    if "MappedExamplesIterable" in kinds:  # a filter is one, too
        is_separate = not step.with_indices and not step.drop_last_batch and (step.batch_size or 0) > 0
    else:
        is_separate = not _SEPARATE.isdisjoint(kinds)
    return is_separate and all(map(has_separate_shards, _children(step)))


def _kinds(step: Any) -> set[str]:
    """Return the names of a step's class and of its bases; by name, as versions of the package have different classes."""
    return {kind.__name__ for kind in type(step).__mro__}


def copy_steps(step: Any) -> Any:
    """Copy the steps of a stream, not their data: a step holds its position, which two readers must not share."""
    copied = copy.copy(step)
    if hasattr(copied, "ex_iterable"):
        copied.ex_iterable = copy_steps(copied.ex_iterable)
    elif hasattr(copied, "ex_iterables"):
        copied.ex_iterables = [copy_steps(child) for child in copied.ex_iterables]
    return copied
