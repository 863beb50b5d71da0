"""How well any few consecutive batches represent all of them.

Legend: ``n`` batches, ``C`` parts of a corpus, such as its sources, or ranges of lengths.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RUN = 16
"""Number of consecutive batches that are compared with all batches."""

Shares = npt.NDArray[np.float64]


def run_shares(tokens: Shares, num: int = RUN) -> Shares:
    """Return the shares of each part in the tokens of any ``num`` consecutive batches.

    Two batches of one part each, in turn, give equal shares for every two: ``[[4, 0], [0, 4], [4, 0]]`` and ``num=2`` give
    ``[[0.5, 0.5], [0.5, 0.5]]``.

    Args:
        tokens: ``float64 (n, C)``, tokens of each part in each batch, in the order served.
        num: Number of consecutive batches.

    Returns:
        ``float64 (n - num + 1, C)``; none if there are fewer batches.
    """
    sums = np.concatenate([np.zeros((1, tokens.shape[1])), tokens.cumsum(axis=0)])
    runs = sums[num:] - sums[:-num]
    shares: Shares = runs / runs.sum(axis=1, keepdims=True)
    return shares


def length_octiles(lengths: Shares) -> Shares:
    """Return how much of each batch is in each octile by length, ``float64 (n, 8)``; batches of equal length are averaged.

    Args:
        lengths: ``float64 (n,)``, the longest row of each batch.
    """
    rank = np.empty(len(lengths))
    rank[np.argsort(-lengths, kind="stable")] = np.arange(len(lengths))
    edges = np.arange(9) / 8 * len(lengths)
    own = np.clip(np.minimum(rank[:, None] + 1, edges[1:]) - np.maximum(rank[:, None], edges[:-1]), 0, None)
    _, number, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    shared = np.zeros((len(counts), 8))
    np.add.at(shared, number, own)
    octiles: Shares = (shared / counts[:, None])[number]
    return octiles


def run_deviations(lengths: Shares, tokens: Shares) -> Shares:
    """Return how far any `RUN` consecutive batches deviate from their window, for each octile by length.

    Args:
        lengths: ``float64 (n,)``, the longest row of each batch of a window, as served.
        tokens: ``float64 (n,)``, its tokens.

    Returns:
        ``float64 (n - 15, 8)``: the absolute difference of the octile's shares of the tokens of the run and of the window.
    """
    octiles = length_octiles(lengths) * tokens[:, None]
    deviations: Shares = np.abs(run_shares(octiles) - octiles.sum(axis=0) / octiles.sum())
    return deviations
