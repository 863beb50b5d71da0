"""The project keeps its own rules."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_test_says_what_must_hold() -> None:
    """Each test has a docstring."""
    silent = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_what_is_installed_for_tests_is_pinned() -> None:
    """Every requirement of pyproject.toml, extras included, has its one version in constraints.txt, and nothing else has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in pins if line and not line.startswith("#")}
    assert pinned == {re.split(r"[<>=\[]", name)[0] for name in asked} - {"seqstream"}


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """constraints-oldest.txt has the lower bound of every requirement of users, those of extras for tests left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(name for extra in ("fast", "plots", "ray", "report") for name in extras[extra])]
    pins = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.replace("==", ">=") for line in pins if line and not line.startswith("#")]
    assert sorted(pinned) == sorted({name.split(",")[0] for name in asked})


def test_modules_require_what_their_extras_install() -> None:
    """A library that is older than the lower bound of an extra is refused by its module."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name in ("accelerate", "lightning", "transformers"):
        code = (ROOT / "seqstream" / name / "__init__.py").read_text(encoding="utf-8")
        assert f"require({', '.join(map(json.dumps, extras[name]))})\n" in code


LEVELS = (
    ("arrow", "arrays", "shuffling", "options"),
    ("records",),
    ("sources", "planning"),
    ("stages", "tokenizing", "distributed"),
    ("windows",),
    ("batches",),
    ("loading",),
    ("tuning", "testing", "writing", "accelerate", "lightning"),
    ("reporting", "transformers"),
    ("command_line",),
    ("cli", "__init__"),
    ("__main__",),
)
"""Folders and modules of the package, lowest first."""


def imports_of(file: Path) -> list[tuple[int, str]]:
    """Return the line and the name of each module of the package that a file imports, wherever in the file it does."""
    found = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seqstream"):
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.startswith("seqstream.")]
    modules = {name: module_file(name) or module_file(name.rpartition(".")[0]) for _, name in found}
    return [(line, ".".join(path.relative_to(ROOT).with_suffix("").parts)) for line, name in found if (path := modules[name])]


def module_file(name: str) -> Path | None:
    """Return the file of a module, ``None`` where the name is of something else."""
    path = ROOT / name.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def test_no_folder_imports_one_above_it() -> None:
    """A module imports from its own folder and from those below, also inside of functions and for types only."""
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    wrong = []
    for file in sorted((ROOT / "seqstream").rglob("*.py")):
        own = file.relative_to(ROOT / "seqstream").with_suffix("").parts[0]
        for line, module in imports_of(file):
            other = module.split(".")[1]
            if other != own and level[other] >= level[own]:
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []
    found = {path.stem for path in (ROOT / "seqstream").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {*level} == found - {"__pycache__"}
    assert len([*(ROOT / "seqstream").glob("*.py")]) <= 8


def test_no_modules_import_each_other() -> None:
    """Imports have no cycles."""
    graph = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): [module for _, module in imports_of(file)]
        for file in (ROOT / "seqstream").rglob("*.py")
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules
