"""The names users give to quantizations, and what each means for the language model's tensors."""

from __future__ import annotations

from dataclasses import dataclass

import gguf

from granite_gguf.ggml import GGMLType

_FILE = gguf.LlamaFileType


@dataclass(frozen=True)
class QuantType:
    """A type, or a mixture of a base type and a higher one for what suffers most.

    Attributes:
        name: as users write it, lower case.
        base: of most matrices.
        file_type: the value of ``general.file_type``.
        higher: of the embedding and the head, and in a mixture of the matrices that it singles out.
        mixed: whether attention values and FFN down matrices of some layers are ``higher``.
    """

    name: str
    base: GGMLType
    file_type: gguf.LlamaFileType
    higher: GGMLType
    mixed: bool = False

    @property
    def label(self) -> str:
        """The form that file names on the Hub have."""
        return self.name.upper()


def _plain(name: str, file_type: gguf.LlamaFileType) -> QuantType:
    kind = gguf.GGMLQuantizationType[name.upper()]
    return QuantType(name, kind, file_type, kind)


_Q4, _Q5, _Q6 = GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K

QUANT_TYPES: dict[str, QuantType] = {
    kind.name: kind
    for kind in (
        _plain("f32", _FILE.ALL_F32),
        _plain("f16", _FILE.MOSTLY_F16),
        _plain("bf16", _FILE.MOSTLY_BF16),
        _plain("q8_0", _FILE.MOSTLY_Q8_0),
        _plain("q6_k", _FILE.MOSTLY_Q6_K),
        _plain("q5_k", _FILE.MOSTLY_Q5_K_S),
        QuantType("q5_k_m", _Q5, _FILE.MOSTLY_Q5_K_M, _Q6, mixed=True),
        _plain("q4_k", _FILE.MOSTLY_Q4_K_S),
        QuantType("q4_k_s", _Q4, _FILE.MOSTLY_Q4_K_S, _Q6),
        QuantType("q4_k_m", _Q4, _FILE.MOSTLY_Q4_K_M, _Q6, mixed=True),
        _plain("q5_0", _FILE.MOSTLY_Q5_0),
        _plain("q5_1", _FILE.MOSTLY_Q5_1),
        _plain("q4_0", _FILE.MOSTLY_Q4_0),
        _plain("q4_1", _FILE.MOSTLY_Q4_1),
        _plain("iq4_nl", _FILE.MOSTLY_IQ4_NL),
        _plain("iq4_xs", _FILE.MOSTLY_IQ4_XS),
        _plain("q3_k", _FILE.MOSTLY_Q3_K_S),
        _plain("q2_k", _FILE.MOSTLY_Q2_K_S),
    )
}

_FALLBACKS = {
    GGMLType.Q2_K: GGMLType.Q4_0,
    GGMLType.Q3_K: GGMLType.Q4_0,
    GGMLType.IQ4_XS: GGMLType.IQ4_NL,
    GGMLType.Q4_K: GGMLType.Q5_0,
    GGMLType.Q5_K: GGMLType.Q5_1,
    GGMLType.Q6_K: GGMLType.Q8_0,
}
"""The next type with a smaller block, never of fewer bits."""


def fitting_type(kind: GGMLType, width: int) -> GGMLType:
    """``kind``, or the next type whose block divides a row of ``width``; F16 divides any."""
    while width % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = _FALLBACKS.get(kind, GGMLType.F16)
    return kind
