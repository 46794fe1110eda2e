"""Hyper-parameters of the autoregressive model. Beside a field is its value in 4.1-2b."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from granite_gguf.reference.config import ConformerConfig, FrontEndConfig, GraniteConfig

SpeechLayout = Literal["base", "plus", "lora"]


@dataclass(frozen=True)
class QFormerConfig:
    """BLIP-2's Q-Former over windows of the encoder's output."""

    encoder_width: int  # 1024; plus: 2048
    hidden: int  # 1024
    llm_dim: int  # 2048
    n_layers: int  # 2
    n_heads: int  # 16
    ff_dim: int  # 4096
    window: int  # 15
    downsample: int  # 5
    norm_eps: float  # 1e-12

    @property
    def n_queries(self) -> int:
        """Queries, and so outputs, of a window."""
        return self.window // self.downsample


@dataclass(frozen=True)
class LanguageConfig(GraniteConfig):
    """The language model that writes: causal."""

    logits_scaling: float  # 8, a divisor
    tied: bool  # whether the embedding is the head; 4.0-1b and 4.1-2b: False
    eos: int  # 100257
    audio_token: int  # 100352, whose rows audio rows take the place of


@dataclass(frozen=True)
class SpeechConfig:
    """Everything that the JSON files of a checkpoint decide."""

    layout: SpeechLayout
    front_end: FrontEndConfig
    encoder: ConformerConfig
    beside: tuple[int, ...]  # layers laid beside the final state; plus: (3,)
    projector: QFormerConfig
    language: LanguageConfig
