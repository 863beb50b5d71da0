"""From windows to batches: collated, customised, on their way to the device, and the threads in which that happens."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch

from seqstream.batches.batch import OWN_NAMES, Batch
from seqstream.batches.collate import collate
from seqstream.batches.collate_packed import collate_packed
from seqstream.batches.padding import Padding
from seqstream.distributed.collectives import Ranks
from seqstream.loading.collective_relay import CollectiveRelay
from seqstream.loading.device import Transfer
from seqstream.loading.epochs import Epochs
from seqstream.loading.prefetch import Prefetcher, StopSignal
from seqstream.loading.state import Position, own_copy
from seqstream.planning.pack import Pack
from seqstream.planning.rank_shares import Uneven
from seqstream.records import Counts, Json
from seqstream.shuffling import hash_index
from seqstream.stages.row_labels import LabelRule
from seqstream.windows.block_reader import Cursor
from seqstream.windows.settings import RankSharing, WindowStart
from seqstream.windows.window import Window

ToState: TypeAlias = Callable[[Position], dict[str, Json]]


@dataclasses.dataclass(frozen=True)
class PreparedBatch:
    """A batch on its way to the consumer; the last of an iteration carries none, only counts.

    Attributes:
        batch: What the consumer gets.
        position: Where the run is after it.
        counts: What became of records since the batch before.
        state: What a loader saves after it.
        event: Happens when its copy to the device has ended.
        meets: Whether ranks share the next window before this batch is handed out.
    """

    batch: Batch | None
    position: Position
    counts: Counts
    state: dict[str, Json] = dataclasses.field(default_factory=dict)
    event: torch.cuda.Event | None = None
    meets: bool = False


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
        uneven: Uneven = "repeat",
    ) -> None:
        self.epochs = epochs
        self.transfer = transfer
        self._padding = padding
        self._layout = layout
        self._on_batch = on_batch
        self._uneven = uneven
        self._looked_at: set[str] = set()

    def run(self, start: Position, to_state: ToState, stop_signal: StopSignal, prefetch: int, ranks: Ranks) -> Run:
        """Iterate over batches from a position on, made ahead by threads of ``stop_signal``.

        One thread reads, tokenises and plans the window after the one that is served; another makes batches, if there is more
        to do than to collate them, which takes no longer than to hand them over. With ``prefetch=0`` all happens in the
        caller's thread. What ranks tell each other they always tell in the caller's thread: before the first batch, and when
        ``prefetch`` batches of a window are left.
        """
        self.epochs.start_workers()
        labels = LabelRule() if self._on_batch is None else getattr(self._on_batch, "label_rule", None)
        sharing = RankSharing(ranks, self._uneven, labels, prefetch)
        if not prefetch:
            windows = self.epochs.windows(start, stop_signal.check, sharing)
            return Run(self._batches(windows, start, to_state, lambda: None))
        relay = None if ranks.world_size == 1 else CollectiveRelay(ranks, stop_signal)
        windows = self.epochs.windows(start, stop_signal.check, dataclasses.replace(sharing, ranks=relay or ranks))
        ahead = Prefetcher(
            windows if relay is None else relay.each(windows), 1, stop_signal, "seqstream-windows", goes_on=False
        )
        batches = self._batches(ahead, start, to_state, ahead.go_on, left=prefetch)
        if self._on_batch is None and not self.transfer.has_work:
            return Run(batches, relay)
        return Run(Prefetcher(batches, prefetch, stop_signal, "seqstream-batches"), relay)

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
        left: int = 0,
    ) -> Iterator[PreparedBatch]:
        """Yield the batches of windows; ``go_on`` is called when the next window may be made.

        That is once the first batch of this one is out: made at the same time, they would take the processor from each other,
        and somebody waits for the batch. When ``left`` batches are left, ranks share the next window, which must be under way.
        """
        position = start
        counts: Counter[str] = Counter()
        for position, window in windows:
            counts.update(window.counts)
            self._warn_of_hidden(window)
            begun = to_state(position)
            seeds = hash_index(np.array(window.after), self.epochs.seed, position.epoch, window.number, window.rank).tolist()
            meeting = max(0, len(window.plan) - 1 - left)
            for turn in range(len(window.plan)):
                position = _after(position, window, turn, self.epochs.num_shards)
                moved = {"group": window.start.planned_world_size, "served": position.window.served}
                state = {**begun, **moved} if position.window.served else to_state(position)
                batch = self._customised(self._collated(window, turn, own_copy(state), seeds[turn]))
                batch, event = self.transfer.send(batch)
                if turn == meeting == 0 and window.totals is not None:
                    go_on()
                yield PreparedBatch(batch, position, dict(counts), state, event, turn == meeting)
                counts.clear()
                if not turn and (meeting or window.totals is None):
                    go_on()
            if not len(window.plan):
                go_on()
        yield PreparedBatch(None, position, dict(counts))

    def _warn_of_hidden(self, window: Window) -> None:
        """Warn once of columns that are called as a part of every batch is."""
        new = window.columns.keys() - self._looked_at
        self._looked_at |= new
        for name in sorted(new):
            if name in OWN_NAMES:
                warnings.warn(
                    f"column {name!r} is batch[{name!r}] only, batch.{name} is what every batch has under that name; give the "
                    "column another name to have both",
                    stacklevel=2,
                )

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


@dataclasses.dataclass
class Run(Iterator[PreparedBatch]):
    """Batches on their way, and what the consumer does for it: talk to the other ranks.

    Attributes:
        batches: What makes them.
        relay: Makes the calls of the thread that makes windows; ``None`` if there are no other ranks, or no threads.
        is_due: Whether a window is to be shared before anything else.
    """

    batches: Iterator[PreparedBatch]
    relay: CollectiveRelay | None = None
    is_due: bool = True

    def __next__(self) -> PreparedBatch:
        self._share()
        made = next(self.batches)
        self.is_due = made.meets
        self._share()
        return made

    def _share(self) -> None:
        if self.is_due and self.relay is not None:
            self.relay.serve()
        self.is_due = False


def _after(position: Position, window: Window, turn: int, num_shards: int) -> Position:
    """Return the position after a batch; past the last of a window it is the beginning of the next."""
    if turn + 1 < len(window.plan):
        now = dataclasses.replace(window.start, served=window.after[turn])
        return Position(position.epoch, position.until, now)
    return Position(position.epoch, position.until, window.following or WindowStart(Cursor(num_shards)))
