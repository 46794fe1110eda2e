"""How close is close enough: by what a stage's weights are stored as.

A threshold tells a fault from the rounding of the stage's own type. In F32 it is tight enough for
one flipped weight. The coarser the type, the more a fault must change to stand out: in a quantized
stage a misplaced layer can pass, so faults are looked for in an F32 or F16 file of the same model.
The thresholds below F32 are set from a few generated models with random weights; those of Q6_K,
Q5, Q3_K and Q2_K are interpolated, none is from the released weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from granite_gguf.ggml.types import GGMLType
from granite_gguf.recorded.outputs import Precision
from granite_gguf.spec.tensors import Stage, Trait
from granite_gguf.storage.model_file import ModelFile

# Lowest cosine of a row. F32: both sides differ in the order of summation only; measured 1 - 1e-10
# on tiny models, and 1e-6 leaves room for 40 layers. Of the others: the relative error of a weight
# (2^-12, 2^-9, a quantized block's step) squared, times some hundred for what the layers add up;
# measured at worst on generated models: F16 0.999999, BF16 0.9999, Q8_0 0.9990, Q4_K 0.865.
MIN_COSINE: dict[GGMLType, float] = {
    GGMLType.F32: 0.999999,
    GGMLType.F16: 0.9999,
    GGMLType.BF16: 0.999,
    GGMLType.Q8_0: 0.998,
    GGMLType.Q6_K: 0.99,
    GGMLType.Q5_K: 0.97,
    GGMLType.Q5_1: 0.97,
    GGMLType.Q5_0: 0.97,
    GGMLType.Q4_K: 0.8,
    GGMLType.IQ4_XS: 0.8,
    GGMLType.IQ4_NL: 0.8,
    GGMLType.Q4_1: 0.8,
    GGMLType.Q4_0: 0.8,
    GGMLType.Q3_K: 0.6,
    GGMLType.Q2_K: 0.4,
}

# The encoder amplifies rounding in quiet frames, whose few differences its norms blow up: measured
# at worst in F16 0.9999, in BF16 0.995, in Q8_0 0.964.
MIN_ENCODER_COSINE: dict[GGMLType, float] = {
    **MIN_COSINE,
    GGMLType.F16: 0.999,
    GGMLType.BF16: 0.98,
    GGMLType.Q8_0: 0.9,
    GGMLType.Q6_K: 0.85,
    GGMLType.Q5_K: 0.75,
    GGMLType.Q5_1: 0.75,
    GGMLType.Q5_0: 0.75,
    GGMLType.Q4_K: 0.6,
    GGMLType.IQ4_XS: 0.6,
    GGMLType.IQ4_NL: 0.6,
    GGMLType.Q4_1: 0.6,
    GGMLType.Q4_0: 0.6,
    GGMLType.Q3_K: 0.4,
    GGMLType.Q2_K: 0.2,
}

# Share of equal best ids, or 1 - edit distance of texts. In F32 near ties are not met; otherwise
# rounding decides them, which in a short text is one row of forty already.
MIN_AGREEMENT: dict[GGMLType, float] = {
    GGMLType.F32: 1.0,
    GGMLType.F16: 0.97,
    GGMLType.BF16: 0.95,
    GGMLType.Q8_0: 0.95,
    GGMLType.Q6_K: 0.93,
    GGMLType.Q5_K: 0.9,
    GGMLType.Q5_1: 0.9,
    GGMLType.Q5_0: 0.9,
    GGMLType.Q4_K: 0.8,
    GGMLType.IQ4_XS: 0.8,
    GGMLType.IQ4_NL: 0.8,
    GGMLType.Q4_1: 0.8,
    GGMLType.Q4_0: 0.8,
    GGMLType.Q3_K: 0.7,
    GGMLType.Q2_K: 0.4,
}

# The front end has no weights but its filters, which every file holds in F32.
MIN_MEL_COSINE = 0.99999


def coarsest(types: list[GGMLType]) -> GGMLType:
    """The type that allows the most deviation; F32 of none."""
    return min(types, key=MIN_COSINE.__getitem__, default=GGMLType.F32)


def file_precision(file: ModelFile[Any], besides: Mapping[str, GGMLType]) -> Precision:
    """What each part's matrices are stored as, the coarsest type counting, and what is besides."""
    types: dict[str, list[GGMLType]] = {}
    for name, spec in file.specs.items():
        if spec.role.is_matrix:
            drafting = spec.trait is Trait.HEAD and spec.stage is Stage.ENCODER
            part = "hypothesis" if drafting else spec.stage.value
            types.setdefault(part, []).append(file.info(name).type)
    return Precision({part: coarsest(found) for part, found in types.items()} | dict(besides))


def _combined(parts: tuple[str, ...], both: tuple[Precision, Precision]) -> GGMLType:
    return coarsest([precision.of(part) for precision in both for part in parts])


def min_cosine(parts: tuple[str, ...], both: tuple[Precision, Precision]) -> float:
    """The lowest cosine allowed of a stage that runs through these parts; none: the front end."""
    if not parts:
        return MIN_MEL_COSINE
    table = MIN_ENCODER_COSINE if "encoder" in parts else MIN_COSINE
    return table[_combined(parts, both)]


def min_agreement(parts: tuple[str, ...], both: tuple[Precision, Precision]) -> float:
    """The lowest agreement of ids or texts allowed of a stage that runs through these parts."""
    return MIN_AGREEMENT[_combined(parts, both)]
