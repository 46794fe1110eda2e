"""Output types by tensor, and the conversion of numbers between float formats."""

from __future__ import annotations

from enum import Enum
from typing import Any

import gguf
import numpy as np

from granite_gguf.arrays import AnyArray, FloatArray
from granite_gguf.errors import CheckpointError
from granite_gguf.ggml.types import BF16, F16, F32, GGMLType
from granite_gguf.spec.tensors import TensorSpec


class OutType(Enum):
    """A policy for the types of a converted file."""

    F16 = "f16"  # the language model's matrices; encoder and projector are sensitive: F32
    BF16 = "bf16"  # every matrix: loses nothing of a checkpoint in bfloat16
    F32 = "f32"  # everything

    @property
    def file_type(self) -> gguf.LlamaFileType:
        """The value of ``general.file_type``."""
        return {
            OutType.F16: gguf.LlamaFileType.MOSTLY_F16,
            OutType.BF16: gguf.LlamaFileType.MOSTLY_BF16,
            OutType.F32: gguf.LlamaFileType.ALL_F32,
        }[self]


def output_type(policy: OutType, spec: TensorSpec) -> GGMLType:
    """The type a tensor is written as."""
    if not spec.role.is_matrix:
        return F32
    if policy is OutType.BF16:
        return BF16
    if policy is OutType.F16 and spec.stage.is_language:
        return F16
    return F32


SOURCE_TYPES: dict[str, tuple[GGMLType, np.dtype[Any]]] = {
    "BF16": (BF16, np.dtype("<u2")),
    "F16": (F16, np.dtype("<f2")),
    "F32": (F32, np.dtype("<f4")),
}
"""safetensors' names of the types a checkpoint may have, and how numpy reads their bytes."""


def convert_values(name: str, values: AnyArray, source: GGMLType, target: GGMLType) -> AnyArray:
    """Rows of numbers from one float format to another, rounded to nearest even.

    Args:
        name: the tensor, for errors.
        values: ``(rows, width)``; bfloat16 as uint16.
        source: their format.
        target: the format wanted.

    Raises:
        CheckpointError: a value is not finite, or exceeds what float16 can hold.
    """
    wide = _widen(values, source)
    if not np.isfinite(wide).all():
        raise CheckpointError(f"tensor {name} holds values that are not finite numbers")
    if target is source:
        return values
    if target is F32:
        return wide
    if target is BF16:
        return np.asarray(gguf.quants.quantize(wide, BF16))
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise CheckpointError(
            f"tensor {name} holds {np.abs(wide).max():.6g}, more than float16 can; "
            "convert with --outtype bf16"
        )
    return narrow


def _widen(values: AnyArray, source: GGMLType) -> FloatArray:
    if source is BF16:
        wide: FloatArray = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return wide
    return values.astype(np.float32, copy=False)
