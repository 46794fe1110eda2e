"""Encoding of rows of float32 into ggml's types."""

from __future__ import annotations

import ctypes
from typing import Any

import ggml as c
import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray
from granite_gguf.ggml.types import F32, GGMLType, row_bytes

_FLOAT_POINTER = ctypes.POINTER(ctypes.c_float)


def _floats(array: FloatArray) -> Any:
    return array.ctypes.data_as(_FLOAT_POINTER)


def encode_rows(
    kind: GGMLType, rows: FloatArray, importance: FloatArray | None = None
) -> npt.NDArray[np.uint8]:
    """Encode ``(n, width)`` finite float32 numbers; returns ``(n, bytes of a row)``.

    Releases the interpreter lock while it works, so that threads can share a tensor.

    Args:
        kind: the type wanted.
        rows: the numbers.
        importance: ``(width,)`` weights of the columns, positive; none counts them alike.

    Raises:
        ValueError: the type's block does not divide the width, or a shape is wrong.
    """
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise ValueError(
            f"rows are {rows.dtype} of shape {rows.shape}, expected float32 (n, width)"
        )
    count, width = rows.shape
    if importance is not None and (importance.shape != (width,) or importance.dtype != np.float32):
        raise ValueError(f"importance has the shape {importance.shape}, expected ({width},)")
    rows = np.ascontiguousarray(rows)
    if kind is F32:
        return rows.view(np.uint8)
    weights = None if importance is None else _floats(np.ascontiguousarray(importance))
    encoded = np.empty((count, row_bytes(kind, width)), np.uint8)
    written = c.ggml_quantize_chunk(
        int(kind), _floats(rows), encoded.ctypes.data, 0, count, width, weights
    )
    if written != encoded.nbytes:
        raise ValueError(f"ggml wrote {written} bytes of {kind.name}, expected {encoded.nbytes}")
    return encoded


def prepare_encoding(kind: GGMLType) -> None:
    """Build the tables a type is encoded with; to be called before several threads encode."""
    c.ggml_quantize_init(int(kind))
