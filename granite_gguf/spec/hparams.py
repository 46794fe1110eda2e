"""Hyper-parameters of the stages that the family's models share, a frozen dataclass for each.

The value of the released 2 B model stands beside a field. Where checkpoints disagree on behaviour,
a field carries it, so that the stages never ask which layout a model came from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

from granite_gguf.spec.parameters import SAME, Told, at
from granite_gguf.spec.tensors import BATCH_NORM, ENCODER_INPUT, MEL_FILTERS

HEARD = ("en", "fr", "de", "es", "pt")
"""Languages that nearly all models of the family hear."""

LAYER_NORM_EPS = 1e-5  # every LayerNorm and BatchNorm of the encoder
MAX_LAYERS = 256

_BINS = Told(MEL_FILTERS, 1, lambda bins, _: 2 * (bins - 1))
_STACKED = Told(ENCODER_INPUT, 0, lambda width, front: width // max(1, front["n_mels"]))


@dataclass(frozen=True)
class FrontEnd:
    """Audio to stacked log-mel frames."""

    # whether mel frames that give no encoder frame count for the maximum
    cut_after_maximum: ClassVar[bool] = False

    sample_rate: Annotated[
        int, at("{arch}.sample_rate", "sampling_rate", SAME, least=1000, most=768_000)
    ] = 16000
    n_mels: Annotated[int, at("{arch}.n_mels", SAME, "num_mels", native="feature_size")] = 80
    n_fft: Annotated[
        int, at("{arch}.n_fft", SAME, SAME, least=16, most=1 << 16, later=True, told=_BINS)
    ] = 512
    win_length: Annotated[int, at("{arch}.win_length", SAME, SAME, later=True)] = 400
    hop_length: Annotated[int, at("{arch}.hop_length", SAME, SAME, later=True)] = 160
    # mel frames side by side in one encoder frame
    frame_stack: Annotated[int, at("{arch}.frame_stack", most=64, later=True, told=_STACKED)] = 2
    # keep a last, odd mel frame and pair it with a silent one
    pad_last_frame: Annotated[bool, at("{arch}.pad_last_frame", later=True)] = False
    # of audio in one pass, beyond which nobody has shown that the model understands as well
    max_pass_seconds: Annotated[
        float, at("{arch}.max_pass_seconds", SAME, least=1, most=3600, later=True)
    ] = 30.0

    @property
    def stride(self) -> int:
        """Samples from one encoder frame to the next."""
        return self.hop_length * self.frame_stack


@dataclass(frozen=True)
class Encoder:
    """Conformer blocks, trained by CTC."""

    n_layers: Annotated[int, at("{arch}.enc.n_layers", "num_layers", SAME, most=MAX_LAYERS)]  # 16
    d_model: Annotated[int, at("{arch}.enc.d_model", "hidden_dim", "hidden")]  # 1024
    n_heads: Annotated[int, at("{arch}.enc.n_heads", "num_heads", SAME)]  # 8
    head_dim: Annotated[int, at("{arch}.enc.head_dim", "dim_head", SAME)]  # 128
    input_dim: Annotated[int, at("{arch}.enc.input_dim", SAME, SAME)]  # 160
    conv_kernel: Annotated[
        int, at("{arch}.enc.conv_kernel", "conv_kernel_size", "conv_kernel_size")
    ]
    # 2048, channels of the depthwise convolution
    conv_dim: Annotated[int, at("{arch}.enc.conv_dim", later=True, told=Told(BATCH_NORM, 0))]
    ff_dim: Annotated[int, at("{arch}.enc.ff_dim")]  # 4096
    context_size: Annotated[int, at("{arch}.enc.context_size", SAME, SAME)]  # 200 in a block
    max_pos_emb: Annotated[int, at("{arch}.enc.max_pos_emb", SAME, SAME)]  # 512
    ctc_vocab: Annotated[
        int, at("{arch}.enc.ctc_vocab", "output_dim", "output_dim")
    ]  # 348, 0 blank
    # 8, counted from 1
    self_conditioning_layer: Annotated[
        int, at("{arch}.enc.self_conditioning_layer", SAME, "self_cond_layer", least=0)
    ]
    # (4, 8, 12, -1): 0 the input, N the output of block N
    captured_layers: Annotated[
        tuple[int, ...], at("{arch}.proj.encoder_layer_indices", stt="layer_indices")
    ]
    # at the self-conditioning layer
    capture_before_feedback: Annotated[
        bool, at("{arch}.enc.capture_before_feedback", later=True)
    ] = False

    @property
    def captured_blocks(self) -> tuple[int, ...]:
        """``captured_layers`` with the negative ones counted from the end."""
        return tuple(k if k >= 0 else self.n_layers + 1 + k for k in self.captured_layers)


class BpeHead(Protocol):
    """The numbers of a BPE CTC head on posterior-pooled frames.

    Attributes:
        bpe_vocab: its outputs.
        pooling_window: frames that become one.
        blank_id: the output that is no token.
        id_shift: what an output's number is above its token's.
    """

    @property
    def bpe_vocab(self) -> int: ...
    @property
    def pooling_window(self) -> int: ...
    @property
    def blank_id(self) -> int: ...
    @property
    def id_shift(self) -> int: ...


@dataclass(frozen=True)
class Granite:
    """Granite layers, the family's language model, whichever rows attend to which."""

    n_layers: Annotated[
        int, at("{arch}.llm.n_layers", "num_hidden_layers", SAME, most=MAX_LAYERS)
    ]  # 40
    d_model: Annotated[int, at("{arch}.llm.d_model", "hidden_size", "hidden")]  # 2048
    n_heads: Annotated[int, at("{arch}.llm.n_heads", "num_attention_heads", SAME)]  # 16
    n_kv_heads: Annotated[int, at("{arch}.llm.n_kv_heads", "num_key_value_heads", SAME)]  # 4
    head_dim: Annotated[int, at("{arch}.llm.head_dim", SAME, SAME)]  # 128
    ff_dim: Annotated[int, at("{arch}.llm.ff_dim", "intermediate_size", "intermediate")]  # 4096
    vocab_size: Annotated[int, at("{arch}.llm.vocab_size", SAME, SAME)]  # 100352
    rope_theta: Annotated[float, at("{arch}.llm.rope_theta", stt=SAME)]  # 10000
    rms_norm_eps: Annotated[float, at("{arch}.llm.rms_norm_eps", SAME, SAME)]  # 1e-5
    embedding_multiplier: Annotated[float, at("{arch}.llm.embedding_multiplier", SAME, SAME)]  # 12
    # 1/128, not 1/sqrt(128)
    attention_multiplier: Annotated[float, at("{arch}.llm.attention_multiplier", SAME, SAME)]
    residual_multiplier: Annotated[float, at("{arch}.llm.residual_multiplier", SAME, SAME)]  # 0.22
    logits_scaling: Annotated[float, at("{arch}.llm.logits_scaling", SAME, SAME)]  # 8, a divisor
    # False in the first release
    apply_logits_scaling: Annotated[
        bool, at("{arch}.llm.apply_logits_scaling", later=True, absent=False)
    ]
    eos_token_id: Annotated[int, at("{arch}.llm.eos_token_id", SAME, "eos_id", least=0)]  # 100257
    bos_token_id: Annotated[int, at("{arch}.llm.bos_token_id", SAME, "bos_id", least=0)]  # 100257
    pad_token_id: Annotated[int, at("{arch}.llm.pad_token_id", SAME, "pad_id", least=0)]  # 100256


@dataclass(frozen=True)
class HParams(ABC):
    """The stages that every model of the family has; an architecture's own class adds its own."""

    front_end: FrontEnd
    encoder: Encoder

    @property
    @abstractmethod
    def language(self) -> Granite:
        """The language model's layers."""

    @property
    @abstractmethod
    def heard(self) -> tuple[str, ...]:
        """Codes of the languages that the model was trained to hear, by its card."""

    @property
    @abstractmethod
    def layout(self) -> str:
        """The checkpoint's layout, as far as the numbers tell it."""

    @property
    def text_split(self) -> str:
        """How the tokenizer splits a text before it merges, by llama.cpp's name of the way."""
        return "dbrx"
