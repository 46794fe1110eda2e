"""Matrix products by kernels of our own, which a table in C chooses from by the processor.

A weight stays as its file has it, mapped or not, and is decoded a few rows at a time while it is
multiplied.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import ggml as c

from granite_gguf.ggml.attention import attend_many
from granite_gguf.ggml.kernels import (
    GENERIC,
    Job,
    available_kernels,
    custom,
    library,
    offsets,
    table,
)
from granite_gguf.ggml.tensor import Activation, Tensor, check
from granite_gguf.ggml.types import BLOCK_SIZES, F32, GGMLType

_ACTIVATIONS = {Activation.NONE: 0, Activation.GATE: 1, Activation.SILU: 2}  # as in job.h

_MANY = 1 << 20  # columns


class Products:
    """Multiplies weights with activations.

    Args:
        threads: the most that will compute.
        first: the best kernel to use, by name, or None for the best there is. Weights that it does
            not take go to the next one that does. The generic kernel, which is slower than ggml's,
            has to be named.
        exact: whether numbers may not be rounded further than their type says.

    Raises:
        ValueError: there is no such kernel here.
    """

    def __init__(self, threads: int, first: str | None = None, *, exact: bool) -> None:
        self._threads, self._exact = threads, exact
        names = available_kernels()
        if first is None:
            self._names = [name for name in names if name != GENERIC]
        elif first in names:
            self._names = names[names.index(first) :]
        else:
            raise ValueError(f"no kernel {first!r} here; there are: {', '.join(names) or 'none'}")

    def kernel(self, kind: GGMLType, columns: int = _MANY) -> str | None:
        """The name of the kernel for weights of a type and so many columns, or None."""
        for name in self._names:
            if library().kernels_takes(table()[name], kind, self._exact, columns):
                return name
        return None

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
            "multiply",
            weight,
            x,
            bias,
        )
        width, rows = weight.ne[:2]
        # One weight multiplies all of x at once where its rows are evenly spaced. Where a matrix is
        # a single row, ggml calls it contiguous whatever the stride of its rows.
        even = x.ne[2] * x.ne[3] == 1 or (x.contiguous and x.nb[1] == x.nb[0] * x.ne[0])
        batched = weight.ne[2] * weight.ne[3] > 1 or not even
        shape = _Shape.of(x, batched=batched)
        block = BLOCK_SIZES[weight.type]
        job = Job(
            **offsets(),
            width=width,
            rows=rows,
            columns=shape.columns,
            batches=shape.batches,
            inner=shape.inner,
            group=x.ne[2] // weight.ne[2] if batched else 1,
            x_stride=x.nb[1],
            x_step=x.nb[2],
            x_outer_step=x.nb[3],
            weight_type=int(weight.type),
            weight_step=weight.nb[2],
            weight_outer_step=weight.nb[3] if weight.ne[3] > 1 else 0,
            row_bytes=weight.nb[1],
            block_numbers=block.elements,
            block_bytes=block.bytes,
            threads=self._threads,
            biased=bias is not None,
            activation=_ACTIVATIONS[activation],
            active_from=rows // 2 if activation is Activation.GATE else 0,
            exact=self._exact,
        )
        traits = c.ggml_get_type_traits(int(weight.type)).contents
        job.to_float = ctypes.cast(traits.to_float, ctypes.c_void_p)
        kernel = self.kernel(weight.type, shape.columns)
        check(kernel is not None, "multiply by no kernel", weight)
        library().kernels_plan(table()[str(kernel)], ctypes.byref(job))
        packed = _pack(x, shape, str(kernel), job)
        # Threads decode weights behind the result: its memory is theirs, and is there in time.
        size = shape.batches * rows * shape.columns
        room = -(-job.room_bytes // 4)
        sources = [weight, packed] if bias is None else [weight, packed, bias]
        whole = custom(x, F32, size + room, sources, "kernels_multiply", job)
        strides = [4 * rows, 4 * rows * x.ne[1], 4 * rows * x.ne[1] * x.ne[2]]
        return whole.view([rows, *x.ne[1:]], strides)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        mask: Tensor | None = None,
        distances: Tensor | None = None,
    ) -> Tensor | None:
        """Attention of many queries, see :func:`attend_many`, in numbers that are rounded no
        further than F32 weights are; None where products and softmax are to do it.
        """
        kernel = self.kernel(F32)
        if kernel is None:
            return None
        return attend_many(q, k, v, scale, mask, distances, kernel=kernel, threads=self._threads)


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


def _pack(x: Tensor, shape: _Shape, kernel: str, job: Job) -> Tensor:
    """The activations as a kernel wants them, made once however many weights they meet."""
    key = (shape, kernel, job.packing)
    if key not in x.packed:
        x.packed[key] = custom(x, GGMLType.I8, job.all_packed_bytes, [x], "kernels_pack", job)
    return x.packed[key]
