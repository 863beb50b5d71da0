"""What a loader and a state must have in common, kept small, and the error that names each entry in which they differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from seqstream.records import Json

_LONGEST = 160
"""Longer entries of a fingerprint are replaced by a hash, so that a state stays small, whatever the source has in it."""

_DATA_ENTRIES = ("seed", "source", "shuffle")
"""What must agree even with ``strict=False``."""


def compact(fingerprint: Json) -> Json:
    """Return a fingerprint with long entries hashed, as it is after a round trip through JSON."""
    if isinstance(fingerprint, Mapping):
        return {str(name): compact(value) for name, value in fingerprint.items()}
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    if len(text) > _LONGEST:
        return f"{text[:24]}… ({hashlib.sha256(text.encode()).hexdigest()[:16]})"
    return json.loads(text)


def to_text(fingerprint: Json) -> str:
    """Return a fingerprint as it is in a state: one text, which is quicker to save with each state than a dict."""
    return json.dumps(compact(fingerprint))


def differences(saved: Json, own: Json, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the entries in which two fingerprints differ: the name, the saved value, and the loader's own."""
    if isinstance(saved, Mapping) and isinstance(own, Mapping):
        for entry in dict.fromkeys((*saved, *own)):
            yield from differences(saved.get(entry), own.get(entry), f"{name}.{entry}" if name else str(entry))
    elif saved != own:
        yield name, saved, own


def check_same(saved: Mapping[str, Json], own: Mapping[str, Json], *, strict: bool) -> set[str]:
    """Raise if a state was saved by a loader of other data, another tokenizer, order or batch spec.

    Args:
        saved: The seed and the fingerprint of the state.
        own: Those of the loader.
        strict: Whether all entries must agree, or only seed, source and order; sources of a mixture may come and go.

    Returns:
        Names of the entries that differ, such as ``batches``.

    Raises:
        ValueError: It names each entry that differs, with both values.
    """
    found = list(differences(saved, own))
    of_data = [entry for entry in found if entry[0].split(".")[0] in _DATA_ENTRIES and not _is_of_mixture(*entry)]
    refused = found if strict else of_data
    if refused:
        listed = "; ".join(
            f"state was saved for {name} {_shown(saved)}, this loader has {_shown(own)}" for name, saved, own in refused
        )
        advice = "build the loader as it was, or start anew"
        if strict and not of_data:
            advice += ", or load with strict=False to begin the window under way again with these stages"
        raise ValueError(f"{listed}; {advice}")
    return {name.split(".")[0] for name, _, _ in found}


def _is_of_mixture(name: str, saved: Json, own: Json) -> bool:
    """Return whether an entry is a source of a mixture that only one of the two has."""
    return name.startswith("source.sources.") and (saved is None or own is None)


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
