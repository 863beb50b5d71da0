"""Small files of JSON with a digest, which appear when they are complete."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from seqstream.records import Json
from seqstream.sources.tokens.arrow_files import UNFINISHED, give_name

ADVICE = "copy the folder again, or write the tokens again"


def write_json(path: Path, fields: dict[str, Json]) -> None:
    """Write a file of JSON, with a digest of its content; it appears at once."""
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    unfinished.write_text(json.dumps({**fields, "digest": _digest(fields)}))
    give_name(unfinished, path)


def read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Return the fields of a file of JSON.

    Raises:
        ValueError: It is damaged, of another kind or of another version.
    """
    try:
        fields = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON as it was written, got {error}; {ADVICE}") from error
    if not isinstance(fields, dict) or fields.get("kind") != kind:
        raise ValueError(f"{path} must be of kind {kind!r}, got {str(fields)[:80]}; pass a folder that write_tokens has made")
    if fields.get("version") != version:
        raise ValueError(f"{path} must be of version {version}, got {fields.get('version')!r}; write the tokens again")
    if fields.pop("digest", None) != _digest(fields):
        raise ValueError(f"{path} must be as it was written, but its digest differs; {ADVICE}")
    return fields


def _digest(fields: dict[str, Json]) -> str:
    return hashlib.blake2b(json.dumps(fields).encode(), digest_size=16).hexdigest()
