"""The runtime against the PyTorch reference, each stage from the reference's own inputs.

Runs where torch is installed. Each stage is isolated: a fault in one shows in that one only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from granite_gguf import Model
from granite_gguf.sound.features import mel_filters
from tests.parity import assert_same_rows
from tests.signals import synthetic_audio

pytest.importorskip("torch")

from granite_gguf.reference import Reference

LAYOUTS = ("nle", "granite_speech_nar", "native")

# Frames: one, fewer than an audio token, fewer than a projector window, one of each, and lengths
# around attention blocks; 437 and 613 are multiples of neither 4, 5 nor 15.
FRAMES = (1, 3, 4, 5, 14, 15, 16, 199, 200, 201, 400, 437, 613)


@pytest.fixture(scope="module")
def references(checkpoints: dict[str, Path]) -> dict[str, Any]:
    return {layout: Reference.from_checkpoint(path) for layout, path in checkpoints.items()}


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stages(
    models: dict[str, Model], references: dict[str, Any], layout: str, frames: int
) -> None:
    model = models[layout]
    samples = synthetic_audio(320 * frames + 37 * (frames % 7), seed=frames)
    expected = references[layout].run(samples)
    assert_same_rows("mel_spectrogram", model.compute_mel(samples), expected.mel_spectrogram)

    mel = expected.mel_spectrogram.astype(np.float32)
    captured = model.hparams.encoder.captured_blocks
    taps = frozenset({"encoder_logits", *(f"encoder_layer_{k}" for k in captured)})
    encoded = model.run_encoder(mel, taps)
    assert_same_rows("encoder_output", encoded.captured, expected.encoder_output)
    assert_same_rows("encoder_final", encoded.final, expected.encoder_final)
    assert_same_rows("encoder_logits", encoded.taps["encoder_logits"], expected.encoder_logits)
    for k, layer in expected.encoder_layers.items():
        assert_same_rows(f"encoder_layer_{k}", encoded.taps[f"encoder_layer_{k}"], layer)
    np.testing.assert_allclose(encoded.blank, expected.blank_prob, atol=1e-4)

    head = model.run_hypothesis_head(
        expected.encoder_final, expected.blank_prob, frozenset({"pooled", "bpe_logits"})
    )
    assert_same_rows("pooled", head.taps["pooled"], expected.pooled)
    assert_same_rows("bpe_logits", head.taps["bpe_logits"], expected.bpe_logits)
    assert head.ids.tolist() == expected.bpe_ids.tolist()
    hypothesis = model.run_hypothesis(expected.encoder_final, expected.blank_prob)
    assert hypothesis.tolist() == expected.hypothesis_ids.tolist()

    projected = model.run_projector_windows(expected.encoder_output)
    assert_same_rows("projector_output", projected, expected.projector_output)
    audio_tokens = model.run_projector(expected.encoder_output)
    assert_same_rows("audio_embs_for_llm", audio_tokens, expected.audio_embs_for_llm)

    edited = model.run_editor(
        expected.audio_embs_for_llm, expected.text_ids_with_slots, frozenset({"editing_logits"})
    )
    assert_same_rows("editing_logits", edited.taps["editing_logits"], expected.editing_logits)
    assert edited.ids.tolist() == expected.edited_ids.tolist()
    assert model.transcribe(samples, min_confidence=0).text == expected.text


def test_mel_filters_are_those_of_torch(
    references: dict[str, Any], models: dict[str, Model]
) -> None:
    from granite_gguf.reference.frontend import mel_bank

    expected = mel_bank(references["nle"].config.front_end).numpy()
    actual = mel_filters(models["nle"].hparams.front_end)
    # torch's own powers differ by a unit in the last place between machines; float64 would be
    # 5e-6 away.
    assert np.abs(actual - expected.reshape(actual.shape)).max() < 2e-6


def test_the_committed_files_are_what_the_reference_computes() -> None:
    from tests.make_expected import check

    assert check() == 0
