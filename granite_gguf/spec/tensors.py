"""The tensors of a ``granite_nle`` file: names, shapes and roles, from the hyper-parameters.

Shapes are in ggml order, contiguous dimension first. The reader checks a file against this table,
the converter fills it, and quantization policies choose by stage and role.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from granite_gguf.spec.hparams import Encoder, HParams, Projector


class Stage(Enum):
    """The part of the model a tensor belongs to."""

    AUDIO = "audio"
    ENCODER = "encoder"
    PROJECTOR = "projector"
    EDITOR = "editor"


class Role(Enum):
    """What a tensor is used as, which decides the types it may have."""

    MATRIX = "matrix"  # weight of a matrix product, [in, out]
    POINTWISE = "pointwise"  # a 1x1 convolution: a matrix, also stored as [1, in, out]
    EMBEDDING = "embedding"  # rows looked up by token, and the output head
    TABLE = "table"  # positions, queries, taps, filters: small, and sensitive to rounding
    VECTOR = "vector"  # norms, biases, statistics


@dataclass(frozen=True)
class TensorSpec:
    """One expected tensor."""

    name: str
    shape: tuple[int, ...]
    stage: Stage
    role: Role

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a stored shape is this one, up to dimensions of length 1."""
        return _squeeze(shape) == _squeeze(self.shape)


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


class _Table:
    """Collects specs of one stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.specs: list[TensorSpec] = []

    def add(self, name: str, role: Role, *shape: int) -> None:
        self.specs.append(TensorSpec(name, shape, self.stage, role))

    def vector(self, name: str, width: int) -> None:
        self.add(name, Role.VECTOR, width)

    def norm(self, name: str, width: int) -> None:
        self.vector(f"{name}.weight", width)
        self.vector(f"{name}.bias", width)

    def linear(
        self, name: str, width_in: int, width_out: int, bias: bool = True, role: Role = Role.MATRIX
    ) -> None:
        shape = (1, width_in, width_out) if role is Role.POINTWISE else (width_in, width_out)
        self.add(f"{name}.weight", role, *shape)
        if bias:
            self.vector(f"{name}.bias", width_out)


def _audio(h: HParams) -> _Table:
    t = _Table(Stage.AUDIO)
    t.add("audio.mel_filters", Role.TABLE, h.front_end.n_mels, h.front_end.n_fft // 2 + 1)
    return t


def _encoder(e: Encoder, bpe_vocab: int) -> _Table:
    t = _Table(Stage.ENCODER)
    attention = e.n_heads * e.head_dim
    t.linear("enc.input", e.input_dim, e.d_model)
    for n in range(e.n_layers):
        block = f"enc.blk.{n}."
        for ff in ("ff1", "ff2"):
            t.norm(f"{block}{ff}_norm", e.d_model)
            t.linear(f"{block}{ff}_up", e.d_model, e.ff_dim)
            t.linear(f"{block}{ff}_down", e.ff_dim, e.d_model)
        t.norm(f"{block}attn_norm", e.d_model)
        t.linear(f"{block}attn_q", e.d_model, attention, bias=False)
        t.linear(f"{block}attn_kv", e.d_model, 2 * attention, bias=False)
        t.linear(f"{block}attn_out", attention, e.d_model)
        t.add(f"{block}attn_rel_pos.weight", Role.TABLE, e.head_dim, 2 * e.max_pos_emb + 1)
        t.norm(f"{block}conv_norm", e.d_model)
        t.linear(f"{block}conv_up", e.d_model, 2 * e.conv_dim, role=Role.POINTWISE)
        t.add(f"{block}conv_dw.weight", Role.TABLE, e.conv_kernel, 1, e.conv_dim)
        t.norm(f"{block}conv_bn", e.conv_dim)
        t.vector(f"{block}conv_bn.running_mean", e.conv_dim)
        t.vector(f"{block}conv_bn.running_var", e.conv_dim)
        t.linear(f"{block}conv_down", e.conv_dim, e.d_model, role=Role.POINTWISE)
        t.norm(f"{block}post_norm", e.d_model)
    t.linear("enc.ctc_out", e.d_model, e.ctc_vocab)
    t.linear("enc.ctc_mid", e.ctc_vocab, e.d_model)
    t.linear("enc.bpe_out", e.d_model, bpe_vocab)
    return t


def _projector(p: Projector) -> _Table:
    t = _Table(Stage.PROJECTOR)
    for k in range(p.num_encoder_layers):
        t.norm(f"proj.layer_norm.{k}", p.encoder_dim)
    t.linear("proj.layer_proj", p.num_encoder_layers * p.encoder_dim, p.hidden_size)
    t.add("proj.query", Role.TABLE, p.hidden_size, p.n_queries)
    t.add("proj.window_positions", Role.TABLE, p.hidden_size, p.block_size)
    for n in range(p.n_layers):
        block = f"proj.blk.{n}."
        t.norm(f"{block}attn_norm", p.hidden_size)
        for part in "qkvo":
            t.linear(f"{block}attn_{part}", p.hidden_size, p.hidden_size, bias=p.attn_bias)
        t.norm(f"{block}mlp_norm", p.hidden_size)
        inner = p.mlp_ratio * p.hidden_size
        t.linear(f"{block}mlp_fc1", p.hidden_size, inner, bias=p.mlp_bias)
        t.linear(f"{block}mlp_fc2", inner, p.hidden_size, bias=p.mlp_bias)
    t.norm("proj.out_norm", p.hidden_size)
    t.linear("proj.out_linear", p.hidden_size, p.llm_dim)
    return t


def _editor(h: HParams) -> _Table:
    e = h.editor
    t = _Table(Stage.EDITOR)
    t.add("llm.token_embd.weight", Role.EMBEDDING, e.d_model, e.vocab_size)
    queries, keys = e.n_heads * e.head_dim, e.n_kv_heads * e.head_dim
    for n in range(e.n_layers):
        block = f"llm.blk.{n}."
        t.vector(f"{block}attn_norm.weight", e.d_model)
        t.linear(f"{block}attn_q", e.d_model, queries, bias=False)
        t.linear(f"{block}attn_k", e.d_model, keys, bias=False)
        t.linear(f"{block}attn_v", e.d_model, keys, bias=False)
        t.linear(f"{block}attn_o", queries, e.d_model, bias=False)
        t.vector(f"{block}ffn_norm.weight", e.d_model)
        t.linear(f"{block}ffn_gate", e.d_model, e.ff_dim, bias=False)
        t.linear(f"{block}ffn_up", e.d_model, e.ff_dim, bias=False)
        t.linear(f"{block}ffn_down", e.ff_dim, e.d_model, bias=False)
    t.vector("llm.norm.weight", e.d_model)
    return t


def _stages(hparams: HParams) -> Iterator[_Table]:
    yield _audio(hparams)
    yield _encoder(hparams.encoder, hparams.hypothesis.bpe_vocab)
    yield _projector(hparams.projector)
    yield _editor(hparams)


def expected_tensors(hparams: HParams) -> dict[str, TensorSpec]:
    """Every tensor a file with these hyper-parameters holds, in file order, by name."""
    return {spec.name: spec for table in _stages(hparams) for spec in table.specs}
