"""The tensors of the model by canonical name, and the scales that keep every stage alive.

Canonical names are the hub's, with the language model under `llm.` and the BPE head in two parts:
`encoder.out_bpe.*` has one row per token, `encoder.out_bpe_for_blank.*` is the row of the blank.

The scales follow from a normalised input of unit variance: matrices keep it at one, a branch adds
a set share of it, and what reads an activation ignores the activation's mean. Otherwise the
states of all frames would drift to one common vector, and every frame would say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log, pi, sqrt

import numpy as np

from tests.support.checkpoint.noise import Init, RandomTensor
from tests.support.checkpoint.safetensors_file import FloatArray
from tests.support.checkpoint.sizes import (
    EditorSize,
    EncoderSize,
    ModelSize,
    ProjectorSize,
    VocabularySize,
)
from tests.support.checkpoint.tokenizer import unspoken_ids

# Standard deviations about the mean, for standard normal inputs.
SILU_STD = 0.560
GELU_STD = 0.587
SWIGLU_STD = 0.596  # silu(a) * b
GLU_STD = 0.542  # a * sigmoid(b)

FEATURE_STD = 0.2  # log-mel features of speech, without their level and mean spectrum

# Added by each branch to a residual stream of 1, over all blocks: deep models stay smooth.
ENCODER_FF = 0.7
ENCODER_ATTENTION = 1.0  # before averaging
ENCODER_CONV = 2.0
ENCODER_ATTENTION_LOGIT = 1.2  # by content, and as much by position
CHARACTER_LOGIT = 2.0
POOLED = 0.65  # what pooling leaves of states that differ from frame to frame
BPE_LOGIT = 2.5
BPE_BLANK_LOGIT = 4.0
BLANK_LEAD = 0.674  # in sigmas: it wins three windows of four, so some three tokens a second stay
NEVER = -30.0  # bias of a BPE row that must not win

PROJECTOR_BRANCH = 0.5
PROJECTOR_ATTENTION_LOGIT = 1.5

EDITOR_BRANCH = 1.0
EDITOR_AVERAGED = 0.6  # what attention leaves of that
EDITOR_ATTENTION_LOGIT = 2.5
EDIT_MARGIN = 1.3  # how far a token's own logit leads the best of the others, in their sigmas
EOS_GAIN = 1.15  # slots stay empty more often than tokens stay themselves
UNSPOKEN_GAIN = 0.5  # and what is no text is hardly ever written


def model_tensors(size: ModelSize, *, identity_projector_norms: bool) -> Iterator[RandomTensor]:
    """Yield every float tensor of the model; the projector's norms may do nothing."""
    yield from encoder_tensors(size.encoder, size.vocabulary)
    yield from projector_tensors(size, identity_norms=identity_projector_norms)
    yield from editor_tensors(size.editor, size.vocabulary)


def encoder_tensors(size: EncoderSize, vocabulary: VocabularySize) -> Iterator[RandomTensor]:
    """Input linear, conformer blocks, character head, its feedback, BPE head."""
    hidden, characters = size.hidden, size.characters
    yield from _linear(
        "encoder.input_linear",
        size.hidden,
        size.input_dim,
        std=1 / (FEATURE_STD * sqrt(size.input_dim)),
        blind_to=mean_speech_spectrum(size.input_dim),
    )
    for n in range(size.layers):
        yield from _encoder_block(f"encoder.layers.{n}", size)

    # A blank as likely as all characters together, in the mean: its probability then varies.
    blank = log(characters - 1) + CHARACTER_LOGIT**2 / 2
    std = CHARACTER_LOGIT / sqrt(hidden)
    yield RandomTensor("encoder.out.weight", (characters, hidden), Init(std))
    yield RandomTensor("encoder.out.bias", (characters,), Init(0.1, pinned={0: blank}))
    yield from _linear("encoder.out_mid", hidden, characters, std=0.4)

    tokens = vocabulary.total
    never = dict.fromkeys(unspoken_ids(vocabulary), NEVER)
    std = BPE_LOGIT / sqrt(hidden)
    yield RandomTensor("encoder.out_bpe.weight", (tokens, hidden), Init(std))
    yield RandomTensor("encoder.out_bpe.bias", (tokens,), Init(0.1, pinned=never))
    std = BPE_BLANK_LOGIT / sqrt(hidden)
    bias = blank_bias(tokens - len(never))
    yield RandomTensor("encoder.out_bpe_for_blank.weight", (1, hidden), Init(std))
    yield RandomTensor("encoder.out_bpe_for_blank.bias", (1,), Init(0.0, mean=bias))


