"""The tensors of the stages that the family's models share, from their hyper-parameters."""

from __future__ import annotations

from granite_gguf.spec.hparams import Encoder, FrontEnd, Granite
from granite_gguf.spec.tensors import (
    MEL_FILTERS,
    NLE_NAMES,
    GraniteNames,
    Role,
    Stage,
    Table,
    Trait,
)


def front_end_tensors(f: FrontEnd) -> Table:
    """The filterbank."""
    t = Table(Stage.AUDIO)
    t.add(MEL_FILTERS, Role.TABLE, f.n_mels, f.n_fft // 2 + 1)
    return t


def encoder_tensors(e: Encoder) -> Table:
    """The Conformer blocks and the character head, which feeds back into them."""
    t = Table(Stage.ENCODER)
    attention = e.n_heads * e.head_dim
    t.linear("enc.input", e.input_dim, e.d_model, trait=Trait.SENSITIVE)
    for t.layer in range(e.n_layers):
        block = f"enc.blk.{t.layer}."
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
    t.layer = None
    t.linear("enc.ctc_out", e.d_model, e.ctc_vocab, trait=Trait.SENSITIVE)
    t.linear("enc.ctc_mid", e.ctc_vocab, e.d_model, trait=Trait.SENSITIVE)
    return t


def granite_tensors(
    g: Granite, stage: Stage, names: GraniteNames = NLE_NAMES, *, head: bool = False
) -> Table:
    """The embedding and the Granite layers of a language model, and its head if it has its own."""
    t = Table(stage)
    t.add(names.embedding, Role.EMBEDDING, g.d_model, g.vocab_size)
    queries, keys = g.n_heads * g.head_dim, g.n_kv_heads * g.head_dim
    for t.layer in range(g.n_layers):
        block = names.block.format(t.layer)
        t.vector(f"{block}attn_norm.weight", g.d_model)
        t.linear(f"{block}attn_q", g.d_model, queries, bias=False)
        t.linear(f"{block}attn_k", g.d_model, keys, bias=False)
        t.linear(f"{block}attn_v", g.d_model, keys, bias=False, trait=Trait.CARRYING)
        t.linear(f"{block}{names.attention_out}", queries, g.d_model, bias=False)
        t.vector(f"{block}ffn_norm.weight", g.d_model)
        t.linear(f"{block}ffn_gate", g.d_model, g.ff_dim, bias=False)
        t.linear(f"{block}ffn_up", g.d_model, g.ff_dim, bias=False)
        t.linear(f"{block}ffn_down", g.ff_dim, g.d_model, bias=False, trait=Trait.CARRYING)
    t.layer = None
    t.vector(f"{names.norm}.weight", g.d_model)
    if head:
        t.add(names.head, Role.MATRIX, g.d_model, g.vocab_size, trait=Trait.HEAD)
    return t
