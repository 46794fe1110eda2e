"""The projector against the same sums written out in numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from granite_gguf.reference import Projector  # noqa: E402
from tests.reference import tiny  # noqa: E402


def norm(x: np.ndarray) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-6)


def written_out(projector: Projector, states: np.ndarray) -> np.ndarray:
    """States (T, 64) -> (3 * ceil(T / 15), 24) in float64, window by window, head by head."""
    weights = {name: t.double().numpy() for name, t in projector.state_dict().items()}

    def layer_norm(name: str, x: np.ndarray) -> np.ndarray:
        if f"{name}.weight" not in weights:
            return norm(x)
        return norm(x) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    parts = [layer_norm(f"layer_norms.{k}", states[:, 16 * k : 16 * k + 16]) for k in range(4)]
    fused = linear("layer_projector", np.concatenate(parts, axis=1))
    fused = fused * 0.5 * (1 + np.vectorize(math.erf)(fused / math.sqrt(2)))
    fused = np.concatenate([fused, np.zeros((-len(states) % 15, 24))])
    rows = []
    for window in np.split(fused, len(fused) // 15):
        q = weights["query"] + np.stack([window[5 * k : 5 * k + 5].mean(0) for k in range(3)])
        kv = window + weights["window_positions"]
        for n in range(2):
            name = f"layers.{n}.cross_attention"
            queries = linear(f"{name}.q_proj", layer_norm(f"layers.{n}.attn_norm", q))
            keys, values = linear(f"{name}.k_proj", kv), linear(f"{name}.v_proj", kv)
            mixed = np.zeros((3, 24))
            for head in (slice(0, 8), slice(8, 16), slice(16, 24)):
                e = np.exp(queries[:, head] @ keys[:, head].T / math.sqrt(8))
                mixed[:, head] = e / e.sum(-1, keepdims=True) @ values[:, head]
            q = q + linear(f"{name}.o_proj", mixed)
            h = linear(f"layers.{n}.fc1", layer_norm(f"layers.{n}.mlp_norm", q))
            q = q + linear(f"layers.{n}.fc2", h / (1 + np.exp(-h)))
        rows.append(linear("out_linear", layer_norm("out_norm", q)))
    return np.concatenate(rows)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("n_frames", [1, 4, 15, 17, 30])
def test_projector_equals_the_sums_written_out(n_frames: int, affine: bool) -> None:
    projector = Projector(replace(tiny.PROJECTOR, affine_norms=affine))
    tiny.randomize(projector)
    states = np.random.default_rng(0).normal(size=(n_frames, 64)) * 3
    expected = written_out(projector, states)
    with torch.no_grad():
        made = projector.double()(torch.from_numpy(states)[None])[0].numpy()
    assert made.shape == (3 * math.ceil(n_frames / 15), 24)
    # Exact up to float64 rounding: a tanh GELU would be some 1e-4 away.
    np.testing.assert_allclose(made, expected, atol=1e-10)


def test_norms_without_tensors() -> None:
    projector = Projector(replace(tiny.PROJECTOR, affine_norms=False))
    assert not [name for name in projector.state_dict() if "norm" in name]


def test_audio_tokens_are_cut_and_divided() -> None:
    model = tiny.model("nle")
    projected = torch.arange(6 * 24, dtype=torch.float32).reshape(1, 6, 24)
    for n_frames, kept in ((1, 0), (4, 0), (5, 1), (9, 1), (15, 3), (17, 3), (29, 5), (30, 6)):
        tokens = model.audio_tokens(projected, n_frames)
        torch.testing.assert_close(tokens, projected[:, :kept] / 12)
    rules = replace(model.config.semantics, scale_projected_embeddings=False)
    model.config = replace(model.config, semantics=rules)
    torch.testing.assert_close(model.audio_tokens(projected, 30), projected)


def test_batch_equals_its_members() -> None:
    projector = tiny.model("nle").projector
    states = torch.randn(2, 17, 64, generator=torch.Generator().manual_seed(0))
    both = projector(states)
    for row in range(2):
        torch.testing.assert_close(both[row], projector(states[row : row + 1])[0])
