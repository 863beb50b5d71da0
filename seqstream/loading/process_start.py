"""What surrounds the start of processes: signals, environment, and imports in other threads."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

_IMPORT_SECONDS = 1.0
"""How long processes wait at most for threads that import modules before they are forked."""


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Block SIGINT in this thread, and in processes that it starts meanwhile until they ignore the signal."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def set_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for processes that are started meanwhile, then restore it."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def wait_for_imports() -> None:
    """Wait until no other thread imports a module, for a second at most: a child forked meanwhile finds it locked for ever."""
    until = time.monotonic() + _IMPORT_SECONDS  # this thread may be importing the module that trains
    while time.monotonic() < until:
        specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
        if not any(getattr(spec, "_initializing", False) for spec in specs):
            return
        time.sleep(0.001)
