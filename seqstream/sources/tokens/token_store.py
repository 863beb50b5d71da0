"""What `TokenFiles` needs of a format: rows of tokens in blocks, each read by its number."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import pyarrow as pa

from seqstream.arrays import Index
from seqstream.records import PIECE, ROW_ID, Json
from seqstream.sources.locations import Location


@dataclasses.dataclass(frozen=True)
class TokenInfo:
    """What a loader must know of tokens that it did not make itself.

    Attributes:
        columns: Columns of ids.
        max_length: Length of the longest row in tokens; ``None`` if it is not known.
        pad_values: What padding holds, by column.
        padding_sides: ``"right"`` or ``"left"``, by column of ids.
        stages: Fingerprints of the stages that made the rows; empty if they are not known.
        functions: What the functions of these stages do, by stage.
    """

    columns: tuple[str, ...] = ("input_ids",)
    max_length: int | None = None
    pad_values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    padding_sides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stages: tuple[Json, ...] = ()
    functions: Mapping[str, Json] = dataclasses.field(default_factory=dict)


class KnownTokens:
    """The members of `Source` for rows of tokens that earlier stages have made; by default records are as they are."""

    @property
    def token_info(self) -> TokenInfo | None:
        """What a loader must know of the tokens; ``None`` if there are none yet."""
        return None

    @property
    def num_tokens(self) -> int | None:
        """Number of tokens of all rows; ``None`` if it is not known."""
        return None


def common_info(infos: Mapping[str, TokenInfo | None]) -> TokenInfo:
    """Return what is known of the tokens of several sources together, given what is known of each by its name.

    Raises:
        ValueError: Some are not tokens, or they are padded differently; the message names two that differ.
    """
    first, known = next((name, info) for name, info in infos.items() if info is not None)
    for name, info in infos.items():
        if info is None:
            raise ValueError(
                f"sources must all be of tokens or all of text, got tokens in {first!r} and none in {name!r}; write the "
                "other's with write_tokens, or use a Mixture, whose sources have stages of their own"
            )
        for field in ("columns", "pad_values", "padding_sides"):
            own, other = getattr(known, field), getattr(info, field)
            if own != other:
                raise ValueError(f"sources must be padded alike, got {field} {own!r} of {first!r} and {other!r} of {name!r}")
    found = [info for info in infos.values() if info is not None]
    lengths = [info.max_length for info in found if info.max_length is not None]
    max_length = max(lengths) if len(lengths) == len(found) else None
    is_same = all((info.stages, info.functions) == (known.stages, known.functions) for info in found)
    stages, functions = (known.stages, known.functions) if is_same else ((), {})
    return dataclasses.replace(known, max_length=max_length, stages=stages, functions=functions)


Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def without_row_numbers(rows: Rows) -> Rows:
    """Return rows without the columns that number the records of the source that they were made from."""
    names = rows.schema.names
    return rows.drop_columns([name for name in (ROW_ID, PIECE) if name in names])


class TokenStore(abc.ABC):
    """Rows of tokens in files of one format.

    Opening reads no tokens: thousands of files open in under a second.

    Attributes:
        info: What a loader must know of the tokens.
        num_tokens: Number of tokens of all rows; ``None`` if it is not known without reading them.
    """

    info: TokenInfo
    num_tokens: int | None

    @property
    @abc.abstractmethod
    def num_blocks(self) -> int:
        """Number of blocks, of about 256 KiB each."""

    @property
    @abc.abstractmethod
    def num_rows(self) -> int | None:
        """Number of rows of all blocks; ``None`` if it is not known without reading them."""

    def count_rows(self) -> int:
        """Return the number of rows; where it is not known, read what is needed to know it."""
        return self.num_rows or 0

    @abc.abstractmethod
    def num_bytes(self, blocks: Index) -> Index:
        """Return the approximate bytes of blocks, ``int64 (n,)``, without reading them."""

    @abc.abstractmethod
    def read(self, block: int) -> pa.Table:
        """Return the rows of a block, in the order of the files; they may share the memory of a mapped file.

        Raises:
            ValueError: The file is damaged; the message names it and the place.
        """

    @abc.abstractmethod
    def take(self, rows: Index) -> pa.Table:
        """Return rows by their numbers in all blocks, from 0, in the order given.

        Args:
            rows: ``int64 (n,)``, each ``0 <= row < num_rows``.
        """

    @abc.abstractmethod
    def location(self, block: int, row: int) -> Location:
        """Return the file of a row of a block, and the number of the row in that file."""

    @abc.abstractmethod
    def location_of_row(self, row: int) -> Location:
        """Return the file of a row by its number in all blocks, and the number of the row in that file."""

    @abc.abstractmethod
    def fingerprint(self) -> Json:
        """Return what identifies the tokens; the same for a copy of the files in another folder."""
