"""Places the weights of a file where the device reads them.

Matrices stay where the file is mapped, in the file's own type, when the CPU computes; another
device gets a copy. What the graphs read in float32 or in another order is small and converted
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from granite_gguf.ggml import F32, Runtime, Tensor, WeightBuffer
from granite_gguf.gguf_file import ModelFile
from granite_gguf.graph.encoder import derived_weights
from granite_gguf.tensors import Role, Stage, TensorSpec

_PRODUCT_ROLES = {Role.MATRIX, Role.POINTWISE, Role.EMBEDDING}


def _replaced(spec: TensorSpec) -> bool:
    """Whether the graphs read derived weights instead of this tensor."""
    table = spec.stage in (Stage.ENCODER, Stage.AUDIO) and spec.role is Role.TABLE
    return table or ".conv_bn." in spec.name


class ModelWeights(Mapping[str, Tensor]):
    """The weights by name, those of the file and those derived from it.

    Raises:
        DeviceError: the device has no room for them.
    """

    def __init__(self, file: ModelFile, runtime: Runtime) -> None:
        self._stack = ExitStack()
        placed: list[TensorSpec] = []
        converted = derived_weights(file.hparams.encoder, file.read)
        for spec in file.specs.values():
            if _replaced(spec):
                continue
            if spec.role in _PRODUCT_ROLES or file.info(spec.name).type is F32:
                placed.append(spec)
            else:
                converted[spec.name] = file.read(spec.name)
        self._tensors: dict[str, Tensor] = {}
        try:
            self._place(file, runtime, placed)
            self._convert(runtime, converted)
        except BaseException:
            self.close()
            raise

    def _buffer(self, runtime: Runtime, capacity: int) -> WeightBuffer:
        buffer = WeightBuffer(runtime, capacity)
        self._stack.callback(buffer.close)
        return buffer

    def _place(self, file: ModelFile, runtime: Runtime, specs: list[TensorSpec]) -> None:
        buffer = self._buffer(runtime, len(specs))
        for spec in specs:
            info = file.info(spec.name)
            # A pointwise convolution [1, in, out] is the matrix [in, out] over the same bytes.
            shape = info.shape[-2:] if spec.role is Role.POINTWISE else info.shape
            self._tensors[spec.name] = buffer.add(spec.name, shape, info.type)
        if runtime.maps_host_memory:
            offsets = {spec.name: file.info(spec.name).offset for spec in specs}
            buffer.map_host(file.container.data, offsets)
        else:
            buffer.upload({spec.name: file.container.raw(spec.name) for spec in specs})

    def _convert(self, runtime: Runtime, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
        buffer = self._buffer(runtime, len(arrays))
        for name, array in arrays.items():
            self._tensors[name] = buffer.add(name, tuple(reversed(array.shape)), F32)
        buffer.upload(arrays)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def close(self) -> None:
        """Give the memory back; the tensors must not be used any more."""
        self._tensors.clear()
        self._stack.close()
