"""The kernels of ``native/``: their table, what they are told, and nodes that call them.

They are compiled when the package is installed, and left out where there is no C compiler.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import ggml as c

from granite_gguf.forks import tell_after_fork
from granite_gguf.ggml.tensor import Tensor
from granite_gguf.ggml.types import GGMLType

GENERIC = "generic"
MOST_TOGETHER = 3  # weights, as in job.h
MOST_CONCATENATED = 8  # tensors
LINE = 64  # bytes of a cache's line
VECTOR = 16  # the longest vectors of the kernels


def _numbers(*names: str) -> Iterator[tuple[str, type[ctypes.c_int64]]]:
    """Fields of whole numbers."""
    return ((name, ctypes.c_int64) for name in names)


class Job(ctypes.Structure):
    """``Job`` of ``native/job.h``."""

    _fields_ = (
        *_numbers(
            *("data_offset", "source_offset", "width", "rows", "columns"),
            *("batches", "inner", "group", "x_stride", "x_step", "x_outer_step"),
            *("weight_type", "weight_step", "weight_outer_step", "row_bytes"),
            *("block_numbers", "block_bytes", "threads"),
            *("biased", "activation", "active_from", "exact", "added", "to_stride"),
        ),
        ("scale", ctypes.c_double),
        ("to_float", ctypes.c_void_p),
        ("shares", ctypes.c_void_p),
        *_numbers(
            *("packing", "pack_columns", "pack_numbers", "packed_bytes", "parts"),
            *("panel_rows", "panel_bytes", "step_columns", "fetches", "direct", "in_place"),
            *("beside", "panels_together", "panels_each", "all_packed_bytes", "room_bytes"),
        ),
        ("kernel", ctypes.c_void_p),
    )


class Attention(ctypes.Structure):
    """``Attention`` of ``native/job.h``."""

    _fields_ = (
        *_numbers(
            *("data_offset", "source_offset"),
            *("head_dim", "queries", "heads", "group", "keys", "type"),
            *("q_row", "q_head", "k_row", "k_head", "v_row", "v_head"),
            *("masked", "score_stride"),
            *("keeps", "new_k_row", "new_k_head", "new_v_row", "new_v_head"),
            *("batches", "q_batch", "k_batch", "v_batch", "distances", "threads", "room_bytes"),
        ),
        ("scale", ctypes.c_double),
        ("kernel", ctypes.c_void_p),
    )


class Together(ctypes.Structure):
    """``Together`` of ``native/job.h``."""

    _fields_ = (
        *_numbers("data_offset", "source_offset", "weights"),
        ("rows", ctypes.c_int64 * MOST_TOGETHER),
        *_numbers(
            *("all_rows", "width", "columns", "x_stride", "then", "to_stride"),
            *("threads", "piece_rows", "few_bytes", "thread_bytes"),
        ),
        ("scale", ctypes.c_double),
        ("norming", ctypes.c_void_p),
        ("jobs", ctypes.c_void_p * MOST_TOGETHER),
        ("shares", ctypes.c_void_p),
    )


class Convolution(ctypes.Structure):
    """``Convolution`` of ``native/job.h``."""

    _fields_ = (
        *_numbers(
            *("data_offset", "source_offset"),
            *("channels", "frames", "batches", "taps", "threads"),
        ),
        ("kernel", ctypes.c_void_p),
    )


class Norming(ctypes.Structure):
    """``Norming`` of ``native/job.h``."""

    _fields_ = (
        *_numbers(
            *("data_offset", "source_offset"),
            *("width", "columns", "x_stride", "shifted", "threads"),
        ),
        ("eps", ctypes.c_double),
        ("kernel", ctypes.c_void_p),
    )


class Concat(ctypes.Structure):
    """``Concat`` of ``native/job.h``."""

    _fields_ = (
        *_numbers("data_offset", "source_offset", "count", "pieces"),
        ("bytes", ctypes.c_int64 * MOST_CONCATENATED),
        ("strides", ctypes.c_int64 * MOST_CONCATENATED),
    )


def whole_lines(size: int) -> int:
    """The next multiple of a line."""
    return -(-size // LINE) * LINE


class Shares:
    """What each thread has begun of its share of a product: a line for each, zeros between runs."""

    def __init__(self, threads: int) -> None:
        self._bytes = ctypes.create_string_buffer(LINE * (threads + 1))
        tell_after_fork(self)

    @property
    def address(self) -> int:
        """Of the first line."""
        return whole_lines(ctypes.addressof(self._bytes))

    def after_fork(self) -> None:
        """In the child nobody is in the middle of a run."""
        ctypes.memset(self._bytes, 0, len(self._bytes))


@cache
def library() -> Any:
    """The kernels, or None."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / "native" / f"kernels{suffix}"
        if path.exists():
            found = ctypes.CDLL(str(path))
            number = ctypes.c_int64
            found.kernels_job_bytes.restype = number
            told = (Job, Attention, Together, Convolution, Norming, Concat)
            if found.kernels_job_bytes() != sum(map(ctypes.sizeof, told)):
                raise ImportError(
                    f"{path}: was compiled from other sources than this package's; install "
                    "granite-gguf again"
                )
            found.kernels_count.restype = number
            found.kernels_name.restype = found.kernels_words.restype = ctypes.c_char_p
            for of_one in (found.kernels_name, found.kernels_words, found.kernels_available):
                of_one.argtypes = [number]
            found.kernels_takes.argtypes = [number, number, number, number]
            found.kernels_peak.restype = number
            found.kernels_peak.argtypes = [number, number]
            found.kernels_read.argtypes = [ctypes.c_void_p, number]
            found.kernels_attention.restype = ctypes.c_void_p
            found.kernels_attention.argtypes = [number]
            found.kernels_attention_many.argtypes = [number, ctypes.POINTER(Attention)]
            found.kernels_plan.argtypes = [number, ctypes.POINTER(Job)]
            found.kernels_convolution.argtypes = [number, ctypes.POINTER(Convolution)]
            found.kernels_norming.argtypes = [number, ctypes.POINTER(Norming)]
            return found
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
    if (found := library()) is None:
        return []
    return [
        KernelInfo(
            found.kernels_name(n).decode(),
            found.kernels_words(n).decode(),
            bool(found.kernels_available(n)),
        )
        for n in range(found.kernels_count())
    ]


