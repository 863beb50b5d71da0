"""Ranks as threads of one process, so that what many of them do can be looked at, and stopped, in one place."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

Result = TypeVar("Result")

Options: TypeAlias = Mapping[str, Any]
"""What a rank passes on to `Loader`: its rank, the world size, and how it talks to the others."""

MEETING_SECONDS = 120.0
"""How long a rank waits for the others before it gives up."""


class RankLeftError(RuntimeError):
    """Raised where a rank waits for another that has ended."""


class _Table:
    """Where ranks that are threads meet: each lays down what it has, and takes what all have, round by round."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._changed = threading.Condition()
        self._rounds: dict[int, dict[int, bytes]] = {}
        self._left: set[int] = set()

    def leave(self, rank: int) -> None:
        with self._changed:
            self._left.add(rank)
            self._changed.notify_all()

    def all_gather_of(self, rank: int) -> Callable[[bytes], list[bytes]]:
        """Return the function by which a rank meets the others."""
        rounds = itertools.count()

        def all_gather(data: bytes) -> list[bytes]:
            number = next(rounds)
            with self._changed:
                given = self._rounds.setdefault(number, {})
                given[rank] = data
                self._changed.notify_all()
                waited = self._changed.wait_for(
                    lambda: len(given) == self._world_size or self._left - given.keys(), MEETING_SECONDS
                )
                if len(given) < self._world_size:
                    gone = sorted(self._left - given.keys())
                    raise RankLeftError(f"rank {rank} cannot meet the others, rank {gone} has ended" if waited else "timed out")
                self._rounds.pop(number - 1, None)  # all have taken it, being here
            return [given[other] for other in range(self._world_size)]

        return all_gather


def run_ranks(world_size: int, job: Callable[[Options], Result]) -> list[Result]:
    """Run a job on some ranks, each a thread of its own, and return what each has returned.

    Args:
        world_size: How many.
        job: Is given the options of a rank for `Loader`.

    Raises:
        BaseException: What the first rank has raised; the others, who waited for it, are let go.
    """
    outcomes = try_ranks(world_size, job)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors:
        raise next((error for error in errors if not isinstance(error, RankLeftError)), errors[0])
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


def try_ranks(world_size: int, job: Callable[[Options], Result]) -> list[Result | BaseException]:
    """Run a job on some ranks as `run_ranks` does, and return errors in the place of results."""
    table = _Table(world_size)
    outcomes: list[Result | BaseException] = [RuntimeError("not ended")] * world_size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = job({"rank": rank, "world_size": world_size, "all_gather": table.all_gather_of(rank)})
        except BaseException as error:  # noqa: BLE001 - it is returned
            outcomes[rank] = error
        finally:
            table.leave(rank)

    threads = [threading.Thread(target=run, args=(rank,), name=f"rank-{rank}") for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
