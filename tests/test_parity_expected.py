"""The runtime against stage outputs that PyTorch computed, committed as small files.

Every stage runs on this package's own outputs of the stages before it, from audio to text.
``tests/make_expected.py`` makes the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import granite_gguf
from granite_gguf import Model
from granite_gguf.nar.decoding import insert_slots
from tests.kernels import NAMES
from tests.parity import assert_same_rows
from tests.signals import synthetic_audio

PATHS = sorted((Path(__file__).parent / "expected").glob("*.npz"))

TAPS = frozenset({"encoder_logits"})
HEAD_TAPS = frozenset({"pooled", "bpe_logits"})
EDITOR_TAPS = frozenset({"editing_logits"})


def run_stages(model: Model, samples: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    """Every stage of one utterance of at least one frame, by the names of the files."""
    mel = model.compute_mel(samples)
    encoded = model.run_encoder(mel, TAPS)
    head = model.run_hypothesis_head(encoded.final, encoded.blank, HEAD_TAPS)
    hypothesis = model.run_hypothesis(encoded.final, encoded.blank)
    text_ids = insert_slots(model.hparams.editor, hypothesis)
    audio_tokens = model.run_projector(encoded.captured)
    edited = model.run_editor(audio_tokens, text_ids, EDITOR_TAPS)
    return {
        "mel_spectrogram": mel,
        "encoder_output": encoded.captured,
        "encoder_final": encoded.final,
        "encoder_logits": encoded.taps["encoder_logits"],
        "blank_prob": encoded.blank,
        "pooled": head.taps["pooled"],
        "bpe_logits": head.taps["bpe_logits"],
        "bpe_ids": head.ids,
        "hypothesis_ids": hypothesis,
        "text_ids_with_slots": text_ids,
        "projector_output": model.run_projector_windows(encoded.captured),
        "audio_embs_for_llm": audio_tokens,
        "editing_logits": edited.taps["editing_logits"],
        "edited_ids": edited.ids,
    }


def test_there_are_cases() -> None:
    assert len(PATHS) >= 30


@pytest.fixture(scope="module", params=NAMES)
def models(
    request: pytest.FixtureRequest, f32_files: dict[str, Path]
) -> Iterator[dict[str, Model]]:
    """Each float32 file, with each kernel of this machine."""
    with ExitStack() as stack:
        yield {
            layout: stack.enter_context(
                granite_gguf.load(path, device="cpu", threads=1, kernels=request.param)
            )
            for layout, path in f32_files.items()
        }


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_stage(models: dict[str, Model], path: Path) -> None:
    with np.load(path) as file:
        expected = dict(file)
    model = models[str(expected["layout"])]
    samples = synthetic_audio(int(expected["n_samples"]), int(expected["seed"]))
    transcript = model.transcribe(samples, min_confidence=0)
    assert transcript.text == str(expected["text"])
    if not int(expected["mel_spectrogram_length"]):
        assert len(model.compute_mel(samples)) == 0
        assert transcript.hypothesis == ""
        return
    assert transcript.hypothesis == str(expected["hypothesis_text"])
    for name, array in run_stages(model, samples).items():
        if name == "blank_prob":
            np.testing.assert_allclose(array, expected[name], atol=1e-4)
        elif name.endswith(("_ids", "_slots")):
            assert array.tolist() == expected[name].tolist(), name
        else:
            assert len(array) == int(expected[f"{name}_length"]), name
            assert_same_rows(name, array[expected[f"{name}_rows"]], expected[name])
