"""A small causal Granite model with seeded weights, and what PyTorch computes with it.

    python -m tests.causal    write tests/expected/causal/granite.npz

The file holds the logits, before their division, of ``TOKENS`` in one causal pass of transformers'
``GraniteForCausalLM`` in float32, once with the embedding for its head and once with a head of its
own; and what its ``generate`` says after some of them, by ``said_N``. Needs the reference extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from granite_gguf.spec.hparams import Granite
from granite_gguf.spec.tables import granite_tensors
from granite_gguf.spec.tensors import LLAMA_NAMES, Stage
from tests.signals import uniform

EXPECTED = Path(__file__).parent / "expected" / "causal" / "granite.npz"

GRANITE = Granite(
    n_layers=3,
    d_model=64,
    n_heads=4,
    n_kv_heads=2,
    head_dim=32,
    ff_dim=96,
    vocab_size=80,
    rope_theta=10_000.0,
    rms_norm_eps=1e-5,
    embedding_multiplier=12.0,
    attention_multiplier=1 / 16,
    residual_multiplier=0.22,
    logits_scaling=8.0,
    apply_logits_scaling=True,
    eos_token_id=0,
    bos_token_id=0,
    pad_token_id=0,
)
TOKENS = np.array([5, 71, 33, 33, 0, 12, 64, 7, 79, 2, 33, 50, 18, 41, 6, 27, 9, 60, 33, 1, 75])

PROMPTS = (1, 9, 21)  # of the tokens, what is a prompt
SAID = 48  # tokens that are said after it


def weights() -> dict[str, npt.NDArray[np.float32]]:
    """By their names in our files, in numpy order; a head of its own among them."""
    found = {}
    shapes = {
        spec.name: spec.shape
        for spec in granite_tensors(GRANITE, Stage.LANGUAGE, LLAMA_NAMES, head=True).specs
    }
    for seed, (name, shape) in enumerate(shapes.items()):
        numbers = 2 * uniform(int(np.prod(shape)), seed) - 1
        array = 1 + 0.2 * numbers if "norm" in name else numbers * (2.0 / np.sqrt(shape[0]))
        found[name] = array.astype(np.float32).reshape(tuple(reversed(shape)))
    return found


def torch_model(*, tied: bool) -> Any:
    """Transformers' Granite with these weights."""
    import torch
    from transformers import GraniteConfig, GraniteForCausalLM

    g, ours = GRANITE, weights()
    config = GraniteConfig(
        vocab_size=g.vocab_size, hidden_size=g.d_model, intermediate_size=g.ff_dim,
        num_hidden_layers=g.n_layers, num_attention_heads=g.n_heads,
        num_key_value_heads=g.n_kv_heads, head_dim=g.head_dim, rms_norm_eps=g.rms_norm_eps,
        embedding_multiplier=g.embedding_multiplier, residual_multiplier=g.residual_multiplier,
        attention_multiplier=g.attention_multiplier, logits_scaling=1.0,
        rope_parameters={"rope_type": "default", "rope_theta": g.rope_theta},
        tie_word_embeddings=tied, attention_bias=False, mlp_bias=False,
        attn_implementation="eager",
    )  # fmt: skip
    model = GraniteForCausalLM(config).eval()
    theirs = {
        "model.embed_tokens": LLAMA_NAMES.embedding,
        "model.norm": f"{LLAMA_NAMES.norm}.weight",
    }
    theirs["lm_head"] = LLAMA_NAMES.embedding if tied else LLAMA_NAMES.head
    parts = {
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for n in range(g.n_layers):
        theirs |= {f"model.layers.{n}.{t}": f"blk.{n}.{o}.weight" for t, o in parts.items()}
    state: dict[str, Any] = {f"{t}.weight": torch.from_numpy(ours[o]) for t, o in theirs.items()}
    model.load_state_dict(state)
    return model


def torch_logits(*, tied: bool) -> npt.NDArray[np.float32]:
    """What transformers' Granite makes of ``TOKENS``, ``(tokens, vocabulary)``."""
    import torch

    model = torch_model(tied=tied)
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = model(torch.from_numpy(TOKENS)[None]).logits[0].numpy()
    return logits


def torch_generated(prompt: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """What its ``generate`` says after a prompt, with a head of its own: ``(SAID,)``."""
    import torch

    ids = torch.from_numpy(prompt)[None]
    # With no mask it would take token 0 for padding.
    found: npt.NDArray[np.int64] = torch_model(tied=False).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=SAID, min_new_tokens=SAID,
        do_sample=False, eos_token_id=None, pad_token_id=0,
    )[0, len(prompt) :].numpy()  # fmt: skip
    return found


if __name__ == "__main__":
    EXPECTED.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        EXPECTED,
        tied=torch_logits(tied=True),
        untied=torch_logits(tied=False),
        **{f"said_{n}": torch_generated(TOKENS[:n]) for n in PROMPTS},
    )
