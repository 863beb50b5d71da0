"""How much is measured, and on what."""

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
    """How much is measured; the defaults are what the targets are meant for.

    Attributes:
        repeats: How often things are measured that are compared with each other, in turn; the median of each counts.
        seeds: How many orders an average is over.
        max_bytes: Each corpus is cut to its first lines, about so many bytes; ``None`` takes it whole.
        isolate: Calls a function of a module with arguments, in a process of its own.
        say: Told what is being measured, for who waits.
    """

    repeats: int = 5
    seeds: int = 20
    max_bytes: int | None = None
    isolate: Callable[..., Any] = in_fresh_process
    say: Callable[[str], None] = lambda _: None

    def text(self, name: str) -> Path:
        """Return a corpus as a text file, one text a line."""
        return self.cut(corpora.text(name))

    def cut(self, file: Path) -> Path:
        """Return the file, or one of its first lines."""
        if self.max_bytes is None or file.stat().st_size <= self.max_bytes:
            return file
        return first_lines(file, self.max_bytes)


QUICK = Settings(repeats=2, seeds=4, max_bytes=3_000_000)


def first_lines(file: Path, num_bytes: int) -> Path:
    """Return a file of the first whole lines of another, about so many bytes, made once."""
    stem = f"{file.parent.name}-{file.stem}-{file.stat().st_size}"

    def lines() -> list[str]:
        with file.open("rb") as whole:
            return (whole.read(num_bytes) + whole.readline()).decode().removesuffix("\n").split("\n")

    return made_once(f"beginnings/{stem}-first-{num_bytes}{file.suffix}", lines)
