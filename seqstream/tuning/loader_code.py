"""Writes a loader as Python code, ready to paste into a program."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_POSITIONAL = ("paths", "tokenizer", "sources", "weights", "classes")


def write_loader(*parts: Any, **options: Any) -> str:
    """Return the Python code of a loader of a source, stages, a batch spec and options.

    A value that has no literal, such as a tokenizer object, is written as its name; a comment marks options of this kind.
    """
    arguments = [f"ss.{write_call(part)}," for part in parts]
    for name, value in options.items():
        text = _literal(name, value)
        arguments.append(f"{name}={text},{'  # your own' if text == name else ''}")
    lines = "".join(f"    {argument}\n" for argument in arguments)
    return f"import seqstream as ss\n\nloader = ss.Loader(\n{lines})"


def write_call(spec: Any) -> str:
    """Return the call that makes a spec, without arguments that have their default."""
    fields = [field for field in dataclasses.fields(spec) if field.init]
    literals = [(field, _literal(field.name, getattr(spec, field.name))) for field in fields]
    arguments = [
        text if field.name in _POSITIONAL else f"{field.name}={text}"
        for field, text in literals
        if _has_no_default(field) or text != _literal(field.name, _default(field))
    ]
    return f"{type(spec).__name__}({', '.join(arguments)})"


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _literal(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, str | os.PathLike):
        return json.dumps(os.fspath(value), ensure_ascii=False)
    if isinstance(value, Mapping):
        parts = [f"{json.dumps(key)}: {_literal('value', each)}" for key, each in value.items()]
        if any(_is_spec(each) for each in value.values()):
            return "{\n" + "".join(f"        {part},\n" for part in parts) + "    }"
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, tuple) and value and _is_spec(value[0]):
        return f"({', '.join(_literal(name, each) for each in value)})"
    if isinstance(value, list | tuple):
        pattern = as_glob(value) if name == "paths" else None
        return _literal(name, pattern) if pattern else f"[{', '.join(_literal(name, each) for each in value)}]"
    return f"ss.{write_call(value)}" if _is_spec(value) else name


def _is_spec(value: Any) -> bool:
    """Return whether a value is a source or a stage, or a tuple that begins with one."""
    first = value[0] if isinstance(value, tuple) and value else value
    return dataclasses.is_dataclass(first) and type(first).__module__.startswith("seqstream.")


def as_glob(paths: Sequence[str]) -> str | None:
    """Return the single path, or ``folder/*.suffix`` if this glob gives exactly these paths in this order, else ``None``."""
    if len(paths) == 1:
        return paths[0]
    folder = Path(paths[0]).parent
    pattern = "*" + "".join(Path(paths[0]).suffixes)
    found = sorted(str(path) for path in folder.glob(pattern) if not path.name.startswith("."))
    return str(Path(glob.escape(str(folder))) / pattern) if found == [str(Path(path)) for path in paths] else None
