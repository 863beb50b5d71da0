"""States of a loader with an entry changed."""

from __future__ import annotations

import copy
from typing import Any


def with_entry(state: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return a copy of a state with another value of an entry, such as ``position.window.blocks``."""
    *parents, last = name.split(".")
    found = changed = copy.deepcopy(state)
    for parent in parents:
        found = found[parent]
    found[last] = value
    return changed
