"""Arrays as a graph's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from granite_gguf.arrays import FloatArray
from granite_gguf.ggml import F32, Runtime, Tensor, WeightBuffer


@contextmanager
def placed_weights(
    runtime: Runtime, arrays: Mapping[str, FloatArray]
) -> Iterator[dict[str, Tensor]]:
    """Tensors on a runtime's device, by name, which hold these arrays."""
    with WeightBuffer(runtime, len(arrays)) as buffer:
        for name, array in arrays.items():
            buffer.add(name, tuple(reversed(array.shape)), F32)
        buffer.allocate()
        for name, array in arrays.items():
            buffer.fill(name, array)
        yield dict(buffer.tensors)
