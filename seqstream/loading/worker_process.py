"""Worker processes of one machine: how they start, how they answer, and that they end when their parent has died.

All processes of an executor answer through one pipe. A process that is killed while it writes a large answer there leaves half
of it, and no answer after it can be read. So a large answer is written to a file, and the pipe carries a note of that.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seqstream.loading.remote_blocks import Answer, BlockTask, process_block, remember

ATOMIC_BYTES = 2048
"""Answers up to this size go through the pipe: up to 4,096 bytes that are written at once arrive as a whole or not at all."""

_WATCH_SECONDS = 1.0
"""How long a worker outlives its parent at most, where the system does not notify it."""

_folders: set[Path] = set()
"""Folders in which this process has written answers."""


def answer_by_file(task: BlockTask, file: Path) -> bytes | None:
    """Return the pickled answer for a block, or ``None`` if it was written to a file."""
    answer = pickle.dumps(process_block(task), protocol=5)
    if len(answer) <= ATOMIC_BYTES or not file.parent.is_dir():
        return answer
    _folders.add(file.parent)
    file.write_bytes(answer)
    return None


def receive_answer(answer: bytes | None, file: Path) -> Answer:
    """Return the answer that `answer_by_file` has returned or written, and delete its file."""
    if answer is None:
        answer = file.read_bytes()
        file.unlink()
    received: Answer = pickle.loads(answer)
    return received


def start_worker(objects: Mapping[str, Any], parent: int, is_child: bool) -> None:
    """Prepare a process that works for one loader: signals, threads, and an end with its parent.

    Args:
        objects: Its stages and sources, by what identifies them.
        parent: The process id of the loader.
        is_child: Whether that process has started this one, rather than a fork server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the loader's process ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process has the handlers of its parent
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(1)
    remember(objects)
    threading.Thread(target=_end_with, args=(parent, is_child), name="seqstream-parent", daemon=True).start()


def _end_with(parent: int, is_child: bool) -> None:
    """End this process once its parent has ended, whatever it is doing."""
    process = multiprocessing.parent_process()
    while process is not None:
        multiprocessing.connection.wait([process.sentinel], _WATCH_SECONDS)
        # Others that the parent has forked may keep the sentinel open.
        if not process.is_alive() or (is_child and os.getppid() != parent):
            break
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
