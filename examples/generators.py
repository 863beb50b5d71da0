"""Three uses of Python generators in training, each in a few lines: `python examples/generators.py`.

A generator cannot go into PyTorch's ``DataLoader``: `seqstream.iterable` brings it there, and `seqstream.Loader` makes
batches of similar lengths of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import seqstream as ss

FEATURES = 8


def ready_batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield whole batches of ``(inputs, targets)``, as a simulation would make them."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        inputs = torch.randn(32, FEATURES, generator=generator)
        yield inputs, inputs.sum(1)


class Images:
    """Images of one size. It has ``__iter__``, so each epoch reads it anew."""

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(100):
            yield torch.rand(3, 16, 16, generator=generator)


def sequences() -> Iterator[Tensor]:
    """Yield recordings, ``(length, FEATURES)``; most are short, some are long."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(2_000):
        length = int(torch.empty(()).exponential_(1 / 40, generator=generator)) + 1
        yield torch.randn(length, FEATURES, generator=generator)


def pad(items: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Collate recordings into ``(B, L, FEATURES)`` and their lengths ``(B,)``."""
    return pad_sequence(items, batch_first=True), torch.tensor([len(item) for item in items])


def batch_loader(workers: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
    """The first use: batches are ready-made, so torch must not batch them again."""
    return DataLoader(ss.iterable(ready_batches), batch_size=None, num_workers=workers)


def image_loader(workers: int = 0) -> DataLoader[Tensor]:
    """The second use: items of one shape, stacked."""
    return DataLoader(ss.iterable(Images()), batch_size=16, collate_fn=torch.stack, num_workers=workers)


def padded_loader(workers: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
    """The third use: sequences of any length, padded in the order in which they come."""
    return DataLoader(ss.iterable(sequences), batch_size=16, collate_fn=pad, num_workers=workers)


def bucketed_loader() -> ss.Loader:
    """The third use again, with similar lengths together."""
    return ss.Loader(ss.Generator(sequences), ss.Bucket(batch_size=16))


def padding(real: int, slots: int) -> str:
    """Say which share of a batch is padding."""
    return f"{1 - real / slots:.0%} of the slots are padding"


def main() -> None:
    """Show what torch says to a generator, then the three uses."""
    try:
        len(DataLoader(sequences()))  # type: ignore[arg-type]
    except TypeError as error:
        print(f"DataLoader(generator): {error}")
    inputs, targets = next(iter(batch_loader()))
    print(f"ready-made batches: {tuple(inputs.shape)} and {tuple(targets.shape)}")
    print(f"images, stacked:    {tuple(next(iter(image_loader())).shape)}, {len(list(image_loader()))} batches")
    shared = sum(len(batch) for batch in image_loader(workers=2))
    print(f"with two workers:   {shared} images, none of them twice")

    padded = list(padded_loader())
    real, slots = sum(int(lengths.sum()) for _, lengths in padded), sum(batch[..., 0].numel() for batch, _ in padded)
    print(f"as they come:       {len(padded)} batches, {padding(real, slots)}")
    batches = list(bucketed_loader())
    real, slots = sum(batch.num_tokens for batch in batches), sum(batch.num_slots for batch in batches)
    print(f"ss.Loader, Bucket:  {len(batches)} batches, {padding(real, slots)}")
    first = batches[0]
    print(f"                    features {tuple(first.features.shape)}, lengths {first.lengths.tolist()[:4]} ...")


if __name__ == "__main__":
    main()
