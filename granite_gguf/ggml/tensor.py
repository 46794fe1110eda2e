"""Tensors of a ggml compute graph, with every operation checked before ggml sees it.

A wrong call makes ggml abort the process, so each operation here validates shapes, types and
strides in Python first and raises :class:`ShapeError`, which is always a bug in a graph.

Shapes are written in ggml order, ``ne[0]`` first and contiguous: the reverse of numpy's. A matrix
of shape ``[in, out]`` multiplies activations ``[in, T]`` into ``[out, T]``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from itertools import accumulate
from typing import Any, Protocol

import ggml as c

from granite_gguf.ggml.types import BLOCK_SIZES, F16, F32, I32, TYPES, GGMLType

ROPE_NEOX = 2


class ShapeError(AssertionError):
    """An operation was given tensors it cannot combine."""


def check(condition: bool, operation: str, *operands: object) -> None:
    """Raise ShapeError where an operation's condition does not hold."""
    if not condition:
        raise ShapeError(f"{operation}: cannot combine {', '.join(map(repr, operands))}")


class Activation(Enum):
    """What becomes of the elements of a product."""

    NONE = auto()
    SILU = auto()
    GATE = auto()
    """The sigmoid of the second half of each column; the first half stays."""


class Multiplier(Protocol):
    """Multiplies with a weight, or with what multiplies in its way, in place of ggml."""

    def multiply(self, weight: Tensor, x: Tensor, *beside: Any, **added: Any) -> Tensor:
        """As :func:`granite_gguf.ggml.linear`, or :func:`granite_gguf.ggml.added_product`."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, *others: Tensor | None
    ) -> Tensor | None:
        """As :func:`granite_gguf.ggml.attention.attend_many`, the others a mask and distances; None
        where products do it.
        """

    def together(self, *several: Any, **beside: Any) -> Tensor | None:
        """As :meth:`granite_gguf.ggml.Products.together`."""

    def norm(self, x: Tensor, norm: Any) -> Tensor:
        """As :func:`granite_gguf.ggml.normed`."""

    def convolve(self, taps: Tensor, x: Tensor, shift: Tensor) -> Tensor | None:
        """As :func:`granite_gguf.ggml.depthwise_conv_silu`; None where ggml does it."""

    def concat(self, tensors: Sequence[Tensor], dim: int) -> Tensor:
        """As :func:`granite_gguf.ggml.concat`."""


class Context:
    """Room for the descriptions of a number of tensors, and for a graph over them.

    ggml aborts the process when a context is full, so the room is counted here.

    Raises:
        MemoryError: ggml could not allocate it.
    """

    def __init__(self, tensors: int, graph_nodes: int = 0) -> None:
        self.watched = False  # whether what flows between operations is looked at
        size = self.size(tensors, graph_nodes)
        self.handle: Any = c.ggml_init(c.ggml_init_params(mem_size=size, no_alloc=True))
        if not self.handle:
            raise MemoryError("ggml could not allocate a context")
        self._room = tensors
        self._kept: list[object] = []

    @staticmethod
    def size(tensors: int, graph_nodes: int = 0) -> int:
        """The bytes that a context takes."""
        size = int(c.ggml_tensor_overhead()) * tensors
        return size + (c.ggml_graph_overhead_custom(graph_nodes, False) if graph_nodes else 0)

    def take(self) -> Any:
        """Reserve room for one more tensor; returns the handle to create it with."""
        if self._room == 0:
            raise MemoryError("more tensors than the context was made for")
        self._room -= 1
        return self.handle

    def keep(self, thing: object) -> None:
        """Hold on to something whose address a tensor has."""
        self._kept.append(thing)

    def new_tensor(self, name: str, ne: Sequence[int], kind: GGMLType) -> Tensor:
        handle = c.ggml_new_tensor_4d(self.take(), int(kind), *_four(ne))
        c.ggml_set_name(handle, name.encode()[: c.GGML_MAX_NAME - 1])
        return Tensor(self, handle)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Let everything described here be after the block as it was before."""
        address, size = c.ggml_get_mem_buffer(self.handle), c.ggml_used_mem(self.handle)
        described = ctypes.string_at(address, size)
        try:
            yield
        finally:
            ctypes.memmove(address, described, size)

    def close(self) -> None:
        if self.handle:
            c.ggml_free(self.handle)
            self.handle = None


