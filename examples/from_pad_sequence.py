"""From ``DataLoader`` with `pad_sequence` to seqstream: the data set stays as it is.

A data set with ``__len__`` and ``__getitem__``, or a list of tensors, is passed to `ss.Loader`, which shuffles it as a whole.
The ``collate_fn`` goes: batches are padded, and have ``lengths``, ``mask`` and ``row_ids`` as well.
"""

from shared.moving import compare, labelled_texts, padded, tokenized
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import seqstream as ss


class Docstrings(Dataset[tuple[Tensor, int]]):
    """Ids and label of each docstring."""

    def __init__(self) -> None:
        self.rows = tokenized(labelled_texts())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.rows[number]


def main() -> None:
    """Compare 32 rows a batch with batches of up to 4,096 tokens of similar lengths."""
    dataset = Docstrings()
    before = DataLoader(dataset, batch_size=32, shuffle=True, collate_fn=padded)
    after = ss.Loader(dataset, ss.Bucket(max_tokens=4_096))
    compare(before, after)


if __name__ == "__main__":
    main()
