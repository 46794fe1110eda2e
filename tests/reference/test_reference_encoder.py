"""The Conformer against transformers' granite_speech, and its parts against hand-made values."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from granite_gguf.reference import Encoder  # noqa: E402
from granite_gguf.reference.checkpoint import checkpoint_key  # noqa: E402
from granite_gguf.reference.encoder import (  # noqa: E402
    BlockAttention,
    ConformerBlock,
    ConvModule,
    posterior_pool,
)
from tests.reference import tiny  # noqa: E402

WIDE = replace(tiny.ENCODER, d_model=32, n_heads=4, ff_dim=128, conv_inner=64)
WIDE = replace(WIDE, context_size=200, max_pos_emb=512, char_vocab=30)


@pytest.fixture(scope="module")
def witness():
    """transformers' module of the same architecture."""
    return pytest.importorskip("transformers.models.granite_speech.modeling_granite_speech")


def witness_config(witness):
    return witness.GraniteSpeechEncoderConfig(
        input_dim=WIDE.input_dim,
        num_layers=WIDE.n_layers,
        hidden_dim=WIDE.d_model,
        feedforward_mult=4,
        num_heads=WIDE.n_heads,
        dim_head=WIDE.head_dim,
        output_dim=WIDE.char_vocab,
        context_size=WIDE.context_size,
        max_pos_emb=WIDE.max_pos_emb,
        conv_kernel_size=WIDE.conv_kernel,
        conv_expansion_factor=2,
    )


def copy_weights(source: torch.nn.Module, target: torch.nn.Module, prefix: str = "") -> None:
    state = {
        checkpoint_key(f"{prefix}.{name}", "nle").removeprefix(f"{prefix}."): tensor
        for name, tensor in source.state_dict().items()
        if not name.startswith("out_bpe")
    }
    target.load_state_dict(state)
    target.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_frames", [1, 199, 200, 201, 450])
