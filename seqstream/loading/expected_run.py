"""What an epoch of a mixture will be like, as far as sizes are known: its tokens, and how often each source is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqstream.planning.batch_spec import ID_BYTES
from seqstream.planning.token_quotas import Flow
from seqstream.sources.mixture import Mixture
from seqstream.windows.collecting import LAST

Numbers = npt.NDArray[np.float64]

_INEXACT = 0.9
"""Sizes in tokens are estimates: an epoch that lacks less than a tenth of its tokens may still have them."""

_MOST_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class ExpectedRun:
    """An epoch of the loader.

    Attributes:
        names: Names of the sources.
        tokens: About how many tokens it has, of all ranks.
        shares: ``float64 (S,)``, share of each source in them.
        passes: ``float64 (S,)``, how often each is read; NaN where its size is not known.
    """

    names: Sequence[str]
    tokens: float
    shares: Numbers
    passes: Numbers

    @classmethod
    def of(cls, mixture: Mixture, sizes: Numbers) -> ExpectedRun | None:
        """Return what to expect; ``None`` where sizes that decide the end are not known.

        Args:
            mixture: The mixture.
            sizes: ``float64 (S,)``, as `sizes_in_tokens` returns them.

        Raises:
            ValueError: The sources do not have as many tokens as ``Mixture(tokens=...)`` asks for.
        """
        limits = np.array([member.passes for member in mixture.members])
        left = np.where(np.isnan(sizes) | np.isinf(limits), math.inf, sizes * limits)
        tokens = mixture.tokens
        weights = mixture.schedule.mean(0, tokens) if tokens is not None else np.array(mixture.schedule.points[0][1])
        most = float(np.nansum(np.where(weights > 0, sizes, 0)) / weights[weights > 0].min()) + 1.0
        flow = Flow.of(weights, left, most if tokens is None else tokens)
        end = _end(mixture, flow, weights, np.minimum(limits, 1.0) * sizes) if tokens is None else float(tokens)
        if mixture.exhausted == "stop":
            end = min(end, float(flow.ends[weights > 0].min()))
        if not math.isfinite(end):
            return None
        if tokens is not None and mixture.exhausted != "stop" and flow.end < _INEXACT * tokens:
            raise ValueError(
                f"tokens must be what the sources can give, about {flow.end:,.0f} as epochs allows, got {tokens:,}; let "
                "sources be read more often, or ask for fewer tokens"
            )
        given = flow.at(min(end, flow.end))
        return cls(mixture.names, float(given.sum()), given / max(float(given.sum()), 1.0), given / sizes)

    def __str__(self) -> str:
        order = np.argsort(-self.shares, kind="stable").tolist()
        shown = [
            f"{self.names[number]} {self.shares[number]:.1%}"
            + ("" if math.isnan(self.passes[number]) else f" ({self.passes[number]:.2f} epochs)")
            for number in order[:_MOST_SHOWN]
        ]
        more = f" and {len(order) - _MOST_SHOWN:,} more" if len(order) > _MOST_SHOWN else ""
        return f"about {self.tokens:,.0f} tokens of {len(order)} sources: {', '.join(shown)}{more}"


def sizes_in_tokens(mixture: Mixture, tokens_per_byte: Numbers, tokens_per_row: Numbers) -> Numbers:
    """Return about how many tokens a pass over each source has, ``float64 (S,)``; NaN where that is not known.

    Args:
        mixture: The mixture.
        tokens_per_byte: ``float64 (S,)``, tokens of a byte of records as read; 0 where that is not known.
        tokens_per_row: ``float64 (S,)``, tokens of a row; 0 where that is not known.
    """
    num_records = np.array([part.num_records for part in mixture.parts], dtype=np.float64)
    sizes = np.where(np.isnan(num_records), _sizes_in_bytes(mixture) * tokens_per_byte, num_records * tokens_per_row)
    return np.where(sizes > 0, sizes, math.nan)


def is_read_at_once(mixture: Mixture, num_bytes: float) -> bool:
    """Return whether an epoch is within some bytes of records as read, and has hardly more than one pass over all sources.

    Where small sources are read again and again, an epoch is much longer than all of the data.
    """
    sizes = _sizes_in_bytes(mixture)
    if mixture.tokens is not None:
        expected = float(mixture.tokens * ID_BYTES)
    else:
        run = ExpectedRun.of(mixture, sizes)
        expected = math.inf if run is None else run.tokens
    return expected <= min(num_bytes, LAST * float(sizes.sum()))


def _sizes_in_bytes(mixture: Mixture) -> Numbers:
    """Return the bytes of each source, ``float64 (S,)``; NaN where they are not known."""
    return np.array(mixture.sizes, dtype=np.float64)


def _end(mixture: Mixture, flow: Flow, weights: Numbers, required: Numbers) -> float:
    """Return after how many tokens every source has given what is required of it, ``float64 (S,)``; ``inf`` if not known."""
    sources = np.flatnonzero(weights > 0)
    if len(mixture.schedule.points) > 1 or np.isnan(required[sources]).any():
        return math.inf
    return max(flow.time_of(source, float(required[source]) * (1 - 1e-9)) for source in sources.tolist())
