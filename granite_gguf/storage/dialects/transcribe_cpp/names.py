"""What transcribe.cpp's dialects both call the tensors that they share."""

from __future__ import annotations

from granite_gguf.spec.tensors import MEL_FILTERS

MEL_FILTERBANK = "frontend.mel_filterbank"
WINDOW = "frontend.window"

TOP = {
    MEL_FILTERS: MEL_FILTERBANK,
    "enc.input": "enc.input_linear",
    "enc.ctc_out": "enc.ctc_proj",
    "enc.ctc_mid": "enc.ctc_bypass",
}
"""Of the front end and the encoder outside its blocks."""

ENCODER_BLOCK = {
    "ff1_norm": "norm_ff1",
    "ff1_up": "ff1.up",
    "ff1_down": "ff1.down",
    "attn_norm": "norm_attn",
    "attn_q": "attn.q",
    "attn_kv": "attn.kv",
    "attn_out": "attn.out",
    "attn_rel_pos": "attn.rel_pos_emb",
    "conv_norm": "norm_conv",
    "conv_up": "conv.pointwise1",
    "conv_dw": "conv.depthwise",
    "conv_bn": "conv.bn",
    "conv_down": "conv.pointwise2",
    "ff2_norm": "norm_ff2",
    "ff2_up": "ff2.up",
    "ff2_down": "ff2.down",
    "post_norm": "norm_post",
}

GRANITE_BLOCK = {
    "attn_norm": "norm_attn",
    "attn_q": "attn.q",
    "attn_k": "attn.k",
    "attn_v": "attn.v",
    "attn_o": "attn.o",
    "attn_output": "attn.o",
    "ffn_norm": "norm_ffn",
    "ffn_gate": "ffn.gate",
    "ffn_up": "ffn.up",
    "ffn_down": "ffn.down",
}
