"""Matrix products by kernels of our own, which a table in C chooses from by the processor.

``native/`` has the kernels. They are compiled when the package is installed, and left out where
there is no C compiler. A weight stays as its file has it, mapped or not, and is decoded a few rows
at a time while it is multiplied.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import ggml as c

from granite_gguf.ggml.tensor import Activation, Tensor, check, fits_as_mask
from granite_gguf.ggml.types import BLOCK_SIZES, F16, F32, GGMLType

_ACTIVATIONS = {Activation.NONE: 0, Activation.GATE: 1, Activation.SILU: 2}  # as in job.h

_GENERIC = "generic"
_MANY = 1 << 20  # columns


class _Job(ctypes.Structure):
    """``Job`` of ``native/job.h``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("data_offset", "source_offset", "width", "rows", "columns"),
                *("batches", "inner", "group", "x_stride", "x_step", "x_outer_step"),
                *("weight_type", "weight_step", "weight_outer_step", "row_bytes"),
                *("block_numbers", "block_bytes", "threads"),
                *("biased", "activation", "active_from", "exact"),
            )
        ),
        ("to_float", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("packing", "pack_columns", "pack_numbers", "packed_bytes", "parts"),
                *("panel_rows", "panel_bytes", "step_columns", "fetches", "direct", "beside"),
                *("panels_together", "all_packed_bytes", "room_bytes"),
            )
        ),
        ("kernel", ctypes.c_void_p),
    )


class _Attention(ctypes.Structure):
    """``Attention`` of ``native/job.h``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("data_offset", "source_offset"),
                *("head_dim", "queries", "heads", "group", "keys", "type"),
                *("q_row", "q_head", "k_row", "k_head", "v_row", "v_head"),
                *("masked", "score_stride"),
            )
        ),
        ("scale", ctypes.c_double),
        ("kernel", ctypes.c_void_p),
    )


_VECTOR = 16  # the longest vectors of the kernels


@cache
def _library() -> Any:
    """The kernels, or None."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / "native" / f"kernels{suffix}"
        if path.exists():
            library = ctypes.CDLL(str(path))
            number = ctypes.c_int64
            library.kernels_count.restype = library.kernels_job_bytes.restype = number
            library.kernels_name.restype = library.kernels_words.restype = ctypes.c_char_p
            for of_one in (library.kernels_name, library.kernels_words, library.kernels_available):
                of_one.argtypes = [number]
            library.kernels_takes.argtypes = [number, number, number, number]
            library.kernels_peak.restype = number
            library.kernels_peak.argtypes = [number, number]
            library.kernels_read.argtypes = [ctypes.c_void_p, number]
            library.kernels_attention.restype = ctypes.c_void_p
            library.kernels_attention.argtypes = [number]
            library.kernels_plan.argtypes = [number, ctypes.POINTER(_Job)]
            if library.kernels_job_bytes() != ctypes.sizeof(_Job):
                raise ImportError(
                    f"{path}: was compiled from other sources than this package's; install "
                    "granite-gguf again"
                )
            return library
    return None


@dataclass(frozen=True)
class KernelInfo:
    """A kernel of the table.

    Attributes:
        name: as it is asked for.
        words: what it multiplies with.
        available: whether this processor has it.
    """

    name: str
    words: str
    available: bool


def list_kernels() -> list[KernelInfo]:
    """All kernels of the table, the best first; none where they were not compiled."""
    if (library := _library()) is None:
        return []
    return [
        KernelInfo(
            library.kernels_name(n).decode(),
            library.kernels_words(n).decode(),
            bool(library.kernels_available(n)),
        )
        for n in range(library.kernels_count())
    ]


@cache
def _table() -> dict[str, int]:
    """Places in the table of what this processor has, by name, the best first."""
    return {info.name: n for n, info in enumerate(list_kernels()) if info.available}


def kernels_compiled() -> bool:
    """Whether the kernels were compiled with the package."""
    return _library() is not None


def available_kernels() -> list[str]:
    """The kernels that this processor has, the best first; none where they were not compiled."""
    return list(_table())


def make_products(kernel: str, rounds: int) -> int:
    """Have a kernel's instructions multiply what is in registers; how many products that makes.

    0 where a kernel cannot tell.
    """
    return int(_library().kernels_peak(_table()[kernel], rounds))


