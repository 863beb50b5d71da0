"""Finding the one text of a call that a tokenizer cannot encode, and naming it in the error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

SHOWN_CHARS = 60
"""Most characters of a text in a message."""


class TextError(ValueError):
    """One text of a call cannot be encoded; ``index`` is its position in the call."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


def with_text_index(error: BaseException, index: int | None) -> BaseException:
    """Return an error that a user's function raised, with the attribute ``text_index`` if the failing text is known."""
    if index is not None:
        with contextlib.suppress(AttributeError, TypeError):  # some exceptions take no attributes
            error.text_index = index  # type: ignore[attr-defined]
    return error


def find_failing_text(encode: Callable[[list[str]], object], texts: list[str]) -> tuple[int, BaseException] | None:
    """Return the index of the first text for which a function raises, and the error, by bisection.

    Returns:
        ``None`` if the function raises for several texts together and for none of them alone.
    """
    begin, end, found = 0, len(texts), None
    while begin < end:
        middle = max(begin + 1, (begin + end) // 2)
        try:
            encode(texts[begin:middle])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception
            end = middle
            if end - begin == 1:
                found = begin, error
                break
        else:
            begin = middle
    return found


def shorten(text: str) -> str:
    """Return a text for a message: at most 60 characters of it."""
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
