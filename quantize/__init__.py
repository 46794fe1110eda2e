"""Quantization of our files: policies, their application, importance matrices."""

from granite_gguf.quantize.imatrix import ImportanceMatrix, collect_importance, read_importance
from granite_gguf.quantize.policies import Override, Scope
from granite_gguf.quantize.quantize import (
    Plan,
    Quantization,
    default_output,
    make_plan,
    parse_override,
    quant_type,
    quantize,
)
from granite_gguf.quantize.types import QUANT_TYPES, QuantType

__all__ = [
    "QUANT_TYPES",
    "ImportanceMatrix",
    "Override",
    "Plan",
    "QuantType",
    "Quantization",
    "Scope",
    "collect_importance",
    "default_output",
    "make_plan",
    "parse_override",
    "quant_type",
    "quantize",
    "read_importance",
]
