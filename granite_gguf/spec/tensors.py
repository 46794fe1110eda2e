"""What a tensor of a model file is: its name, shape, stage and role.

Shapes are in ggml order, contiguous dimension first. The reader checks a file against a table of
these, the converter fills it, and quantization policies choose by what stands in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

MEL_FILTERS = "audio.mel_filters"
ENCODER_INPUT = "enc.input.weight"
BATCH_NORM = "enc.blk.0.conv_bn.weight"
CHARACTER_HEAD = "enc.ctc_out.bias"
BPE_HEAD = "enc.bpe_out.bias"


@dataclass(frozen=True)
class GraniteNames:
    """What the files of an architecture call the tensors of its Granite layers.

    Attributes:
        embedding: the token embedding.
        block: what the names of a layer begin with, ``{}`` standing for its number.
        attention_out: the attention's output within a layer.
        norm: the norm behind the last layer, without ``.weight``.
        head: the output head of a model whose embedding is not its head.
    """

    embedding: str
    block: str
    attention_out: str
    norm: str
    head: str


NLE_NAMES = GraniteNames(
    "llm.token_embd.weight", "llm.blk.{}.", "attn_o", "llm.norm", "llm.head.weight"
)
LLAMA_NAMES = GraniteNames(
    "token_embd.weight", "blk.{}.", "attn_output", "output_norm", "output.weight"
)
"""As llama.cpp names them."""

TOKEN_EMBEDDING = NLE_NAMES.embedding


class Stage(Enum):
    """The part of the model a tensor belongs to."""

    AUDIO = "audio"
    ENCODER = "encoder"
    PROJECTOR = "projector"
    EDITOR = "editor"  # the language model, where it edits
    LANGUAGE = "language"  # where it writes token by token

    @property
    def is_language(self) -> bool:
        """Whether this is a language model."""
        return self in (Stage.EDITOR, Stage.LANGUAGE)


class Role(Enum):
    """What a tensor is used as, which decides the types it may have."""

    MATRIX = "matrix"  # weight of a matrix product, [in, out]
    POINTWISE = "pointwise"  # a 1x1 convolution: a matrix, also stored as [1, in, out]
    EMBEDDING = "embedding"  # rows looked up by token, and the output head
    TABLE = "table"  # positions, queries, taps, filters: small, and sensitive to rounding
    VECTOR = "vector"  # norms, biases, statistics

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight of matrix products, which may have any type that is multiplied."""
        return self in (Role.MATRIX, Role.POINTWISE, Role.EMBEDDING)


class Trait(Enum):
    """What sets a matrix apart from others of its stage and role."""

    NONE = "none"
    SENSITIVE = "sensitive"  # small, and much depends on it
    HEAD = "head"  # its rows are tokens, the products logits
    CARRYING = "carrying"  # attention values and feed-forward outputs, which mixtures spare


@dataclass(frozen=True)
class TensorSpec:
    """One expected tensor.

    Attributes:
        name: in our files.
        shape: in ggml order.
        stage: the part of the model it belongs to.
        role: what it is used as.
        trait: what sets it apart.
        layer: the number of its block, where it belongs to one.
    """

    name: str
    shape: tuple[int, ...]
    stage: Stage
    role: Role
    trait: Trait = Trait.NONE
    layer: int | None = None

    @property
    def width(self) -> int:
        """Numbers in a row of a matrix."""
        return self.shape[-2] if self.role is Role.POINTWISE else self.shape[0]

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a stored shape is this one, up to dimensions of length 1."""
        return _squeeze(shape) == _squeeze(self.shape)


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


@dataclass
class Table:
    """Collects the tensors of one stage, in file order; ``layer`` is the block being described."""

    stage: Stage
    layer: int | None = None
    specs: list[TensorSpec] = field(default_factory=list)

    def add(self, name: str, role: Role, *shape: int, trait: Trait = Trait.NONE) -> None:
        self.specs.append(TensorSpec(name, shape, self.stage, role, trait, self.layer))

    def vector(self, name: str, width: int) -> None:
        self.add(name, Role.VECTOR, width)

    def norm(self, name: str, width: int) -> None:
        self.vector(f"{name}.weight", width)
        self.vector(f"{name}.bias", width)

    def linear(
        self,
        name: str,
        width_in: int,
        width_out: int,
        bias: bool = True,
        role: Role = Role.MATRIX,
        trait: Trait = Trait.NONE,
    ) -> None:
        shape = (1, width_in, width_out) if role is Role.POINTWISE else (width_in, width_out)
        self.add(f"{name}.weight", role, *shape, trait=trait)
        if bias:
            self.vector(f"{name}.bias", width_out)
