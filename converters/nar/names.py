"""Where each tensor of a ``granite_nle`` file stands in a checkpoint of each layout."""

from __future__ import annotations

import re

from granite_gguf.converters.checkpoint import Layout
from granite_gguf.converters.names import ENCODER_BLOCK, ENCODER_TOP, GRANITE_BLOCK
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

_TOP = {
    **ENCODER_TOP,
    "enc.bpe_out": "encoder.out_bpe",
    "proj.layer_proj": "projector.layer_projector",
    "proj.query": "projector.query",
    "proj.window_positions": "projector.window_positions",
    "proj.out_norm": "projector.out_norm",
    "proj.out_linear": "projector.out_linear",
    "llm.token_embd": "llm.embed_tokens",
    "llm.norm": "llm.norm",
}

_BLOCKS = {
    "enc": ("encoder.layers", ENCODER_BLOCK),
    "proj": ("projector.qformer.layers", _PROJECTOR_BLOCK),
    "llm": ("llm.layers", GRANITE_BLOCK),
}

# The names above are the Hub layouts', with the language model under `llm.`; the first prefix of
# a layout that fits is replaced.
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

_BLOCK = re.compile(r"(enc|proj|llm)\.blk\.(\d+)\.(\w+)(\..+)?")
_NORM = re.compile(r"proj\.(layer_norm\.(\d+)|blk\.\d+\.\w+_norm|out_norm)\.")
_PARAMETER = re.compile(r"(.+?)(\.(?:weight|bias))?")


def checkpoint_key(layout: Layout, spec: TensorSpec) -> str | None:
    """The checkpoint's key of a tensor, or None where the layout computes it without one.

    The mel filters stand in no checkpoint; the native projector's norms have no parameters.
    """
    if spec.name == MEL_FILTERS:
        return None
    if layout is Layout.NATIVE and _NORM.match(spec.name):
        return None
    key = _hub_key(spec.name)
    for prefix, replacement in _PREFIXES[layout]:
        if key.startswith(prefix):
            key = replacement + key.removeprefix(prefix)
            break
    return key.replace(".cross_attention.", ".cross_attn.") if layout is Layout.NATIVE else key


def _hub_key(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    if block:
        stage, number, part, parameter = block.groups()
        folder, parts = _BLOCKS[stage]
        return f"{folder}.{number}.{parts[part]}{parameter or ''}"
    if name.startswith("proj.layer_norm."):
        return name.replace("proj.layer_norm.", "projector.layer_norms.")
    match = _PARAMETER.fullmatch(name)
    assert match is not None
    return _TOP[match[1]] + (match[2] or "")
