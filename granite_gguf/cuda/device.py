"""What a pass is made of: each method is one kernel, or one product, on arrays of the GPU.

Activations are float16 ``(rows, width)``; what is added up along the layers is float32. Widths are
multiples of 8. Everything is called inside a block of :meth:`CudaDevice.working`, and runs in the
order of the calls; nothing is waited for but by :meth:`CudaDevice.download`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import numpy as np

from granite_gguf.arrays import AnyArray
from granite_gguf.cuda.arrays import Array, Heads, Norm
from granite_gguf.cuda.gpu import Gpu
from granite_gguf.errors import DeviceError, OutOfMemoryError

_THREADS = 256
_WARPS = 4  # of an attention block, each with 16 queries
_SCORE_BYTES = 4 * 16  # of a warp, for each key
_APART = 8  # numbers between rows of scores, which banks of memory like
_FLOAT32, _FLOAT16 = 0, 2  # as cuBLAS numbers types
_SUMS = 68  # in float32
_ANY = 99  # algorithm
_NOTHING = np.intp(0)
_HEAD = 32  # what the widths of heads are multiples of


class CudaDevice:
    """An NVIDIA GPU.

    Args:
        taps: of the convolution, an odd number.
        widest: of the rows that are normed.
        gpu: the GPU.
    """

    def __init__(self, taps: int, widest: int, gpu: Gpu) -> None:
        import cupy  # noqa: PLC0415 - an extra
        from cupy_backends.cuda.libs import cublas  # noqa: PLC0415

        self._gpu, self._cupy = gpu, cupy
        self._gemm = cublas.gemmEx  # on the stream of the block it is called in
        self._device = cupy.cuda.Device(gpu.number)
        with self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
        self._source = files("granite_gguf.cuda").joinpath("kernels.cu").read_text("utf-8")
        self._options = (f"-DTAPS={taps}", f"-DMOST={-(-widest // 1024)}", "-std=c++17")
        self._modules: dict[int, Any] = {}
        self._kernels: dict[tuple[str, int], Any] = {}
        self._factors = np.array([1, 0], np.float32)
        self._one, self._zero = self._factors.ctypes.data, self._factors.ctypes.data + 4
        self._shared = int(self._device.attributes["MaxSharedMemoryPerBlockOptin"])

    @property
    def free(self) -> int:
        """Bytes of its memory that are free."""
        with self._device:
            pool = self._cupy.get_default_memory_pool()
            return int(self._device.mem_info[0]) + int(pool.free_bytes())

    @property
    def most_keys(self) -> int:
        """Rows that attention takes: a warp keeps the scores of 16 queries."""
        return (self._shared // _SCORE_BYTES - _APART) // 16 * 16

    @contextmanager
    def working(self) -> Iterator[None]:
        """A block in which everything goes to this device, in the order in which it is called.

        Raises:
            OutOfMemoryError: there is no room.
            DeviceError: the device failed.
        """
        self._gpu.check()
        cuda = self._cupy.cuda
        try:
            with self._device, self._stream:
                yield
        except cuda.memory.OutOfMemoryError as error:
            self._cupy.get_default_memory_pool().free_all_blocks()
            raise OutOfMemoryError(
                f"{self._gpu.info.name} has no room for this: {error}. Transcribe fewer "
                "recordings at a time, or free some of its memory"
            ) from error
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            raise DeviceError(f"{self._gpu.info.name}: {error}") from error

    # Arrays

    def upload(self, array: AnyArray) -> Array:
        """A copy on the device."""
        return self._cupy.asarray(np.ascontiguousarray(array))

    def matrix(self, parts: Sequence[AnyArray]) -> Array | None:
        """The rows of matrices one after another, float16; None where that cannot hold some number.

        Args:
            parts: each ``(rows, columns)`` of float32, float16, or uint16: the bits of bfloat16.
                Those of the result are filled up with zeros to multiples of 8.
        """
        cp = self._cupy
        rows, columns = sum(len(part) for part in parts), parts[0].shape[1]
        out = cp.zeros((rows + -rows % 8, columns + -columns % 8), np.float16)
        start = 0
        for part in parts:
            there = cp.asarray(part)
            if part.dtype == np.uint16:
                there = (there.astype(np.uint32) << 16).view(np.float32)
            out[start : start + len(part), :columns] = there
            start += len(part)
        return out if bool(cp.isfinite(out).all()) else None

    def wait(self) -> None:
        """Until everything is done that was asked for."""
        self._device.synchronize()

    def download(self, array: Array) -> AnyArray:
        """A copy on the host, when all is done that it waits for."""
        found: AnyArray = self._cupy.asnumpy(array)
        return found

    def empty(self, shape: Sequence[int], dtype: type = np.float16) -> Array:
        return self._cupy.empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: type = np.float16) -> Array:
        return self._cupy.zeros(shape, dtype)

    def half(self, x: Array) -> Array:
        """In float16."""
        return x.astype(np.float16)

    # Products

    def product(
        self, x: Array, weight: Array, out: Array | None = None, *, float32: bool = False
    ) -> Array:
        """``x weight.T``, float16 or float32.

        Args:
            x: ``(rows, in)``.
            weight: ``(out, in)``.
            out: takes the result, ``(rows, out)``.
            float32: whether to keep it so.
        """
        (rows, width), out_width = x.shape, weight.shape[0]
        if out is None:
            out = self.empty((rows, out_width), np.float32 if float32 else np.float16)
        self._gemm(
            self._device.cublas_handle, 1, 0, out_width, rows, width,
            self._one, weight.data.ptr, _FLOAT16, width,
            x.data.ptr, _FLOAT16, width,
            self._zero, out.data.ptr, _FLOAT32 if float32 else _FLOAT16, out_width,
            _SUMS, _ANY,
        )  # fmt: skip
        return out

    # Kernels; see kernels.cu

    def residual_norm(
        self,
        x: Array,
        y: Array | None = None,
        bias: Array | None = None,
        scale: float = 1.0,
        *,
        post: Norm | None = None,
        norm: Norm | None = None,
        out: Array | None = None,
    ) -> Array | None:
        """``x = post(x + scale * (y + bias))``, in place; returns ``norm(x)``."""
        rows, width = x.shape
        if norm is not None and out is None:
            out = self.empty((rows, width))
        self._run(
            "residual_norm", rows, 1, 1, _THREADS, 0,
            x, y, bias, np.float32(scale),
            post and post.gain, post and post.shift, np.float32(post.eps if post else 0),
            norm and norm.gain, norm and norm.shift, np.float32(norm.eps if norm else 0),
            np.int32(norm is not None and norm.shift is None),
            out if norm else None,
            np.int64(out.strides[0] // 2 if norm is not None and out is not None else 0),
            np.int32(width),
        )  # fmt: skip
        return out

    def silu_bias(self, y: Array, bias: Array) -> Array:
        """``silu(y + bias)``, in place."""
        self._each("silu_bias", y, y, bias, np.int32(y.shape[1]))
        return y

    def glu_bias(self, y: Array, bias: Array, lengths: Array, rows: int) -> Array:
        """The first half times the sigmoid of the second, and 0 in rows that fill up."""
        out = self.empty((y.shape[0], y.shape[1] // 2))
        width = np.int32(out.shape[1])
        self._each("glu_bias", out, y, bias, lengths, np.int32(rows), width, out)
        return out

    def swiglu(self, y: Array) -> Array:
        """``silu`` of the first half times the second."""
        out = self.empty((y.shape[0], y.shape[1] // 2))
        self._each("swiglu", out, y, np.int32(out.shape[1]), out)
        return out

    def gelu_windows(
        self, y: Array, bias: Array, lengths: Array, rows: int, out_rows: int
    ) -> Array:
        """``gelu(y + bias)`` of frames, in whole windows, and 0 where there is no frame."""
        width = y.shape[1]
        out = self.empty((y.shape[0] // rows * out_rows, width))
        given = (y, bias, lengths, np.int32(rows), np.int32(out_rows), np.int32(width), out)
        self._each("gelu_windows", out, *given)
        return out

    def scale_bias(self, y: Array, bias: Array, scale: float) -> Array:
        """``(y + bias) * scale``, in place."""
        self._each("scale_bias", y, y, bias, np.float32(scale), np.int32(y.shape[1]))
        return y

    def conv_silu(self, x: Array, taps: Array, shift: Array, rows: int) -> Array:
        """``silu(conv(x) + shift)``, recording by recording."""
        all_rows, width = x.shape
        out = self.empty(x.shape)
        self._run(
            "conv_silu", -(-width // 256), -(-rows // 32), all_rows // rows, 128, 0,
            x, taps, shift, np.int32(rows), np.int32(width), out,
        )  # fmt: skip
        return out

    def posterior(self, y: Array, bias: Array) -> Array:
        """``softmax(y + bias)`` in place, 0 in the columns that fill up; returns column 0."""
        rows, row_width = y.shape
        blank = self.empty((rows,), np.float32)
        self._run(
            "posterior", -(-rows // 8), 1, 1, _THREADS, 0,
            y, bias, np.int32(bias.shape[0]), np.int32(row_width), blank, np.int32(rows),
        )  # fmt: skip
        return blank

    def pool(
        self, x: Array, blank: Array, lengths: Array, rows: int, window: int, eps: float
    ) -> Array:
        """Means of frames, weighted by what is not blank, ``(recordings * windows, width)``."""
        windows = -(-rows // window)
        count, width = x.shape[0] // rows * windows, x.shape[1]
        out = self.empty((count, width))
        self._run(
            "pool", count, 1, 1, _THREADS, 0,
            x, blank, lengths, np.int32(rows), np.int32(windows), np.int32(window),
            np.int32(width), np.float32(eps), out,
        )  # fmt: skip
        return out

    def best(
        self, logits: Array, bias: Array | None, width: int, scale: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Of each row of logits the best id, its logit and its probability."""
        rows, row_width = logits.shape
        ids = self.empty((rows,), np.int32)
        top, probability = self.empty((rows,), np.float32), self.empty((rows,), np.float32)
        self._run(
            "best", rows, 1, 1, 512, 0,
            logits, bias, np.int32(width), np.int32(row_width), np.float32(scale),
            ids, top, probability,
        )  # fmt: skip
        return ids, top, probability

    def rows_of(self, first: Array, second: Array, numbers: Array, factor: float) -> Array:
        """Rows of one table, and behind them of another, times a factor, float32."""
        width = first.shape[1]
        x = self.empty((numbers.shape[0], width), np.float32)
        self._run(
            "rows_of", numbers.shape[0], 1, 1, _THREADS, 0,
            first, second, np.int32(first.shape[0]), numbers, np.float32(factor),
            np.int32(width), x,
        )  # fmt: skip
        return x

    def some_rows(self, x: Array, h: Array, numbers: Array) -> tuple[Array, Array]:
        """Rows of what is added up, and of its norm."""
        count, width = numbers.shape[0], x.shape[1]
        some_x, some_h = self.empty((count, width), np.float32), self.empty((count, width))
        given = (x, h, numbers, np.int32(width), some_x, some_h)
        self._run("some_rows", count, 1, 1, _THREADS, 0, *given)
        return some_x, some_h

    def rope(self, y: Array, heads: int, head: int, positions: Array, angles: Array) -> None:
        """Turn the first heads of each row, in place; ``angles`` ``(positions, head / 2, 2)``."""
        count = y.shape[0] * heads * (head // 2)
        self._run(
            "rope", -(-count // _THREADS), 1, 1, _THREADS, 0,
            y, np.int64(y.shape[1]), np.int32(heads), np.int32(head), positions, angles,
            np.int64(count),
        )  # fmt: skip

    def attend(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        out: Array,
        heads: int,
        group: int,
        recordings: int,
        *,
        scale: float,
        counts: Array | None = None,
        start: int = 0,
        length: int | None = None,
        relative: Array | None = None,
    ) -> None:
        """``softmax(scale * (k q + relative q)) v`` into the same columns of ``out``.

        Args:
            q: queries.
            k: keys; a head of them is for ``group`` heads of queries.
            v: values, as far apart as the keys.
            out: ``(rows of the queries, heads * head)``.
            heads: of the queries.
            group: see ``k``.
            recordings: how many.
            scale: of the scores.
            counts: of each recording, how many rows are keys; by default all.
            start: the row of each recording from which queries and keys are taken.
            length: so many of them; by default all.
            relative: ``(2 * reach + 1 + 32, head)``, of each distance, the least first.
        """
        queries = q.rows if length is None else length
        keys = k.rows if length is None else length
        pitch = -(-keys // 16) * 16 + _APART
        bytes_of_warp = _SCORE_BYTES * pitch
        warps = min(_WARPS, self._shared // bytes_of_warp, -(-queries // 16))
        if not warps:
            raise ValueError(f"attention to {keys} rows does not fit in {self._shared} bytes")
        reach = 0 if relative is None else (relative.shape[0] - 33) // 2

        def at(part: Heads) -> Any:
            row = part.array.shape[1]
            return np.intp(int(part.array.data.ptr) + 2 * (start * row + part.column))

        q_row, k_row, out_row = q.array.shape[1], k.array.shape[1], out.shape[1]
        self._run(
            "attend", -(-queries // (16 * warps)), heads, recordings, 32 * warps,
            warps * bytes_of_warp,
            at(q), np.int64(q_row), np.int64(q_row * q.rows), at(k), at(v), np.int64(k_row),
            np.int64(k_row * k.rows),
            np.int32(group), np.int32(queries), np.int32(keys), counts, np.int32(start),
            np.float32(scale), relative, np.int32(reach),
            np.intp(out.data.ptr + 2 * start * out_row), np.int64(out_row),
            np.int64(out_row * q.rows),
            np.int32(pitch),
            head=q.head,
        )  # fmt: skip

    def window_inputs(self, frames: Array, positions: Array, learned: Array) -> tuple[Array, Array]:
        """Keys, and queries in float32, of whole windows of frames."""
        (size, width), queries = positions.shape, learned.shape[0]
        windows = frames.shape[0] // size
        keys, x = self.empty(frames.shape), self.empty((windows * queries, width), np.float32)
        self._run(
            "window_inputs", windows, 1, 1, _THREADS, 0,
            frames, positions, learned, np.int32(size), np.int32(queries), np.int32(width), keys, x,
        )  # fmt: skip
        return keys, x

    def attend_windows(
        self,
        q: Array,
        k: Array,
        v: Array,
        biases: Sequence[Array | None],
        queries: int,
        size: int,
        heads: int,
    ) -> Array:
        """Attention of a window's queries to its rows, at most 32."""
        out = self.empty(q.shape)
        head = q.shape[1] // heads
        count = q.shape[0] // queries * heads
        self._run(
            "attend_windows", -(-count // 8), 1, 1, _THREADS, 0,
            q, k, v, *biases, np.int32(queries), np.int32(size), np.int32(heads), np.int32(head),
            np.float32(head**-0.5), out, np.int64(count),
        )  # fmt: skip
        return out

    def _each(self, name: str, out: Array, *given: Any) -> None:
        eights = out.size // 8
        self._run(name, -(-eights // _THREADS), 1, 1, _THREADS, 0, *given, np.int64(eights))

    def _run(
        self,
        name: str,
        x: int,
        y: int,
        z: int,
        threads: int,
        shared: int,
        *given: Any,
        head: int = _HEAD,
    ) -> None:
        kernel = self._kernels.get((name, head)) or self._kernel(name, head)
        if shared > kernel.max_dynamic_shared_size_bytes:  # noqa: PLR1730 - setting it takes time
            kernel.max_dynamic_shared_size_bytes = shared
        pointers = tuple(_NOTHING if of is None else of for of in given)
        kernel((x, y, z), (threads, 1, 1), pointers, shared_mem=shared)

    def _kernel(self, name: str, head: int) -> Any:
        if head not in self._modules:
            options = (f"-DHEAD={head}", *self._options)
            self._modules[head] = self._cupy.RawModule(code=self._source, options=options)
        kernel = self._kernels[name, head] = self._modules[head].get_function(name)
        return kernel
