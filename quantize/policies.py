"""Which tensors a quantization touches, and why.

    default        editor            the type asked for; encoder and projector stay as they are
    --enc-f16 ...  encoder, projector  every matrix to F16, BF16 or Q8_0; the editor as by default
    --quant-all    all stages        every matrix to the type asked for, fragile ones to more bits

Small tensors that many others depend on are never quantized (``SENSITIVE``), and vectors (norms,
biases, statistics) and tables (positions, queries, taps, filters) never either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from granite_gguf.ggml import BF16, BLOCK_SIZES, F16, F32, GGMLType
from granite_gguf.quantize.types import QuantType, fitting_type
from granite_gguf.spec.hparams import HParams
from granite_gguf.spec.tensors import Role, Stage, TensorSpec


class Scope(Enum):
    """What becomes of the encoder and the projector."""

    EDITOR = "editor"  # they stay: the encoder is sensitive to noise, and both are small
    ENC_F16 = "enc-f16"  # half the size of F32, without a measurable loss
    ENC_BF16 = "enc-bf16"  # the released weights' own type: nothing is lost
    ENC_Q8 = "enc-q8"  # a quarter of F32
    ALL = "quant-all"  # the smallest file

    @property
    def encoder_type(self) -> GGMLType | None:
        """The type of encoder and projector matrices; None leaves it to the type or the file."""
        return {Scope.ENC_F16: F16, Scope.ENC_BF16: BF16, Scope.ENC_Q8: GGMLType.Q8_0}.get(self)


SENSITIVE: dict[str, str] = {
    "enc.input.weight": "every frame passes it first",
    "enc.ctc_out.weight": "its softmax feeds back into the encoder and weights the pooling",
    "enc.ctc_mid.weight": "is that feedback",
}
"""Small matrices that keep F16 when everything else is quantized, with the reason."""

FRAGILE: dict[str, tuple[GGMLType, str]] = {
    r"enc\.blk\.\d+\.conv_(up|down)\.weight": (
        GGMLType.Q8_0,
        "a quarter of the encoder, 70 % of its error in Q4_K",
    ),
    r"enc\.bpe_out\.weight": (GGMLType.Q8_0, "says the hypothesis: no later layer evens it out"),
    r"proj\..*\.weight": (GGMLType.Q8_0, "all audio passes it: the largest error per byte"),
    r"llm\.token_embd\.weight": (GGMLType.Q6_K, "half of the editor's error in Q4_K"),
}
"""Matrices that get at least a type when everything is quantized, with the reason.

Measured one group at a time on the trained demonstration model (``benchmarks/RESULTS.md``). Q8_0
rather than Q6_K where there is room: it is multiplied faster by every processor's kernels.
"""

_MATRICES = {Role.MATRIX, Role.POINTWISE, Role.EMBEDDING}
_BLOCK = re.compile(r"llm\.blk\.(\d+)\.(attn_v|ffn_down)\.weight")


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
    if spec.role not in _MATRICES:
        return Choice(stored, stored)
    if spec.stage is Stage.EDITOR:
        kind = _editor_type(quant, hparams, spec)
        return _fit(_everywhere(kind, spec.name) if scope is Scope.ALL else kind, spec)
    if scope is Scope.EDITOR:
        return Choice(stored, stored)
    if scope is Scope.ALL:
        return _fit(_everywhere(quant.base, spec.name), spec)
    assert scope.encoder_type is not None
    return _fit(scope.encoder_type, spec)


def bits_per_weight(kind: GGMLType) -> float:
    """Bits that one number takes, its share of the block's scales included."""
    block = BLOCK_SIZES[kind]
    return 8 * block.bytes / block.elements


def _everywhere(base: GGMLType, name: str) -> GGMLType:
    """The type of a matrix when everything is quantized."""
    if base in (F32, F16, BF16):
        return base
    if name in SENSITIVE:
        return F16
    for pattern, (least, _) in FRAGILE.items():
        if re.fullmatch(pattern, name) and bits_per_weight(base) < bits_per_weight(least):
            return least
    return base


def _editor_type(quant: QuantType, hparams: HParams, spec: TensorSpec) -> GGMLType:
    if spec.role is Role.EMBEDDING:
        return quant.higher
    block = _BLOCK.fullmatch(spec.name)
    if quant.mixed and block and higher_layer(int(block[1]), hparams.editor.n_layers):
        return quant.higher
    return quant.base


def _fit(kind: GGMLType, spec: TensorSpec) -> Choice:
    width = spec.shape[-2] if spec.role is Role.POINTWISE else spec.shape[0]
    return Choice(fitting_type(kind, width), kind)
