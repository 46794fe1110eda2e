"""The non-autoregressive model: a CTC hypothesis that a bidirectional language model edits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from granite_gguf.spec import hparams
from granite_gguf.spec.checks import Check, granite_checks, projector_checks
from granite_gguf.spec.format import Format
from granite_gguf.spec.hparams import MAX_LAYERS, Granite
from granite_gguf.spec.parameters import SAME, at
from granite_gguf.spec.tables import granite_tensors
from granite_gguf.spec.tensors import Role, Stage, Table, Trait

MAX_POSITIONS = 1 << 20


@dataclass(frozen=True)
class Hypothesis:
    """The BPE CTC head on posterior-pooled frames, and the tokens read from it."""

    # 100353, or 100352 where the blank is a token
    bpe_vocab: Annotated[
        int,
        at("{arch}.enc.bpe_vocab", "bpe_output_dim", "bpe_output_dim", native="vocabulary_size"),
    ]
    # 4 frames
    pooling_window: Annotated[
        int,
        at(
            "{arch}.enc.bpe_pooling_window",
            "bpe_pooling_window",
            "bpe_pool_window",
            native=SAME,
            most=256,
        ),
    ]
    blank_id: Annotated[int, at("{arch}.enc.bpe_blank_id", least=0, later=True)] = 0  # or 100257
    # token = id - id_shift; or 0
    id_shift: Annotated[int, at("{arch}.enc.bpe_id_shift", least=0, later=True)] = 1
    # decode, strip, lower-case and encode again
    retokenize: Annotated[bool, at("{arch}.hypothesis.retokenize", later=True)] = True


@dataclass(frozen=True)
class Projector:
    """Windowed Q-Former over the captured encoder layers."""

    n_layers: Annotated[
        int,
        at("{arch}.proj.n_layers", "num_layers", SAME, native="num_hidden_layers", most=MAX_LAYERS),
    ]  # 2
    hidden_size: Annotated[int, at("{arch}.proj.hidden_size", SAME, "hidden")]  # 2048
    n_heads: Annotated[
        int, at("{arch}.proj.n_heads", "num_heads", SAME, native="num_attention_heads")
    ]  # 32
    mlp_ratio: Annotated[int, at("{arch}.proj.mlp_ratio", SAME, SAME)]  # 2
    num_encoder_layers: Annotated[int, at("{arch}.proj.num_encoder_layers", SAME, SAME, least=0)]
    encoder_dim: Annotated[int, at("{arch}.proj.encoder_dim", SAME, SAME, least=0)]  # 1024
    llm_dim: Annotated[int, at("{arch}.proj.llm_dim", SAME, SAME, least=0)]  # 2048
    # 15 frames of a window
    block_size: Annotated[int, at("{arch}.proj.block_size", SAME, SAME, native="window_size")]
    downsample_rate: Annotated[int, at("{arch}.proj.downsample_rate", SAME, SAME)]  # 5 frames
    # 1e-6
    layernorm_eps: Annotated[
        float, at("{arch}.proj.layernorm_eps", SAME, SAME, native="layer_norm_eps")
    ]
    attn_bias: Annotated[bool, at("{arch}.proj.attn_bias", SAME, SAME, native="attention_bias")]
    mlp_bias: Annotated[bool, at("{arch}.proj.mlp_bias", SAME, SAME)]
    # True: divide by the editor's embedding multiplier
    scale_embeddings: Annotated[bool, at("{arch}.scale_projected_embeddings")]

    @property
    def n_queries(self) -> int:
        """Queries, and so outputs, of a window."""
        return self.block_size // self.downsample_rate


@dataclass(frozen=True)
class Editor(Granite):
    """Bidirectional Granite layers over audio tokens and the text with insertion slots."""

    # rows of the shortest text with its slots
    min_edit_length: Annotated[int, at("{arch}.min_edit_length", least=0, later=True)] = 8
    # audio tokens and text together
    max_positions: Annotated[
        int,
        at(
            "{arch}.llm.max_positions",
            "max_position_embeddings",
            "max_position_embeddings",
            least=16,
            most=MAX_POSITIONS,
            later=True,
        ),
    ] = 4096


@dataclass(frozen=True)
class HParams(hparams.HParams):
    """All stages of one model."""

    hypothesis: Hypothesis
    projector: Projector
    editor: Editor

    @property
    def language(self) -> Granite:
        return self.editor

    @property
    def heard(self) -> tuple[str, ...]:
        return hparams.HEARD

    @property
    def layout(self) -> str:
        return "nle" if self.hypothesis.retokenize else "granite_speech_nar"


def _hypothesis_tensors(width: int, y: Hypothesis) -> Table:
    t = Table(Stage.ENCODER)
    t.linear("enc.bpe_out", width, y.bpe_vocab, trait=Trait.HEAD)
    return t


def _projector_tensors(p: Projector) -> Table:
    t = Table(Stage.PROJECTOR)
    for k in range(p.num_encoder_layers):
        t.norm(f"proj.layer_norm.{k}", p.encoder_dim)
    t.linear("proj.layer_proj", p.num_encoder_layers * p.encoder_dim, p.hidden_size)
    t.add("proj.query", Role.TABLE, p.hidden_size, p.n_queries)
    t.add("proj.window_positions", Role.TABLE, p.hidden_size, p.block_size)
    for t.layer in range(p.n_layers):
        block = f"proj.blk.{t.layer}."
        t.norm(f"{block}attn_norm", p.hidden_size)
        for part in "qkvo":
            t.linear(f"{block}attn_{part}", p.hidden_size, p.hidden_size, bias=p.attn_bias)
        t.norm(f"{block}mlp_norm", p.hidden_size)
        inner = p.mlp_ratio * p.hidden_size
        t.linear(f"{block}mlp_fc1", p.hidden_size, inner, bias=p.mlp_bias)
        t.linear(f"{block}mlp_fc2", inner, p.hidden_size, bias=p.mlp_bias)
    t.layer = None
    t.norm("proj.out_norm", p.hidden_size)
    t.linear("proj.out_linear", p.hidden_size, p.llm_dim)
    return t


def _tables(h: HParams) -> Iterator[Table]:
    yield _hypothesis_tensors(h.encoder.d_model, h.hypothesis)
    yield _projector_tensors(h.projector)
    yield granite_tensors(h.editor, Stage.EDITOR)


def _checks(h: HParams) -> Iterator[Check]:
    e, y, p, d = h.encoder, h.hypothesis, h.projector, h.editor
    last_id = y.bpe_vocab - 1 - y.id_shift
    yield (
        len(e.captured_layers) == p.num_encoder_layers and e.d_model == p.encoder_dim,
        f"the projector reads {p.num_encoder_layers} layers of {p.encoder_dim}, the encoder "
        f"captures {len(e.captured_layers)} of {e.d_model}",
    )
    yield from projector_checks(p.hidden_size, p.n_heads, p.block_size, p.downsample_rate)
    yield p.llm_dim == d.d_model, f"projector output {p.llm_dim} is not editor width {d.d_model}"
    yield from granite_checks(d)
    most = d.max_positions // 2
    yield (
        d.min_edit_length <= most,
        f"min_edit_length is {d.min_edit_length}, expected 0 to {most}",
    )
    yield y.blank_id < y.bpe_vocab, f"blank {y.blank_id} is beyond the {y.bpe_vocab} BPE outputs"
    yield (
        last_id < d.vocab_size and (y.id_shift == 0 or y.blank_id < y.id_shift),
        f"{y.bpe_vocab} BPE outputs with blank {y.blank_id}, shifted by {y.id_shift}, do not "
        f"fit a vocabulary of {d.vocab_size}",
    )


NAR = Format(
    "granite_nle",
    "a Granite Speech NAR model",
    HParams,
    _tables,
    _checks,
    fixed={"{arch}.llm.tie_word_embeddings": True},
)
