"""The design effect: how far the gradient of consecutive batches is from the whole gradient, compared with random rows.

The design effect of ``K`` batches is ``E |g - G|^2`` of ``K`` consecutive batches, divided by that of equally many random rows:
1 for random batches, 2 if it takes twice as many to know as much. Gradients are divided by a constant.
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

Floats = npt.NDArray[np.float64]


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
        before = np.cumsum(np.vstack([np.zeros_like(sums[:1]), sums]), axis=0, dtype=np.float64)
        found = np.full((len(nums), self.num_states), np.nan)
        for at, num in enumerate(nums):
            if 2 * num <= len(batches):
                losses = num * self.units.sum() / len(batches)
                apart = (before[num:] - before[:-num]) / losses - self.whole
                found[at] = self._squared(apart).mean(0) / self.expected(num * len(self.units) / len(batches))
        return found

    def expected(self, num_rows: float) -> Floats:
        """Return ``E |g - G|^2`` of random rows, ``float64 (states,)``, drawn without replacement."""
        share = num_rows / len(self.units)
        return num_rows * (1 - share) * self.variances / (share * self.units.sum()) ** 2

    def _squared(self, values: npt.NDArray[np.floating]) -> Floats:
        return (values.reshape(len(values), self.num_states, -1).astype(np.float64) ** 2).sum(2)
