"""Run cases of some kinds, each until its time is over, and print the failing ones with what is needed to run them again.

    python -m tests.fuzz.run KIND ... --seed 0 --seconds 60 [--case 17]

It runs in a process of its own, which ends after a crash, or a case that takes `SECONDS_A_CASE`. The last line of the file
``--log`` is the current case.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import itertools
import json
import os
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.kind import Input, Kind

SECONDS_A_CASE = 60.0  # blocks of one byte take seconds, and many when the processor is busy
CLEAR = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)
_MOST = 5


def judge(kind: Kind, given: Input, path: Path, *, is_valid: bool) -> str | None:
    """Return what is wrong with the result or the error of an input, ``None`` if nothing is."""
    try:
        got = kind.read(given, path)
    except BaseException as error:  # noqa: BLE001 - Rust panics are no Exception
        problem = judge_error(error, given.name)
        if problem is None and not is_valid:
            return None
        return f"{problem or 'a valid input was refused'}\n{''.join(traceback.format_exception(error))}"
    if kind.reference is None:
        return None
    try:
        expected = kind.reference(given)
    except BaseException as error:  # noqa: BLE001
        return f"accepted, where the reference raises {type(error).__name__}: {error}\ngot {got!r:.1000}"
    with contextlib.suppress(TypeError, ValueError):
        if kind.is_same(got, expected):
            return None
    return f"not the result of the reference\ngot      {got!r:.1500}\nexpected {expected!r:.1500}"


def judge_error(error: BaseException, name: str) -> str | None:
    """Return why an error is not clear, ``None`` if it has a fitting type and names the file."""
    message = "\n".join([str(error), *getattr(error, "__notes__", [])])
    if not isinstance(error, CLEAR) or isinstance(error, UnicodeError | RecursionError | NotImplementedError):
        return f"an error of a meaningless type: {type(error).__name__}"
    if name not in message or not message.strip():
        return f"an error that does not name {name}"
    if not name.count(".") and not _is_meant(error):
        return "an error that no statement of seqstream raises"
    return None


def _is_meant(error: BaseException) -> bool:
    """Return whether seqstream wrote an error or its notes, rather than Python or a library."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return hasattr(error, "__notes__") or ("/seqstream/" in last.filename and (last.line or "").startswith("raise"))


def resources() -> tuple[int, int]:
    """Return the numbers of threads and open files of this process."""
    gc.collect()
    files = Path("/proc/self/fd")
    return threading.active_count(), len(list(files.iterdir())) if files.exists() else 0


def run(kind: Kind, name: str, seed: int, numbers: Any, *, seconds: float, log: Any) -> tuple[int, list[str]]:
    """Run cases; return their number, and what is wrong."""
    problems: dict[str, str] = {}
    end, count, before = time.process_time() + seconds, 0, (0, 0)
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            if time.process_time() > end or len(problems) >= _MOST:
                break
            random = Random(f"{name} {seed} {number}")
            given = kind.make(random)
            damages = random.choice([0, 1, 1, 1, 2, 4])
            for _ in range(damages):
                given = kind.damage(random, given)
            path = Path(folder) / f"{number}" / (given.name or "object")
            path.parent.mkdir()
            if isinstance(given.data, bytes):
                path.write_bytes(given.data)
            shown = f"{name}, case {number} of seed {seed}: {given!r:.3000}"
            print(shown, file=log, flush=True)
            faulthandler.dump_traceback_later(SECONDS_A_CASE, exit=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                problem = judge(kind, given, path, is_valid=damages == 0)
            faulthandler.cancel_dump_traceback_later()
            count += 1
            if problem:
                problems.setdefault(problem.strip().splitlines()[-1][:40], f"{shown}\n{problem}")
            if count == 10:
                before = resources()
        after = resources()
    if count > 10 and (after[0] > before[0] or after[1] > before[1] + 2):
        problems["left"] = f"threads and files were {before} after 10 cases and are {after} after {count} of seed {seed}"
    return count, list(problems.values())


def main() -> None:
    """Print, as JSON, the number of cases of each kind and what is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="+", metavar="KIND")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0, help="processor time of each kind")
    parser.add_argument("--case", type=int)
    parser.add_argument("--log", default=os.devnull)
    asked = parser.parse_args()
    faulthandler.enable()
    with contextlib.suppress(ImportError):
        import resource

        # Larger allocations raise MemoryError instead of using up all memory.
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    from tests.fuzz import files, objects

    kinds, found = {**files.KINDS, **objects.KINDS}, {}
    with Path(asked.log).open("w", encoding="utf-8", errors="backslashreplace") as log:
        for name in asked.kinds:
            numbers = itertools.count() if asked.case is None else [asked.case]
            count, problems = run(kinds[name], name, asked.seed, numbers, seconds=asked.seconds, log=log)
            found[name] = {"cases": count, "problems": problems}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
