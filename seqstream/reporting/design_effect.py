"""The design effect: how far a mean over consecutive batches is from the mean of all rows, compared with random rows.

The design effect of ``K`` batches is ``E |g - G|^2`` of ``K`` consecutive batches, divided by that of equally many random rows:
1 for random batches, 2 if it takes twice as many to know as much. Gradients are divided by a constant.

Legend: ``T`` batches, ``D`` numbers of a gradient, ``C`` classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index

Floats = npt.NDArray[np.float64]


def deviations(sums: Floats, num: int, num_losses: float) -> Floats:
    """Return how far the gradient of any ``num`` consecutive batches is from that of all rows, ``float64 (T - num + 1, D)``.

    Args:
        sums: ``float64 (T, D)``, sum of the gradients of the rows of each batch, in the order served.
        num: Number of consecutive batches.
        num_losses: Number of losses of all batches.
    """
    before = np.cumsum(np.vstack([np.zeros_like(sums[:1]), sums]), axis=0, dtype=np.float64)
    found: Floats = (before[num:] - before[:-num]) / (num * num_losses / len(sums)) - before[-1] / num_losses
    return found


def expected_squares(num_rows: float, total_rows: int, num_losses: float, variances: Floats) -> Floats:
    """Return ``E |g - G|^2`` of random rows drawn without replacement.

    Args:
        num_rows: Number of rows that are drawn.
        total_rows: Number of all rows.
        num_losses: Number of losses of all rows.
        variances: Mean squared distances of a row from the mean.
    """
    share = num_rows / total_rows
    expected: Floats = num_rows * (1 - share) * variances / (share * num_losses) ** 2
    return expected


def label_effect(counts: Index, num: int) -> float:
    """Return the design effect of the classes of batches.

    The gradient of the bias of a classifier that knows only how frequent each class is has the frequencies less the one-hot
    class of a row, so this is how much more noise the order of batches puts into it than random rows would. Batches of one
    class each, those of the first class first, are the worst case: ``label_effect(np.array([[8, 0], [8, 0], [0, 8], [0, 8]]),
    1)`` is 31/3.

    Args:
        counts: ``int64 (T, C)``, rows of each class in each batch, in the order served.
        num: Number of consecutive batches.

    Returns:
        NaN if there are fewer than twice as many batches, or one class only.
    """
    total = int(counts.sum())
    shares = counts.sum(axis=0) / total
    variance = total * (1 - float((shares**2).sum())) / (total - 1) if total > 1 else 0.0
    if 2 * num > len(counts) or variance <= 0:
        return float("nan")
    centred = counts - counts.sum(axis=1, keepdims=True) * shares
    squares = (deviations(centred, num, total) ** 2).sum(axis=1).mean()
    return float(squares / expected_squares(num * total / len(counts), total, total, np.array(variance)))
