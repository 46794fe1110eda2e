"""The BLIP-2 Q-Former against PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from granite_gguf.ggml import Graph, Runtime
from granite_gguf.speech.qformer import audio_rows, build_qformer
from granite_gguf.speech.spec import Projector
from tests.placing import placed_weights
from tests.qformer import (
    EXPECTED,
    LENGTHS,
    WIDTHS,
    FloatArray,
    encoded,
    small,
    torch_projected,
    weights,
)

CLOSE = 2e-5  # float32 in another order; the rows reach 4


@pytest.fixture(scope="module")
def expected() -> dict[str, FloatArray]:
    with np.load(EXPECTED) as file:
        return dict(file)


def projected(
    runtime: Runtime,
    p: Projector,
    lengths: Sequence[int],
    arrays: dict[str, FloatArray] | None = None,
) -> FloatArray:
    frames = [encoded(p.encoder_hidden_size, n) for n in lengths]
    with placed_weights(runtime, weights(p) if arrays is None else arrays) as w, Graph() as graph:
        build_qformer(graph, w, p, lengths)
        rows: FloatArray = runtime.compute(graph, {"encoded": np.concatenate(frames)})["projected"]
    return rows[0, 0]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("frames", LENGTHS)
def test_the_expected_rows_are_those_of_transformers(
    expected: dict[str, FloatArray], width: int, frames: int
) -> None:
    pytest.importorskip("transformers.models.granite_speech")
    found = torch_projected(small(width), encoded(width, frames))
    np.testing.assert_allclose(found, expected[f"{width}-{frames}"], atol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("frames", LENGTHS)
def test_rows(runtime: Runtime, expected: dict[str, FloatArray], width: int, frames: int) -> None:
    p = small(width)
    found = projected(runtime, p, [frames])
    assert len(found) == audio_rows(p, frames)
    np.testing.assert_allclose(found, expected[f"{width}-{frames}"], atol=CLOSE)


@pytest.mark.parametrize("width", WIDTHS)
def test_recordings_of_a_batch_do_not_see_one_another(
    runtime: Runtime, expected: dict[str, FloatArray], width: int
) -> None:
    found = projected(runtime, small(width), LENGTHS)
    alone = np.concatenate([expected[f"{width}-{n}"] for n in LENGTHS])
    np.testing.assert_allclose(found, alone, atol=CLOSE)


def _norm_not_learned(p: Projector) -> tuple[Projector, dict[str, FloatArray]]:
    arrays = weights(p)
    arrays["proj.ln.weight"] = np.ones_like(arrays["proj.ln.weight"])
    arrays["proj.ln.bias"] = np.zeros_like(arrays["proj.ln.bias"])
    return p, arrays


def _another_epsilon(p: Projector) -> tuple[Projector, dict[str, FloatArray]]:
    return replace(p, layer_norm_eps=1e-5), weights(p)


@pytest.mark.parametrize("mistake", [_norm_not_learned, _another_epsilon])
def test_mistakes_show(runtime: Runtime, expected: dict[str, FloatArray], mistake: object) -> None:
    """Queries without what their norm learned, and the epsilon of other layers."""
    assert callable(mistake)
    p, arrays = mistake(small(32))
    found = projected(runtime, p, [32], arrays)
    assert np.abs(found - expected["32-32"]).max() > CLOSE
