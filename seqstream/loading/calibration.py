"""What a loader learns from the first records and the first window of epoch 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.bucket import Bucket
from seqstream.planning.given_shapes import Shape
from seqstream.records import Json
from seqstream.windows.window import Window


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What the data decides about all epochs, as far as it is known; it does not depend on where a run is.

    It never changes: what is learned gives a new one, which travels with each window and each batch. So the thread that builds
    windows and the thread that consumes batches share nothing.

    Attributes:
        engines: Name of the engine that tokenizes each column of ids; ``None`` before they are chosen.
        shapes: The shapes that all batches have; ``None`` where they have no fixed shapes, or before they are chosen.
        full_bytes: Bytes of records as read that fill a window, about; ``None`` before a window was planned.
        world_size: Number of ranks that ``full_bytes`` holds for.
        records_vary: Whether records were found to differ each time they are read.
    """

    engines: Mapping[str, str] | None = None
    shapes: tuple[Shape, ...] | None = None
    full_bytes: int | None = None
    world_size: int = 0
    records_vary: bool = False

    @classmethod
    def of(cls, spec: BatchSpec) -> Calibration:
        """Return what is known before anything is read: the shapes, where the user gives them."""
        return cls(shapes=_shapes_of(spec))

    def fit(self, spec: BatchSpec) -> BatchSpec:
        """Return a batch spec with its shapes, if they are chosen."""
        if self.shapes is None or not isinstance(spec, Bucket):
            return spec
        return dataclasses.replace(spec, shapes=self.shapes)

    def full_bytes_on(self, world_size: int) -> int | None:
        """Return how many bytes of records as read fill a window of some number of ranks; ``None`` if not known."""
        return self.full_bytes if self.world_size == world_size else None

    def learn(self, window: Window, world_size: int) -> Calibration:
        """Return the calibration with what a window of epoch 0 decides and nothing has decided before.

        Args:
            window: The first window, or the next where that has no batches.
            world_size: Number of ranks that the window is planned for.
        """
        found = self
        if window.full_bytes and self.full_bytes_on(world_size) is None:
            found = dataclasses.replace(found, full_bytes=window.full_bytes, world_size=world_size)
        return found if found.shapes is not None else dataclasses.replace(found, shapes=_shapes_of(window.spec))

    def updated(self, saved: Calibration) -> Calibration:
        """Return the calibration with what a state knows in place of its own."""
        return Calibration(
            saved.engines or self.engines,
            self.shapes if saved.shapes is None else saved.shapes,
            *((self.full_bytes, self.world_size) if saved.full_bytes is None else (saved.full_bytes, saved.world_size)),
            self.records_vary,
        )

    def to_json(self) -> dict[str, Json]:
        """Return the entry ``calibration`` of a state."""
        return {
            "engines": dict(self.engines or {}),
            "shapes": None if self.shapes is None else [list(shape) for shape in self.shapes],
            "full_bytes": self.full_bytes,
            "world_size": self.world_size,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Json]) -> Calibration:
        """Return the calibration that `to_json` wrote."""
        shapes: Sequence[Sequence[int]] | None = entry["shapes"]
        return cls(
            engines=dict(entry["engines"]) or None,
            shapes=None if shapes is None else tuple((rows, length) for rows, length in shapes),
            full_bytes=entry["full_bytes"],
            world_size=entry["world_size"],
        )


def _shapes_of(spec: BatchSpec) -> tuple[Shape, ...] | None:
    """Return the shapes of all batches of a spec, if they are decided."""
    shapes = spec.shapes if isinstance(spec, Bucket) else None
    return None if shapes is None or isinstance(shapes, int) else tuple(shapes)  # type: ignore[arg-type]
