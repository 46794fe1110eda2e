"""Where each tensor of a ``granite_speech`` file stands in a checkpoint."""

from __future__ import annotations

import re

from granite_gguf.converters.names import ENCODER_BLOCK, ENCODER_TOP, GRANITE_BLOCK
from granite_gguf.spec.names import NameTable
from granite_gguf.spec.tensors import MEL_FILTERS, TensorSpec

DRAFT_PREFIX = "out_llm."
"""Before the keys of the BPE head, which lies in a file of its own."""

_ATTENTION = {"query": "attention.query", "key": "attention.key", "value": "attention.value"}
_ATTENTION |= {"out": "output.dense", "norm": "output.LayerNorm"}

_PROJECTOR_BLOCK = {
    **{f"sa_{part}": f"attention.{name}" for part, name in _ATTENTION.items()},
    **{f"ca_{part}": f"crossattention.{name}" for part, name in _ATTENTION.items()},
    "ffn_up": "intermediate_query.dense",
    "ffn_down": "output_query.dense",
    "ffn_norm": "output_query.LayerNorm",
}

# Of 3.2, whose blocks are numbered from 1 behind the input in one list, and whose parts lie in
# what normalises and scales them, or are called by their place in a sequence.
_OLDEST_BLOCK = {
    **{f"ff{n}_norm": f"ff{n}.fn.norm" for n in (1, 2)},
    **{f"ff{n}_up": f"ff{n}.fn.fn.net.0" for n in (1, 2)},
    **{f"ff{n}_down": f"ff{n}.fn.fn.net.3" for n in (1, 2)},
    "attn_norm": "attn.norm",
    "attn_q": "attn.fn.to_q",
    "attn_kv": "attn.fn.to_kv",
    "attn_out": "attn.fn.to_out",
    "attn_rel_pos": "attn.fn.rel_pos_emb",
    "conv_norm": "conv.net.0",
    "conv_up": "conv.net.2",
    "conv_dw": "conv.net.4.conv",
    "conv_bn": "conv.net.5",
    "conv_down": "conv.net.7",
    "post_norm": "post_norm",
}

_NAMES = NameTable(
    {
        **ENCODER_TOP,
        "enc.bpe_out": DRAFT_PREFIX.removesuffix("."),
        "proj.query": "projector.query",
        "proj.ln": "projector.qformer.layernorm",
        "proj.linear": "projector.linear",
        "token_embd": "language_model.model.embed_tokens",
        "output_norm": "language_model.model.norm",
        "output": "language_model.lm_head",
    },
    {
        "enc": ("encoder.layers", ENCODER_BLOCK),
        "proj": ("projector.qformer.encoder.layer", _PROJECTOR_BLOCK),
        "": (
            "language_model.model.layers",
            {**GRANITE_BLOCK, "attn_output": GRANITE_BLOCK["attn_o"]},
        ),
    },
)
_OLDEST_NAMES = NameTable(
    {**_NAMES.top, "enc.input": "encoder.rnn_tr.0"},
    {**_NAMES.blocks, "enc": ("encoder.rnn_tr", _OLDEST_BLOCK)},
)


def checkpoint_key(spec: TensorSpec) -> str | None:
    """The checkpoint's key of a tensor; None of the mel filters, which stand in no checkpoint."""
    return None if spec.name == MEL_FILTERS else _NAMES(spec.name)


def oldest_key(spec: TensorSpec) -> str | None:
    """The same of a checkpoint of 3.2."""
    if spec.name == MEL_FILTERS:
        return None
    from_1 = re.sub(r"^enc\.blk\.(\d+)", lambda found: f"enc.blk.{int(found[1]) + 1}", spec.name)
    return _OLDEST_NAMES(from_1)
