"""Runs Python programs in processes that are forked from one that has imported torch and seqstream, and has run nothing."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SECONDS = 240.0
"""Timeout of a program."""


class Program:
    """A program that runs until it ends or its context does; its output is kept in files.

    Args:
        file: The file of the program.
        arguments: Its arguments.
        cwd: Its folder.
        environment: Variables of its environment, beside those of this process.
        paths: Folders of modules, beside its own.
    """

    def __init__(
        self,
        file: Path,
        arguments: Iterable[str] = (),
        *,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        paths: Iterable[str] = (),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.out, self.err = (Path(self._folder.name, name) for name in ("out", "err"))
        self.out.touch()
        self.err.touch()
        self.process: Any = multiprocessing.get_context("forkserver").Process(
            target=_run,
            args=(str(file), [*arguments]),
            kwargs={
                "cwd": str(cwd),
                "environment": {**os.environ, **(environment or {})},
                "paths": [*paths],
                "outputs": (str(self.out), str(self.err)),
            },
        )
        self.process.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self._folder.cleanup()

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for the end of the program, and return what it printed."""
        self.process.join(SECONDS)
        code = self.process.exitcode
        if code is None:
            raise TimeoutError(f"the program has not ended after {SECONDS:.0f} seconds; {self.err.read_text('utf-8')}")
        return subprocess.CompletedProcess((), code, self.out.read_text("utf-8"), self.err.read_text("utf-8"))


def _run(
    file: str, arguments: list[str], *, cwd: str, environment: dict[str, str], paths: list[str], outputs: tuple[str, str]
) -> None:
    for stream, path in enumerate(outputs, 1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, stream)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [file, *arguments]
    sys.path[:0] = [str(Path(file).parent), *paths]
    runpy.run_path(file, run_name="__main__")