def test_block_equals_transformers(witness, n_frames: int) -> None:
    block = ConformerBlock(WIDE)
    tiny.randomize(block)
    other = witness.GraniteSpeechConformerBlock(witness_config(witness))
    copy_weights(block, other, "encoder.layers.0")
    place = torch.arange(WIDE.context_size)
    distances = place[:, None] - place + WIDE.max_pos_emb
    x = noise(2, n_frames, WIDE.d_model)
    with torch.no_grad():
        expected = other(x, attention_dists=distances)
        torch.testing.assert_close(block.eval()(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_frames", [1, 3, 201, 450])
def test_encoder_equals_transformers(witness, n_frames: int) -> None:
    encoder = Encoder(WIDE)
    tiny.randomize(encoder)
    other = witness.GraniteSpeechCTCEncoder(witness_config(witness))
    copy_weights(encoder, other, "encoder")
    distances = torch.arange(200)[:, None] - torch.arange(200) + WIDE.max_pos_emb
    other.attention_dists = distances.to(other.attention_dists)
    x = noise(1, n_frames, WIDE.input_dim)
    with torch.no_grad():
        expected = other(x).last_hidden_state
        final = encoder.eval()(x).final
    torch.testing.assert_close(final, expected, atol=2e-5, rtol=1e-5)


def test_relative_distance_is_query_minus_key() -> None:
    attention = BlockAttention(tiny.ENCODER)
    tiny.randomize(attention)
    x = noise(1, 5, 16)
    q, k, v = attention.to_q(x), *attention.to_kv(x).chunk(2, dim=-1)
    table = attention.rel_pos_emb.weight
    expected = torch.zeros(1, 5, 16)
    for head in (slice(0, 8), slice(8, 16)):
        for i in range(5):
            logits = [
                (q[0, i, head] @ (k[0, j, head] + table[i - j + 24])) / 8**0.5 for j in range(5)
            ]
            expected[0, i, head] = torch.stack(logits).softmax(0) @ v[0, :, head]
    torch.testing.assert_close(attention.attend_block(x), expected)


def test_attention_blocks_are_independent_and_the_last_one_is_not_padded() -> None:
    attention = BlockAttention(tiny.ENCODER)
    tiny.randomize(attention)
    x = noise(1, 47, 16)
    whole = attention(x)
    for start, stop in ((0, 20), (20, 40), (40, 47)):
        torch.testing.assert_close(whole[:, start:stop], attention(x[:, start:stop]))


def test_convolution_crosses_attention_blocks() -> None:
    conv = ConvModule(tiny.ENCODER)
    tiny.randomize(conv)
    conv.eval()
    x = noise(1, 47, 16)
    moved = x.clone()
    moved[:, 19, 3] += 1.0  # not all channels alike: LayerNorm would not see it
    changed = (conv(moved) - conv(x)).abs().amax(dim=(0, 2)) > 1e-7
    assert changed.nonzero().flatten().tolist() == list(range(12, 27))


def test_batch_norm_comes_before_silu() -> None:
    conv = ConvModule(tiny.ENCODER)
    tiny.randomize(conv)
    conv.eval()
    x = noise(1, 9, 16)
    a, b = conv.up_conv(conv.norm(x).transpose(1, 2)).chunk(2, dim=1)
    x = torch.nn.functional.pad(a * torch.sigmoid(b), (7, 7))
    taps = conv.depth_conv.weight[:, 0]
    mixed = sum(taps[:, k, None] * x[:, :, k : k + 9] for k in range(15))
    norm = conv.batch_norm
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    mixed = (mixed - norm.running_mean[:, None]) * scale[:, None] + norm.bias[:, None]
    expected = conv.down_conv(mixed * torch.sigmoid(mixed)).transpose(1, 2)
    torch.testing.assert_close(conv(noise(1, 9, 16)), expected)


@pytest.mark.parametrize("early", [False, True])
def test_feedback_and_where_it_is_captured(early: bool) -> None:
    encoder = Encoder(replace(tiny.ENCODER, captured=(0, 2, 4), capture_before_feedback=early))
    tiny.randomize(encoder)
    encoder.eval()
    features = noise(1, 23, 160)
    start = encoder.input_linear(features)
    x = encoder.layers[1](encoder.layers[0](start))
    p = encoder.out(x).softmax(dim=-1)
    fed = x + p @ encoder.out_mid.weight.T + encoder.out_mid.bias
    final = encoder.layers[3](encoder.layers[2](fed))

    encoded = encoder(features)
    torch.testing.assert_close(encoded.captured[0], start)
    torch.testing.assert_close(encoded.captured[1], x if early else fed)
    torch.testing.assert_close(encoded.captured[2], final)
    torch.testing.assert_close(encoded.output, torch.cat(encoded.captured, dim=2))
    torch.testing.assert_close(encoded.final, final)
    torch.testing.assert_close(encoded.blank_prob, p[..., 0])
    torch.testing.assert_close(encoded.char_logits, encoder.out(final))
    torch.testing.assert_close(encoded.bpe_logits, encoder.out_bpe(encoded.pooled))
    assert (x - fed).abs().max() > 0.1


def test_final_state_has_the_feedback_even_when_it_comes_last() -> None:
    config = replace(tiny.ENCODER, self_conditioning_layer=4, capture_before_feedback=True)
    encoder = Encoder(config)
    tiny.randomize(encoder)
    encoded = encoder.eval()(noise(1, 6, 160))
    torch.testing.assert_close(encoded.captured[-1], encoded.final)


def test_posterior_pooling_by_hand() -> None:
    frames = torch.tensor([[[1.0], [2.0], [3.0], [4.0], [10.0], [20.0]]])
    blank = torch.tensor([[0.5, 1.0, 1.0, 0.0, 0.25, 0.75]])
    pooled = posterior_pool(frames, blank, window=4)
    # (0.5 * 1 + 1 * 4) / 1.5, and (0.75 * 10 + 0.25 * 20) / 1: missing frames weigh nothing.
    torch.testing.assert_close(pooled, torch.tensor([[[3.0], [12.5]]]))


def test_posterior_pooling_of_nothing_but_blanks_is_zero() -> None:
    pooled = posterior_pool(torch.ones(1, 4, 2), torch.ones(1, 4), window=4)
    assert pooled.tolist() == [[[0.0, 0.0]]]


def test_batch_equals_its_members() -> None:
    encoder = tiny.model("nle").encoder
    features = noise(3, 25, 160)
    both = encoder(features)
    for row in range(3):
        alone = encoder(features[row : row + 1])
        torch.testing.assert_close(both.bpe_logits[row], alone.bpe_logits[0], atol=1e-5, rtol=1e-5)