class Tensor:
    """A node of a graph, or a weight that its nodes read.

    Attributes:
        ne: the four dimensions, contiguous one first.
        nb: the four strides in bytes.
        type: the element type.
        context: where it is described.
        multiplier: what multiplies with this weight in place of ggml, or None.
        packed: forms of these activations that a multiplier has made, to be used again.
        below: what all numbers of this input are below, where they number rows, or None.
    """

    __slots__ = ("below", "context", "handle", "multiplier", "nb", "ne", "packed", "type")

    def __init__(self, context: Context, handle: Any, multiplier: Multiplier | None = None) -> None:
        fields = handle.contents
        self.context = context
        self.handle = handle
        self.ne: tuple[int, ...] = tuple(fields.ne[:])
        self.nb: tuple[int, ...] = tuple(fields.nb[:])
        self.type = TYPES[fields.type]
        self.multiplier = multiplier
        self.below: int | None = None
        self.packed: dict[Hashable, Tensor] = {}

    def __repr__(self) -> str:
        return f"{self.type.name}{list(self.ne)}"

    def new(self, handle: Any) -> Tensor:
        """A node beside this tensor."""
        return Tensor(self.context, handle)

    def beside(self, other: Tensor) -> Tensor:
        """This tensor as an operand in the graph of ``other``: a weight that is to be viewed."""
        return Tensor(other.context, self.handle, self.multiplier)

    def multiplying_as(self, weight: Tensor) -> Tensor:
        """The same numbers as an operand that multiplies activations in the way of a weight."""
        return Tensor(self.context, self.handle, weight.multiplier)

    @property
    def element_count(self) -> int:
        return self.ne[0] * self.ne[1] * self.ne[2] * self.ne[3]

    @property
    def byte_count(self) -> int:
        return int(c.ggml_nbytes(self.handle))

    @property
    def rows_contiguous(self) -> bool:
        """Whether the elements of each row lie side by side."""
        return self.ne[0] == BLOCK_SIZES[self.type].elements or self.nb[0] == self._item_size

    @property
    def contiguous(self) -> bool:
        return bool(c.ggml_is_contiguous(self.handle))

    @property
    def _item_size(self) -> int:
        return BLOCK_SIZES[self.type].bytes

    # Arithmetic; the right operand is repeated over the dimensions in which it has one element

    def _broadcasts(self, other: Tensor) -> bool:
        return all(a % b == 0 for a, b in zip(self.ne, other.ne, strict=True))

    def _binary(self, operation: Any, other: Tensor) -> Tensor:
        check(
            self.type == other.type == F32
            and self._broadcasts(other)
            and self.rows_contiguous
            and other.rows_contiguous,
            operation.__name__,
            self,
            other,
        )
        return self.new(operation(self.context.take(), self.handle, other.handle))

    def __add__(self, other: Tensor) -> Tensor:
        return self._binary(c.ggml_add, other)

    def __truediv__(self, other: Tensor) -> Tensor:
        return self._binary(c.ggml_div, other)

    def __mul__(self, other: Tensor | float) -> Tensor:
        if isinstance(other, Tensor):
            return self._binary(c.ggml_mul, other)
        return self.scale_shift(other, 0.0)

    def scale_shift(self, scale: float, shift: float) -> Tensor:
        """``scale * x + shift``."""
        even = self.nb[2] == self.nb[1] * self.ne[1] and self.nb[3] == self.nb[2] * self.ne[2]
        check(self.type == F32 and self.contiguous and even, "scale_shift", self)
        return self.new(c.ggml_scale_bias(self.context.take(), self.handle, scale, shift))

    def _unary(self, operation: Any) -> Tensor:
        # ggml's element-wise kernels read dimension 1 and above as one contiguous block of rows.
        check(
            self.type == F32 and self.rows_contiguous and self._rows_evenly_spaced,
            operation.__name__,
            self,
        )
        return self.new(operation(self.context.take(), self.handle))

    @property
    def _rows_evenly_spaced(self) -> bool:
        return (self.ne[2] == 1 or self.nb[2] == self.nb[1] * self.ne[1]) and (
            self.ne[3] == 1 or self.nb[3] == self.nb[2] * self.ne[2]
        )

    def silu(self) -> Tensor:
        return self._unary(c.ggml_silu)

    def sigmoid(self) -> Tensor:
        return self._unary(c.ggml_sigmoid)

    def gelu_erf(self) -> Tensor:
        """Exact GELU, by the error function."""
        return self._unary(c.ggml_gelu_erf)

    def norm(self, eps: float) -> Tensor:
        """Zero mean and unit variance over dimension 0."""
        check(self.type == F32 and self.rows_contiguous, "norm", self)
        return self.new(c.ggml_norm(self.context.take(), self.handle, eps))

    def rms_norm(self, eps: float) -> Tensor:
        """Unit mean square over dimension 0."""
        check(self.type == F32 and self.rows_contiguous, "rms_norm", self)
        return self.new(c.ggml_rms_norm(self.context.take(), self.handle, eps))

    def softmax(self, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        """Softmax of ``scale * x + mask`` over dimension 0; the mask is one for all dimensions 2.

        A mask is F16 ``[ne[0], ne[1]]`` or ``[ne[0], ne[1], 1, ne[3]]``, 0 or minus infinity.
        """
        check(
            self.type == F32
            and self.contiguous
            and fits_as_mask(mask, self.ne[0], self.ne[1], self.ne[3]),
            "softmax",
            self,
            mask,
        )
        masked = None if mask is None else mask.handle
        return self.new(c.ggml_soft_max_ext(self.context.take(), self.handle, masked, scale, 0.0))

    def sum_rows(self) -> Tensor:
        """The sum of each row, ``[1, ...]``."""
        check(self.type == F32 and self.nb[0] == self._item_size, "sum_rows", self)
        return self.new(c.ggml_sum_rows(self.context.take(), self.handle))

    def rope_neox(self, positions: Tensor, theta: float) -> Tensor:
        """Half-split rotary positions over dimension 0 of ``[head_dim, heads, N, batch]``."""
        check(
            self.type == F32
            and self.rows_contiguous
            and self.ne[0] % 2 == 0
            and positions.type == I32
            and positions.ne == (self.ne[2], 1, 1, 1),
            "rope_neox",
            self,
            positions,
        )
        handle = c.ggml_rope_ext(
            self.context.take(), self.handle, positions.handle, None, self.ne[0], ROPE_NEOX,
            0,  # length of the original context: only the extension methods, unused here
            theta, 1.0, 0.0, 1.0, 32.0, 1.0,
        )  # fmt: skip
        return self.new(handle)

    # Shape; none of these moves data except contiguous_copy and pad

    def reshape(self, *ne: int) -> Tensor:
        full = _four(ne)
        check(self.contiguous and _product(full) == self.element_count, f"reshape to {ne}", self)
        return self.new(c.ggml_reshape_4d(self.context.take(), self.handle, *full))

    def view(self, ne: Sequence[int], nb: Sequence[int], offset: int = 0) -> Tensor:
        """A window of ``ne`` elements, with strides ``nb`` of dimensions 1, 2, ... in bytes."""
        full = _four(ne)
        block = BLOCK_SIZES[self.type]
        strides = [*nb]
        while len(strides) < 3:  # dimensions of length 1, whose strides ggml compares all the same
            inner = strides[-1] if strides else self._item_size
            strides.append(inner * (full[len(strides)] if strides else full[0] // block.elements))
        last = offset + full[0] // block.elements * block.bytes
        last += sum((n - 1) * s for n, s in zip(full[1:], strides, strict=True))
        check(
            full[0] % block.elements == 0
            and min(full) > 0
            and offset >= 0
            and min(strides) >= 0
            and last <= self.byte_count,
            f"view {full} strides {strides} offset {offset}",
            self,
        )
        return self.new(c.ggml_view_4d(self.context.take(), self.handle, *full, *strides, offset))

    def rows(self, start: int, count: int) -> Tensor:
        """Rows ``start`` to ``start + count`` (dimension 1) of a matrix."""
        check(self.ne[2] == self.ne[3] == 1, "rows", self)
        some = self.view([self.ne[0], count], [self.nb[1]], start * self.nb[1])
        return some.multiplying_as(self)

    def divided(self, counts: Sequence[int]) -> list[Tensor]:
        """The rows of a matrix in parts, one after another."""
        check(sum(counts) == self.ne[1], f"divided {counts}", self)
        if len(counts) == 1:
            return [self]
        starts = accumulate(counts, initial=0)
        return [self.rows(start, count) for start, count in zip(starts, counts, strict=False)]

    def parts(self, counts: Sequence[int]) -> list[Tensor]:
        """The numbers of a vector in parts, one after another."""
        check(sum(counts) == self.ne[0] == self.element_count, f"parts {counts}", self)
        if len(counts) == 1:
            return [self]
        starts = accumulate(counts, initial=0)
        found = [self.view([n], [], at * self.nb[0]) for at, n in zip(starts, counts, strict=False)]
        for part in found:
            part.below = self.below
        return found

    def columns(self, start: int, count: int) -> Tensor:
        """Elements ``start`` to ``start + count`` of every row of a matrix."""
        check(self.ne[2] == self.ne[3] == 1, "columns", self)
        return self.view([count, self.ne[1]], [self.nb[1]], start * self.nb[0])

    def every(self, step: int, start: int = 0) -> Tensor:
        """Rows ``start``, ``start + step``, ... of a matrix whose row count ``step`` divides."""
        check(self.ne[2] == self.ne[3] == 1 and self.ne[1] % step == 0, f"every {step}", self)
        return self.view([self.ne[0], self.ne[1] // step], [step * self.nb[1]], start * self.nb[1])

    def permute(self, *axes: int) -> Tensor:
        """Dimension ``i`` becomes dimension ``axes[i]``."""
        check(sorted(axes) == [0, 1, 2, 3], f"permute {axes}", self)
        return self.new(c.ggml_permute(self.context.take(), self.handle, *axes))

    def contiguous_copy(self) -> Tensor:
        check(self.type in (F32, F16), "contiguous_copy", self)
        return self.new(c.ggml_cont(self.context.take(), self.handle))

    def with_rows(self, rows: Tensor, at: Tensor) -> Tensor:
        """This matrix of a :class:`granite_gguf.ggml.State` after rows were written into it.

        The memory is the same: what reads the result reads behind the writing, and so does every
        later graph.

        Args:
            rows: F32 ``[width, n]``.
            at: I32 ``[n]``, where each goes; an input that is known to be ``below`` the row count.
        """
        check(
            self.type in (F32, F16)
            and self.contiguous
            and bool(self.handle.contents.buffer)  # otherwise a graph would lend it some memory
            and self.ne == (rows.ne[0], self.ne[1], 1, 1)
            and rows.type == F32
            and rows.rows_contiguous
            and rows.ne == (rows.ne[0], rows.ne[1], 1, 1)
            and at.type == I32
            and at.ne == (rows.ne[1], 1, 1, 1)
            and at.below is not None
            and at.below <= self.ne[1],
            "with_rows",
            self,
            rows,
            at,
        )
        return rows.new(c.ggml_set_rows(rows.context.take(), self.handle, rows.handle, at.handle))

    def repeated(self, count: int) -> Tensor:
        """A matrix ``[width, n]`` so many times, ``[width, n, count]``."""
        check(self.type == F32 and self.ne[2] == self.ne[3] == 1 and count > 0, "repeated", self)
        return self.new(c.ggml_repeat_4d(self.context.take(), self.handle, *self.ne[:2], count, 1))

    def spread(self, rows: int) -> Tensor:
        """``[width, 1, 1, batch]`` with its only row so many times, ``[width, rows, 1, batch]``."""
        width, one, _, batch = self.ne
        check(
            self.type in (F32, F16) and self.contiguous and one == self.ne[2] == 1 and rows > 0,
            f"spread {rows}",
            self,
        )
        return self.new(c.ggml_repeat_4d(self.context.take(), self.handle, width, rows, 1, batch))

    def pad_rows(self, count: int) -> Tensor:
        """Append ``count`` rows of zeros in dimension 1."""
        check(self.type == F32 and count >= 0 and self.contiguous, f"pad_rows {count}", self)
        if count == 0:
            return self
        return self.new(c.ggml_pad(self.context.take(), self.handle, 0, count, 0, 0))


def fits_as_mask(mask: Tensor | None, keys: int, queries: int, batch: int = 1) -> bool:
    """Whether a mask is none, or one of as many keys and queries, for all of a batch or each."""
    return mask is None or (
        mask.type == F16
        and mask.contiguous
        and mask.ne[:3] == (keys, queries, 1)
        and mask.ne[3] in (1, batch)
    )


def _four(ne: Sequence[int]) -> tuple[int, int, int, int]:
    a, b, d, e = (*ne, 1, 1, 1, 1)[:4]
    return a, b, d, e


def _product(ne: Sequence[int]) -> int:
    result = 1
    for n in ne:
        result *= n
    return result
