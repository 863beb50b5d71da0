"""Kinds of files: how to make them, and to read them with seqstream and without."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import math
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

import seqstream as ss
from tests.fuzz.kind import Input, Kind
from tests.fuzz.mutations import damage_bytes, damage_text_of_json

WORDS = [
    "a",
    "the",
    "Grüße",
    "日本語",
    "👩‍🚀",
    "\u200b",
    "e\u0301",
    "x" * 60,
    'quote " in it',
    "comma, in it",
    "tab\tin it",
    "  ",
    "NA",
    "7",
]
BLOCK_BYTES = [40, 333, 5_000, None]


def text(random: Random) -> str:
    """Return some words."""
    return " ".join(random.choices(WORDS, k=random.randrange(9)))


def rows_of(source: ss.Source) -> list[dict[str, Any]]:
    """Return all records of a source."""
    tables = [table for shard in range(source.num_shards) for table, _ in source.read(shard)]
    return [row for table in tables for row in table.to_pylist()]


# Text.


def make_text(random: Random) -> Input:
    """Return lines of text, some of them empty."""
    lines = [text(random) for _ in range(random.randrange(40))]
    options = {
        "unit": random.choice(["line", "line", "paragraph", "file"]),
        "errors": random.choice(["strict", "replace"]),
        "block_bytes": random.choice(BLOCK_BYTES),
    }
    return Input("\n".join(lines).encode(), "a.txt", options)


def read_text(given: Input, path: Path) -> list[str]:
    """Return the records of `TextFiles`."""
    return [row["text"] for row in rows_of(ss.TextFiles(path, **given.options))]


def split_text(given: Input) -> list[str]:
    """Return the records of a text by the rules of `TextFiles`."""
    whole = given.data.decode("utf-8", given.options["errors"]).removeprefix("\ufeff")
    if given.options["unit"] == "file":
        return [whole]
    lines = [line.removesuffix("\r") for line in whole.split("\n")]
    if not whole.endswith("\n") and lines[-1:] != [whole.split("\n")[-1]]:
        lines[-1] = whole.split("\n")[-1]  # a carriage return at the end of a file ends no line
    if given.options["unit"] == "line":
        return lines[:-1] if lines[-1] == "" else lines
    groups = itertools.groupby(lines, key=lambda line: not line or line.isspace())
    return ["\n".join(group) for is_blank, group in groups if not is_blank]


# Compressed text.

_PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}


def make_compressed(random: Random) -> Input:
    """Return compressed lines, sometimes in two parts, as ``cat`` concatenates files."""
    extension = random.choice(list(_PACK))
    parts = [
        "".join(text(random) + "\n" for _ in range(random.randrange(1, 60))).encode() for _ in range(random.choice([1, 1, 2]))
    ]
    options = {"errors": "replace", "unit": "line", "block_bytes": random.choice(BLOCK_BYTES)}
    return Input(b"".join(map(_PACK[extension], parts)), "a.txt" + extension, options)


def split_compressed(given: Input) -> list[str]:
    """Return the lines of a compressed file."""
    unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress, ".zst": _unpack_zstd}
    return split_text(Input(unpack[Path(given.name).suffix](given.data), given.name, given.options))


def _unpack_zstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        return reader.read()


# JSON lines.


def make_json_lines(random: Random) -> Input:
    """Return objects, one a line, with fields of many types."""
    fields = random.sample(list(FIELDS), k=random.randrange(1, len(FIELDS)))
    rows = [{name: FIELDS[name](random) for name in fields if random.random() < 0.95} for _ in range(random.randrange(1, 30))]
    ascii_only = random.random() < 0.5
    options = {"errors": random.choice(["strict", "strict", "replace"]), "block_bytes": random.choice(BLOCK_BYTES)}
    return Input("\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows).encode(), "a.jsonl", options)


FIELDS: dict[str, Any] = {
    "text": text,
    "label": lambda random: random.randrange(-3, 1 << random.choice([2, 40])),
    "score": lambda random: random.random() * 10 ** random.randrange(-9, 9) + 0.5,
    "tags": lambda random: [text(random) for _ in range(random.randrange(4))],
    "flag": lambda random: random.random() < 0.5,
    "deep": lambda random: {"a": {"b": [{"c": random.randrange(9)}]}, "d": random.choice([None, "x"])},
    "time": lambda random: "2024-01-01 00:00:00",
    "ids": lambda random: [random.randrange(60_000) for _ in range(random.randrange(9))],
    "messages": lambda random: [{"role": "user", "content": text(random)} for _ in range(random.randrange(3))],
}


def read_json_lines(given: Input, path: Path) -> list[Any]:
    """Return the records of `JsonLines`."""
    return rows_of(ss.JsonLines(path, **given.options))


def parse_json_lines(given: Input) -> list[Any]:
    """Return the objects of a file by Python's parser."""
    data = given.data.decode("utf-8", given.options["errors"]).removeprefix("\ufeff")
    records = [json.loads(line) for line in data.split("\n") if line.strip(" \t\r")]
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("a line is no object")
    return json.loads(json.dumps(records).encode("utf-8").decode()) if given.options["errors"] == "strict" else records


