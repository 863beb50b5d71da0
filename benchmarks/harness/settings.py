"""How much is measured, and on which part of the corpora."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import corpora
from benchmarks.harness.fresh_process import in_fresh_process
from examples.shared.corpus import made_once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured; targets hold for the defaults.

    Attributes:
        repeats: How often each of several ways is measured, in turn; the median counts.
        seeds: Number of seeds of a mean.
        max_bytes: About how many bytes of each corpus are used, whole lines from its beginning; ``None`` for all.
        isolate: Calls a function of a module with arguments, in a process of its own.
        show_progress: Receives what is being measured, to show it.
    """

    repeats: int = 5
    seeds: int = 20
    max_bytes: int | None = None
    isolate: Callable[..., Any] = in_fresh_process
    show_progress: Callable[[str], None] = lambda _: None

    def text(self, name: str) -> Path:
        """Return a corpus as a text file, one text a line."""
        return self.cut(corpora.text(name))

    def cut(self, file: Path) -> Path:
        """Return the file, or a file of its first lines if corpora are cut."""
        if self.max_bytes is None or file.stat().st_size <= self.max_bytes:
            return file
        return first_lines(file, self.max_bytes)


QUICK = Settings(repeats=2, seeds=4, max_bytes=3_000_000)


def first_lines(file: Path, num_bytes: int) -> Path:
    """Return a file of the first whole lines of another, about ``num_bytes``, made once."""
    stem = f"{file.parent.name}-{file.stem}-{file.stat().st_size}"

    def lines() -> list[str]:
        with file.open("rb") as whole:
            return (whole.read(num_bytes) + whole.readline()).decode().removesuffix("\n").split("\n")

    return made_once(f"beginnings/{stem}-first-{num_bytes}{file.suffix}", lines)
