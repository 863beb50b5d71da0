"""Ranks for a thread: what it has to say is said by the thread that iterates, at steps that are the same on every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

from seqstream.arrays import Index
from seqstream.distributed.collectives import Bytes, Ranks
from seqstream.loading.prefetch import StoppedError, StopSignal

Item = TypeVar("Item")

Answer: TypeAlias = "tuple[Any] | BaseException"


class CollectiveRelay:
    """Takes calls of a thread to the thread that iterates, which answers them in `serve`.

    Collectives of different threads could meet in another order on another rank; so only one thread, which takes the same steps
    on every rank, makes any.

    Args:
        ranks: Who is to be talked to.
        stop_signal: Ends the waiting.
    """

    def __init__(self, ranks: Ranks, stop_signal: StopSignal) -> None:
        self.rank = ranks.rank
        self.world_size = ranks.world_size
        self._ranks = ranks
        self._switch = stop_signal
        self._asked: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        stop_signal.wakes(partial(self._answers.put, StoppedError()))

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        return self._ask(partial(self._ranks.all_gather, data))

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        return self._ask(partial(self._ranks.all_to_all, data, sizes))

    def each(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass items on in the thread that makes them, telling `serve` when one is there, or that no more come."""
        try:
            for item in items:
                self._asked.put(None)
                yield item
        finally:
            self._asked.put(None)

    def serve(self) -> None:
        """Make the calls of the thread until it has its next item."""
        while (call := self._asked.get()) is not None:
            try:
                answer: Answer = (call(),)
            except Exception as error:  # noqa: BLE001 - it belongs to the thread, and comes back with what it was about
                answer = error
            self._answers.put(answer)

    def _ask(self, call: Callable[[], Item]) -> Item:
        self._switch.check()
        self._asked.put(call)
        answer = self._answers.get()
        self._switch.check()
        if isinstance(answer, BaseException):
            raise answer
        found: Item = answer[0]
        return found
