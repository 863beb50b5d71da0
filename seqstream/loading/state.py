"""The state of a loader: where it is, and what it must be to go on from there."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from seqstream.records import Json
from seqstream.windows.block_reader import Cursor
from seqstream.windows.settings import WindowStart

VERSION = 2
"""Version 1 visited shards and served batches in another order."""

_MOST = 1 << 31
"""No window has so many blocks or rows, and no epoch so many steps."""

_MOST_RANKS = 1 << 17
"""No job has so many, and planning for them takes memory for each."""


def _is_count(value: Any, limit: int = _MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _is_fingerprint(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(json.loads(value), dict)
    except ValueError:
        return False


def _are_shapes(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(shape, list | tuple) and len(shape) == 2 and all(_is_count(size) and size > 0 for size in shape)
        for shape in value
    )


def _are_open(value: Any) -> bool:
    """Return whether these are shards that were begun; the last part of each is the source's own."""
    return isinstance(value, list | tuple) and all(
        isinstance(shard, list | tuple)
        and len(shard) == 3
        and all(_is_count(number, 1 << 63) for number in shard[:2])
        and shard[2] is not None
        for shard in value
    )


_COUNT = (f"a whole number from 0 up, below {_MOST:,}", _is_count)
_NUMBER = ("a whole number from 0 up", lambda value: _is_count(value, 1 << 63))

_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "version": (str(VERSION), lambda value: value == VERSION),
    "fingerprint": ("the text that state_dict() wrote", _is_fingerprint),
    "seed": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "epoch": _NUMBER,
    "until": ("a whole number from 1 up, or None", lambda value: value is None or (_is_count(value, 1 << 63) and value > 0)),
    "position": _NUMBER,
    "blocks": _COUNT,
    "skip": _COUNT,
    "group": (f"a number of ranks, below {_MOST_RANKS:,}", lambda value: _is_count(value, _MOST_RANKS)),
    "served": _COUNT,
    "step": _COUNT,
    "shapes": ("pairs of rows and length, or None", lambda value: value is None or _are_shapes(value)),
    "engine": (
        "a dict of engines by column",
        lambda value: isinstance(value, Mapping) and all(isinstance(part, str) for pair in value.items() for part in pair),
    ),
    "source": ("shards that were begun: number, records and state of each", _are_open),
}
"""What each entry of a state must be, in words and as a test; all of them must be there."""

_LONGEST = 160
"""Longer entries of a fingerprint are replaced by a hash, so that a state stays small whatever the source says of itself."""


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run is: the epoch, the one before which it ends, and the window.

    Attributes:
        epoch: Epoch under way.
        until: The iteration ends before this epoch; ``None`` if it has no end.
        window: Where the window under way begins; its ``blocks`` is 0 as long as nobody knows how large it should be.
    """

    epoch: int
    until: int | None
    window: WindowStart

    def to_json(self, **others: Json) -> dict[str, Json]:
        """Return the state, completed by what does not move."""
        window = self.window
        return {
            "version": VERSION,
            **others,
            "epoch": self.epoch,
            "until": self.until,
            "position": window.cursor.position,
            "blocks": window.blocks,
            "skip": window.skip,
            "group": window.planned_world_size,
            "served": window.served,
            "step": window.step,
            "source": window.cursor.source_json(),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Json]) -> Position:
        cursor = Cursor.from_json(state["position"], state["source"])
        window = WindowStart(cursor, state["blocks"], state["skip"], state["group"], state["served"], state["step"])
        return cls(state["epoch"], state["until"], window)


def check_form(state: Mapping[str, Json]) -> None:
    """Refuse what is no state of a loader of this version.

    Raises:
        TypeError: It is not a mapping.
        ValueError: It lacks keys, is of another version, or an entry is nothing that a state can have; the message names it.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be the dict that state_dict() returned, got {type(state).__name__}")
    if state.get("version") != VERSION and "version" in state:
        raise ValueError(
            f"state must be of version {VERSION}, got {state['version']}, which serves rows in another order; go on with the "
            "seqstream that saved it, or start the epoch anew"
        )
    if missing := sorted(_RULES.keys() - set(state)):
        raise ValueError(f"state must be what state_dict() returned, got one without {', '.join(missing)}")
    for name, (rule, is_kept) in _RULES.items():
        if not is_kept(state[name]):
            raise ValueError(f"{name} of the state must be {rule}, got {state[name]!r:.80}; load it as it was saved")
    if state["until"] is not None and state["until"] <= state["epoch"]:
        raise ValueError(
            f"until of the state must be after epoch {state['epoch']}, got {state['until']}; load it as it was saved"
        )
    if state["served"] and not (state["group"] and state["blocks"]):
        raise ValueError(
            f"served of the state must be 0 in a window of group {state['group']} and {state['blocks']} blocks, got "
            f"{state['served']}; load it as it was saved"
        )


def own_copy(state: Mapping[str, Json]) -> dict[str, Json]:
    """Return a copy that may be changed; a batch is made in some 100 µs, so what is no list and no dict is not looked into."""
    return {name: _copied(value) if type(value) in (dict, list) else value for name, value in state.items()}


def _copied(value: Any) -> Any:
    return copy.deepcopy(value) if value else type(value)()


def compact(fingerprint: Json) -> Json:
    """Return a fingerprint with long entries hashed, as it comes back from JSON."""
    if isinstance(fingerprint, Mapping):
        return {str(name): compact(value) for name, value in fingerprint.items()}
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    if len(text) > _LONGEST:
        return f"{text[:24]}… ({hashlib.sha256(text.encode()).hexdigest()[:16]})"
    return json.loads(text)


def write(fingerprint: Json) -> str:
    """Return a fingerprint as it stands in a state: one text, which is saved many times as quickly as its parts."""
    return json.dumps(compact(fingerprint))


def differences(saved: Json, own: Json, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield what two fingerprints disagree on: the name of the entry, the saved one, and the loader's own."""
    if isinstance(saved, Mapping) and isinstance(own, Mapping):
        for entry in dict.fromkeys((*saved, *own)):
            yield from differences(saved.get(entry), own.get(entry), f"{name}.{entry}" if name else str(entry))
    elif saved != own:
        yield name, saved, own


def check_same(state: Mapping[str, Json], fingerprint: str, seed: int, *, strict: bool) -> bool:
    """Refuse a state that was saved by a loader of other data, tokenizer, order or batches.

    Args:
        state: What was saved.
        fingerprint: The loader's own, as `write` returned it.
        seed: The loader's own.
        strict: Whether all must agree, or the source and the seed only.

    Returns:
        Whether all agrees.

    Raises:
        ValueError: It names each entry that differs, with both values.
    """
    saved, own = {"seed": state["seed"], **json.loads(state["fingerprint"])}, {"seed": seed, **json.loads(fingerprint)}
    found = list(differences(saved, own))
    refused = [entry for entry in found if strict or entry[0].split(".")[0] in ("seed", "source", "shuffle")]
    if refused:
        listed = "; ".join(
            f"state was saved for {name} {_shown(saved)}, this loader has {_shown(own)}" for name, saved, own in refused
        )
        advice = "build the loader as it was, or start anew"
        if strict and len(refused) == len(
            [entry for entry in found if entry[0].split(".")[0] not in ("seed", "source", "shuffle")]
        ):
            advice += ", or load with strict=False to begin the window under way again with these stages"
        raise ValueError(f"{listed}; {advice}")
    return not found


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
