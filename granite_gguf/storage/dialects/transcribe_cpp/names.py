"""What ``granite_speech_nar`` calls the tensors of ``granite_nle``."""

from __future__ import annotations

from granite_gguf.spec.names import NameTable
from granite_gguf.spec.tensors import MEL_FILTERS

MEL_FILTERBANK = "frontend.mel_filterbank"
WINDOW = "frontend.window"

_ENCODER_BLOCK = {
    "ff1_norm": "norm_ff1",
    "ff1_up": "ff1_up",
    "ff1_down": "ff1_down",
    "attn_norm": "norm_attn",
    "attn_q": "attn_q",
    "attn_kv": "attn_kv",
    "attn_out": "attn_out",
    "attn_rel_pos": "attn_rel_pos_emb",
    "conv_norm": "norm_conv",
    "conv_up": "conv_pointwise1",
    "conv_dw": "conv_depthwise",
    "conv_bn": "conv_bn",
    "conv_down": "conv_pointwise2",
    "ff2_norm": "norm_ff2",
    "ff2_up": "ff2_up",
    "ff2_down": "ff2_down",
    "post_norm": "norm_post",
}

_PROJECTOR_BLOCK = {
    "attn_norm": "norm_attn",
    "attn_q": "cross_attn_q",
    "attn_k": "cross_attn_k",
    "attn_v": "cross_attn_v",
    "attn_o": "cross_attn_o",
    "mlp_norm": "norm_ffn",
    "mlp_fc1": "ffn_fc1",
    "mlp_fc2": "ffn_fc2",
}

_EDITOR_BLOCK = {
    "attn_norm": "norm_attn",
    "attn_q": "attn.q",
    "attn_k": "attn.k",
    "attn_v": "attn.v",
    "attn_o": "attn.o",
    "ffn_norm": "norm_ffn",
    "ffn_gate": "ffn.gate",
    "ffn_up": "ffn.up",
    "ffn_down": "ffn.down",
}

stored_name = NameTable(
    {
        MEL_FILTERS: MEL_FILTERBANK,
        "enc.input": "enc.input_linear",
        "enc.ctc_out": "enc.ctc_proj",
        "enc.ctc_mid": "enc.ctc_bypass",
        "enc.bpe_out": "enc.ctc_bpe",
        "proj.layer_norm": "prj.layer_norms",
        "proj.layer_proj": "prj.layer_projector",
        "proj.query": "prj.query",
        "proj.window_positions": "prj.window_positions",
        "proj.out_norm": "prj.out_norm",
        "proj.out_linear": "prj.out_linear",
        "llm.token_embd": "dec.token_embd",
        "llm.norm": "dec.output_norm",
    },
    {
        "enc": ("enc.blocks", _ENCODER_BLOCK),
        "proj": ("prj.blocks", _PROJECTOR_BLOCK),
        "llm": ("dec.blocks", _EDITOR_BLOCK),
    },
)
