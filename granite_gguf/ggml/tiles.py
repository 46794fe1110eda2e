"""Matrix products in the bfloat16 tiles of AMX, which ggml has no kernel for.

``native/tiles.c`` has the kernels. It is compiled when the package is installed, and left out where
there is no C compiler. A weight stays as its file has it, mapped or not, and is decoded to bfloat16
a few rows at a time while it is multiplied.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import ggml as c

from granite_gguf.ggml.tensor import Activation, Tensor, check
from granite_gguf.ggml.types import BF16, BLOCK_SIZES, F16, F32, GGMLType

_DECODED_HERE = {F32, F16, BF16, GGMLType.Q8_0, GGMLType.Q6_K, GGMLType.Q5_K, GGMLType.Q4_K}

_ACTIVATIONS = {Activation.NONE: 0, Activation.GATE: 1, Activation.SILU: 2}  # as in tiles.c

_SPAN = 256  # numbers of a row that are decoded at once
_PANEL_ROWS = 32  # rows of a weight that are multiplied at once
_CACHED_BYTES = 1 << 20  # of packed activations, that stay in a core's second cache
_PANELS_BYTES = 512 << 10  # of decoded weights that share them where they do not


class _Job(ctypes.Structure):
    """``Job`` of ``native/tiles.c``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("data_offset", "source_offset", "width", "rows", "columns"),
                *("batches", "inner", "group"),
                *("x_stride", "x_step", "x_outer_step", "weight_step", "weight_outer_step"),
                *("x_parts", "weight_parts", "weight_type", "row_bytes", "span_bytes"),
                *("panel_bytes", "threads", "biased", "activation", "active_from"),
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

    def multiply(
        self,
        weight: Tensor,
        x: Tensor,
        bias: Tensor | None = None,
        activation: Activation = Activation.NONE,
    ) -> Tensor:
        """``activation(weight x + bias)`` as :func:`granite_gguf.ggml.linear` of weights, and
        products of batches as :func:`granite_gguf.ggml.mul_mat`, without a bias.
        """
        check(
            weight.ne[0] == x.ne[0]
            and x.ne[2] % weight.ne[2] == 0
            and weight.ne[3] in (1, x.ne[3])
            and x.type == F32
            and weight.rows_contiguous
            and x.rows_contiguous
            and (weight.type == F32 or weight.contiguous)
            and (bias is None or (bias.ne == (weight.ne[1], 1, 1, 1) and bias.type == F32)),
            "multiply in tiles",
            weight,
            x,
            bias,
        )
        width, rows = weight.ne[:2]
        # One weight multiplies all of x at once where its rows are evenly spaced.
        even = x.contiguous or x.ne[2] * x.ne[3] == 1
        batched = weight.ne[2] * weight.ne[3] > 1 or not even
        parts = 2 if self._split and weight.type in (F32, F16) else 1
        shape = _Shape.of(x, batched=batched)
        packed = _pack(x, shape, parts)
        panel = -(-width // 32) * _PANEL_ROWS * 64
        together = 1
        if packed.byte_count > _CACHED_BYTES and not batched:
            share = -(-rows // (_PANEL_ROWS * self._threads))
            together = max(1, min(share, _PANELS_BYTES // panel))
        block = BLOCK_SIZES[weight.type]
        job = _Job(
            **_offsets(),
            width=width,
            rows=rows,
            columns=shape.columns,
            batches=shape.batches,
            inner=shape.inner,
            group=x.ne[2] // weight.ne[2] if batched else 1,
            weight_type=int(weight.type),
            weight_step=weight.nb[2],
            weight_outer_step=weight.nb[3] if weight.ne[3] > 1 else 0,
            row_bytes=weight.nb[1],
            span_bytes=_SPAN // block.elements * block.bytes,
            panel_bytes=together * panel,
            x_parts=parts,
            weight_parts=parts,
            threads=self._threads,
            biased=bias is not None,
            activation=_ACTIVATIONS[activation],
            active_from=rows // 2 if activation is Activation.GATE else 0,
        )
        if weight.type not in _DECODED_HERE:
            traits = c.ggml_get_type_traits(int(weight.type)).contents
            job.to_float = ctypes.cast(traits.to_float, ctypes.c_void_p)
        # Threads decode weights behind the result: its memory is theirs, and is there in time.
        size = shape.batches * rows * shape.columns
        room = (64 + self._threads * parts * together * panel) // 4
        sources = [weight, packed] if bias is None else [weight, packed, bias]
        whole = _custom(x, F32, size + room, sources, "tiles_multiply", job)
        strides = [4 * rows, 4 * rows * x.ne[1], 4 * rows * x.ne[1] * x.ne[2]]
        return whole.view([rows, *x.ne[1:]], strides)


@dataclass(frozen=True)
class _Shape:
    """Activations as so many matrices with so many columns of the result."""

    columns: int
    batches: int
    inner: int

    @classmethod
    def of(cls, x: Tensor, *, batched: bool) -> _Shape:
        if batched:
            return cls(x.ne[1], x.ne[2] * x.ne[3], x.ne[2])
        return cls(x.ne[1] * x.ne[2] * x.ne[3], 1, 1)


def _pack(x: Tensor, shape: _Shape, parts: int) -> Tensor:
    """The activations in tiles, made once however many weights they are multiplied with."""
    key = (shape, parts)
    if key not in x.packed:
        job = _Job(
            **_offsets(),
            width=x.ne[0],
            columns=shape.columns,
            batches=shape.batches,
            inner=shape.inner,
            x_stride=x.nb[1],
            x_step=x.nb[2],
            x_outer_step=x.nb[3],
            x_parts=parts,
        )
        tiles = shape.batches * -(-shape.columns // 16) * -(-x.ne[0] // 32)
        x.packed[key] = _custom(x, GGMLType.I8, parts * tiles * 1024, [x], "tiles_pack", job)
    return x.packed[key]


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
