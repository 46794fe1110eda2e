"""A hypothesis that is not edited, or only where it is not sure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import granite_gguf
from granite_gguf import InputError, Model
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.nar import transcribe
from granite_gguf.stages.decoding import best_probabilities
from granite_gguf.stages.shared import BPE_BEST
from tests.commands import run
from tests.signals import SAMPLE_RATE, synthetic_audio

LAYOUTS = ("nle", "granite_speech_nar", "native")


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [synthetic_audio(int(s * SAMPLE_RATE), seed=k) for k, s in enumerate((2.0, 0.7, 3.1))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_never(models: dict[str, Model], clips: list[np.ndarray], layout: str) -> None:
    """The text is the hypothesis, and neither projector nor editor runs."""
    for clip in clips:
        whole = models[layout].transcribe(clip)
        heard = models[layout].transcribe(clip, editor="never", word_times=True)
        assert heard.text == heard.hypothesis == whole.hypothesis
        assert models[layout].detokenize(np.array(heard.token_ids)) == heard.text
        assert {"projector", "editor"} & heard.timings.keys() == set()
        assert [word.text for word in heard.words] == heard.text.split()
        assert all(0 < word.probability <= 1 for word in heard.words)


def test_auto_edits_what_is_not_sure(
    models: dict[str, Model], clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a pass with others; by the least probability of what was heard, as numpy has it."""
    model = models["granite_speech_nar"]
    least = []
    for clip in clips:
        encoded = model.run_encoder(model.compute_mel(clip))
        taps = frozenset({"bpe_logits", BPE_BEST})
        head = model.run_hypothesis_head(encoded.final, encoded.blank, taps)
        logits = head.taps["bpe_logits"].astype(np.float64)
        softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
        softmax /= softmax.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(head.taps[BPE_BEST], softmax.max(axis=1), rtol=1e-5)
        runs, previous = [], None
        for token, row in zip(head.ids, softmax, strict=True):
            if token != previous:
                runs.append((token, []))
            runs[-1][1].append(row[token])
            previous = token
        blank = model.hparams.hypothesis.blank_id
        least.append(min(max(of) for token, of in runs if token != blank))
    monkeypatch.setattr(transcribe, "SURE", float(np.median(least)) * 0.999)
    results = list(model.transcribe_many(clips, editor="auto"))
    for clip, result, of in zip(clips, results, least, strict=True):
        expected = model.transcribe(clip, editor="never" if of >= transcribe.SURE else "always")
        assert (result.text, result.hypothesis) == (expected.text, expected.hypothesis)
        assert ("editor" in result.timings) == (of < transcribe.SURE)


def test_fast_implies_auto(
    f32_files: dict[str, Path], clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless something else is asked for."""
    monkeypatch.setattr(transcribe, "SURE", 0.0)
    file = f32_files["granite_speech_nar"]
    for precision, given, edited in (
        ("exact", {}, True),
        ("fast", {}, False),
        ("fast", {"editor": None}, False),
        ("fast", {"editor": "always"}, True),
        ("exact", {"editor": "auto"}, False),
    ):
        with granite_gguf.load(file, threads=1, precision=precision) as model:
            found = model.transcribe(clips[0], **given)
        assert ("editor" in found.timings) == edited, (precision, given)


def test_silence_is_no_sure_hypothesis(models: dict[str, Model]) -> None:
    assert models["nle"].transcribe(np.zeros(SAMPLE_RATE, np.float32), editor="auto").text == ""


def test_probabilities_do_not_overflow() -> None:
    logits = np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(best_probabilities(logits), [1, 1 / 3], rtol=1e-6)


def test_the_command() -> None:
    found = run("transcribe", DEMO_SAMPLES[0], "--editor", "never", "--json", "--language", "en")
    heard = json.loads(found.stdout)
    assert heard["language"] == "en"
    assert heard["text"] == heard["hypothesis"] != ""


def test_wrong(models: dict[str, Model]) -> None:
    with pytest.raises(InputError, match="editor is 'some', expected 'always' or 'auto'"):
        models["nle"].transcribe(np.zeros(100, np.float32), editor="some")
