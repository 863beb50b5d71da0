"""The three uses of generators that the examples show."""

from __future__ import annotations

import pytest
import torch

from examples import generators


@pytest.mark.parametrize("workers", [0, 2])
def test_ready_made_batches_come_once(workers: int) -> None:
    """With ``batch_size=None`` each batch of the generator comes as it is, in every epoch."""
    loader = generators.batch_loader(workers)
    expected = list(generators.ready_batches())
    for _ in range(2):
        got = list(loader)
        assert len(got) == len(expected)
        assert all(
            torch.equal(one, other) for pair in zip(got, expected, strict=True) for one, other in zip(*pair, strict=True)
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_stacked_once(workers: int) -> None:
    """``collate_fn=torch.stack`` gives batches of 16 images, and each image is in one of them."""
    batches = list(generators.image_loader(workers))
    assert {batch.shape[1:] for batch in batches} == {(3, 16, 16)}
    assert same_rows(torch.cat(batches), torch.stack(list(generators.Images())))


@pytest.mark.parametrize("workers", [0, 2])
def test_sequences_are_padded_once(workers: int) -> None:
    """Every recording is in one padded batch, with its own length."""
    rows = [
        row[:length] for batch, lengths in generators.padded_loader(workers) for row, length in zip(batch, lengths, strict=True)
    ]
    assert same_rows(torch.cat(rows), torch.cat(list(generators.sequences())))


def test_sequences_are_bucketed_once() -> None:
    """`Loader` gives the same recordings, in batches of 16 with hardly any padding."""
    recordings = list(generators.sequences())
    seen = {}
    slots = 0
    for batch in generators.bucketed_loader():
        assert batch.features.shape == (len(batch.lengths), int(batch.lengths.max()), generators.FEATURES)
        assert not batch.features[~batch.mask].any()
        slots += batch.mask.numel()
        for row_id, row, length in zip(batch.row_ids.tolist(), batch.features, batch.lengths, strict=True):
            seen[row_id] = row[:length]
    assert sorted(seen) == list(range(len(recordings)))
    assert all(torch.equal(seen[number], recording) for number, recording in enumerate(recordings))
    assert slots < 1.25 * sum(map(len, recordings))


def test_it_tells_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    """The example prints what torch says to a generator, and how much padding either way has."""
    generators.main()
    out = capsys.readouterr().out
    assert "object of type 'generator' has no len()" in out
    assert "100 images, none of them twice" in out
    assert out.count("of the slots are padding") == 2


def same_rows(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Return whether both have the same rows, in any order."""
    return sorted(left.flatten(1).tolist()) == sorted(right.flatten(1).tolist())
