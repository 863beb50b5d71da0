"""Runs ranks as threads of one process, so that a test or a debugger sees all of them in one place."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

Result = TypeVar("Result")

Options: TypeAlias = Mapping[str, Any]
"""The options of `Loader` that make it one rank: ``rank``, ``world_size`` and ``all_gather``."""

TIMEOUT_SECONDS = 120.0
"""How long a rank waits for the others in an all-gather."""


class RankLeftError(RuntimeError):
    """Raised in a rank that waits for another rank that has ended."""


class _ThreadAllGather:
    """An all-gather between threads: call by call, each rank passes bytes in and receives those of all ranks."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._changed = threading.Condition()
        self._calls: dict[int, dict[int, bytes]] = {}
        self._ended: set[int] = set()

    def end(self, rank: int) -> None:
        """Record that a rank has ended, and wake those that wait for it."""
        with self._changed:
            self._ended.add(rank)
            self._changed.notify_all()

    def all_gather_of(self, rank: int) -> Callable[[bytes], list[bytes]]:
        """Return the all-gather function of one rank."""
        numbers = itertools.count()

        def all_gather(data: bytes) -> list[bytes]:
            number = next(numbers)
            with self._changed:
                parts = self._calls.setdefault(number, {})
                parts[rank] = data
                self._changed.notify_all()
                in_time = self._changed.wait_for(
                    lambda: len(parts) == self._world_size or self._ended - parts.keys(), TIMEOUT_SECONDS
                )
                if len(parts) < self._world_size:
                    ended = sorted(self._ended - parts.keys())
                    raise RankLeftError(f"rank {rank} waits for rank {ended}, which has ended" if in_time else "timed out")
                self._calls.pop(number - 1, None)  # every rank has returned from it, or it would not be in this call
            return [parts[other] for other in range(self._world_size)]

        return all_gather


def run_ranks(world_size: int, job: Callable[[Options], Result]) -> list[Result]:
    """Run a job on several ranks, each in a thread of its own, and return their results.

    Args:
        world_size: Number of ranks.
        job: Receives the options of its rank for `Loader`.

    Raises:
        BaseException: The first error of a rank; ranks that wait for it end as well.
    """
    outcomes = try_ranks(world_size, job)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors:
        raise next((error for error in errors if not isinstance(error, RankLeftError)), errors[0])
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


def try_ranks(world_size: int, job: Callable[[Options], Result]) -> list[Result | BaseException]:
    """Run a job on several ranks as `run_ranks` does, and return errors in place of results."""
    gathering = _ThreadAllGather(world_size)
    outcomes: list[Result | BaseException] = [RuntimeError("not ended")] * world_size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = job({"rank": rank, "world_size": world_size, "all_gather": gathering.all_gather_of(rank)})
        except BaseException as error:  # noqa: BLE001 - it is returned
            outcomes[rank] = error
        finally:
            gathering.end(rank)

    threads = [threading.Thread(target=run, args=(rank,), name=f"rank-{rank}") for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