def _encoder_block(at: str, size: EncoderSize) -> Iterator[RandomTensor]:
    hidden, inner = size.hidden, size.conv_inner
    share = 1 / sqrt(size.layers)
    for ff in ("ff1", "ff2"):
        yield from _norm(f"{at}.{ff}.pre_norm", hidden)
        yield from _linear(f"{at}.{ff}.up_proj", size.ffn, hidden)
        # Twice the branch's share: the block adds half of each.
        yield from _centred(
            f"{at}.{ff}.down_proj", hidden, size.ffn, 2 * share * ENCODER_FF / SILU_STD
        )

    query = sqrt(ENCODER_ATTENTION_LOGIT)
    yield from _norm(f"{at}.attn.pre_norm", hidden)
    yield _matrix(f"{at}.attn.to_q.weight", hidden, hidden, query / sqrt(hidden))
    yield _matrix(f"{at}.attn.to_kv.weight", 2 * hidden, hidden, query / sqrt(hidden))
    std = share * ENCODER_ATTENTION / (query * sqrt(hidden))
    yield from _linear(f"{at}.attn.to_out", hidden, hidden, std=std)
    positions = 2 * size.max_pos_emb + 1
    yield _matrix(f"{at}.attn.rel_pos_emb.weight", positions, size.head_dim, query)

    yield from _norm(f"{at}.conv.norm", hidden)
    yield from _pointwise(f"{at}.conv.up_conv", 2 * inner, hidden, Init(1 / sqrt(hidden)))
    taps = Init(1 / sqrt(size.conv_kernel), blind_to=_level(size.conv_kernel))
    yield RandomTensor(f"{at}.conv.depth_conv.conv.weight", (inner, 1, size.conv_kernel), taps)
    variance = 0.55 * GLU_STD**2
    for name, init in (
        ("weight", Init(0.1, mean=1.0)),
        ("bias", Init(0.1)),
        ("running_mean", Init(0.05)),
        ("running_var", Init(0.1 * variance, mean=variance)),
    ):
        yield RandomTensor(f"{at}.conv.batch_norm.{name}", (inner,), init)
    std = share * ENCODER_CONV / (SILU_STD * sqrt(inner))
    yield from _pointwise(f"{at}.conv.down_conv", hidden, inner, Init(std, blind_to=_level(inner)))

    yield from _norm(f"{at}.post_norm", hidden)


def projector_tensors(size: ModelSize, *, identity_norms: bool) -> Iterator[RandomTensor]:
    """Captured layers' norms and fusion, queries, Q-Former layers, output."""
    projector, encoder = size.projector, size.encoder
    hidden, layers = projector.hidden, len(encoder.captured_layers)
    for k in range(layers):
        yield from _norm(f"projector.layer_norms.{k}", encoder.hidden, identity=identity_norms)
    yield from _linear("projector.layer_projector", hidden, layers * encoder.hidden)
    query, window = (1, projector.queries, hidden), (1, projector.block_size, hidden)
    yield RandomTensor("projector.query", query, Init(0.5))
    yield RandomTensor("projector.window_positions", window, Init(0.5))
    for n in range(projector.layers):
        at = f"projector.qformer.layers.{n}"
        yield from _qformer_layer(at, projector, identity_norms=identity_norms)
    yield from _norm("projector.out_norm", hidden, identity=identity_norms)
    # Audio rows enter the editor at the scale of its text rows.
    std = embedding_scale(size.editor, size.vocabulary) / sqrt(hidden)
    yield RandomTensor("projector.out_linear.weight", (size.editor.hidden, hidden), Init(std))
    yield RandomTensor("projector.out_linear.bias", (size.editor.hidden,), Init(0.01))


def _qformer_layer(at: str, size: ProjectorSize, *, identity_norms: bool) -> Iterator[RandomTensor]:
    hidden = size.hidden
    query = sqrt(PROJECTOR_ATTENTION_LOGIT)
    kv_std = sqrt(GELU_STD**2 + 0.5**2)  # the window and its positions
    yield from _norm(f"{at}.attn_norm", hidden, identity=identity_norms)
    yield from _linear(f"{at}.cross_attention.q_proj", hidden, hidden, std=query / sqrt(hidden))
    yield from _centred(f"{at}.cross_attention.k_proj", hidden, hidden, query / kv_std)
    yield from _centred(f"{at}.cross_attention.v_proj", hidden, hidden, 1 / kv_std)
    yield from _linear(
        f"{at}.cross_attention.o_proj", hidden, hidden, std=PROJECTOR_BRANCH / sqrt(hidden)
    )
    yield from _norm(f"{at}.mlp_norm", hidden, identity=identity_norms)
    yield from _linear(f"{at}.mlp.fc1", size.ffn, hidden)
    yield from _centred(f"{at}.mlp.fc2", hidden, size.ffn, PROJECTOR_BRANCH / SILU_STD)