def read_memory(address: int, size: int) -> None:
    """Read so many bytes, whole lines of 64."""
    _library().kernels_read(address, size)


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
            self._names = [name for name in names if name != _GENERIC]
        elif first in names:
            self._names = names[names.index(first) :]
        else:
            raise ValueError(f"no kernel {first!r} here; there are: {', '.join(names) or 'none'}")

    def kernel(self, kind: GGMLType, columns: int = _MANY) -> str | None:
        """The name of the kernel for weights of a type and so many columns, or None."""
        for name in self._names:
            if _library().kernels_takes(_table()[name], kind, self._exact, columns):
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
        job = _Job(
            **_offsets(),
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
        _library().kernels_plan(_table()[str(kernel)], ctypes.byref(job))
        packed = _pack(x, shape, str(kernel), job)
        # Threads decode weights behind the result: its memory is theirs, and is there in time.
        size = shape.batches * rows * shape.columns
        room = -(-job.room_bytes // 4)
        sources = [weight, packed] if bias is None else [weight, packed, bias]
        whole = _custom(x, F32, size + room, sources, "kernels_multiply", job)
        strides = [4 * rows, 4 * rows * x.ne[1], 4 * rows * x.ne[1] * x.ne[2]]
        return whole.view([rows, *x.ne[1:]], strides)


def attends(q: Tensor) -> bool:
    """Whether :func:`attend_few` takes queries of such heads."""
    return kernels_compiled() and q.ne[0] % _VECTOR == 0 and q.ne[3] == 1


def attend_few(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    kernel: str | None = None,
) -> Tensor:
    """As :func:`granite_gguf.ggml.flash_attention` without batches, each query by itself: its
    numbers do not depend on other queries, nor on keys that it does not see. Sums are in float32.

    Args:
        kernel: whose attention, or that of the next one that has any; by default the best.

    Returns:
        ``[head_dim, heads, queries]``.
    """
    check(
        attends(q)
        and q.type == F32
        and k.type == v.type
        and k.type in (F32, F16)
        and fits_as_mask(mask, k.ne[1], q.ne[1])
        and q.ne[0] == k.ne[0]
        and k.ne == v.ne
        and k.ne[3] == 1
        and q.ne[2] % k.ne[2] == 0
        and q.rows_contiguous
        and k.rows_contiguous
        and v.rows_contiguous,
        "attend_few",
        q,
        k,
        v,
        mask,
    )
    head_dim, queries, heads = q.ne[:3]
    stride = -(-k.ne[1] // _VECTOR) * _VECTOR
    job = _Attention(
        **_offsets(),
        head_dim=head_dim,
        queries=queries,
        heads=heads,
        group=heads // k.ne[2],
        keys=k.ne[1],
        type=int(k.type),
        q_row=q.nb[1],
        q_head=q.nb[2],
        k_row=k.nb[1],
        k_head=k.nb[2],
        v_row=v.nb[1],
        v_head=v.nb[2],
        masked=mask is not None,
        score_stride=stride,
        scale=scale,
        kernel=_library().kernels_attention(_table()[kernel] if kernel else 0),
    )
    sources = [q, k, v] if mask is None else [q, k, v, mask]
    size = (head_dim + stride) * heads * queries  # the scores lie behind the result
    whole = _custom(q, F32, size, sources, "kernels_attend", job)
    return whole.view([head_dim, heads, queries], [4 * head_dim, 4 * head_dim * heads])


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


def _pack(x: Tensor, shape: _Shape, kernel: str, job: _Job) -> Tensor:
    """The activations as a kernel wants them, made once however many weights they meet."""
    key = (shape, kernel, job.packing)
    if key not in x.packed:
        x.packed[key] = _custom(x, GGMLType.I8, job.all_packed_bytes, [x], "kernels_pack", job)
    return x.packed[key]


def _offsets() -> dict[str, int]:
    fields: Any = c.ggml_tensor
    return {"data_offset": fields.data.offset, "source_offset": fields.src.offset}


def _custom(
    beside: Tensor,
    kind: GGMLType,
    size: int,
    sources: list[Tensor],
    function: str,
    job: _Job | _Attention,
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