@cache
def table() -> dict[str, int]:
    """Places in the table of what this processor has, by name, the best first."""
    return {info.name: n for n, info in enumerate(list_kernels()) if info.available}


def kernels_compiled() -> bool:
    """Whether the kernels were compiled with the package."""
    return library() is not None


def available_kernels() -> list[str]:
    """The kernels that this processor has, the best first; none where they were not compiled."""
    return list(table())


def make_products(kernel: str, rounds: int) -> int:
    """Have a kernel's instructions multiply what is in registers; how many products that makes.

    0 where a kernel cannot tell.
    """
    return int(library().kernels_peak(table()[kernel], rounds))


def read_memory(address: int, size: int) -> None:
    """Read so many bytes, whole lines of 64."""
    library().kernels_read(address, size)


@cache
def offsets() -> dict[str, int]:
    """Where a tensor's structure has its data and its sources, in bytes."""
    fields: Any = c.ggml_tensor
    return {"data_offset": fields.data.offset, "source_offset": fields.src.offset}


@cache
def _operation(function: str) -> Any:
    return ctypes.cast(getattr(library(), function), c.ggml_custom_op_t)


def custom(
    beside: Tensor,
    kind: GGMLType,
    size: int,
    sources: list[Tensor],
    function: str,
    job: Job | Attention | Together | Convolution | Norming | Concat,
) -> Tensor:
    """A node of ``size`` elements that a function of the library computes."""
    operation = _operation(function)
    handles = (ctypes.POINTER(c.ggml_tensor) * len(sources))(*(s.handle for s in sources))
    context = beside.context
    context.keep(job)
    handle: Any = c.ggml_custom_4d(
        context.take(), int(kind), size, 1, 1, 1, handles, len(sources), operation,
        c.GGML_N_TASKS_MAX, ctypes.addressof(job),
    )  # fmt: skip
    return Tensor(context, handle)
