"""Matrix products by kernels of our own, which a table in C chooses from by the processor.

A weight stays as its file has it, mapped or not, and is decoded a few rows at a time while it is
multiplied.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import NamedTuple

import ggml as c

from granite_gguf.ggml.attention import attend_many
from granite_gguf.ggml.kernels import (
    GENERIC,
    LINE,
    MOST_CONCATENATED,
    MOST_TOGETHER,
    VECTOR,
    Concat,
    Convolution,
    Job,
    Norming,
    Shares,
    Together,
    available_kernels,
    custom,
    library,
    offsets,
    table,
    whole_lines,
)
from granite_gguf.ggml.tensor import Activation, Tensor, check
from granite_gguf.ggml.types import BLOCK_SIZES, F32, GGMLType

_ACTIVATIONS = {Activation.NONE: 0, Activation.GATE: 1, Activation.SILU: 2}  # as in job.h

_MANY = 1 << 20  # columns
_MOST_TAPS = 31  # as in convolution.h
_PANEL = 32  # rows that some kernels multiply at once
_PIECE = 64  # rows that a thread takes at a time
MOST_COLUMNS = 4  # that are multiplied together with several weights: each thread packs them


class Norm(NamedTuple):
    """A norm of columns: they are divided by their root mean square, and multiplied by a weight.
    With a shift their mean is taken away before that, and the shift added behind it.
    """

    weight: Tensor
    eps: float
    shift: Tensor | None = None


class Then(Enum):
    """What becomes of the results of products that are computed together; numbers as in job.h."""

    NOTHING = 0
    GATED = 1
    """The first half of each column times the SiLU of the second."""
    ADDED = 2
    """They are scaled, and added to something."""


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
        to: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """``activation(weight x + bias)`` as :func:`granite_gguf.ggml.linear` of weights, and
        products of batches as :func:`granite_gguf.ggml.mul_mat`, without a bias. Of a matrix x also
        ``to + scale * activation(weight x + bias)``.
        """
        check(
            weight.ne[0] == x.ne[0]
            and x.ne[2] % weight.ne[2] == 0
            and weight.ne[3] in (1, x.ne[3])
            and x.type == F32
            and weight.rows_contiguous
            and x.rows_contiguous
            and (weight.type == F32 or weight.contiguous)
            and (bias is None or (bias.ne == (weight.ne[1], 1, 1, 1) and bias.type == F32))
            and (to is None or to.ne == (weight.ne[1], x.ne[1], 1, 1) == (to.ne[0], *x.ne[1:]))
            and (to is None or (to.type == F32 and to.rows_contiguous)),
            "multiply",
            weight,
            x,
            bias,
            to,
        )
        rows = weight.ne[1]
        # One weight multiplies all of x at once where its rows are evenly spaced. Where a matrix is
        # a single row, ggml calls it contiguous whatever the stride of its rows.
        even = x.ne[2] * x.ne[3] == 1 or (x.contiguous and x.nb[1] == x.nb[0] * x.ne[0])
        batched = weight.ne[2] * weight.ne[3] > 1 or not even
        shape = _Shape.of(x, batched=batched)
        kernel = self.kernel(weight.type, shape.columns)
        check(kernel is not None, "multiply by no kernel", weight)
        job = self._planned(
            weight,
            str(kernel),
            rows=rows,
            columns=shape.columns,
            batches=shape.batches,
            inner=shape.inner,
            group=x.ne[2] // weight.ne[2] if batched else 1,
            x_stride=x.nb[1],
            x_step=x.nb[2],
            x_outer_step=x.nb[3],
            weight_step=weight.nb[2],
            weight_outer_step=weight.nb[3] if weight.ne[3] > 1 else 0,
            biased=bias is not None,
            activation=_ACTIVATIONS[activation],
            active_from=rows // 2 if activation is Activation.GATE else 0,
            added=to is not None,
            to_stride=0 if to is None else to.nb[1],
        )
        shares = Shares(self._threads)
        job.scale, job.shares = scale, shares.address
        x.context.keep(shares)
        packed = _pack(x, shape, str(kernel), job)
        # Threads decode weights behind the result: its memory is theirs, and is there in time.
        size = shape.batches * rows * shape.columns
        room = -(-job.room_bytes // 4)
        sources = [weight, packed, *(source for source in (bias, to) if source is not None)]
        whole = custom(x, F32, size + room, sources, "kernels_multiply", job)
        strides = [4 * rows, 4 * rows * x.ne[1], 4 * rows * x.ne[1] * x.ne[2]]
        return whole.view([rows, *x.ne[1:]], strides)

    def _planned(self, weight: Tensor, kernel: str, **told: int) -> Job:
        """What a kernel is told, and what it plans."""
        block = BLOCK_SIZES[weight.type]
        traits = c.ggml_get_type_traits(int(weight.type)).contents
        job = Job(
            **offsets(),
            width=weight.ne[0],
            weight_type=int(weight.type),
            row_bytes=weight.nb[1],
            block_numbers=block.elements,
            block_bytes=block.bytes,
            threads=self._threads,
            exact=self._exact,
            **told,
        )
        job.to_float = ctypes.cast(traits.to_float, ctypes.c_void_p)
        library().kernels_plan(table()[kernel], ctypes.byref(job))
        return job

    def together(
        self,
        weights: Sequence[Tensor],
        x: Tensor,
        norm: Norm | None = None,
        then: Then = Then.NOTHING,
        to: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor | None:
        """Several weights times the same few columns, with what stands beside that, at once.

        The numbers are those that the operations have one by one.

        Args:
            weights: matrices with as many columns, at most three.
            x: ``[width, columns]``.
            norm: of x, before it is multiplied; without a shift.
            then: what becomes of the results.
            to: what they are added to, as large.
            scale: of the results before that.

        Returns:
            The rows of all results one after another, ``[rows, columns]``; of ``Then.GATED``, those
            of the first weight times the SiLU of the second. None where no kernel does so: there
            are more columns, or the weights differ too much.
        """
        columns = x.ne[1]
        names = {self.kernel(weight.type, columns) for weight in weights}
        rows = [weight.ne[1] for weight in weights]
        if (
            columns > MOST_COLUMNS
            or columns != x.element_count // x.ne[0]
            or len(names) > 1
            or any(n % _PANEL for n in rows[:-1])
        ):
            return None
        check(
            1 <= len(weights) <= MOST_TOGETHER
            and all(w.ne == (x.ne[0], w.ne[1], 1, 1) and w.contiguous for w in weights)
            and x.type == F32
            and x.rows_contiguous
            and (norm is None or (_fits_as_norm(norm, x) and norm.shift is None))
            and (then is not Then.GATED or (len(rows) == 2 and rows[0] == rows[1]))
            and ((then is Then.ADDED) == (to is not None))
            and (to is None or (to.ne == (sum(rows), columns, 1, 1) and to.type == F32))
            and (to is None or to.rows_contiguous),
            "together",
            *weights,
            x,
            to,
        )
        gated, kernel = then is Then.GATED, str(names.pop())
        jobs = [
            self._planned(
                weight,
                kernel,
                rows=sum(rows),
                columns=columns,
                batches=1,
                inner=1,
                group=1,
                x_stride=x.nb[1] if norm is None else 4 * x.ne[0],
                activation=_ACTIVATIONS[Activation.SILU if gated and n else Activation.NONE],
            )
            for n, weight in enumerate(weights)
        ]
        if not all(job.direct for job in jobs) or len({job.packing for job in jobs}) > 1:
            return None
        few = max(job.panel_bytes for job in jobs)
        each = few + jobs[0].packed_bytes + whole_lines(4 * x.ne[0] * columns)
        shares = Shares(self._threads)
        norming = None if norm is None else self._norming(x, norm)
        whole = Together(
            **offsets(),
            weights=len(weights),
            rows=(ctypes.c_int64 * MOST_TOGETHER)(*rows),
            all_rows=sum(rows),
            width=x.ne[0],
            columns=columns,
            x_stride=x.nb[1],
            then=then.value,
            to_stride=0 if to is None else to.nb[1],
            threads=self._threads,
            piece_rows=_PIECE,
            few_bytes=few,
            thread_bytes=each,
            scale=scale,
            norming=None if norming is None else ctypes.addressof(norming),
            shares=shares.address,
        )
        for n, job in enumerate(jobs):
            whole.jobs[n] = ctypes.addressof(job)
        x.context.keep((jobs, shares, norming))
        sources = [*weights, x, *([norm.weight] if norm else []), *([to] if to else [])]
        room = (LINE + self._threads * each) // 4
        y = custom(x, F32, sum(rows) * columns + room, sources, "kernels_together", whole)
        return y.view([rows[0] if gated else sum(rows), columns], [4 * sum(rows)])

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, *others: Tensor | None
    ) -> Tensor | None:
        """Attention of many queries, see :func:`attend_many`, in numbers that are rounded no
        further than F32 weights are; None where products and softmax are to do it.

        Args:
            q: the queries.
            k: the keys.
            v: the values.
            scale: of the scores.
            others: a mask and distances, or None.
        """
        kernel = self.kernel(F32)
        if kernel is None:
            return None
        return attend_many(q, k, v, scale, *others, kernel=kernel, threads=self._threads)

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        """As :func:`granite_gguf.ggml.normed` of a matrix whose columns are evenly spaced."""
        check(
            x.type == F32
            and x.rows_contiguous
            and x.ne[2] == x.ne[3] == 1
            and _fits_as_norm(norm, x),
            "norm",
            x,
            *norm,
        )
        sources = [x, norm.weight] if norm.shift is None else [x, norm.weight, norm.shift]
        size = x.element_count
        return custom(x, F32, size, sources, "kernels_norm", self._norming(x, norm)).reshape(*x.ne)

    def _norming(self, x: Tensor, norm: Norm) -> Norming:
        job = Norming(
            **offsets(),
            width=x.ne[0],
            columns=x.ne[1],
            x_stride=x.nb[1],
            shifted=norm.shift is not None,
            threads=self._threads,
            eps=norm.eps,
        )
        library().kernels_norming(table()[self._names[0]], ctypes.byref(job))
        return job

    def convolve(self, taps: Tensor, x: Tensor, shift: Tensor) -> Tensor | None:
        """As :func:`granite_gguf.ggml.depthwise_conv_silu`, in float32; None where ggml does it."""
        channels, frames, batch = x.ne[:3]
        check(
            taps.type == x.type == shift.type == F32
            and taps.contiguous
            and x.contiguous
            and x.ne == (channels, frames, batch, 1)
            and taps.ne == (channels, taps.ne[1], 1, 1)
            and taps.ne[1] % 2 == 1
            and shift.ne == (channels, 1, 1, 1),
            "convolve",
            taps,
            x,
            shift,
        )
        if channels % VECTOR or taps.ne[1] > _MOST_TAPS:
            return None
        job = Convolution(
            **offsets(),
            channels=channels,
            frames=frames,
            batches=batch,
            taps=taps.ne[1],
            threads=self._threads,
        )
        library().kernels_convolution(table()[self._names[0]], ctypes.byref(job))
        size = channels * frames * batch
        whole = custom(x, F32, size, [x, taps, shift], "kernels_convolve", job)
        return whole.reshape(channels, frames, batch)

    def concat(self, tensors: Sequence[Tensor], dim: int) -> Tensor:
        """As :func:`granite_gguf.ggml.concat` in the first two dimensions, of tensors that are in
        one piece up to there.
        """
        while len(tensors) > 1:
            starts = range(0, len(tensors), MOST_CONCATENATED)
            tensors = [_concat(tensors[n : n + MOST_CONCATENATED], dim) for n in starts]
        return tensors[0]


def _concat(tensors: Sequence[Tensor], dim: int) -> Tensor:
    ne = list(tensors[0].ne)
    check(
        dim in (0, 1)
        and all(t.rows_contiguous for t in tensors)
        and all(dim == 0 or t.ne[1] == 1 or t.nb[1] == t.nb[0] * t.ne[0] for t in tensors)
        and all(n == 1 for n in ne[dim + 2 :]),
        f"concat {dim}",
        *tensors,
    )
    ne[dim] = sum(t.ne[dim] for t in tensors)
    job = Concat(**offsets(), count=len(tensors), pieces=ne[dim + 1])
    for n, tensor in enumerate(tensors):
        job.bytes[n] = tensor.nb[0] * prod(tensor.ne[: dim + 1])
        job.strides[n] = tensor.nb[dim + 1]
    return custom(tensors[0], F32, prod(ne), list(tensors), "kernels_concat", job).reshape(*ne)


def _fits_as_norm(norm: Norm, x: Tensor) -> bool:
    vectors = (v for v in (norm.weight, norm.shift) if v is not None)
    return all(v.ne == (x.ne[0], 1, 1, 1) and v.type == F32 for v in vectors)


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
