"""Words of Python statements from the standard library, each with a tag for its role.

A name does not show its role: in ``size = len(text)`` the first name is assigned, the second called, the third read.
"""

import ast
import keyword
import random
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROLES = ("called", "read", "assigned", "attribute", "parameter", "argument", "defined")
"""The roles of names."""

_KINDS = {tokenize.OP: "operator", tokenize.NUMBER: "number", tokenize.STRING: "string"}
TAGS = (*ROLES, "keyword", *_KINDS.values())

Statement = dict[str, list[str]]
Position = tuple[int, int]
"""Line and column."""


def read_modules(num_modules: int) -> list[list[Statement]]:
    """Return the statements of some modules as ``{"words": [...], "tags": [...]}``, one list a module, in a seeded order."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [list(_read_statements(file)) for file in random.Random(0).sample(files, min(num_modules, len(files)))]


def _read_statements(file: Path) -> Iterator[Statement]:
    """Yield statements of at least three words, except those that have a name of another role."""
    roles = _find_roles(ast.parse(file.read_bytes()))
    words: list[str] = []
    tags: list[str | None] = []
    with file.open("rb") as lines:
        for token in tokenize.tokenize(lines.readline):
            if token.type == tokenize.NAME:
                is_defined = words[-1:] in (["def"], ["class"])
                role = "defined" if is_defined else roles.get(token.start)
                tags.append("keyword" if keyword.iskeyword(token.string) else role)
                words.append(token.string)
            elif token.type in _KINDS:
                tags.append(_KINDS[token.type])
                words.append(token.string)
            elif token.type == tokenize.NEWLINE:
                known = [tag for tag in tags if tag is not None]
                if len(known) == len(words) > 2:
                    yield {"words": words, "tags": known}
                words, tags = [], []


def _find_roles(tree: ast.Module) -> dict[Position, str]:
    """Return the roles of names by line and column."""
    roles: dict[Position, str] = {}
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # a call is visited before the name in it, which keeps the role "called"
        nodes.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.JoinedStr))
        match node:
            case ast.Call(func=ast.Name() | ast.Attribute() as name):
                roles[_begin(name)] = "called"
            case ast.Attribute():
                roles.setdefault(_begin(node), "attribute")
            case ast.Name(ctx=context):
                roles.setdefault(_begin(node), "read" if isinstance(context, ast.Load) else "assigned")
            case ast.arg():
                roles[node.lineno, node.col_offset] = "parameter"
            case ast.keyword(arg=str()):
                roles[node.lineno, node.col_offset] = "argument"
    return roles


def _begin(name: ast.Name | ast.Attribute) -> Position:
    """Return where a name begins; the name of an attribute is the end of its node."""
    if isinstance(name, ast.Name):
        return name.lineno, name.col_offset
    return name.end_lineno or 0, (name.end_col_offset or 0) - len(name.attr)
