"""Which tensors a quantization touches, and why.

    default        language model    the type asked for; encoder and projector stay as they are
    --enc-f16 ...  encoder, projector  every matrix to F16, BF16 or Q8_0; the rest as by default
    --quant-all    all stages        every matrix to the type asked for, fragile ones to more bits

Small tensors that many others depend on (``Trait.SENSITIVE``) are never quantized, and vectors
(norms, biases, statistics) and tables (positions, queries, taps, filters) never either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from granite_gguf.ggml import BF16, BLOCK_SIZES, F16, F32, GGMLType
from granite_gguf.quantize.types import QuantType, fitting_type
from granite_gguf.spec.hparams import HParams
from granite_gguf.spec.tensors import Role, Stage, TensorSpec, Trait


class Scope(Enum):
    """What becomes of the encoder and the projector."""

    EDITOR = "editor"  # they stay: the encoder is sensitive to noise, and both are small
    ENC_F16 = "enc-f16"  # half the size of F32, without a measurable loss
    ENC_BF16 = "enc-bf16"  # the released weights' own type: nothing is lost
    ENC_Q8 = "enc-q8"  # a quarter of F32
    ALL = "quant-all"  # the smallest file


ENCODER_TYPES: dict[Scope, GGMLType] = {
    Scope.ENC_F16: F16,
    Scope.ENC_BF16: BF16,
    Scope.ENC_Q8: GGMLType.Q8_0,
}
"""The type of encoder and projector matrices, where the scope says it."""

FRAGILE: dict[Trait | Role | Stage, tuple[GGMLType, str]] = {
    Role.POINTWISE: (GGMLType.Q8_0, "a quarter of the encoder, 70 % of its error in Q4_K"),
    Trait.HEAD: (GGMLType.Q8_0, "says the hypothesis: no later layer evens it out"),
    Stage.PROJECTOR: (GGMLType.Q8_0, "all audio passes it: the largest error per byte"),
    Role.EMBEDDING: (GGMLType.Q6_K, "with a language model's head, half of its error in Q4_K"),
}
"""Matrices that get at least a type when everything is quantized, with the reason.

Of sensitive ones nothing is quantized: they keep F16.

Measured one group at a time on the trained demonstration model (``benchmarks/RESULTS.md``). Q8_0
rather than Q6_K where there is room: it is multiplied faster by every processor's kernels.
"""


@dataclass(frozen=True)
class Override:
    """``--tensor-type REGEX=TYPE``: the first whose expression is found in a name decides."""

    pattern: re.Pattern[str]
    type: GGMLType


@dataclass(frozen=True)
class Choice:
    """The type a tensor gets; ``wanted`` differs where its rows did not fit."""

    type: GGMLType
    wanted: GGMLType


def higher_layer(layer: int, layers: int) -> bool:
    """Whether a mixture gives a layer the higher type: both ends, and a third between.

    llama.cpp's rule for its ``_M`` mixtures.
    """
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def choose_type(
    quant: QuantType,
    scope: Scope,
    overrides: Sequence[Override],
    hparams: HParams,
    spec: TensorSpec,
    stored: GGMLType,
) -> Choice:
    """The type of one tensor under a policy, given the type it is stored as."""
    for override in overrides:
        if override.pattern.search(spec.name):
            return _fit(override.type, spec)
    if not spec.role.is_matrix:
        return Choice(stored, stored)
    if spec.stage.is_language:
        kind = _language_type(quant, hparams, spec)
        return _fit(_everywhere(kind, spec) if scope is Scope.ALL else kind, spec)
    if scope is Scope.EDITOR:
        return Choice(stored, stored)
    if scope is Scope.ALL:
        return _fit(_everywhere(quant.base, spec), spec)
    return _fit(ENCODER_TYPES[scope], spec)


def bits_per_weight(kind: GGMLType) -> float:
    """Bits that one number takes, its share of the block's scales included."""
    block = BLOCK_SIZES[kind]
    return 8 * block.bytes / block.elements


def _everywhere(base: GGMLType, spec: TensorSpec) -> GGMLType:
    """The type of a matrix when everything is quantized."""
    if base in (F32, F16, BF16):
        return base
    if spec.trait is Trait.SENSITIVE:
        return F16
    kinds = (Role.EMBEDDING,) if _of_tokens(spec) else (spec.trait, spec.role, spec.stage)
    for kind in kinds:
        least, _ = FRAGILE.get(kind, (base, ""))
        if bits_per_weight(base) < bits_per_weight(least):
            return least
    return base


def _language_type(quant: QuantType, hparams: HParams, spec: TensorSpec) -> GGMLType:
    """The type of a language model's matrix."""
    if _of_tokens(spec):
        return quant.higher
    if quant.mixed and spec.trait is Trait.CARRYING:
        assert spec.layer is not None
        if higher_layer(spec.layer, hparams.language.n_layers):
            return quant.higher
    return quant.base


def _of_tokens(spec: TensorSpec) -> bool:
    """Whether it is the embedding of a language model, or its head, which may be another matrix."""
    return spec.role is Role.EMBEDDING or (spec.stage.is_language and spec.trait is Trait.HEAD)


def _fit(kind: GGMLType, spec: TensorSpec) -> Choice:
    return Choice(fitting_type(kind, spec.width), kind)
