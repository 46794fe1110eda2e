"""Where each tensor of a ``granite_speech`` file stands in a checkpoint."""

from __future__ import annotations

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


def checkpoint_key(spec: TensorSpec) -> str | None:
    """The checkpoint's key of a tensor; None of the mel filters, which stand in no checkpoint."""
    return None if spec.name == MEL_FILTERS else _NAMES(spec.name)
