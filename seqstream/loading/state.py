"""The state of a loader as JSON: written by `write_state`, checked and read by `read_state`."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from seqstream.loading.calibration import Calibration
from seqstream.loading.stats import Stats
from seqstream.records import Json
from seqstream.windows.block_reader import Cursor
from seqstream.windows.settings import MixtureStart, WindowStart

VERSION = 2
"""Version 1 visited shards and served batches in another order."""

_MOST = 1 << 31
"""No window has as many blocks or rows, and no epoch as many steps."""

_MOST_RANKS = 1 << 17
"""No job has as many ranks, and planning takes memory for each of them."""

_AS_SAVED = "load it as it was saved"


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run is: its epoch, the epoch before which it ends, and its window.

    Attributes:
        epoch: Epoch under way.
        until: The iteration ends before this epoch; ``None`` if it has no end.
        window: Where the window under way begins, and how much of it was served.
    """

    epoch: int
    until: int | None
    window: WindowStart

    def restart_window(self) -> Position:
        """Return the position at which nothing of the window was served, and its size is chosen anew."""
        mixture = None if self.window.mixture is None else self.window.mixture.restarted()
        return dataclasses.replace(self, window=WindowStart(self.window.cursor, blocks=0, mixture=mixture))

    def with_other_mixture(self) -> Position:
        """Return the position for a mixture of other weights, limits or sources: the window under way ends as planned."""
        mixture = self.window.mixture
        if mixture is None or not self.window.served:
            return self
        mixture = dataclasses.replace(mixture, goes_on=mixture.is_last)
        return dataclasses.replace(self, window=dataclasses.replace(self.window, mixture=mixture))

    def to_json(self) -> dict[str, Json]:
        """Return the entry ``position`` of a state, which shares nothing with this object."""
        window, opened = self.window, self.window.cursor.source_json()
        return {
            "epoch": self.epoch,
            "until": self.until,
            "window": {
                "cursor": {"position": window.cursor.position, "source": copy.deepcopy(opened) if opened else []},
                "blocks": window.blocks,
                "skip": window.skip,
                "planned_world_size": window.planned_world_size,
                "served": window.served,
                "step": window.step,
                **({} if window.mixture is None else {"mixture": window.mixture.to_json()}),
            },
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Json]) -> Position:
        """Return the position that `to_json` wrote."""
        window = entry["window"]
        cursor = Cursor.from_json(window["cursor"]["position"], copy.deepcopy(window["cursor"]["source"]))
        counts = {name: window[name] for name in ("blocks", "skip", "planned_world_size", "served", "step")}
        mixture = MixtureStart.from_json(copy.deepcopy(window["mixture"])) if "mixture" in window else None
        return cls(entry["epoch"], entry["until"], WindowStart(cursor, **counts, mixture=mixture))


@dataclasses.dataclass(frozen=True)
class SavedState:
    """What a state holds.

    Attributes:
        position: Where the loader was.
        calibration: What it had learned from the data.
        seed: Its seed.
        fingerprint: The text of its fingerprint, as `fingerprints.to_text` makes it.
        stats: Its stats; ``None`` where they were not saved.
    """

    position: Position
    calibration: Calibration
    seed: int
    fingerprint: str
    stats: Stats | None = None

    @property
    def identity(self) -> dict[str, Json]:
        """What a loader must have to go on: its seed and the entries of its fingerprint."""
        return {"seed": self.seed, **json.loads(self.fingerprint)}


def write_state(saved: SavedState) -> dict[str, Json]:
    """Return a state as JSON, as `Loader.load_state_dict` reads it; the caller may change it."""
    state: dict[str, Json] = {
        "version": VERSION,
        "position": saved.position.to_json(),
        "calibration": saved.calibration.to_json(),
        "seed": saved.seed,
        "fingerprint": saved.fingerprint,
    }
    if saved.stats is not None:
        state["stats"] = saved.stats.to_json()
    return state


def read_state(state: Mapping[str, Json]) -> SavedState:
    """Return what a state holds.

    Raises:
        TypeError: It is not a mapping.
        ValueError: It has another version, lacks an entry, or has an entry that no loader writes; the message names it.
    """
    _check(state)
    return SavedState(
        Position.from_json(state["position"]),
        Calibration.from_json(state["calibration"]),
        state["seed"],
        state["fingerprint"],
        Stats.from_json(state["stats"]) if "stats" in state else None,
    )


