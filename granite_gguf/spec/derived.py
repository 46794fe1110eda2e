"""Small weights that are computed from a file's tensors, once, when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from granite_gguf.arrays import FloatArray

ReadWeight = Callable[[str], FloatArray]
"""Reads a tensor of the file by name, decoded to float32, in numpy order."""


@dataclass(frozen=True)
class DerivedWeights:
    """Weights that the graphs read in place of the tensors they are computed from.

    Attributes:
        arrays: float32 by name, in the order that the graphs read them.
        joined: matrices of the file that meet the same activations, which a device of its own
            multiplies faster as one: what they are called together, and their names in the order
            of their rows.
    """

    arrays: dict[str, FloatArray] = field(default_factory=dict)
    joined: dict[str, tuple[str, ...]] = field(default_factory=dict)
