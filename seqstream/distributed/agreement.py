"""What ranks must have in common to share an epoch, and the error that says what differs, and where.

Ranks compare digests of a few bytes. Only where those differ do they exchange what the digests are of; every rank sees all
digests, so all do it together, and all raise the same error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import pyarrow as pa

from seqstream.distributed.collectives import Ranks
from seqstream.distributed.digests import digest_json, digest_table
from seqstream.records import ROW_ID, Json, location_of

_MOST_SHOWN = 4
_LONGEST_SHOWN = 70

_RULE = "ranks must have the same data and options"
_WHOLE = (
    "give all ranks the same source, of which the loader gives each its part: no split_dataset_by_node, and no files, order or "
    "random generator of a rank's own"
)
_ALIKE = "make the loader the same on all ranks"
_ONE_ORDER = "pass files in one order, such as sorted(paths)"


class ReadableRecords(Protocol):
    """Records that can be read again."""

    @property
    def content(self) -> pa.Table | Callable[[], pa.Table]:
        """The records, or what reads them."""

    @property
    def table(self) -> pa.Table:
        """The records as they were read first."""


@dataclasses.dataclass(frozen=True)
class Common:
    """What all ranks must have in common.

    Attributes:
        entries: What the rows of batches depend on, by name.
        block: The first block that has records; ``None`` where there is none, or where its records are others each time.
        locate: Names the place of a row id in the data.
    """

    entries: Mapping[str, Json]
    block: ReadableRecords | None = None
    locate: Callable[[int], str] = str

    def digest(self) -> str:
        """Return 16 hexadecimal digits."""
        return digest_json([self.entries, None if self.block is None else digest_table(self.block.table)])

    def explain(self, ranks: Ranks) -> None:
        """Say what ranks differ in, all of them together; return where it is only that records are others each time.

        Raises:
            RuntimeError: It names what differs, with the values and the ranks.
        """
        told = [_flat(json.loads(data)) for data in ranks.all_gather(json.dumps(self.entries).encode())]
        names = [name for name in dict.fromkeys(name for each in told for name in each) if _differs(told, name)]
        if names:
            listed = [f"{name} {_by_rank([each.get(name) for each in told])}" for name in names[:_MOST_SHOWN]]
            if len(names) > _MOST_SHOWN:
                listed.append(f"and {len(names) - _MOST_SHOWN} more")
            raise RuntimeError(f"{_RULE}, got {'; '.join(listed)}; {_remedy(names)}")
        if not self._is_other_each_time(ranks):
            self._explain_records(ranks)

    def _is_other_each_time(self, ranks: Ranks) -> bool:
        """Return whether records differ when a rank reads them again, as those of a data set that draws at random do."""
        is_other = False
        if self.block is not None and callable(self.block.content):
            with contextlib.suppress(Exception):
                is_other = digest_table(self.block.content()) != digest_table(self.block.table)
        return any(data == b"1" for data in ranks.all_gather(b"01"[is_other : is_other + 1]))

    def _explain_records(self, ranks: Ranks) -> NoReturn:
        """Raise an error that shows the first record that differs."""
        rows = [] if self.block is None else self.block.table.to_pylist()
        digests = json.dumps([zlib.crc32(repr(row).encode("utf-8", "surrogatepass")) for row in rows])
        told = [json.loads(data) for data in ranks.all_gather(digests.encode())]
        first = next((at for at, same in enumerate(zip(*told, strict=False)) if len(set(same)) > 1), min(map(len, told)))
        shown = "nothing"
        if first < len(rows):
            row_id = rows[first].pop(ROW_ID)
            shown = f"{location_of(self.locate, row_id)}: {_short(rows[first])}"
        shown_by_rank = [data.decode() for data in ranks.all_gather(shown.encode("utf-8", "backslashreplace"))]
        raise RuntimeError(f"{_RULE}, got other records: {_by_rank(shown_by_rank, 3 * _LONGEST_SHOWN)}; {_WHOLE}")


def explain_blocks(digests: Sequence[int], row_ids: Sequence[int], locate: Callable[[int], str], ranks: Ranks) -> NoReturn:
    """Raise an error that names the first block that differs, of those that all ranks have read.

    Args:
        digests: Of each such block of a window.
        row_ids: The row id of the first record of each, -1 where there is none.
        locate: Names the place of a row id in the data.
        ranks: All of them call this together.
    """
    told = [json.loads(data) for data in ranks.all_gather(json.dumps(list(digests)).encode())]
    first = next((at for at, same in enumerate(zip(*told, strict=False)) if len(set(same)) > 1), min(map(len, told)))
    row_id = row_ids[first] if first < len(row_ids) else -1
    place = "the end" if row_id < 0 else location_of(locate, row_id)
    where = [data.decode() for data in ranks.all_gather(place.encode())]
    of_each = [f"{each[first]:08x}" if first < len(each) else "nothing" for each in told]
    raise RuntimeError(f"{_RULE}, got other records in the block from {where[0]} on: digest {_by_rank(of_each)}; {_WHOLE}")


def check_plans(told: Sequence[bytes]) -> None:
    """Raise unless all ranks have planned the same.

    Raises:
        RuntimeError: Some have not, although they have the same data and options.
    """
    if len(set(told)) > 1:
        raise RuntimeError(
            f"ranks must plan the same batches, got plans {_by_rank([data.hex() for data in told])}; run the same versions of "
            "seqstream and numpy on all ranks"
        )


def _flat(entries: Json, name: str = "") -> dict[str, Json]:
    """Return nested entries by names such as ``source.files``."""
    if not isinstance(entries, Mapping):
        return {name: entries}
    found: dict[str, Json] = {}
    for key, value in entries.items():
        found |= _flat(value, f"{name}.{key}" if name else str(key))
    return found


def _differs(told: Sequence[Mapping[str, Json]], name: str) -> bool:
    return any(each.get(name) != told[0].get(name) for each in told)


def _by_rank(values: Sequence[Any], longest: int = _LONGEST_SHOWN) -> str:
    """Return each value with the ranks that have it: ``3 on rank 0, 5 on ranks 1 and 2``."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault("nothing" if value is None else str(value), []).append(rank)
    begins = {_short(value, longest) for value in ranks}
    shown = [
        f"{_short(value, longest)}{'' if len(begins) == len(ranks) else f' ({digest_json(value)[:8]})'} on {_listed(of)}"
        for value, of in [*ranks.items()][:_MOST_SHOWN]
    ]
    return ", ".join([*shown, *(["..."] if len(ranks) > _MOST_SHOWN else [])])


def _listed(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = ", ".join(map(str, ranks[: _MOST_SHOWN + 1]))
    return f"ranks {shown}{f' and {len(ranks) - _MOST_SHOWN - 1} more' if len(ranks) > _MOST_SHOWN + 1 else ''}"


def _short(value: Any, longest: int = _LONGEST_SHOWN) -> str:
    text = str(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def _remedy(names: Sequence[str]) -> str:
    if any(name.endswith("files.names") for name in names):
        return f"{_WHOLE}; {_ONE_ORDER}"
    is_source = any(name.startswith("source") for name in names) and "shuffle" not in names
    return _WHOLE if is_source else _ALIKE
