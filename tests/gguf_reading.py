"""GGUF files as gguf-py reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt


def fields(path: Path) -> dict[str, Any]:
    """All metadata by key."""
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


def decoded(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Every tensor by its name, in float32."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
    }
