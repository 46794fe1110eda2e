"""Hyper-parameters, one frozen dataclass per stage, and what differs between checkpoints.

The value of the released 2 B model stands beside each field. Where the three checkpoint layouts
disagree on behaviour, a field carries it, so that the stages never ask which layout a model came
from.
"""

from __future__ import annotations

from dataclasses import dataclass

LAYER_NORM_EPS = 1e-5  # every LayerNorm and BatchNorm of the encoder


@dataclass(frozen=True)
class FrontEnd:
    """Audio to stacked log-mel frames."""

    sample_rate: int = 16000
    n_mels: int = 80
    n_fft: int = 512
    win_length: int = 400
    hop_length: int = 160
    frame_stack: int = 2  # mel frames side by side in one encoder frame
    pad_last_frame: bool = False  # keep a last, odd mel frame and pair it with a silent one

    @property
    def stride(self) -> int:
        """Samples from one encoder frame to the next."""
        return self.hop_length * self.frame_stack


@dataclass(frozen=True)
class Encoder:
    """Conformer blocks, trained by CTC."""

    n_layers: int  # 16
    d_model: int  # 1024
    n_heads: int  # 8
    head_dim: int  # 128
    input_dim: int  # 160
    conv_kernel: int  # 15
    conv_dim: int  # 2048, channels of the depthwise convolution
    ff_dim: int  # 4096
    context_size: int  # 200, frames of an attention block
    max_pos_emb: int  # 512
    ctc_vocab: int  # 348 characters, 0 the blank
    self_conditioning_layer: int  # 8, counted from 1
    captured_layers: tuple[int, ...]  # (4, 8, 12, -1): 0 the input, N the output of block N
    capture_before_feedback: bool = False  # at the self-conditioning layer

    @property
    def captured_blocks(self) -> tuple[int, ...]:
        """``captured_layers`` with the negative ones counted from the end."""
        return tuple(k if k >= 0 else self.n_layers + 1 + k for k in self.captured_layers)


@dataclass(frozen=True)
class Hypothesis:
    """The BPE CTC head on posterior-pooled frames, and the tokens read from it."""

    bpe_vocab: int  # 100353, or 100352 where the blank is a token
    pooling_window: int  # 4 frames
    blank_id: int = 0  # or 100257
    id_shift: int = 1  # token = id - id_shift; or 0
    retokenize: bool = True  # decode, strip, lower-case and encode again


@dataclass(frozen=True)
class Projector:
    """Windowed Q-Former over the captured encoder layers."""

    n_layers: int  # 2
    hidden_size: int  # 2048
    n_heads: int  # 32
    mlp_ratio: int  # 2
    num_encoder_layers: int  # 4
    encoder_dim: int  # 1024
    llm_dim: int  # 2048
    block_size: int  # 15 frames of a window
    downsample_rate: int  # 5 frames to an audio token
    layernorm_eps: float  # 1e-6
    attn_bias: bool  # True
    mlp_bias: bool  # True
    scale_embeddings: bool  # True: divide by the editor's embedding multiplier

    @property
    def n_queries(self) -> int:
        """Queries, and so outputs, of a window."""
        return self.block_size // self.downsample_rate


@dataclass(frozen=True)
class Editor:
    """Bidirectional Granite layers over audio tokens and the text with insertion slots."""

    n_layers: int  # 40
    d_model: int  # 2048
    n_heads: int  # 16
    n_kv_heads: int  # 4
    head_dim: int  # 128
    ff_dim: int  # 4096
    vocab_size: int  # 100352
    rope_theta: float  # 10000
    rms_norm_eps: float  # 1e-5
    embedding_multiplier: float  # 12
    attention_multiplier: float  # 1/128, not 1/sqrt(128)
    residual_multiplier: float  # 0.22
    logits_scaling: float  # 8, a divisor
    apply_logits_scaling: bool  # False in the first release
    eos_token_id: int  # 100257
    bos_token_id: int  # 100257
    pad_token_id: int  # 100256
    min_edit_length: int = 8  # rows of the shortest text with its slots
    max_positions: int = 4096  # audio tokens and text together


@dataclass(frozen=True)
class HParams:
    """All stages of one model."""

    front_end: FrontEnd
    encoder: Encoder
    hypothesis: Hypothesis
    projector: Projector
    editor: Editor
