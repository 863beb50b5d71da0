"""Two columns of text that are encoded in one call of the engine: for pairs, and for prompts and completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.fields import Field, naming_records, read_texts, text_column
from seqstream.tokenizing.token_rows import TokenRows


def sample_two(table: pa.Table, first: Field, second: Field) -> Iterable[str]:
    """Yield the texts of two columns, record by record."""
    columns = [text_column(table, field) for field in (first, second)]
    return (value.as_py() for record in zip(*columns, strict=True) for value in record)


def encode_two(tables: Sequence[pa.Table], first: Field, second: Field, engine: Engine) -> tuple[TokenRows, TokenRows]:
    """Return the ids of two columns of ``N`` records: ``N`` rows of each column, over the same buffer.

    Raises:
        RecordError: A text is missing, or cannot be encoded.
        ValueError: A column is missing, or does not hold text.
    """
    texts = [*read_texts(tables, first), *read_texts(tables, second)]
    num_records = len(texts) // 2
    with naming_records(tables, lambda index: index % num_records):
        rows = engine(texts)
    middle = int(rows.offsets[num_records])
    firsts = TokenRows(rows.ids[:middle], rows.offsets[: num_records + 1])
    return firsts, TokenRows(rows.ids[middle:], rows.offsets[num_records:] - middle)
