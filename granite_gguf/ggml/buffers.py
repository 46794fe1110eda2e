"""Memory for weights: mapped from a file, plain, or packed for a faster matrix kernel.

A packed buffer holds weights in the order in which one kernel of the CPU reads them. They can be
the matrix of a product and nothing else: neither read back nor viewed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import ggml as c
import numpy as np
import numpy.typing as npt

from granite_gguf import memory
from granite_gguf.arrays import AnyArray
from granite_gguf.closing import Closing
from granite_gguf.errors import DeviceError, OutOfMemoryError
from granite_gguf.ggml.runtime import Runtime
from granite_gguf.ggml.tensor import Context, Tensor
from granite_gguf.ggml.types import BLOCK_SIZES, F32, GGMLType
from granite_gguf.sizes import megabytes

_GET_EXTRA_TYPES = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)


class Packings:
    """The packed buffer types of a device, by ggml's names for them, and what each can hold."""

    def __init__(self, runtime: Runtime) -> None:
        self._device = runtime.device_handle
        self._supported: dict[tuple[str, GGMLType, int, int], bool] = {}

    @cached_property
    def types(self) -> dict[str, int]:
        """Usable types by name, ``CPU_REPACK`` among them where the CPU has it."""
        registry = c.ggml_backend_dev_backend_reg(self._device)
        name = b"ggml_backend_dev_get_extra_bufts"
        address = c.ggml_backend_reg_get_proc_address(registry, name)
        if not address:
            return {}
        listed = _GET_EXTRA_TYPES(address)(
            ctypes.cast(self._device, ctypes.c_void_p).value  # the handle may be a plain int
        )
        found: dict[str, int] = {}
        while handle := listed[len(found)]:
            found[c.ggml_backend_buft_name(handle).decode()] = handle
        # GCC before 14 breaks ggml's kernels for AMX (GCC bug 114098); ours are faster.
        found.pop("AMX", None)
        return found

    def supports(self, name: str, kind: GGMLType, width: int, rows: int) -> bool:
        """Whether a matrix ``[width, rows]`` of a type has a kernel in this packing.

        ggml itself is asked, with a product that is described and never computed.
        """
        key = (name, kind, width, rows)
        if key not in self._supported:
            fits = width % BLOCK_SIZES[kind].elements == 0
            self._supported[key] = fits and name in self.types and self._ask(*key)
        return self._supported[key]

    def _ask(self, name: str, kind: GGMLType, width: int, rows: int) -> bool:
        with ExitStack() as stack:
            context = Context(3)
            stack.callback(context.close)
            buffer = c.ggml_backend_buft_alloc_buffer(self.types[name], 0)
            if not buffer:
                return False
            stack.callback(c.ggml_backend_buffer_free, buffer)
            weight = context.new_tensor("weight", [width, rows], kind)
            weight.handle.contents.buffer = buffer
            x = context.new_tensor("x", [width, rows], F32)
            product = c.ggml_mul_mat(context.take(), weight.handle, x.handle)
            return bool(c.ggml_backend_dev_supports_op(self._device, product))


class DeviceBuffer(Closing):
    """Tensors in memory that the device can read: declared first (``add``), then placed together.

    Args:
        runtime: whose device it is.
        capacity: the most tensors there will be.
    """

    _holds, _remedy = "tensors", memory.FREE_SOME

    def __init__(self, runtime: Runtime, capacity: int) -> None:
        self._runtime = runtime
        self._device, self._device_name = runtime.device_handle, runtime.device.name
        self._stack = ExitStack()
        self._context = Context(max(1, capacity))
        self._stack.callback(self._context.close)
        self.tensors: dict[str, Tensor] = {}

    def add(self, name: str, ne: Sequence[int], kind: GGMLType) -> Tensor:
        tensor = self._context.new_tensor(name, ne, kind)
        self.tensors[name] = tensor
        return tensor

    def add_rows(self, name: str, of: Tensor, start: int, count: int) -> Tensor:
        """Give a name of their own to some rows of a matrix that was added."""
        self.tensors[name] = of.rows(start, count)
        return self.tensors[name]

    def needed(self, buffer_type: int | None = None) -> int:
        """How many bytes :meth:`allocate` will ask for."""
        if not self.tensors:
            return 0
        if buffer_type is None:
            buffer_type = c.ggml_backend_dev_buffer_type(self._device)
        handle = self._context.handle
        return int(c.ggml_backend_alloc_ctx_tensors_from_buft_size(handle, buffer_type))

    def allocate(self, buffer_type: int | None = None) -> None:
        """Make room for the tensors, of the device's own buffer type or of a packed one."""
        if not self.tensors:
            return
        if buffer_type is None:
            buffer_type = c.ggml_backend_dev_buffer_type(self._device)
        buffer = c.ggml_backend_alloc_ctx_tensors_from_buft(self._context.handle, buffer_type)
        if not buffer:
            needed = self.needed(buffer_type)
            raise OutOfMemoryError(
                f"{self._device_name} has no room for {megabytes(needed)} of {self._holds}. "
                f"{self._remedy}"
            )
        self._keep(buffer)

    def _keep(self, buffer: Any) -> None:
        self._stack.callback(c.ggml_backend_buffer_free, buffer)

    def close(self) -> None:
        self.tensors.clear()
        self._stack.close()


class WeightBuffer(DeviceBuffer):
    """Weights, placed upon bytes that are already in host memory (``map_host``, nothing is copied)
    or in a new buffer (``allocate``), which is then filled tensor by tensor.
    """

    _holds, _remedy = "weights", "Use a file of a smaller type, or free some memory"

    def map_host(self, data: npt.NDArray[np.uint8], offsets: Mapping[str, int]) -> None:
        """Place each tensor at its offset in ``data``, which must outlive this object."""
        if not self.tensors:
            return
        address = data.ctypes.data
        buffer = c.ggml_backend_dev_buffer_from_host_ptr(
            self._device, address, data.nbytes, data.nbytes
        )
        if not buffer:
            raise DeviceError(f"{self._device_name} cannot map host memory")
        self._keep(buffer)
        for name, tensor in self.tensors.items():
            if offsets[name] + tensor.byte_count > data.nbytes:
                raise DeviceError(f"tensor {name} ends beyond the mapped file")
            c.ggml_backend_tensor_alloc(buffer, tensor.handle, address + offsets[name])

    def fill(self, name: str, data: AnyArray) -> None:
        """Copy a tensor's bytes into its place; several threads may fill different tensors."""
        tensor = self.tensors[name]
        data = np.ascontiguousarray(data)
        if data.nbytes != tensor.byte_count:
            raise DeviceError(
                f"tensor {name} needs {tensor.byte_count} bytes, {data.nbytes} were given"
            )
        c.ggml_backend_tensor_set(tensor.handle, data.ctypes.data, 0, data.nbytes)

    def _keep(self, buffer: Any) -> None:
        super()._keep(buffer)
        c.ggml_backend_buffer_set_usage(buffer, c.GGML_BACKEND_BUFFER_USAGE_WEIGHTS)
