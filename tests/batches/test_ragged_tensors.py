"""Where the steps of rows lie: padded, flat and by time, against what PyTorch makes of lists of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence

from seqstream.arrays import flat_starts, ranges
from seqstream.batches import ragged_tensors
from tests.helpers.batches import padded, random_rows

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=9)
SHAPES = st.sampled_from([(), (3,), (2, 2)])


def test_steps_by_hand() -> None:
    """Rows of 3, 1 and 2 steps that begin at 10, 20 and 30: row after row, and step after step."""
    starts, lengths = np.array([10, 20, 30]), np.array([3, 1, 2])
    assert flat_starts(lengths).tolist() == [0, 3, 4]
    assert ragged_tensors.row_starts(lengths, 4, "right").tolist() == [0, 4, 8]
    assert ragged_tensors.row_starts(lengths, 4, "left").tolist() == [1, 7, 10]
    assert ranges(starts, lengths).tolist() == [10, 11, 12, 20, 30, 31]
    places, batch_sizes = ragged_tensors.time_major(starts[[0, 2, 1]], lengths[[0, 2, 1]])
    assert places.tolist() == [10, 30, 20, 11, 31, 12]
    assert batch_sizes.tolist() == [3, 2, 1]
    assert ragged_tensors.row_bounds(torch.from_numpy(lengths)).tolist() == [0, 3, 4, 6]
    numbers, rows = ragged_tensors.count_steps(torch.from_numpy(lengths), 6)
    assert numbers.tolist() == [0, 1, 2, 0, 0, 1]
    assert rows.tolist() == [0, 0, 0, 1, 2, 2]
    assert ragged_tensors.step_mask(torch.from_numpy(lengths), 3, "right").int().tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert ragged_tensors.step_mask(torch.from_numpy(lengths), 3, "left").int().tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]


@settings(max_examples=60, deadline=None)
@given(
    lengths=LENGTHS, shape=SHAPES, wider=st.integers(0, 3), side=st.sampled_from(["right", "left"]), value=st.integers(-9, 9)
)
def test_padding_and_flattening_undo_each_other(
    lengths: list[int], shape: tuple[int, ...], wider: int, side: str, value: int
) -> None:
    """Padded rows are those of `pad_sequence`, on both sides and wider than the longest, empty ones too; and back."""
    rows = random_rows(lengths, *shape, seed=len(lengths))
    width = max(lengths) + wider
    flat, cpu_lengths = torch.cat(rows), np.array(lengths)
    got = ragged_tensors.pad_flat(flat, torch.tensor(lengths), width, value, side)
    assert got.dtype == flat.dtype
    assert got.equal(padded(rows, width, value, side))
    places = ranges(ragged_tensors.row_starts(cpu_lengths, width, side), cpu_lengths)
    assert got.flatten(0, 1)[torch.from_numpy(places)].equal(flat)
    assert (
        ragged_tensors.step_mask(torch.tensor(lengths), width, side).flatten().nonzero().flatten().tolist() == places.tolist()
    )


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9), shape=SHAPES)
def test_packing_equals_pack_sequence(lengths: list[int], shape: tuple[int, ...]) -> None:
    """All four parts: with rows longest first as if that was enforced, in any other order as if it was not."""
    rows = random_rows(lengths, *shape, seed=len(lengths))
    expected = pack_sequence(rows, enforce_sorted=lengths == sorted(lengths, reverse=True))
    cpu_lengths = np.array(lengths)
    got = ragged_tensors.pack_rows(torch.cat(rows), flat_starts(cpu_lengths), cpu_lengths)
    for part, wanted in zip(got, expected, strict=True):
        assert (part is None) is (wanted is None)
        assert part is None or part.equal(wanted)
    assert got.batch_sizes.is_cpu


def test_rows_without_steps_cannot_be_packed() -> None:
    """PyTorch refuses them too; the row is named."""
    with pytest.raises(RuntimeError, match="greater than 0"):
        pack_sequence([torch.ones(2), torch.ones(0)])
    with pytest.raises(ValueError, match=r"^row 1 must have at least one step to be packed, got none$"):
        ragged_tensors.pack_rows(torch.ones(2), np.array([0, 2]), np.array([2, 0]))


def test_gradients_pass_through_padding() -> None:
    """Each real step gets its own, padding none."""
    flat = torch.rand(4, 2, requires_grad=True)
    weights = torch.rand(2, 3, 2)
    (ragged_tensors.pad_flat(flat, torch.tensor([3, 1]), 3, 0, "right") * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None
    assert flat.grad.equal(torch.cat([weights[0], weights[1, :1]]))
