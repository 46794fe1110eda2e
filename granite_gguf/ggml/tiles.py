"""Matrix products in the bfloat16 tiles of AMX, which ggml has no kernel for.

``native/tiles.c`` has the kernels. It is compiled when the package is installed, and left out where
there is no C compiler. A weight stays as its file has it, mapped or not, and is decoded to bfloat16
a few rows at a time while it is multiplied.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import ggml as c

from granite_gguf.ggml.tensor import Tensor, check
from granite_gguf.ggml.types import BF16, F16, F32, GGMLType

_DECODED_HERE = {F32, F16, BF16, GGMLType.Q8_0, GGMLType.Q6_K, GGMLType.Q5_K, GGMLType.Q4_K}

_PANEL_ROWS = 32  # rows of a weight that are multiplied at once
_CACHED_BYTES = 1 << 20  # of packed activations, that stay in a core's second cache
_PANELS_BYTES = 512 << 10  # of decoded weights that share them where they do not


class _Job(ctypes.Structure):
    """``Job`` of ``native/tiles.c``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("data_offset", "source_offset", "width", "rows", "columns", "x_stride"),
                *("x_parts", "weight_parts", "weight_type", "row_bytes"),
                *("panel_bytes", "threads"),
            )
        ),
        ("to_float", ctypes.c_void_p),
    )


@cache
def _library() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / "native" / f"tiles{suffix}"
        if path.exists():
            return ctypes.CDLL(str(path))
    return None


def tiles_compiled() -> bool:
    """Whether the kernels were compiled with the package."""
    return _library() is not None


@cache
def tiles_available() -> bool:
    """Whether there are kernels and a processor, with a system's permission, to run them."""
    library = _library()
    return library is not None and bool(library.tiles_available())


class Tiles:
    """Multiplies weights with activations.

    Args:
        threads: the most that will compute.
        split: whether floats with more bits than bfloat16 count with 16 bits of their significand,
            as the sum of two bfloat16 numbers; otherwise they are rounded to one.
    """

    def __init__(self, threads: int, *, split: bool) -> None:
        self._threads, self._split = threads, split

    def multiply(self, weight: Tensor, x: Tensor) -> Tensor:
        """``weight [in, out]`` times ``x [in, ...]``, as :func:`granite_gguf.ggml.mul_mat`."""
        check(
            weight.ne[0] == x.ne[0]
            and weight.ne[2] == weight.ne[3] == 1
            and x.type == F32
            and weight.contiguous
            and (x.rows_contiguous if x.ne[2] == x.ne[3] == 1 else x.contiguous),
            "multiply in tiles",
            weight,
            x,
        )
        width, rows = weight.ne[:2]
        columns = x.ne[1] * x.ne[2] * x.ne[3]
        wide = self._split and weight.type in (F32, F16)
        packed = self._pack(x, columns, 2 if wide else 1)
        panel = -(-width // 32) * _PANEL_ROWS * 64
        together = 1
        if packed.byte_count > _CACHED_BYTES:
            share = -(-rows // (_PANEL_ROWS * self._threads))
            together = max(1, min(share, _PANELS_BYTES // panel))
        parts = 2 if wide else 1
        job = _Job(
            **_offsets(),
            width=width,
            rows=rows,
            columns=columns,
            weight_type=int(weight.type),
            row_bytes=weight.nb[1],
            panel_bytes=together * panel,
            x_parts=parts,
            weight_parts=parts,
            threads=self._threads,
        )
        if weight.type not in _DECODED_HERE:
            traits = c.ggml_get_type_traits(int(weight.type)).contents
            job.to_float = ctypes.cast(traits.to_float, ctypes.c_void_p)
        # Threads decode weights behind the result: its memory is theirs, and is there in time.
        size = rows * columns + (64 + self._threads * parts * together * panel) // 4
        whole = _custom(x, F32, size, [weight, packed], "tiles_multiply", job)
        strides = [4 * rows, 4 * rows * x.ne[1], 4 * rows * x.ne[1] * x.ne[2]]
        return whole.view([rows, *x.ne[1:]], strides)

    @staticmethod
    def _pack(x: Tensor, columns: int, parts: int) -> Tensor:
        """The activations in tiles, made once however many weights they are multiplied with."""
        if parts not in x.packed:
            width = x.ne[0]
            tiles = -(-columns // 16) * -(-width // 32)
            job = _Job(**_offsets(), width=width, columns=columns, x_stride=x.nb[1], x_parts=parts)
            size = parts * tiles * 1024
            x.packed[parts] = _custom(x, GGMLType.I8, size, [x], "tiles_pack", job)
        return x.packed[parts]


def _offsets() -> dict[str, int]:
    fields: Any = c.ggml_tensor
    return {"data_offset": fields.data.offset, "source_offset": fields.src.offset}


def _custom(
    beside: Tensor, kind: GGMLType, size: int, sources: list[Tensor], function: str, job: _Job
) -> Tensor:
    """A node of ``size`` elements that a function of the library computes."""
    operation = ctypes.cast(getattr(_library(), function), c.ggml_custom_op_t)
    handles = (ctypes.POINTER(c.ggml_tensor) * len(sources))(*(s.handle for s in sources))
    context = beside.context
    context.keep(job)
    handle: Any = c.ggml_custom_4d(
        context.take(), int(kind), size, 1, 1, 1, handles, len(sources), operation,
        c.GGML_N_TASKS_MAX, ctypes.addressof(job),
    )  # fmt: skip
    return Tensor(context, handle)
