"""Which hyper-parameters cannot belong to one model, whatever file they come from."""

from __future__ import annotations

from granite_gguf.spec.hparams import Editor, Encoder, FrontEnd, HParams, Hypothesis, Projector
from granite_gguf.spec.limits import out_of_range

# Split once: Python's cache of attributes keeps a reference to every string it is asked for.
_POSITIVE: dict[type, list[str]] = {
    stage: names.split()
    for stage, names in (
        (FrontEnd, "sample_rate n_mels n_fft win_length hop_length frame_stack"),
        (Encoder, "n_layers d_model n_heads head_dim conv_dim ff_dim context_size ctc_vocab"),
        (Hypothesis, "bpe_vocab pooling_window"),
        (Projector, "n_layers hidden_size n_heads mlp_ratio block_size downsample_rate"),
        (Editor, "n_layers d_model n_heads n_kv_heads head_dim ff_dim vocab_size rope_theta"),
    )
}
_POSITIVE[Projector] += ["layernorm_eps"]
_POSITIVE[Editor] += ["rms_norm_eps", "embedding_multiplier", "logits_scaling", "max_positions"]


def contradiction(h: HParams) -> str | None:
    """What makes these hyper-parameters impossible to run, or None."""
    f, e, y, p, d = h.front_end, h.encoder, h.hypothesis, h.projector, h.editor
    positive = [
        (f"{type(stage).__name__} {name}", getattr(stage, name))
        for stage in (f, e, y, p, d)
        for name in _POSITIVE[type(stage)]
    ]
    last_id = y.bpe_vocab - 1 - y.id_shift
    checks: list[tuple[bool, str]] = [
        *((value > 0, f"{name} is {value}") for name, value in positive),
        (f.win_length <= f.n_fft, f"the window of {f.win_length} exceeds n_fft {f.n_fft}"),
        (
            e.input_dim == f.n_mels * f.frame_stack,
            f"the encoder reads {e.input_dim} features, the front end makes "
            f"{f.frame_stack} x {f.n_mels}",
        ),
        (e.conv_kernel % 2 == 1, f"the depthwise kernel of {e.conv_kernel} taps is even"),
        (
            e.context_size <= e.max_pos_emb,
            f"attention blocks of {e.context_size} frames exceed the {e.max_pos_emb} positions",
        ),
        (
            1 <= e.self_conditioning_layer <= e.n_layers,
            f"there is no self-conditioning layer {e.self_conditioning_layer} of {e.n_layers}",
        ),
        (
            all(0 <= k <= e.n_layers for k in e.captured_blocks),
            f"captured layers {e.captured_layers} are not all within {e.n_layers} blocks",
        ),
        (
            len(e.captured_layers) == p.num_encoder_layers and e.d_model == p.encoder_dim,
            f"the projector reads {p.num_encoder_layers} layers of {p.encoder_dim}, the encoder "
            f"captures {len(e.captured_layers)} of {e.d_model}",
        ),
        (
            p.block_size % p.downsample_rate == 0 if p.downsample_rate else False,
            f"windows of {p.block_size} do not divide by {p.downsample_rate}",
        ),
        (
            p.hidden_size % p.n_heads == 0 if p.n_heads else False,
            f"projector width {p.hidden_size} does not divide into {p.n_heads} heads",
        ),
        (p.llm_dim == d.d_model, f"projector output {p.llm_dim} is not editor width {d.d_model}"),
        (
            d.n_heads % d.n_kv_heads == 0 if d.n_kv_heads else False,
            f"{d.n_heads} query heads do not divide over {d.n_kv_heads} key heads",
        ),
        (d.head_dim % 2 == 0, f"rotary positions need an even head width, not {d.head_dim}"),
        (
            max(d.eos_token_id, d.bos_token_id, d.pad_token_id) < d.vocab_size,
            f"special tokens lie beyond the vocabulary of {d.vocab_size}",
        ),
        (y.blank_id < y.bpe_vocab, f"blank {y.blank_id} is beyond the {y.bpe_vocab} BPE outputs"),
        (
            last_id < d.vocab_size and (y.id_shift == 0 or y.blank_id < y.id_shift),
            f"{y.bpe_vocab} BPE outputs with blank {y.blank_id}, shifted by {y.id_shift}, do not "
            f"fit a vocabulary of {d.vocab_size}",
        ),
    ]
    return next((problem for holds, problem in checks if not holds), None) or out_of_range(h)
