"""The design effect: how far the gradient of consecutive batches is from the whole gradient, compared with random rows.

`seqstream.reporting.design_effect` defines it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import embedding_bag

from benchmarks.harness.orders import Rows
from seqstream.reporting.design_effect import Floats, deviations, expected_squares


@dataclasses.dataclass(frozen=True, eq=False)
class Gradients:
    """Sketches of the gradients of all rows, in some states of a model.

    Attributes:
        sketches: ``float32 (N, states * size)``.
        units: ``int64 (N,)``, the number of losses of each row.
        num_states: Number of states.
    """

    sketches: npt.NDArray[np.float32]
    units: Rows
    num_states: int

    @functools.cached_property
    def whole(self) -> Floats:
        """The gradient of all rows, divided by the number of their losses, ``float64 (states * size,)``."""
        return self.sketches.sum(0, dtype=np.float64) / self.units.sum()

    @functools.cached_property
    def variances(self) -> Floats:
        """Mean squared distance of a row from the expectation for its number of losses, ``float64 (states,)``."""
        apart = self.sketches - self.units[:, None].astype(np.float32) * self.whole.astype(np.float32)
        return self._squared(apart).sum(0) / (len(apart) - 1)

    def effects(self, batches: Sequence[Rows], nums: Sequence[int]) -> Floats:
        """Return design effects, as means over an epoch, ``float64 (len(nums), states)``.

        Args:
            batches: The epoch.
            nums: Numbers of consecutive batches; NaN if there are not twice as many batches.
        """
        starts = np.cumsum([0, *map(len, batches)])[:-1]
        rows, offsets = torch.from_numpy(np.concatenate(batches)), torch.from_numpy(starts)
        sums = embedding_bag(rows, torch.from_numpy(self.sketches), offsets, mode="sum").numpy()
        found = np.full((len(nums), self.num_states), np.nan)
        num_rows, num_losses = len(self.units), float(self.units.sum())
        for at, num in enumerate(nums):
            if 2 * num <= len(batches):
                expected = expected_squares(num * num_rows / len(batches), num_rows, num_losses, self.variances)
                found[at] = self._squared(deviations(sums, num, num_losses)).mean(0) / expected
        return found

    def _squared(self, values: npt.NDArray[np.floating]) -> Floats:
        return (values.reshape(len(values), self.num_states, -1).astype(np.float64) ** 2).sum(2)
