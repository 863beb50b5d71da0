"""Between Arrow and NumPy without a copy, and without the import of pandas with which ``pa.array`` and ``to_numpy`` begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def to_arrow(values: npt.NDArray[Any]) -> pa.Array:
    """Return numbers ``(N,)`` as an Arrow array over the same memory."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def to_numpy(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return numbers without missing values as an array ``(N,)``; over the same memory, unless they lie in several chunks."""
    if isinstance(values, pa.ChunkedArray):
        chunks = [to_numpy(chunk) for chunk in values.chunks]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks or [np.empty(0, dtype=_dtype(values.type))])
    if pa.types.is_boolean(values.type) or values.null_count:
        return np.asarray(values.to_numpy(zero_copy_only=False))
    kind = _dtype(values.type)
    data = values.buffers()[1]
    return np.frombuffer(data if data is not None else b"", kind, len(values) + values.offset)[values.offset :]


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    numbers: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return numbers
