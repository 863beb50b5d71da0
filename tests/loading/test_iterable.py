"""Generators in torch's own ``DataLoader``."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import seqstream as ss

COUNT = 23


def numbers() -> Iterator[int]:
    yield from range(COUNT)


def batches() -> Iterator[torch.Tensor]:
    for i in range(5):
        yield torch.full((4, 2), i)


def sequences() -> Iterator[torch.Tensor]:
    for i in range(10):
        yield torch.full((i + 1,), float(i))


def failing() -> Iterator[int]:
    yield from range(3)
    raise KeyError("lost")


class Numbers:
    """An iterable that can be read again."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(COUNT))


def test_a_plain_generator_is_what_torch_refuses() -> None:
    """The reason for all this: torch wants a length, or repeats everything in every worker."""
    with pytest.raises(TypeError, match=re.escape("object of type 'generator' has no len()")):
        len(DataLoader(numbers()))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("make", [numbers, Numbers(), Numbers, list(range(COUNT)), range(COUNT)])
def test_every_item_comes_once_an_epoch(make: Any, workers: int) -> None:
    """Workers share the items, whatever gives them, and the next epoch has them all again."""
    loader = DataLoader(ss.iterable(make), batch_size=4, num_workers=workers)
    for _ in range(2):
        items = [number for batch in loader for number in batch.tolist()]
        assert sorted(items) == list(range(COUNT))


def test_workers_take_turns() -> None:
    """Of two workers, the second passes on the items 1, 3, 5, ..."""
    loader = DataLoader(ss.iterable(numbers), batch_size=None, num_workers=2)
    assert list(loader) == list(range(COUNT))


def test_workers_that_are_spawned_share_the_items() -> None:
    """A function at the top of a module reaches workers of any start method."""
    context = multiprocessing.get_context("spawn")
    loader = DataLoader(ss.iterable(numbers), batch_size=4, num_workers=1, multiprocessing_context=context)
    assert [number for batch in loader for number in batch.tolist()] == list(range(COUNT))


def test_ready_made_batches_pass_unchanged() -> None:
    """With ``batch_size=None`` torch adds no dimension."""
    loader = DataLoader(ss.iterable(batches), batch_size=None)
    assert [batch.shape for batch in loader] == [(4, 2)] * 5


def test_sequences_are_collated_by_the_user() -> None:
    """Items reach ``collate_fn`` as they are."""
    loader = DataLoader(ss.iterable(sequences), batch_size=5, collate_fn=lambda items: pad_sequence(items, batch_first=True))
    assert [batch.shape for batch in loader] == [(5, 5), (5, 10)]


ONE_SHOT = "pass the generator function itself, not its result"


def test_a_generator_that_was_called_gives_one_epoch() -> None:
    """Without workers it works once; the second epoch is an error, not empty."""
    loader = DataLoader(ss.iterable(numbers()), batch_size=None)
    assert list(loader) == list(range(COUNT))
    with pytest.raises(TypeError, match=f"numbers cannot be read a second time; {ONE_SHOT}"):
        list(loader)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_generator_that_was_called_cannot_go_to_workers(workers: int) -> None:
    """Every worker would repeat it all: an error in the worker names what to pass instead."""
    loader = DataLoader(ss.iterable(numbers()), batch_size=None, num_workers=workers, multiprocessing_context="fork")
    with pytest.raises(
        TypeError, match=f"(?s)Caught TypeError in DataLoader worker .* numbers cannot be read in workers.*{ONE_SHOT}"
    ):
        list(loader)


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_a_generator_that_was_called_cannot_be_sent_to_workers() -> None:
    """Where workers are spawned, the error comes when the loader starts, instead of one about pickle."""
    loader = DataLoader(ss.iterable(numbers()), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(TypeError, match=f"numbers cannot be read in workers.*{ONE_SHOT}"):
        iter(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_generator_keeps_its_type(workers: int) -> None:
    """An exception inside the generator is the user's own, with the item that it came after."""
    loader = DataLoader(ss.iterable(failing), batch_size=None, num_workers=workers)
    with pytest.raises(KeyError, match="lost") as info:
        list(loader)
    if workers == 0:
        assert info.value.__notes__ == ["while reading item 3 of failing"]


def test_there_is_no_length() -> None:
    """A generator has no length, and the data set claims none."""
    with pytest.raises(TypeError, match="has no len"):
        len(DataLoader(ss.iterable(numbers), batch_size=None))


def test_other_things_are_refused() -> None:
    """What gives no items is an error where it is passed."""
    with pytest.raises(TypeError, match="make must be a generator function or an iterable of items, got int"):
        ss.iterable(5)  # type: ignore[arg-type]
    assert repr(ss.iterable(numbers)) == "iterable(numbers)"
