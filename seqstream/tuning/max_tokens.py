"""Find the largest budget of tokens with which a training step runs, by trying a few: `fit_max_tokens`."""

from __future__ import annotations

import dataclasses
import gc
import traceback
from collections.abc import Callable

import torch

from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.loading.stage_lists import rows_of
from seqstream.options import check_positive
from seqstream.planning.bucket import Bucket
from seqstream.tokenizing.stage import Tokenize
from seqstream.tuning.budget_search import Probe, next_budget

_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""Parts of the messages, in lower case, by which a `RuntimeError` says that memory ran out."""


def fit_max_tokens(
    step: Callable[[Batch], object],
    loader: Loader,
    *,
    low: int | None = None,
    high: int | None = None,
    max_probes: int = 10,
    share: float = 0.9,
) -> int:
    """Return the largest budget of padded tokens with which a training step runs, found in at most ``max_probes`` tries.

    The step has run with the budget that is returned: each try is ``step(loader.worst_batch(max_tokens=n))``. On CUDA two or
    three small tries show how memory grows, and one near the limit confirms it. Elsewhere budgets double until one fails.

    Args:
        step: Everything that takes memory: forward, backward, the optimiser's step. It is called several times and changes
            the model, so load the parameters again afterwards if they matter.
        loader: Its batch spec is a `Bucket`, whose own ``max_tokens`` does not matter.
        low: The smallest useful budget; by default one row of ``Tokenize(max_length=...)``, or the budget of the `Bucket`.
        high: The largest budget to try; needed except on CUDA.
        max_probes: Largest number of tries. More come closer to the largest budget.
        share: Share of a CUDA device's memory, free or already this process's, that a step may take. The rest is left for
            fragmentation, and for steps that take more than this one.

    Raises:
        MemoryError: The step does not run with ``low``.
        ValueError: An option is out of range, or ``high`` is missing.
    """
    if low is None:
        low = _default_low(loader)
    _check(low, high, max_probes, share)
    probes: list[Probe] = []
    tried: dict[tuple[int, int], Probe] = {}
    limit: float | None = None
    while len(tried) < max_probes:
        budget = next_budget(probes, low=low, high=high, limit=limit, max_probes=max_probes)
        if budget is None:
            break
        batch = loader.worst_batch(max_tokens=budget)
        device = batch.layout.device_lengths.device
        if not probes:
            limit = _limit(device, high, share)
        shape = _shape(batch)
        same_shape = tried.get(shape)
        if same_shape is None:
            tried[shape] = _try(step, batch, budget, measure=bool(probes))
        elif same_shape.fits(limit) and budget >= 2 * same_shape.max_tokens:
            break  # batches grow no more: something other than the budget limits them
        probes.append(dataclasses.replace(tried[shape], max_tokens=budget))
        del batch
    fitting = [probe.max_tokens for probe in probes if probe.fits(limit)]
    if not fitting:
        raise MemoryError(f"a step cannot run with low={low} padded tokens; lower low, max_length or the size of the model")
    return max(fitting)


def _try(step: Callable[[Batch], object], batch: Batch, budget: int, *, measure: bool) -> Probe:
    """Run the step once, and measure its peak memory on CUDA.

    Without ``measure`` memory stays unknown: in the first step an optimiser allocates its state.
    """
    rows, length = _shape(batch)
    device = batch.layout.device_lengths.device
    ran = True
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:
        if not _ran_out_of_memory(error):
            error.add_note(f"while trying a batch of shape ({rows}, {length}), max_tokens={budget}")
            raise
        _release_frames(error)
        ran = False
    if device.type != "cuda":
        return Probe(budget, rows, length, ran)
    num_bytes = torch.cuda.max_memory_allocated(device) if ran and measure else None
    gc.collect()
    torch.cuda.empty_cache()
    return Probe(budget, rows, length, ran, num_bytes)


def _shape(batch: Batch) -> tuple[int, int]:
    return batch.num_rows, -(-batch.num_slots // batch.num_rows)


def _ran_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in _MESSAGES)


def _release_frames(error: BaseException | None) -> None:
    """Clear the frames of an error, which hold tensors whose memory the next try needs."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


def _limit(device: torch.device, high: int | None, share: float) -> float | None:
    """Return the bytes that a step may take on a device; ``None`` if memory cannot be measured there."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return share * (free + torch.cuda.memory_reserved(device))
    if high is None:
        raise ValueError(
            f"high must be given on {device.type}, where memory that runs out is swapped or ends the process; "
            "set it to the largest budget to try, or the loader's device to CUDA"
        )
    return None


def _default_low(loader: Loader) -> int:
    """Return the budget of one row of the maximum length; if that is unknown, the budget of the loader."""
    spec = loader.stages[-1]
    if not isinstance(spec, Bucket):
        raise ValueError(f"max_tokens cannot be found for {spec!r}, which has no such budget; use Bucket(max_tokens=...)")
    stages = [stage for stage in loader.stages if isinstance(stage, Tokenize)]
    longest = rows_of(stages, loader.source.token_info).max_length
    plain = spec.cost == "tokens" and spec.rows_multiple_of == 1 and spec.columns is None
    if longest is not None and plain:
        return -(-longest // spec.multiple_of) * spec.multiple_of
    if spec.max_tokens is None:
        raise ValueError("low must be given where neither Tokenize(max_length=...) nor Bucket(max_tokens=...) is, got None")
    return spec.max_tokens


def _check(low: int, high: int | None, max_probes: int, share: float) -> None:
    for name, value in (("low", low), ("max_probes", max_probes)):
        check_positive(name, value)
    if high is not None and high < low:
        raise ValueError(f"high must be at least low={low}, got {high}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
