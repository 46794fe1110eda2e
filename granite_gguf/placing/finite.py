"""Keeps numbers that are not finite from becoming text.

Float kernels hand a NaN on to the result, where the stages' outputs are looked at. Integer kernels
do not: rounding activations to 8 bits can turn a NaN into an ordinary number. So what feeds them is
looked at when the weights are placed: every small tensor, every scale of a quantized matrix, and
the float matrices of a stage that has integer kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import AnyArray
from granite_gguf.errors import ModelFileError
from granite_gguf.ggml.types import BLOCK_SIZES, GGMLType
from granite_gguf.storage.model_file import ModelFile

_AT_A_TIME = 1 << 20  # numbers or blocks looked at together

# Where the half-precision scales of a block lie, in bytes from its start.
_SCALES: Mapping[GGMLType, tuple[int, ...]] = {
    GGMLType.Q8_0: (0,),
    GGMLType.Q6_K: (208,),
    GGMLType.Q5_K: (0, 2),
    GGMLType.Q4_K: (0, 2),
    GGMLType.Q3_K: (108,),
    GGMLType.Q2_K: (80, 82),
    GGMLType.Q5_0: (0,),
    GGMLType.Q5_1: (0, 2),
    GGMLType.Q4_0: (0,),
    GGMLType.Q4_1: (0, 2),
    GGMLType.IQ4_NL: (0,),
    GGMLType.IQ4_XS: (0,),
}
_EXPONENTS: Mapping[GGMLType, tuple[Any, int]] = {
    GGMLType.F32: (np.uint32, 0x7F800000),
    GGMLType.F16: (np.uint16, 0x7C00),
    GGMLType.BF16: (np.uint16, 0x7F80),
}


def stored_finite(raw: npt.NDArray[np.uint8], kind: GGMLType) -> bool:
    """Whether all the numbers in a tensor's bytes are finite, without decoding them."""
    if kind in _EXPONENTS:
        integer, mask = _EXPONENTS[kind]
        return _no_exponent_full(raw.view(integer), mask)
    blocks = raw.reshape(-1, BLOCK_SIZES[kind].bytes)
    half, mask = _EXPONENTS[GGMLType.F16]
    return all(
        _no_exponent_full(blocks[:, at : at + 2].view(half)[:, 0], mask) for at in _SCALES[kind]
    )


def _no_exponent_full(bits: AnyArray, mask: int) -> bool:
    parts = range(0, len(bits), _AT_A_TIME)
    return not any(((bits[at : at + _AT_A_TIME] & mask) == mask).any() for at in parts)


def check_stored(file: ModelFile[Any], name: str) -> None:
    """Refuse a tensor with numbers that are not finite.

    Raises:
        ModelFileError: it has some.
    """
    if not stored_finite(file.raw(name), file.info(name).type):
        raise ModelFileError(
            f"{file.path}: tensor {file.info(name).name} holds NaN or infinity. The file is "
            "damaged: fetch or convert it again"
        )


def check_small(file: ModelFile[Any], arrays: Mapping[str, npt.NDArray[np.floating]]) -> None:
    """Refuse weights, the file's own or computed from them, that are not finite.

    Raises:
        ModelFileError: some are not.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            stored = name in file.specs
            what = f"tensor {file.info(name).name}" if stored else f"{name}, computed from tensors,"
            raise ModelFileError(
                f"{file.path}: {what} holds NaN or infinity. The file is damaged: fetch or "
                "convert it again"
            )


def check_results(file: ModelFile[Any], stage: str, *arrays: npt.NDArray[np.floating]) -> None:
    """Refuse outputs that are not finite.

    Raises:
        ModelFileError: some are not.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise ModelFileError(
            f"{file.path}: the {stage} computed NaN or infinity from finite audio. The weights are "
            "damaged, or too large for their types: fetch or convert the file again"
        )
