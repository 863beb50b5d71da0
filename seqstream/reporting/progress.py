"""A progress bar of long work, on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from seqstream.tuning.comparison import OnProgress


@contextlib.contextmanager
def progress_bar(*, is_shown: bool = True) -> Iterator[OnProgress]:
    """Show a progress bar on a terminal, and remove it at the end.

    Args:
        is_shown: Whether it is shown at all.
    """
    console = Console(stderr=True)
    if not (is_shown and console.is_terminal):
        yield lambda what, done, total: None  # rich 13 ends a bar that is disabled with an empty line
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