def _is_count(value: Any, limit: int = _MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _is_number(value: Any) -> bool:
    return _is_count(value, 1 << 63)


def _is_fingerprint(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(json.loads(value), dict)
    except ValueError:
        return False


def _are_shapes(value: Any) -> bool:
    """Return whether a value is a list of shapes, or ``None``."""
    return value is None or (
        isinstance(value, list | tuple)
        and all(
            isinstance(shape, list | tuple) and len(shape) == 2 and all(_is_count(size) and size > 0 for size in shape)
            for shape in value
        )
    )


def _are_open(value: Any) -> bool:
    """Return whether a value lists open shards: number, records read, and a state in whatever form the source has."""
    return isinstance(value, list | tuple) and all(
        isinstance(shard, list | tuple) and len(shard) == 3 and all(map(_is_number, shard[:2])) and shard[2] is not None
        for shard in value
    )


def _are_engines(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(part, str) for pair in value.items() for part in pair)


_COUNT = (f"a whole number from 0 up, below {_MOST:,}", _is_count)
_NUMBER = ("a whole number from 0 up", _is_number)
_RANKS = (f"a number of ranks, below {_MOST_RANKS:,}", lambda value: _is_count(value, _MOST_RANKS))

_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "version": (str(VERSION), lambda value: value == VERSION),
    "position.epoch": _NUMBER,
    "position.until": ("a whole number from 1 up, or None", lambda value: value is None or (_is_number(value) and value > 0)),
    "position.window.cursor.position": _NUMBER,
    "position.window.cursor.source": ("shards that were begun: number, records and state of each", _are_open),
    "position.window.blocks": _COUNT,
    "position.window.skip": _COUNT,
    "position.window.planned_world_size": _RANKS,
    "position.window.served": _COUNT,
    "position.window.step": _COUNT,
    "calibration.engines": ("a dict of engines by column", _are_engines),
    "calibration.shapes": ("pairs of rows and length, or None", _are_shapes),
    "calibration.full_bytes": (
        "a whole number of bytes, or None",
        lambda value: value is None or (_is_number(value) and value > 0),
    ),
    "calibration.world_size": _RANKS,
    "seed": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "fingerprint": ("the text that state_dict() wrote", _is_fingerprint),
}
"""What each entry of a state must be, in words and as a test; all of them must be there."""


def _check(state: Mapping[str, Json]) -> None:
    """Raise unless a state has the version and the form that this version writes."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be the dict that state_dict() returned, got {type(state).__name__}")
    _check_version(state)
    values = {name: _find(state, name) for name in _RULES}
    if missing := sorted(name for name, found in values.items() if not found):
        raise ValueError(f"state must be what state_dict() returned, got one without {', '.join(missing)}")
    for name, (rule, holds) in _RULES.items():
        (value,) = values[name]
        if not holds(value):
            raise ValueError(f"{name} of the state must be {rule}, got {value!r:.80}; {_AS_SAVED}")
    epoch, until, window = (state["position"][name] for name in ("epoch", "until", "window"))
    if "mixture" in window:
        _check_mixture(window["mixture"])
    if until is not None and until <= epoch:
        raise ValueError(f"position.until of the state must be after epoch {epoch}, got {until}; {_AS_SAVED}")
    if window["served"] and not (window["planned_world_size"] and window["blocks"]):
        raise ValueError(
            f"position.window.served of the state must be 0 in a window of planned_world_size {window['planned_world_size']} "
            f"and {window['blocks']} blocks, got {window['served']}; {_AS_SAVED}"
        )


def _check_mixture(entry: Json) -> None:
    """Raise unless an entry ``mixture`` has the form that `MixtureStart.to_json` writes."""
    name = "position.window.mixture"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{name} of the state must be a dict, got {entry!r:.80}; {_AS_SAVED}")
    rules = {"tokens": ("a whole number from 0 up", _is_number), "sources": ("the starts of sources by name", _are_starts)}
    rules |= dict.fromkeys(("is_last", "goes_on"), ("true or false", lambda value: isinstance(value, bool)))
    if missing := sorted(rules.keys() - entry.keys()):
        raise ValueError(f"state must be what state_dict() returned, got one without {name}.{', '.join(missing)}")
    for part, (rule, holds) in rules.items():
        if not holds(entry[part]):
            raise ValueError(f"{name}.{part} of the state must be {rule}, got {entry[part]!r:.80}; {_AS_SAVED}")


def _are_starts(value: Any) -> bool:
    """Return whether a value has, by name, pass, position, part of a block, skip, surplus and rows, and maybe open shards."""
    return isinstance(value, Mapping) and all(
        isinstance(start, list | tuple)
        and len(start) in (6, 7)
        and all(map(_is_number, (start[0], start[1], start[3], start[5])))
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in (start[2], start[4]))
        and 0 <= start[2] < 1
        and _are_open(start[6] if len(start) == 7 else [])
        for start in value.values()
    )


def _check_version(state: Mapping[str, Json]) -> None:
    """Raise if another version of seqstream has saved a state."""
    version = state.get("version", VERSION)
    if version == 1:
        raise ValueError(
            "state is of version 1, saved by an earlier version of seqstream, and cannot be read: rows come in another order "
            "since; start the epoch anew with set_epoch(), or finish the run with the earlier version"
        )
    if version != VERSION:
        raise ValueError(f"state must be of version {VERSION}, got {version!r:.80}; load it with the seqstream that saved it")


def _find(state: Mapping[str, Json], name: str) -> tuple[Json, ...]:
    """Return the value of an entry such as ``position.epoch``, alone in a tuple; an empty one where the entry is missing.

    Raises:
        ValueError: What should hold the entry is no dict.
    """
    found: Json = state
    parts = name.split(".")
    for number, part in enumerate(parts):
        if not isinstance(found, Mapping):
            parent = ".".join(parts[:number])
            raise ValueError(f"{parent} of the state must be a dict, got {found!r:.80}; {_AS_SAVED}")
        if part not in found:
            return ()
        found = found[part]
    return (found,)
