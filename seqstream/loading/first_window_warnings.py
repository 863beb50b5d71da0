"""Warnings for likely mistakes that the first window of a run shows."""

from __future__ import annotations

import warnings

from seqstream.arrow import is_text
from seqstream.planning.batch_spec import LARGEST_BATCH_SIZE, meant_as_rows
from seqstream.planning.bucket import Bucket
from seqstream.windows.columns import Objects
from seqstream.windows.window import Window

_FEW_ROWS = 2
"""Batches of fewer rows, on average, suggest that the budget was meant as a number of rows."""


def warn_of_mistakes(window: Window) -> None:
    """Warn of text that was not tokenized, and of a budget of tokens that looks like a number of rows.

    Warns:
        UserWarning: There is text and no column of sequences; or the budget is less than two rows of average length.
    """
    spec = window.spec
    if not isinstance(spec, Bucket) or not window.length_counts.num_rows:
        return
    texts = [name for name, column in window.columns.items() if isinstance(column, Objects) and is_text(column.values.type)]
    if window.sequence is None and texts:
        remedy = f"put Tokenize(tokenizer, field={texts[0]!r}) before it, or use Unbucketed for batches of text"
        warnings.warn(f"Bucket counts each record as one token, as none has been tokenised; {remedy}", stacklevel=2)
    elif spec.max_tokens is not None and spec.max_tokens <= LARGEST_BATCH_SIZE and spec.batch_size is None:
        mean = window.length_counts.num_tokens / window.length_counts.num_rows
        if spec.max_tokens < _FEW_ROWS * mean:
            finding = f"max_tokens={spec.max_tokens} are tokens, and rows have {mean:.0f} on average"
            warnings.warn(f"{finding}{meant_as_rows(spec.max_tokens)}", stacklevel=2)