def editor_tensors(size: EditorSize, vocabulary: VocabularySize) -> Iterator[RandomTensor]:
    """Embeddings, which are the head too, and decoder layers; no biases."""
    hidden, kv = size.hidden, size.kv_heads * size.head_dim
    unit = 1 / sqrt(hidden)
    std = embedding_scale(size, vocabulary) / size.embedding_multiplier
    gains = dict.fromkeys(unspoken_ids(vocabulary), UNSPOKEN_GAIN) | {vocabulary.eos_id: EOS_GAIN}
    init = Init(std, row_gain=gains)
    yield RandomTensor("llm.embed_tokens.weight", (vocabulary.total, hidden), init)
    query = sqrt(EDITOR_ATTENTION_LOGIT / (size.attention_multiplier * sqrt(size.head_dim)))
    for n in range(size.layers):
        at = f"llm.layers.{n}"
        yield _scale(f"{at}.input_layernorm.weight", hidden)
        yield _matrix(f"{at}.self_attn.q_proj.weight", hidden, hidden, query * unit)
        yield _matrix(f"{at}.self_attn.k_proj.weight", kv, hidden, query * unit)
        yield _matrix(f"{at}.self_attn.v_proj.weight", kv, hidden, unit)
        yield _matrix(f"{at}.self_attn.o_proj.weight", hidden, hidden, EDITOR_BRANCH * unit)
        yield _scale(f"{at}.post_attention_layernorm.weight", hidden)
        yield _matrix(f"{at}.mlp.gate_proj.weight", size.ffn, hidden, unit)
        yield _matrix(f"{at}.mlp.up_proj.weight", size.ffn, hidden, unit)
        std = EDITOR_BRANCH / (SWIGLU_STD * sqrt(size.ffn))
        yield _matrix(f"{at}.mlp.down_proj.weight", hidden, size.ffn, std)
    yield _scale("llm.norm.weight", hidden)


def blank_bias(tokens: int) -> float:
    """The bias that puts the blank `BLANK_LEAD` ahead of the best of `tokens`."""
    spread = sqrt(BPE_BLANK_LOGIT**2 + (0.3 * BPE_LOGIT) ** 2)  # of the blank and of the best
    return POOLED * (BPE_LOGIT * expected_maximum(tokens) + BLANK_LEAD * spread)


def embedding_scale(size: EditorSize, vocabulary: VocabularySize) -> float:
    """The scale of a text row at which most tokens stay themselves and some are edited.

    After the final norm a row is a share r of its own embedding and noise from the branches, so
    its own logit is r·√hidden where the others are standard normal. r is chosen so that the own
    logit leads the best of the others by `EDIT_MARGIN`.
    """
    others = vocabulary.total - len(unspoken_ids(vocabulary))
    share = (expected_maximum(others) + EDIT_MARGIN) / sqrt(size.hidden)
    power = EDITOR_BRANCH**2 * (1 + EDITOR_AVERAGED**2)
    branches = size.layers * size.residual_multiplier**2 * power
    return share * sqrt(branches / (1 - share**2))


def expected_maximum(n: int) -> float:
    """About the mean of the largest of `n` independent standard normal values."""
    root = sqrt(2 * log(n))
    return root - (log(log(n)) + log(4 * pi)) / (2 * root) + 0.577 / root


def mean_speech_spectrum(input_dim: int) -> FloatArray:
    """An orthonormal basis (2, input_dim) of loudness and the long-term spectrum of speech.

    The spectrum is a parabola over the mel bands, the same for both frames of a feature vector.
    """
    u = np.linspace(0, 1, input_dim // 2)
    spectrum = np.tile(0.14 + 1.15 * u - 2.13 * u**2, 2)
    basis, _ = np.linalg.qr(np.stack([np.ones(input_dim), spectrum], axis=1))
    return np.ascontiguousarray(basis.T, dtype=np.float32)


def _level(width: int) -> FloatArray:
    """The basis (1, width) of the constant vector: an activation's mean."""
    return np.full((1, width), 1 / sqrt(width), dtype=np.float32)


def _matrix(name: str, rows: int, width: int, std: float) -> RandomTensor:
    return RandomTensor(name, (rows, width), Init(std))


def _linear(
    name: str,
    rows: int,
    width: int,
    *,
    std: float | None = None,
    blind_to: FloatArray | None = None,
) -> Iterator[RandomTensor]:
    """Weight (rows, width), by default keeping a unit variance, and a small bias."""
    init = Init(1 / sqrt(width) if std is None else std, blind_to=blind_to)
    yield RandomTensor(f"{name}.weight", (rows, width), init)
    yield RandomTensor(f"{name}.bias", (rows,), Init(0.05))


def _centred(name: str, rows: int, width: int, gain: float) -> Iterator[RandomTensor]:
    """A linear layer that reads activations without their mean."""
    return _linear(name, rows, width, std=gain / sqrt(width), blind_to=_level(width))


def _pointwise(name: str, rows: int, width: int, init: Init) -> Iterator[RandomTensor]:
    """A convolution of one tap: weight (rows, width, 1)."""
    yield RandomTensor(f"{name}.weight", (rows, width, 1), init)
    yield RandomTensor(f"{name}.bias", (rows,), Init(0.05))


def _scale(name: str, width: int) -> RandomTensor:
    return RandomTensor(name, (width,), Init(0.1, mean=1.0))


def _norm(name: str, width: int, *, identity: bool = False) -> Iterator[RandomTensor]:
    spread = 0.0 if identity else 1.0
    yield RandomTensor(f"{name}.weight", (width,), Init(0.1 * spread, mean=1.0))
    yield RandomTensor(f"{name}.bias", (width,), Init(0.05 * spread))
