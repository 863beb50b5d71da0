"""Where records of delimited text end, and whether its quotes are well formed, for many records at once.

The rules are those of Python's ``csv.reader(strict=True)``: a quote at the beginning of a field opens it, a quote in it is
doubled, and a delimiter or the end of the line follows the closing quote. Elsewhere a quote is an ordinary character.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index
from seqstream.sources.files.boundaries import Buffer

_NEWLINE, _RETURN = ord("\n"), ord("\r")


@dataclasses.dataclass(frozen=True)
class Quotes:
    """The quotes of the text ``data[:size]``, which begins with a record.

    Attributes:
        data: Bytes, some of them perhaps after the text.
        size: Number of bytes of the text.
        turns: Offsets of quotes that open or close fields; runs of an even number of quotes change nothing and may be missing.
        inside: Whether the text after each turn is in quotes.
        fault: Offsets of the first quoted field with text after its closing quote, and of that text; ``None`` if there is none.
    """

    data: Buffer
    size: int
    turns: Index
    inside: npt.NDArray[np.bool_]
    fault: tuple[int, int] | None

    @property
    def is_open(self) -> bool:
        """Whether the end of the text is in quotes."""
        return bool(len(self.inside) and self.inside[-1])

    def last_end(self, stop: int) -> int:
        r"""Return the end of the last record that ends in ``data[:stop]``, or 0; a ``\r`` at the end of the data ends none.

        Half of a ``\r\n`` may be all that was read.
        """
        return self._last(b"\n", stop) or self._last(b"\r", min(stop, self.size - 1))

    def until(self, end: int) -> Quotes:
        """Return the quotes of ``data[:end]``, which holds whole records; nothing is copied."""
        count = int(np.searchsorted(self.turns, end))
        return Quotes(self.data, end, self.turns[:count], self.inside[:count], self.fault)

    def _last(self, end: bytes, stop: int) -> int:
        at = self.data.rfind(end, 0, stop)
        while at >= 0:
            run = int(np.searchsorted(self.turns, at)) - 1
            if run < 0 or not self.inside[run]:
                return at + 1
            # Not an end of a record, but in quotes: go on before the quote that opens the field.
            at = self.data.rfind(end, 0, int(self.turns[run]))
        return 0

    @functools.cached_property
    def starts(self) -> Index:
        """Offset of each record ``int64 (N,)``; empty lines are no records."""
        letters = np.frombuffer(self.data, np.uint8, self.size)
        ends = np.flatnonzero(letters == _NEWLINE)
        if self.data.find(b"\r", 0, self.size) >= 0:
            returns = np.flatnonzero(letters == _RETURN)
            followed = np.append(letters, 0)[returns + 1] == _NEWLINE
            ends = np.sort(np.concatenate([ends, returns[~followed]]))
        if len(self.turns):
            runs = np.searchsorted(self.turns, ends) - 1
            ends = ends[(runs < 0) | ~self.inside[runs]]
        starts = np.append(0, ends + 1)
        first = np.append(letters, _NEWLINE)[starts]
        found: Index = starts[(first != _NEWLINE) & (first != _RETURN)]
        return found


def find_quotes(data: Buffer, delimiter: str, quote: str | None) -> Quotes:
    """Find the quotes of text that begins with a record; none where ``quote`` is ``None``."""
    none = np.empty(0, np.int64)
    if quote is None or quote.encode() not in data:
        return Quotes(data, len(data), none, none.astype(np.bool_), None)
    letters, mark = np.frombuffer(data, np.uint8), ord(quote)
    is_end = np.zeros(256, np.bool_)
    is_end[[ord(delimiter), _NEWLINE, _RETURN]] = True
    at = np.flatnonzero(letters == mark)
    if _is_plain(letters, at, is_end, mark):
        return Quotes(data, len(data), at, np.arange(len(at)) & 1 == 0, None)
    return _find_any(data, at, is_end)


def _is_plain(letters: npt.NDArray[np.uint8], at: Index, is_end: npt.NDArray[np.bool_], mark: int) -> bool:
    """Return whether quotes open and close fields in turn; a doubled quote counts as closing a field and opening it again."""
    is_beside = is_end.copy()
    is_beside[mark] = True
    opening, closing = at[::2], at[1::2]
    first, last = int(opening[0] == 0), int(at[-1] == len(letters) - 1 and len(at) % 2 == 0)
    return bool(is_beside[letters[opening[first:] - 1]].all() and is_beside[letters[closing[: len(closing) - last] + 1]].all())


def _find_any(data: Buffer, at: Index, is_end: npt.NDArray[np.bool_]) -> Quotes:
    """Find quotes of text where some are ordinary characters, or wrong."""
    letters = np.frombuffer(data, np.uint8)
    is_first = np.diff(at, prepend=-2) != 1
    firsts, behind = at[is_first], at[np.append(is_first[1:], True)] + 1
    begins_field = is_end[letters[firsts - 1]] | (firsts == 0)
    is_odd = (behind - firsts) & 1 == 1
    inside = _states(begins_field[is_odd])
    before = np.append(inside, False)[np.cumsum(is_odd) - is_odd - 1]  # index -1, no odd run before, takes the appended False
    closes = np.where(is_odd, before, begins_field & ~before) & (behind < len(data))
    wrong = np.flatnonzero(closes & ~is_end[letters[np.minimum(behind, len(data) - 1)]])
    fault = None
    if len(wrong):
        run = int(wrong[0])
        opening = int(firsts[is_odd][int(np.cumsum(is_odd)[run]) - 2]) if is_odd[run] else int(firsts[run])
        fault = opening, int(behind[run])
    return Quotes(data, len(data), firsts[is_odd], inside, fault)


def _states(begins_field: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return whether the text after each odd run is in quotes.

    A run at the beginning of a field, or after a delimiter in quotes, opens a field, or closes an open one. Any other run
    closes a field, or is part of a field without quotes; after it the text is not in quotes.
    """
    order = np.arange(len(begins_field))
    closed = np.maximum.accumulate(np.where(begins_field, -1, order)) if len(order) else order
    states: npt.NDArray[np.bool_] = (order - closed) & 1 == 1
    return states
