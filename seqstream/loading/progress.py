"""What of a loader moves: where it is, how it got there, and what it has counted."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from seqstream.loading.calibration import Calibration
from seqstream.loading.pipeline import PreparedBatch
from seqstream.loading.state import Position
from seqstream.loading.stats import Stats
from seqstream.windows.settings import WindowStart

Origin: TypeAlias = Literal["fresh", "taken", "loaded"]


@dataclasses.dataclass
class Progress:
    """What of a loader moves; all else of it is fixed when it is made.

    Attributes:
        epochs: How many epochs one iteration runs over; ``None`` for no end.
        position: Where the next batch begins.
        calibration: What is known of the data.
        origin: How the position came about: ``"fresh"`` at a beginning, before a batch was taken; ``"taken"`` after a batch;
            ``"loaded"`` by a state from which no iteration has begun.
        stats: What was handed out so far.
        before_window: What was handed out before the window under way, or before a state was loaded within it.
    """

    epochs: int | None
    position: Position
    calibration: Calibration
    origin: Origin = "fresh"
    stats: Stats = dataclasses.field(default_factory=Stats)
    before_window: Stats = dataclasses.field(default_factory=Stats)
    _window: tuple[int, int] | None = None

    @classmethod
    def of(cls, epochs: int | None, calibration: Calibration) -> Progress:
        """Return the progress of a new loader."""
        return cls(epochs, _beginning(0, epochs), calibration)

    @property
    def first_epoch(self) -> int:
        """The epoch in which the iteration under way began."""
        until = self.position.until
        return self.position.epoch if until is None or self.epochs is None else until - self.epochs

    def begin(self) -> None:
        """Begin an iteration: where a state was loaded, else at the beginning of an epoch of which no batch was taken."""
        if self.origin == "taken":
            self.position = _beginning(self.position.epoch + 1, self.epochs)
        self.origin = "fresh"

    def advance(self, prepared: PreparedBatch, waited: float, elapsed: float) -> None:
        """Move on past a batch.

        Args:
            prepared: It has a batch, which is handed out.
            waited: Seconds for which the consumer waited for it.
            elapsed: Seconds since the batch before was handed out.
        """
        self.position, self.calibration, self.origin = prepared.position, prepared.calibration, "taken"
        if (batch := prepared.batch) is not None:
            if (window := (prepared.position.epoch, batch.window)) != self._window:
                self._window, self.before_window = window, self.stats
            self.stats = self.stats.plus(
                prepared.by_source,
                batches=1,
                steps=int(batch.is_step_end),
                rows=len(batch.row_ids) - batch.layout.num_made_up - batch.layout.num_repeated,
                made_up_rows=batch.layout.num_made_up,
                repeated_rows=batch.layout.num_repeated,
                tokens=batch.num_tokens,
                slots=batch.num_slots,
                seconds=elapsed,
                seconds_waited=waited,
                **prepared.counts,
            )

    def finish(self, prepared: PreparedBatch) -> None:
        """Move on past the end of an iteration, to the beginning of the next epoch."""
        self.stats = self.stats.plus(None, **prepared.counts)
        self.calibration = prepared.calibration
        self.go_to(prepared.position.epoch + 1)

    def go_to(self, epoch: int) -> None:
        """Move to the beginning of an epoch."""
        self.position, self.origin = _beginning(epoch, self.epochs), "fresh"

    def load(self, position: Position, calibration: Calibration, stats: Stats) -> None:
        """Move to the position of a state."""
        if self.epochs is None or position.until is None:
            until = None if self.epochs is None else position.epoch + self.epochs
            position = dataclasses.replace(position, until=until)
        self.position, self.calibration, self.stats, self.origin = position, calibration, stats, "loaded"
        self._window, self.before_window = None, stats


def _beginning(epoch: int, epochs: int | None) -> Position:
    """Return the beginning of an epoch, for an iteration over some epochs."""
    return Position(epoch, None if epochs is None else epoch + epochs, WindowStart(blocks=0))