def same_json(got: Any, expected: Any) -> bool:
    """Return whether a value of a table is that of JSON; a struct may have nulls for keys that the object lacks."""
    if isinstance(got, dict):
        got = {name: value for name, value in got.items() if name != "exact_json"}
        missing = isinstance(expected, dict) and expected.keys() - got.keys()
        return isinstance(expected, dict) and not missing and all(same_json(got[name], expected.get(name)) for name in got)
    if isinstance(got, list):
        return isinstance(expected, list) and len(got) == len(expected) and all(map(same_json, got, expected))
    if isinstance(got, float) and math.isnan(got):
        return isinstance(expected, float) and math.isnan(expected)
    if isinstance(expected, str):
        return bool(got == "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in expected))
    return isinstance(got, bool) == isinstance(expected, bool) and bool(got == expected)


# CSV.


def make_csv(random: Random) -> Input:
    """Return delimited text by ``csv.writer``."""
    delimiter = random.choice([",", ",", "\t", ";"])
    names = random.sample(["text", "label", "score", "naïve", "with, comma", "flag", ""], k=random.randrange(1, 6))
    written = io.StringIO(newline="")
    end, quoting = random.choice(
        [("\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL), ("\r", csv.QUOTE_ALL)]
    )
    writer = csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(names)
    makers = {"label": FIELDS["label"], "score": FIELDS["score"], "flag": FIELDS["flag"]}
    as_text, longest = random.random() < 0.6, 0
    for _ in range(random.randrange(25)):
        before = len(written.getvalue().encode())
        writer.writerow(
            [
                makers.get(name, lambda random: ("" if as_text else "w ") + text(random) + random.choice(["", "\n"]))(random)
                for name in names
            ]
        )
        longest = max(longest, len(written.getvalue().encode()) - before)
    options = {
        "delimiter": delimiter,
        "block_bytes": random.choice([1, 40, 333, 5_000]),
        "max_record_bytes": random.choice([max(longest, 90), 1 << 20]),
        "as_text": as_text,
    }
    return Input(written.getvalue().encode(), "a.csv", options)


def read_csv(given: Input, path: Path) -> list[list[Any]]:
    """Return the rows of `Csv`."""
    options = dict(given.options)
    if options.pop("as_text"):
        options["types"] = dict.fromkeys(ss.Csv(path, **options)._schema.names, "string")
    return [list(row.values()) for row in rows_of(ss.Csv(path, **options))]


def parse_csv(given: Input) -> list[list[str]]:
    """Return the rows of delimited text by Python's reader."""
    csv.field_size_limit(1 << 30)
    data = io.StringIO(given.data.decode().removeprefix("\ufeff"), newline="")
    rows = [row for row in csv.reader(data, delimiter=given.options["delimiter"], strict=True) if row]
    if len(set(map(len, rows))) != 1 or len(set(rows[0])) < len(rows[0]):
        raise ValueError("rows must be of one length, and columns of different names")
    return rows[1:]


def same_rows(got: list[list[Any]], expected: list[list[str]]) -> bool:
    """Return whether rows have the values that the fields are text of."""
    return len(got) == len(expected) and all(
        len(row) == len(fields) and all(map(_is_value_of, row, fields)) for row, fields in zip(got, expected, strict=True)
    )


def _is_value_of(value: Any, field: str) -> bool:
    if isinstance(value, str):
        return value == field
    if value is None:
        return field in {"", "NA", "NaN", "nan", "null", "NULL", "N/A", "n/a", "-NaN", "-nan"} or field.startswith("#N")
    if isinstance(value, bool):
        return field.lower() in (("true", "1") if value else ("false", "0"))
    field = field.strip()
    if isinstance(value, float) and math.isnan(value):
        return math.isnan(float(field))
    return value == (int(field) if isinstance(value, int) else float(field))


# Parquet.


def make_parquet(random: Random) -> Input:
    """Return a table of many types as Parquet."""
    names = random.sample(["text", "label", "score", "tags", "flag", "ids"], k=random.randrange(1, 6))
    num_rows = random.randrange(40)
    columns = {name: [FIELDS[name](random) if random.random() < 0.9 else None for _ in range(num_rows)] for name in names}
    written = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        written,
        row_group_size=random.choice([1, 7, 100]),
        compression=random.choice(["none", "snappy", "zstd"]),
        write_page_checksum=random.random() < 0.5,
        use_dictionary=random.random() < 0.5,
        data_page_version=random.choice(["1.0", "2.0"]),
    )
    return Input(written.getvalue(), "a.parquet", {"block_bytes": random.choice([1, 400, 10_000])})


def read_parquet(given: Input, path: Path) -> list[Any]:
    """Return the records of `Parquet`."""
    return rows_of(ss.Parquet(path, **given.options))


def parse_parquet(given: Input) -> list[Any]:
    """Return the rows of a Parquet file by PyArrow, read at once."""
    whole = pq.read_table(pa.BufferReader(given.data), use_threads=False, page_checksum_verification=True)
    return whole.to_pylist()


def _damage(random: Random, given: Input) -> Input:
    return given._replace(data=damage_bytes(random, given.data))


def _damage_json(random: Random, given: Input) -> Input:
    damage = random.choice([damage_bytes, damage_text_of_json, damage_text_of_json])
    return given._replace(data=damage(random, given.data))


def _damage_footer(random: Random, given: Input) -> Input:
    """Damage a Parquet file anywhere, or in its footer, which is a small part of it."""
    size = int.from_bytes(given.data[-8:-4], "little")
    if random.random() < 0.5 or not 0 < size < len(given.data) - 8:
        return _damage(random, given)
    return given._replace(data=given.data[: -8 - size] + damage_bytes(random, given.data[-8 - size : -8]) + given.data[-8:])


KINDS = {
    "text": Kind(make_text, _damage, read_text, split_text),
    "compressed": Kind(make_compressed, _damage, read_text, split_compressed),
    "json lines": Kind(make_json_lines, _damage_json, read_json_lines, parse_json_lines, same_json),
    "csv": Kind(make_csv, _damage, read_csv, parse_csv, same_rows),
    "parquet": Kind(make_parquet, _damage_footer, read_parquet, parse_parquet),
}
