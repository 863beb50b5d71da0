"""Walks over nested Arrow types: the types inside of one with their paths, and the same type with other leaves."""

from __future__ import annotations

import pyarrow as pa

from seqstream.sources.tables.nested_types import json_paths, map_leaves, stored_type, types_in

INNER = pa.struct([("b", pa.large_list(pa.json_())), ("c", pa.dictionary(pa.int8(), pa.string()))])
NESTED = pa.struct([("a", pa.list_(INNER)), ("d", pa.list_(pa.null(), 2))])


def test_types_with_their_paths() -> None:
    """Outer types are first; a dictionary is a leaf, a list of any kind is not."""
    paths = [(), ("a",), ("a", None), ("a", None, "b"), ("a", None, "b", None), ("a", None, "c"), ("d",), ("d", None)]
    assert [path for path, _ in types_in(NESTED)] == paths
    assert dict(types_in(NESTED))["a", None] == INNER
    assert json_paths(NESTED, ("x",)) == [("x", "a", None, "b", None)]


def test_types_with_other_leaves() -> None:
    """Only leaves are replaced; every list becomes a plain one."""
    inner = pa.struct([("b", pa.list_(pa.string())), ("c", pa.dictionary(pa.int8(), pa.string()))])
    assert stored_type(NESTED) == pa.struct([("a", pa.list_(inner)), ("d", pa.list_(pa.null()))])
    assert map_leaves(pa.list_(INNER), lambda _: pa.int8()) == pa.list_(
        pa.struct([("b", pa.list_(pa.int8())), ("c", pa.int8())])
    )
