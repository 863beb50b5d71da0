"""How numbers are written on the page."""

from __future__ import annotations


def times(more: float) -> str:
    """Return how many times as much something is: ``times(9.12)`` is ``"9.1 times"``."""
    return f"{more:.1f} times" if more < 9.95 else f"{more:.0f} times"


def percent(share: float) -> str:
    """Return a share with two digits that count: 0.9134 is ``"91%"``, 0.0034 is ``"0.34%"``, and 0.9966 is ``"99.7%"``."""
    if 0.995 <= share < 1:
        return f"{share:.1%}" if share < 0.9995 else f"{share:.2%}"
    if not share or share >= 0.0995:
        return f"{share:.0%}"
    return f"{share:.1%}" if share >= 0.00995 else f"{share:.2%}"


def whole(number: int) -> str:
    """Return a number as a whole, or with a unit where it is a million or more: 65,536, or 2.1M."""
    return f"{number:,}" if number < 1_000_000 else f"{number / 1e6:.1f}M" if number < 1e9 else f"{number / 1e9:.1f}B"


def place(location: str) -> str:
    """Return a location without the folder of its file: ``"/a/b.txt, line 3"`` is ``"b.txt, line 3"``."""
    file, comma, rest = location.partition(", ")
    return file.rpartition("/")[2] + comma + rest
