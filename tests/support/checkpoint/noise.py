"""The random numbers of a checkpoint: one stream per tensor name, turned into weights by rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from tests.support.checkpoint.safetensors_file import FloatArray

PART_VALUES = 1 << 21  # 8 MiB of float32


@dataclass(frozen=True)
class Init:
    """How standard normal noise becomes the rows of a tensor."""

    std: float
    mean: float = 0.0
    blind_to: FloatArray | None = None  # (k, width) orthonormal: inputs that leave no trace
    row_gain: Mapping[int, float] = field(default_factory=dict)
    pinned: Mapping[int, float] = field(default_factory=dict)  # row -> its one value

    def rows(self, noise: FloatArray, first: int) -> FloatArray:
        """Turn noise (n, width) into rows `first` to `first + n` of the tensor, in place."""
        noise *= np.float32(self.std)
        if self.blind_to is not None:
            noise -= (noise @ self.blind_to.T) @ self.blind_to
        noise += np.float32(self.mean)
        for row, gain in self.row_gain.items():
            if first <= row < first + len(noise):
                noise[row - first] *= np.float32(gain)
        for row, value in self.pinned.items():
            if first <= row < first + len(noise):
                noise[row - first] = value
        return noise


@dataclass(frozen=True)
class RandomTensor:
    """A tensor by its canonical name, its shape, and how it is filled."""

    name: str
    shape: tuple[int, ...]
    init: Init

    def parts(self, seed: int) -> Iterator[FloatArray]:
        """Yield the values (n, width), whole rows at a time; the name and seed alone fix them."""
        digest = hashlib.sha256(f"{seed}:{self.name}".encode()).digest()
        rng = np.random.Generator(np.random.SFC64(int.from_bytes(digest, "big")))
        height, width = self.shape[0], prod(self.shape[1:])
        step = max(1, PART_VALUES // width)
        for first in range(0, height, step):
            n = min(step, height - first)
            noise = rng.standard_normal((n, width), dtype=np.float32)
            yield self.init.rows(noise, first)
