"""Words of Python statements from the standard library, each with a tag that says what it is there for.

What a name is there for is not in the name: in ``size = len(text)`` one is assigned, one called, one read.
"""

import ast
import keyword
import random
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROLES = ("called", "read", "assigned", "attribute", "parameter", "argument", "defined")
"""What names are there for."""

_KINDS = {tokenize.OP: "operator", tokenize.NUMBER: "number", tokenize.STRING: "string"}
TAGS = (*ROLES, "keyword", *_KINDS.values())

Statement = dict[str, list[str]]
Place = tuple[int, int]


def read_modules(num_modules: int) -> list[list[Statement]]:
    """Return the statements of some modules, ``{"words": [...], "tags": [...]}``: one list a module, in a seeded order."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [list(_read_statements(file)) for file in random.Random(0).sample(files, min(num_modules, len(files)))]


def _read_statements(file: Path) -> Iterator[Statement]:
    """Yield statements of three words or more, without those that have a name of yet another role."""
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


def _find_roles(tree: ast.Module) -> dict[Place, str]:
    """Return the roles of names by line and column."""
    roles: dict[Place, str] = {}
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # a call comes before the name in it, which keeps the role that it gave
        nodes.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.JoinedStr))
        match node:
            case ast.Call(func=ast.Name() | ast.Attribute() as name):
                roles[_place(name)] = "called"
            case ast.Attribute():
                roles.setdefault(_place(node), "attribute")
            case ast.Name(ctx=context):
                roles.setdefault(_place(node), "read" if isinstance(context, ast.Load) else "assigned")
            case ast.arg():
                roles[node.lineno, node.col_offset] = "parameter"
            case ast.keyword(arg=str()):
                roles[node.lineno, node.col_offset] = "argument"
    return roles


def _place(name: ast.Name | ast.Attribute) -> Place:
    """Return where a name begins; that of an attribute is the end of the node."""
    if isinstance(name, ast.Name):
        return name.lineno, name.col_offset
    return name.end_lineno or 0, (name.end_col_offset or 0) - len(name.attr)
