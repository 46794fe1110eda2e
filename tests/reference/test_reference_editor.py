"""The editor against transformers' Granite run without a causal mask."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from granite_gguf.reference import Editor  # noqa: E402
from granite_gguf.reference.granite import RMSNorm, rope_angles, rotate  # noqa: E402
from tests.reference import tiny  # noqa: E402

WIDE = replace(tiny.EDITOR, d_model=64, n_heads=8, n_kv_heads=2, head_dim=16, ff_dim=96)
# A small 1/128 would leave attention nearly uniform, and its mistakes nearly invisible.
WIDE = replace(WIDE, attention_multiplier=0.11, n_layers=3)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("n_rows", [1, 8, 300])
def test_editor_equals_transformers_granite(n_rows: int) -> None:
    granite = pytest.importorskip("transformers.models.granite.modeling_granite")
    editor = Editor(WIDE)
    tiny.randomize(editor)
    other = granite.GraniteModel(
        granite.GraniteConfig(
            vocab_size=WIDE.vocab_size,
            hidden_size=WIDE.d_model,
            intermediate_size=WIDE.ff_dim,
            num_hidden_layers=WIDE.n_layers,
            num_attention_heads=WIDE.n_heads,
            num_key_value_heads=WIDE.n_kv_heads,
            rms_norm_eps=WIDE.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": WIDE.rope_theta},
            head_dim=WIDE.head_dim,
            embedding_multiplier=WIDE.embedding_multiplier,
            attention_multiplier=WIDE.attention_multiplier,
            residual_multiplier=WIDE.residual_multiplier,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",
        )
    )
    other.load_state_dict(editor.state_dict())
    rows = noise(1, n_rows, WIDE.d_model)
    # An additive 4-D mask is taken as it is: all zeros lets every row see every row.
    nothing_hidden = torch.zeros(1, 1, n_rows, n_rows)
    with torch.no_grad():
        expected = other.eval()(inputs_embeds=rows, attention_mask=nothing_hidden, use_cache=False)
        made = editor.hidden(rows)
    torch.testing.assert_close(made, expected.last_hidden_state, atol=1e-5, rtol=1e-5)


def test_every_row_sees_every_row() -> None:
    editor = Editor(WIDE)
    tiny.randomize(editor)
    rows = noise(1, 6, 64)
    moved = rows.clone()
    moved[:, -1] += 1.0
    with torch.no_grad():
        assert (editor.hidden(moved) - editor.hidden(rows)).abs().amax(dim=2).min() > 1e-4


def test_head_is_the_embedding_and_sees_text_rows_only() -> None:
    editor = Editor(tiny.EDITOR)
    tiny.randomize(editor)
    audio, ids = noise(1, 3, 24), torch.tensor([[256, 5, 256]])
    table = editor.embed_tokens.weight
    hidden = editor.hidden(torch.cat([audio, table[ids]], dim=1))
    torch.testing.assert_close(editor(audio, ids), hidden[:, 3:] @ table.T)
    assert not [name for name in editor.state_dict() if "head" in name]


def test_audio_rows_end_up_undivided() -> None:
    """Dividing the audio by the multiplier and multiplying all rows cancel out."""
    editor = Editor(replace(tiny.EDITOR, n_layers=0))
    tiny.randomize(editor)
    editor.norm = torch.nn.Identity()
    row = noise(1, 1, 24)
    torch.testing.assert_close(editor.hidden(row / 12), row)


def test_norm_divides_by_the_root_mean_square() -> None:
    norm = RMSNorm(2, eps=1e-5)
    norm.weight.data = torch.tensor([2.0, -1.0])
    x = torch.tensor([[3e-3, 4e-3]])  # so small that eps counts
    rms = (12.5e-6 + 1e-5) ** 0.5
    torch.testing.assert_close(norm(x), torch.tensor([[6e-3 / rms, -4e-3 / rms]]))


def test_rotation_pairs_the_halves() -> None:
    angles = rope_angles(4, 4, 10000.0)
    torch.testing.assert_close(angles[3], torch.tensor([3.0, 3.0 / 100]))
    x = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 1, 4, 4)
    expected = torch.tensor([math.cos(3), 0.0, math.sin(3), 0.0])
    torch.testing.assert_close(rotate(x, angles)[0, 0, 3], expected)


def test_grouping_and_scale_of_attention_by_hand() -> None:
    editor = Editor(replace(WIDE, n_layers=1))
    tiny.randomize(editor)
    attention = editor.layers[0].self_attn
    x, angles = noise(1, 5, 64), torch.zeros(5, 8)
    q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    heads = []
    for head in range(8):
        mine, shared = (
            slice(16 * head, 16 * head + 16),
            slice(16 * (head // 4), 16 * (head // 4) + 16),
        )
        weights = (q[0, :, mine] @ k[0, :, shared].T * 0.11).softmax(dim=-1)
        heads.append(weights @ v[0, :, shared])
    expected = attention.o_proj(torch.cat(heads, dim=1))
    torch.testing.assert_close(attention(x, angles)[0], expected)
