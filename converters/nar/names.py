"""Where each tensor of a ``granite_nle`` file stands in a checkpoint of each layout."""

from __future__ import annotations

import re

from granite_gguf.converters.checkpoint import Layout
from granite_gguf.converters.names import ENCODER_BLOCK, ENCODER_TOP, GRANITE_BLOCK
from granite_gguf.spec.names import NameTable
from granite_gguf.spec.tensors import MEL_FILTERS, TensorSpec

_PROJECTOR_BLOCK = {
    "attn_norm": "attn_norm",
    "attn_q": "cross_attention.q_proj",
    "attn_k": "cross_attention.k_proj",
    "attn_v": "cross_attention.v_proj",
    "attn_o": "cross_attention.o_proj",
    "mlp_norm": "mlp_norm",
    "mlp_fc1": "mlp.fc1",
    "mlp_fc2": "mlp.fc2",
}

# The Hub layouts' names, but that the language model is under `llm.`.
_NAMES = NameTable(
    {
        **ENCODER_TOP,
        "enc.bpe_out": "encoder.out_bpe",
        "proj.layer_norm": "projector.layer_norms",
        "proj.layer_proj": "projector.layer_projector",
        "proj.query": "projector.query",
        "proj.window_positions": "projector.window_positions",
        "proj.out_norm": "projector.out_norm",
        "proj.out_linear": "projector.out_linear",
        "llm.token_embd": "llm.embed_tokens",
        "llm.norm": "llm.norm",
    },
    {
        "enc": ("encoder.layers", ENCODER_BLOCK),
        "proj": ("projector.qformer.layers", _PROJECTOR_BLOCK),
        "llm": ("llm.layers", GRANITE_BLOCK),
    },
)

# The first prefix of a layout that fits is replaced.
_PREFIXES: dict[Layout, tuple[tuple[str, str], ...]] = {
    Layout.NLE: (("llm.", "llm.model."),),
    Layout.HUB: (("llm.", "language_model.model."),),
    Layout.NATIVE: (
        ("llm.", "model.language_model."),
        ("encoder.out_bpe", "model.out_bpe"),
        ("encoder.", "model.encoder."),
        ("projector.layer_projector", "model.projector.proj"),
        ("projector.query", "model.projector.qformer.queries"),
        ("projector.window_positions", "model.projector.qformer.pos_emb"),
        ("projector.out_linear", "model.projector.qformer.linear"),
        ("projector.", "model.projector."),
    ),
}

_NORM = re.compile(r"proj\.(layer_norm\.(\d+)|blk\.\d+\.\w+_norm|out_norm)\.")


def checkpoint_key(layout: Layout, spec: TensorSpec) -> str | None:
    """The checkpoint's key of a tensor, or None where the layout computes it without one.

    The mel filters stand in no checkpoint; the native projector's norms have no parameters.
    """
    if spec.name == MEL_FILTERS:
        return None
    if layout is Layout.NATIVE and _NORM.match(spec.name):
        return None
    key = _NAMES(spec.name)
    for prefix, replacement in _PREFIXES[layout]:
        if key.startswith(prefix):
            key = replacement + key.removeprefix(prefix)
            break
    return key.replace(".cross_attention.", ".cross_attn.") if layout is Layout.NATIVE else key
