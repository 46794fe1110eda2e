"""Hyper-parameters of each stage.

Three checkpoint layouts of the same model exist. The shapes they share are in the per-stage
dataclasses, what they do differently is in `Semantics` and a few flags, so that the stages never
ask which layout they serve. The comment beside a field is its value in granite-speech-4.1-2b-nar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["nle", "granite_speech_nar", "native"]


class CheckpointError(ValueError):
    """A checkpoint directory that does not hold what its layout promises."""


@dataclass(frozen=True)
class FrontEndConfig:
    """Samples to stacked log-mel frames."""

    sample_rate: int = 16000
    n_fft: int = 512
    win_length: int = 400
    hop_length: int = 160
    n_mels: int = 80
    frame_stack: int = 2
    keep_all_frames: bool = False  # native: every mel frame, completed by one of zero power
    cut_after_maximum: bool = False  # autoregressive: an odd last mel frame counts for the maximum


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """Conformer with a character head that feeds back."""

    n_layers: int  # 16
    d_model: int  # 1024
    n_heads: int  # 8
    head_dim: int  # 128
    input_dim: int  # 160
    ff_dim: int  # 4096
    conv_inner: int  # 2048
    conv_kernel: int  # 15
    context_size: int  # 200
    max_pos_emb: int  # 512
    char_vocab: int  # 348
    self_conditioning_layer: int  # 8, counted from 1


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ConformerConfig):
    """Conformer with two CTC heads."""

    bpe_vocab: int  # nle: 100353, otherwise 100352
    pooling_window: int  # 4
    captured: tuple[int, ...]  # (4, 8, 12, 16): 0 is the embedded input, k the output of block k
    capture_before_feedback: bool = False  # native: True


@dataclass(frozen=True)
class ProjectorConfig:
    """Windowed cross-attention from captured encoder states to audio tokens."""

    encoder_dim: int  # 1024
    n_encoder_layers: int  # 4
    hidden: int  # 2048
    llm_dim: int  # 2048
    n_layers: int  # 2
    n_heads: int  # 32
    mlp_dim: int  # 4096
    window: int  # 15
    downsample: int  # 5
    norm_eps: float  # 1e-6
    affine_norms: bool = True  # native: False, its norms have no tensors
    attention_bias: bool = True
    mlp_bias: bool = True


@dataclass(frozen=True)
class GraniteConfig:
    """Granite language model."""

    n_layers: int  # 40
    d_model: int  # 2048
    n_heads: int  # 16
    n_kv_heads: int  # 4
    head_dim: int  # 128
    ff_dim: int  # 4096
    vocab_size: int  # 100352
    rope_theta: float  # 10000
    norm_eps: float  # 1e-5
    embedding_multiplier: float  # 12
    attention_multiplier: float  # 1/128
    residual_multiplier: float  # 0.22


@dataclass(frozen=True)
class EditorConfig(GraniteConfig):
    """The language model that edits: bidirectional, its embedding the head."""


@dataclass(frozen=True)
class Semantics:
    """What the layouts do differently between the stages."""

    layout: Layout
    bpe_blank_id: int  # nle: 0, otherwise 100257
    bpe_id_shift: int  # nle: 1 (token = id - 1), otherwise 0
    retokenize: bool  # nle: the hypothesis goes through text and back
    slot_id: int  # 100257, the end-of-text token: fills the slots, and is the editor's blank
    min_edit_length: int  # 8; native: 0
    scale_projected_embeddings: bool  # True
    logits_divisor: float  # nle: 1, otherwise 8; for a loss: reported logits are not divided


@dataclass(frozen=True)
class ModelConfig:
    """Everything that `config.json` and the feature extractor's file decide."""

    front_end: FrontEndConfig
    encoder: EncoderConfig
    projector: ProjectorConfig
    editor: EditorConfig
    semantics: Semantics
