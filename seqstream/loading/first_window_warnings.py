"""Warnings for likely mistakes that the first window of a run shows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from seqstream.arrow import is_text
from seqstream.planning.batch_spec import LARGEST_BATCH_SIZE, meant_as_rows
from seqstream.planning.bucket import Bucket
from seqstream.records import is_label
from seqstream.windows.columns import Objects, Ragged
from seqstream.windows.window import Window

_PADDED_WITH_0 = ("ids", "mask")
"""Ends of the names of columns for which 0 is the usual padding."""

_FEW_ROWS = 2
"""Batches of fewer rows, on average, suggest that the budget was meant as a number of rows."""


def warn_of_mistakes(window: Window, pad_values: Mapping[str, float]) -> None:
    """Warn of text that was not tokenized, of a budget that looks like a number of rows, and of padding that may be a class.

    Args:
        window: The first window.
        pad_values: What padding holds in the columns for which that is declared.

    Warns:
        UserWarning: There is text and no column of sequences; or the budget is less than two rows of average length; or a
            column of whole numbers besides the ids is padded with 0, which is its least value.
    """
    _warn_of_budget(window)
    for name, column in window.columns.items():
        is_known = name in pad_values or name == window.sequence or is_label(name) or name.endswith(_PADDED_WITH_0)
        if not is_known and isinstance(column, Ragged) and _has_class_0(column):
            warnings.warn(
                f"column {name!r} is padded with 0, which is also one of its values; if these are classes, write "
                f"Loader(pad_values={{{name!r}: -100}}), which losses ignore, or "
                f"ClassLabels(classes, {name!r}, multi_hot=True); else pad_values={{{name!r}: 0}}",
                stacklevel=2,
            )


def _has_class_0(column: Ragged) -> bool:
    """Return whether rows of several lengths hold whole numbers of which 0 is the least, as classes are numbered."""
    lengths, ends = column.lengths, column.starts + column.lengths
    if column.shape or column.values.dtype.kind not in "iu" or not len(lengths) or lengths.min() == lengths.max():
        return False
    return int(column.values[column.starts.min() : ends.max()].min()) == 0


def _warn_of_budget(window: Window) -> None:
    spec = window.spec
    if not isinstance(spec, Bucket) or not window.length_counts.num_rows:
        return
    texts = [name for name, column in window.columns.items() if isinstance(column, Objects) and is_text(column.values.type)]
    if window.sequence is None and texts:
        remedy = f"put Tokenize(tokenizer, field={texts[0]!r}) before it, or use Unbucketed for batches of text"
        warnings.warn(f"Bucket counts each record as one token, as none has been tokenised; {remedy}", stacklevel=3)
    elif spec.max_tokens is not None and spec.max_tokens <= LARGEST_BATCH_SIZE and spec.batch_size is None:
        mean = window.length_counts.num_tokens / window.length_counts.num_rows
        if spec.max_tokens < _FEW_ROWS * mean:
            finding = f"max_tokens={spec.max_tokens} are tokens, and rows have {mean:.0f} on average"
            warnings.warn(f"{finding}{meant_as_rows(spec.max_tokens)}", stacklevel=3)
