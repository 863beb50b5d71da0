"""Runs Python programs in processes that are forked from one that has imported torch and seqstream, and has run nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

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


def run_code(code: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines of Python, wait for their end, and return what they printed."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8") as file:
        file.write(textwrap.dedent(code))
        file.flush()
        with Program(Path(file.name), arguments, cwd=cwd, environment=environment, paths=(str(ROOT),)) as program:
            return program.wait()


def run_ranks(script: Path, *options: str, ranks: int, **environment: str) -> str:
    """Run a script on some ranks of this machine with the environment that torchrun sets, and return what they printed."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
    with socket.create_server(("127.0.0.1", 0)) as free, contextlib.ExitStack() as stack:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        programs = [
            Program(
                script,
                options,
                cwd=ROOT,
                paths=(str(ROOT), str(ROOT / "examples")),
                environment={"PYTHONPATH": path, **address, **sizes, **environment, "RANK": rank, "LOCAL_RANK": rank},
            )
            for rank in map(str, range(ranks))
        ]
        done = [stack.enter_context(program).wait() for program in programs]
    assert [each.returncode for each in done] == [0] * ranks, "\n".join(each.stderr for each in done)
    return "".join(each.stdout for each in done)


class Popen(Program):
    """Stands in for `subprocess.Popen` in a program that runs files of Python: they are forked."""

    def __init__(self, command: Sequence[str]) -> None:
        interpreter, file, *arguments = command
        assert interpreter == sys.executable
        super().__init__(Path(file), arguments, cwd=Path.cwd())

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def __exit__(self, *_: object) -> None:
        self.returncode = self.wait().returncode
        super().__exit__()


def run(command: Sequence[str], *, env: Mapping[str, str], check: bool) -> None:
    """Stand in for `subprocess.run` in a program that starts torchrun: ranks are forked."""
    *torchrun, ranks, file = command[:6]
    assert torchrun == [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    assert check
    run_ranks(Path(file), *command[6:], ranks=int(ranks.removeprefix("--nproc-per-node=")), **env)


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
