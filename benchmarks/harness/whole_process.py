"""What a user waits for in a process that has done nothing before: imports, then a loader up to its first batch and its last.

This module imports little, so that the time of imports is that of seqstream and torch, as in a user's script.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import psutil

import seqstream as ss
from seqstream.tokenizing.disk_cache import VARIABLE

MAX_TOKENS, MAX_LENGTH = 16_384, 1_024


@dataclasses.dataclass(frozen=True)
class ProcessTimes:
    """Seconds of one process.

    Attributes:
        imports: From the start of the process on, until everything is imported.
        first_batch: From there to the first batch: the tokenizer is read, its engine loaded and proven, a window tokenised.
        all_batches: From there to the end of the epoch; as many seconds as ``first_batch`` where the epoch was not read.
    """

    imports: float
    first_batch: float
    all_batches: float


def run_process(text: Path, tokenizer: Path, cache: Path, window_bytes: int | None, whole: bool) -> ProcessTimes:
    """Read a text file by a new loader in this process, whose start counts.

    Args:
        text: The file.
        tokenizer: The ``tokenizer.json``.
        cache: Folder of the results that earlier processes have stored.
        window_bytes: Size of a window; ``None`` for the default.
        whole: Whether all batches are read, or only the first.
    """
    imports = time.time() - psutil.Process().create_time()
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(cache)
    begun = time.perf_counter()
    try:
        tokenize = ss.Tokenize(str(tokenizer), max_length=MAX_LENGTH)
        spec = ss.Bucket(max_tokens=MAX_TOKENS, window_bytes=window_bytes)
        batches = iter(ss.Loader(ss.TextFiles(str(text)), tokenize, spec))
        next(batches)
        first_batch = time.perf_counter() - begun
        for _ in batches if whole else ():
            pass
        batches.close()
        return ProcessTimes(imports, first_batch, time.perf_counter() - begun)
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
