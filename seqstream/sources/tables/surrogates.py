r"""Halves of a surrogate pair in JSON, as Python writes for text cut inside of an emoji: ``"\ud83d"`` is not valid UTF-8."""

from __future__ import annotations

import re

# Escaped backslashes and whole pairs match too, so that no half is found inside of them.
_ESCAPES = re.compile(rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})")


def find_surrogate(line: bytes) -> str | None:
    """Return the first escape in JSON that is half of a pair, ``None`` if there is none."""
    return next((found[1].decode() for found in _ESCAPES.finditer(line) if found[1]), None)


def replace_surrogates(text: bytes) -> bytes:
    """Return JSON with U+FFFD, as an escape of the same length, in place of each half of a pair."""
    return _ESCAPES.sub(lambda found: b"\\ufffd" if found[1] else found[0], text)
