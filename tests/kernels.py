"""Tests that run once with each kernel of ours that the machine has, and once with ggml's alone."""

from __future__ import annotations

import pytest

from granite_gguf.ggml import available_kernels
from granite_gguf.placing.kernel_choice import GGML

NAMES = (*available_kernels(), GGML)
"""What ``granite_gguf.load(kernels=...)`` takes here."""

with_each_kernel = pytest.mark.parametrize("kernels", NAMES)
