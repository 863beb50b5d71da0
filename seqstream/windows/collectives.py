"""All that ranks send each other to share a window, in the order in which it happens."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index, Lengths
from seqstream.distributed.collectives import Ranks
from seqstream.distributed.exchange import RankRows, exchange_rows
from seqstream.distributed.global_order import GlobalOrder, gather_lengths
from seqstream.distributed.handshake import Explain, Handshake, check_in
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.rank_shares import Schedule
from seqstream.records import Json


@dataclasses.dataclass(frozen=True)
class WindowCollectives:
    """The collectives of a window; every rank calls the same ones in the same order.

    ==================  =========================================================  ==========================================
    method              a rank sends                                               how often
    ==================  =========================================================  ==========================================
    `check_in`          to all: where it is, ~100 bytes, and 4 bytes for each of   once, and again for each block by which a
                        its blocks; or the error that stopped it                   window that is too small grows
    `gather_lengths`    to all: 8 bytes for each different length of its rows, 4   after each `check_in`; once more where not
                        more for each further side, and about 20 bytes             all rows are planned; for `Pack` up to 12
                                                                                   times more in between, to search how many
                                                                                   are, or 48 times with ``drop_last``
    gather_row_lengths  to all: 4 bytes for each row of its new blocks, and the    for mixtures, after each `check_in`: as often
                        columns of sources that it has seen first                  as blocks are read to fill the quotas
    `gather_classes`    to all: its classes as JSON, at most 4,096                 once, with ``Bucket(balance=...)`` only
    `add_class_counts`  to all: 24 bytes for each class and each range of          once, with ``Bucket(balance=...)`` only
                        lengths that it has in each unit
    `exchange_rows`     to all: a digest of the plan and the types of its          once: an all-gather, then an all-to-all for
                        columns, ~1 KiB; to each rank: the rows that it uses,      each array of its columns, and for the
                        each of them once, and 8 bytes for each                    numbers of the rows
    `add_step_totals`   to all: 16 bytes for each of its batches                   once
    ==================  =========================================================  ==========================================

    A rank that fails before `check_in` sends its error there, so that all ranks raise together.

    Attributes:
        ranks: The ranks that share the window.
    """

    ranks: Ranks

    @property
    def rank(self) -> int:
        """Number of this rank, from 0."""
        return self.ranks.rank

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.ranks.world_size

    def check_in(self, own: Handshake, explain: Explain) -> list[Index]:
        """Return the number of rows of each block of each rank, ``int64 (b,)`` each, if all ranks are at the same window.

        Args:
            own: The window that this rank is at, and its numbers of rows or its error.
            explain: Called on all ranks if they have read different records; raises.

        Raises:
            RuntimeError: A rank is at another window, has other data, or has failed.
        """
        return [rows.astype(np.int64) for rows in check_in(own, self.ranks, explain)]

    def gather_lengths(self, parts: Sequence[Lengths], owners: Sequence[int], first_row_id: int) -> GlobalOrder:
        """Return the order of all rows by length.

        Args:
            parts: Lengths of this rank's rows, ``int64 (n,)`` or ``(n, S)`` for each of its parts, in the order of the data.
            owners: The rank that has each part of the window.
            first_row_id: Row id of the first row of this rank; -1 if it has none.
        """
        return gather_lengths(parts, owners, self.ranks, first_row_id)

    def gather_row_lengths(self, own: Index, more: Json) -> list[tuple[Index, Json]]:
        """Return the lengths of the rows of each rank, ``int64 (n,)``, and what each has sent beside them.

        Args:
            own: ``int64 (n,)``, lengths of the rows of this rank's blocks.
            more: What is sent beside them.
        """
        if self.world_size == 1:
            return [(own, more)]
        head = json.dumps(more).encode()
        data = len(head).to_bytes(4, "little") + head + own.astype(np.int32).tobytes()
        received = []
        for message in self.ranks.all_gather(data):
            first = 4 + int.from_bytes(message[:4], "little")
            received.append((np.frombuffer(message[first:], np.int32).astype(np.int64), json.loads(message[4:first])))
        return received

    def gather_classes(self, own: Json) -> list[Json]:
        """Return what each rank sends of the classes of its rows."""
        return [json.loads(data) for data in self.ranks.all_gather(json.dumps(own).encode())]

    def add_class_counts(self, own: Index) -> Index:
        """Return the sum over all ranks of counts of which most are 0.

        Args:
            own: ``int64 (2, C)``, rows and tokens of this rank; only columns with rows are sent.
        """
        columns = np.flatnonzero(own[0])
        total = np.zeros_like(own)
        for data in self.ranks.all_gather(np.vstack([columns, own[:, columns]]).tobytes()):
            received = np.frombuffer(data, dtype=np.int64).reshape(3, -1)
            total[:, received[0]] += received[1:]
        return total

    def exchange_rows(self, own: pa.Table, global_order: GlobalOrder, global_plan: GlobalPlan, steps: Schedule) -> RankRows:
        """Send the rows of this rank to the ranks that use them; return the rows that this rank uses.

        Args:
            own: Its rows of the window, in the order of the data.
            global_order: Which rank has which rows.
            global_plan: The plan of the window.
            steps: What is left of it.

        Raises:
            RuntimeError: Ranks have planned different batches.
        """
        return exchange_rows(own, global_order, global_plan, steps, self.ranks)

    def add_step_totals(self, own: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the sum over all ranks of totals, -1 wherever a rank does not know its own.

        Args:
            own: ``int64 (T, 2)``, -1 where this rank does not know one.
        """
        received = [np.frombuffer(data, dtype=np.int64).reshape(own.shape) for data in self.ranks.all_gather(own.tobytes())]
        totals: npt.NDArray[np.int64] = np.where(np.min(received, axis=0) < 0, -1, np.sum(received, axis=0))
        return totals
