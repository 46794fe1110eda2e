"""The only package that calls ggml: devices, buffers, tensors and graphs as typed Python.

Everything outside sees owned objects and numpy arrays. ggml-python's raw functions, pointers and
their traps stay in here.
"""

from granite_gguf.ggml import binding as _binding  # first, for it is what loads ggml # noqa: F401
from granite_gguf.ggml.attention import attend_few, attends
from granite_gguf.ggml.buffers import Packings, WeightBuffer
from granite_gguf.ggml.devices import DeviceInfo, default_threads, list_devices
from granite_gguf.ggml.graph import Graph
from granite_gguf.ggml.kernels import available_kernels
from granite_gguf.ggml.observe import Observed, ProductShape, observe_inputs, observe_products
from granite_gguf.ggml.operations import (
    added_product,
    argmax,
    concat,
    depthwise_conv,
    depthwise_conv_silu,
    flash_attention,
    gated_linear,
    linear,
    mul_mat,
    normed,
    normed_swiglu,
    numbers_at,
    products_together,
    rows_at,
    swiglu,
    swiglu_halves,
)
from granite_gguf.ggml.peak import measure_bandwidth, measure_peak
from granite_gguf.ggml.products import MOST_COLUMNS, Norm, Products, Then
from granite_gguf.ggml.runtime import KeptGraph, Reader, Runtime
from granite_gguf.ggml.state import State
from granite_gguf.ggml.tensor import Activation, ShapeError, Tensor
from granite_gguf.ggml.turns import Turns
from granite_gguf.ggml.types import BF16, BLOCK_SIZES, F16, F32, I32, GGMLType, row_bytes

__all__ = [
    "BF16",
    "BLOCK_SIZES",
    "F16",
    "F32",
    "I32",
    "MOST_COLUMNS",
    "Activation",
    "DeviceInfo",
    "GGMLType",
    "Graph",
    "KeptGraph",
    "Norm",
    "Observed",
    "Packings",
    "ProductShape",
    "Products",
    "Reader",
    "Runtime",
    "ShapeError",
    "State",
    "Tensor",
    "Then",
    "Turns",
    "WeightBuffer",
    "added_product",
    "argmax",
    "attend_few",
    "attends",
    "available_kernels",
    "concat",
    "default_threads",
    "depthwise_conv",
    "depthwise_conv_silu",
    "flash_attention",
    "gated_linear",
    "linear",
    "list_devices",
    "measure_bandwidth",
    "measure_peak",
    "mul_mat",
    "normed",
    "normed_swiglu",
    "numbers_at",
    "observe_inputs",
    "observe_products",
    "products_together",
    "row_bytes",
    "rows_at",
    "swiglu",
    "swiglu_halves",
]
