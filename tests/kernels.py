"""Tests that run once with each kernel of ours that the machine has, and once with ggml's alone;
and what the samples say to either.
"""

from __future__ import annotations

import pytest

import granite_gguf
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.ggml import available_kernels
from granite_gguf.placing.kernel_choice import GGML

NAMES = (*available_kernels(), GGML)
"""What ``granite_gguf.load(kernels=...)`` takes here."""

with_each_kernel = pytest.mark.parametrize("kernels", NAMES)


def texts_of_samples() -> list[str]:
    """What the demonstration model hears of its samples, which is what is said in them.

    Where there are no kernels of ours it is what the model hears of each alone: of ggml's products,
    which round activations more, a word may turn out otherwise.
    """
    if available_kernels():
        return [path.with_suffix(".txt").read_text("utf-8").strip() for path in DEMO_SAMPLES]
    with granite_gguf.load(threads=1) as model:
        return [model.transcribe(path).text for path in DEMO_SAMPLES]
