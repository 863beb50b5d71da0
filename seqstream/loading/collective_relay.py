"""Runs the collectives of a background thread on the consumer's thread, at steps that are the same on every rank."""

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
    """Passes the collectives of a background thread to the consumer's thread, which calls them in `serve`.

    Two threads could call collectives in different orders on different ranks. So only one thread calls any: the consumer's,
    which takes the same steps on every rank.

    Args:
        ranks: The ranks to communicate with.
        stop_signal: Ends the wait of the background thread.
    """

    def __init__(self, ranks: Ranks, stop_signal: StopSignal) -> None:
        self.rank = ranks.rank
        self.world_size = ranks.world_size
        self._ranks = ranks
        self._stop_signal = stop_signal
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        stop_signal.call_on_stop(partial(self._answers.put, StoppedError()))

    def all_gather(self, data: bytes) -> Sequence[bytes]:
        return self._relay(partial(self._ranks.all_gather, data))

    def all_to_all(self, data: Bytes, sizes: Index) -> tuple[Bytes, Index]:
        return self._relay(partial(self._ranks.all_to_all, data, sizes))

    def pass_on(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield items in the background thread; `serve` returns after each of them, and at the end."""
        try:
            for item in items:
                self._calls.put(None)
                yield item
        finally:
            self._calls.put(None)

    def serve(self) -> None:
        """Call the collectives of the background thread until it has its next item, or ends."""
        while (call := self._calls.get()) is not None:
            try:
                answer: Answer = (call(),)
            except Exception as error:  # noqa: BLE001 - the background thread raises it
                answer = error
            self._answers.put(answer)

    def _relay(self, call: Callable[[], Item]) -> Item:
        self._stop_signal.check()
        self._calls.put(call)
        answer = self._answers.get()
        self._stop_signal.check()
        if isinstance(answer, BaseException):
            raise answer
        found: Item = answer[0]
        return found
