"""Memory that graphs write into, and find again when they run the next time."""

from __future__ import annotations

from typing import Any

import ggml as c
import numpy as np

from granite_gguf import memory
from granite_gguf.arrays import AnyArray
from granite_gguf.ggml.buffers import DeviceBuffer
from granite_gguf.ggml.runtime import look
from granite_gguf.ggml.tensor import ShapeError


class State(DeviceBuffer):
    """Tensors of F32 or F16 that stay from one run to the next, such as keys and values.

    A graph writes by :meth:`granite_gguf.ggml.Tensor.with_rows`.
    """

    _holds = "state"
    _buffer: Any = None

    def place(self, purpose: str, remedy: str) -> None:
        """Make room for the tensors, all zeros.

        Args:
            purpose: what they are for, for messages.
            remedy: what to do where there is no room.

        Raises:
            OutOfMemoryError: there is none.
        """
        room = self._runtime.device_room(self._device)
        if room is None:
            self._runtime.require(self.needed(), purpose, remedy)
        else:
            memory.require(self.needed(), purpose, remedy, room=room)
        self.allocate()

    def clear(self) -> None:
        """Set everything to zero."""
        if self._buffer:
            c.ggml_backend_buffer_clear(self._buffer, 0)

    def read(self, name: str) -> AnyArray:
        """A copy of a tensor ``(rows, width)`` that has been placed."""
        if not self._buffer:
            raise ShapeError(f"read {name}: the state has no memory")
        return np.copy(look(self.tensors[name])[0, 0])

    def _keep(self, buffer: Any) -> None:
        super()._keep(buffer)
        self._buffer = buffer
        # What is masked counts zero times, which of a NaN is a NaN.
        self.clear()

    def close(self) -> None:
        self._buffer = None
        super().close()
