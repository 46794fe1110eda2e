"""What all checkpoints of the family call the parts of the stages that they share."""

ENCODER_TOP = {
    "enc.input": "encoder.input_linear",
    "enc.ctc_out": "encoder.out",
    "enc.ctc_mid": "encoder.out_mid",
}

ENCODER_BLOCK = {
    "ff1_norm": "ff1.pre_norm",
    "ff1_up": "ff1.up_proj",
    "ff1_down": "ff1.down_proj",
    "attn_norm": "attn.pre_norm",
    "attn_q": "attn.to_q",
    "attn_kv": "attn.to_kv",
    "attn_out": "attn.to_out",
    "attn_rel_pos": "attn.rel_pos_emb",
    "conv_norm": "conv.norm",
    "conv_up": "conv.up_conv",
    "conv_dw": "conv.depth_conv.conv",
    "conv_bn": "conv.batch_norm",
    "conv_down": "conv.down_conv",
    "ff2_norm": "ff2.pre_norm",
    "ff2_up": "ff2.up_proj",
    "ff2_down": "ff2.down_proj",
    "post_norm": "post_norm",
}

GRANITE_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_o": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
