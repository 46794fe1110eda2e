"""The dimensions of a checkpoint: one small dataclass per stage, three ready-made sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class EncoderSize:
    """The conformer encoder."""

    layers: int  # 16
    hidden: int  # 1024
    heads: int  # 8
    characters: int  # 348
    self_conditioning_layer: int  # 8, counted from 1
    captured_layers: tuple[int, ...]  # (4, 8, 12, -1)
    input_dim: int = 160  # two mel frames side by side
    feedforward_mult: int = 4
    conv_kernel: int = 15
    conv_expansion: int = 2
    context_size: int = 200
    max_pos_emb: int = 512
    pooling_window: int = 4

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def ffn(self) -> int:
        return self.hidden * self.feedforward_mult

    @property
    def conv_inner(self) -> int:
        return self.hidden * self.conv_expansion


@dataclass(frozen=True)
class ProjectorSize:
    """The windowed Q-Former."""

    hidden: int  # 2048
    heads: int  # 32
    layers: int = 2
    mlp_ratio: int = 2
    block_size: int = 15
    downsample_rate: int = 5

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def ffn(self) -> int:
        return self.hidden * self.mlp_ratio

    @property
    def queries(self) -> int:
        return self.block_size // self.downsample_rate


@dataclass(frozen=True)
class EditorSize:
    """The bidirectional Granite language model."""

    layers: int  # 40
    hidden: int  # 2048
    heads: int  # 16
    kv_heads: int  # 4
    ffn: int  # 4096
    residual_multiplier: float = 0.22
    embedding_multiplier: int = 12
    logits_scaling: int = 8

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def attention_multiplier(self) -> float:
        return 1 / self.head_dim


@dataclass(frozen=True)
class VocabularySize:
    """The tokenizer: byte-level BPE ids first, then the added tokens.

    The named ids follow Granite 4: pad and end of text open the added block.
    """

    bpe: int  # 100256
    added: int  # 96

    @property
    def total(self) -> int:
        return self.bpe + self.added

    @property
    def pad_id(self) -> int:
        return self.bpe

    @property
    def eos_id(self) -> int:
        return self.bpe + 1


@dataclass(frozen=True)
class ModelSize:
    """A whole model."""

    encoder: EncoderSize
    projector: ProjectorSize
    editor: EditorSize
    vocabulary: VocabularySize


FULL = ModelSize(
    encoder=EncoderSize(
        layers=16,
        hidden=1024,
        heads=8,
        characters=348,
        self_conditioning_layer=8,
        captured_layers=(4, 8, 12, -1),
    ),
    projector=ProjectorSize(hidden=2048, heads=32),
    editor=EditorSize(layers=40, hidden=2048, heads=16, kv_heads=4, ffn=4096),
    vocabulary=VocabularySize(bpe=100256, added=96),
)

# Row widths are multiples of 256 wherever those of the full model are, so K-quants apply alike.
SMALL = ModelSize(
    encoder=EncoderSize(
        layers=4,
        hidden=256,
        heads=2,
        characters=348,
        self_conditioning_layer=2,
        captured_layers=(1, 2, 3, -1),
    ),
    projector=ProjectorSize(hidden=256, heads=4),
    editor=EditorSize(layers=4, hidden=256, heads=2, kv_heads=1, ffn=512),
    vocabulary=VocabularySize(bpe=1964, added=36),
)

TINY = ModelSize(
    encoder=EncoderSize(
        layers=4,
        hidden=64,
        heads=2,
        characters=40,
        self_conditioning_layer=2,
        captured_layers=(1, 2, 3, -1),
    ),
    projector=ProjectorSize(hidden=64, heads=4),
    editor=EditorSize(layers=3, hidden=64, heads=4, kv_heads=2, ffn=128),
    vocabulary=VocabularySize(bpe=564, added=36),
)

SIZES: Mapping[str, ModelSize] = MappingProxyType({"tiny": TINY, "small": SMALL, "full": FULL})
