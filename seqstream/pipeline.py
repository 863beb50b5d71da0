"""From windows to batches: collated, customised, on their way to the device, and the threads in which that happens."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch

from seqstream.ahead import Ahead, Switch
from seqstream.batch import Batch
from seqstream.collating import Padding, collate
from seqstream.device import Transfer
from seqstream.epochs import Epochs
from seqstream.order import hash_index
from seqstream.packing import collate_packed
from seqstream.planning.pack import Pack
from seqstream.reading import Place
from seqstream.sources.protocol import Json
from seqstream.stages import Counts
from seqstream.state import Position
from seqstream.window import Window, WindowStart

ToState: TypeAlias = Callable[[Position], dict[str, Json]]


@dataclasses.dataclass(frozen=True)
class Made:
    """A batch on its way to the consumer; the last of an iteration carries none, only counts.

    Attributes:
        batch: What the consumer gets.
        position: Where the run is after it.
        counts: What became of records since the batch before.
        event: Happens when its copy to the device has ended.
    """

    batch: Batch | None
    position: Position
    counts: Counts
    event: torch.cuda.Event | None = None


class Pipeline:
    """All that a loader is but its position: the windows, and what is done with each."""

    def __init__(
        self,
        epochs: Epochs,
        *,
        padding: Padding,
        layout: str,
        on_batch: Callable[[Batch], Batch] | None,
        transfer: Transfer,
    ) -> None:
        self.epochs = epochs
        self.transfer = transfer
        self._padding = padding
        self._layout = layout
        self._on_batch = on_batch

    def run(self, start: Position, to_state: ToState, switch: Switch, prefetch: int) -> Iterator[Made]:
        """Iterate over batches from a position on, made ahead by threads of ``switch``.

        One thread reads, tokenises and plans the window after the one that is served; another makes batches, if there is more
        to do than to collate them, which takes no longer than to hand them over. With ``prefetch=0`` all happens in the
        caller's thread.
        """
        self.epochs.start_workers()
        windows = self.epochs.windows(start, switch.check)
        if not prefetch:
            return self._batches(windows, start, to_state, lambda: None)
        ahead = Ahead(windows, 1, switch, "seqstream-windows", goes_on=False)
        batches = self._batches(ahead, start, to_state, ahead.go_on)
        if self._on_batch is None and not self.transfer.has_work:
            return batches
        return Ahead(batches, prefetch, switch, "seqstream-batches")

    def largest_batch(self, state: dict[str, Json], max_tokens: int | None) -> Batch:
        """Make a batch of the largest shape that can occur, on the device, of one record over and over.

        Args:
            state: What the batch carries.
            max_tokens: A budget to try instead of that of the spec.
        """
        batch = self._collated(self.epochs.repeat_first(max_tokens), 0, state, self.epochs.seed)
        batch, event = self.transfer.send(self._customised(batch))
        return self.transfer.receive(batch, event)

    def _batches(
        self,
        windows: Iterator[tuple[Position, Window]],
        start: Position,
        to_state: ToState,
        go_on: Callable[[], None],
    ) -> Iterator[Made]:
        """Yield the batches of windows; ``go_on`` is called when the next window may be made.

        That is once the first batch of this one is out: made at the same time, they would take the processor from each other,
        and somebody waits for the batch.
        """
        position = start
        counts: Counter[str] = Counter()
        for position, window in windows:
            counts.update(window.counts)
            begun = to_state(position)
            seeds = hash_index(np.arange(len(window.plan)), self.epochs.seed, position.epoch, window.number).tolist()
            for turn in range(window.start.served, len(window.plan)):
                position = _after(position, window, turn, self.epochs.source.num_shards)
                moved = {"served": turn + 1, "rows": position.rows}
                state = {**begun, **moved} if position.window.served else to_state(position)
                batch = self._customised(self._collated(window, turn, state, seeds[turn]))
                batch, event = self.transfer.send(batch)
                yield Made(batch, position, dict(counts), event)
                counts.clear()
                if turn == window.start.served:
                    go_on()
            if window.start.served >= len(window.plan):
                go_on()
        yield Made(None, position, dict(counts))

    def _collated(self, window: Window, turn: int, state: dict[str, Json], seed: int) -> Batch:
        if isinstance(window.spec, Pack):
            return collate_packed(window, turn, self._padding, state, seed, causal=window.spec.causal)
        return collate(window, turn, self._padding, state, seed, layout=self._layout)

    def _customised(self, batch: Batch) -> Batch:
        if self._on_batch is None:
            return batch
        result = self._on_batch(batch)
        if not isinstance(result, Batch):
            raise TypeError(
                f"on_batch must return a Batch, got {type(result).__name__}; end it with return batch.with_columns(...)"
            )
        return result


def _after(position: Position, window: Window, turn: int, num_shards: int) -> Position:
    """Return the position after a batch; past the last of a window it is the beginning of the next."""
    begin = window.start
    if turn + 1 < len(window.plan):
        rows = position.rows + len(window.plan.rows(turn))
        now = WindowStart(begin.place, begin.blocks, begin.skip, turn + 1)
        return Position(position.epoch, position.until, now, rows)
    return Position(position.epoch, position.until, window.following or WindowStart(Place(num_shards)))
