"""Writes a loader as Python code, ready to paste into a program."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_POSITIONAL = ("paths", "tokenizer")


def write_loader(*parts: Any) -> str:
    """Return the Python code of a loader of a source, stages and a batch spec.

    A value that has no literal, such as a tokenizer object, is written as its name.
    """
    stages = "".join(f"    ss.{write_call(part)},\n" for part in parts)
    return f"import seqstream as ss\n\nloader = ss.Loader(\n{stages})"


def write_call(spec: Any) -> str:
    """Return the call that makes a spec, without arguments that have their default."""
    fields = [field for field in dataclasses.fields(spec) if field.init]
    literals = [(field.name, _literal(field.name, getattr(spec, field.name)), field.default) for field in fields]
    arguments = [
        text if name in _POSITIONAL else f"{name}={text}" for name, text, default in literals if text != _literal(name, default)
    ]
    return f"{type(spec).__name__}({', '.join(arguments)})"


def _literal(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, str | os.PathLike):
        return json.dumps(os.fspath(value), ensure_ascii=False)
    if isinstance(value, list | tuple):
        pattern = as_glob(value) if name == "paths" else None
        return _literal(name, pattern) if pattern else f"[{', '.join(_literal(name, each) for each in value)}]"
    return name


def as_glob(paths: Sequence[str]) -> str | None:
    """Return the single path, or ``folder/*.suffix`` if this glob gives exactly these paths in this order, else ``None``."""
    if len(paths) == 1:
        return paths[0]
    folder = Path(paths[0]).parent
    pattern = "*" + "".join(Path(paths[0]).suffixes)
    found = sorted(str(path) for path in folder.glob(pattern) if not path.name.startswith("."))
    return str(Path(glob.escape(str(folder))) / pattern) if found == [str(Path(path)) for path in paths] else None
