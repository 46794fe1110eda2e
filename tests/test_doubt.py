"""How sure a model is of a text, and what becomes of one that it is not sure of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import exp
from pathlib import Path

import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import InputError, Model, Segment, Word
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.stages.decoding import confidence, no_speech
from granite_gguf.transcript import Turn
from granite_gguf.transcription.doubt import without_doubtful
from tests.commands import run
from tests.signals import SAMPLE_RATE, synthetic_audio

SECONDS = 5.0


@pytest.fixture(scope="module")
def demo() -> Iterator[Model]:
    with granite_gguf.load(threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def hum() -> np.ndarray:
    """The mains, of which the demonstration model makes a letter."""
    t = np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    wave = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 12))
    return (0.1 * wave / np.abs(wave).max()).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))


def test_the_mean_of_probabilities_is_geometric() -> None:
    assert confidence(np.array([0.5, 0.125], np.float32)) == pytest.approx(0.25)
    assert confidence(np.array([1.0, 0.0])) == pytest.approx(1e-5)
    assert confidence(np.zeros(0)) is None


def test_speech_is_told_by_the_frames_that_have_most_of_it() -> None:
    blank = np.full(500, 1.0, np.float32)
    assert no_speech(blank) == 1
    blank[[3, 80, 300, 301]] = 0.4, 0.1, 0.2, 0.3
    assert no_speech(blank) == pytest.approx(0.2)
    assert no_speech(blank[80:82]) == pytest.approx(0.55)
    assert no_speech(blank[:0]) == 1


@pytest.mark.parametrize("timed", [False, True])
def test_of_edited_text_it_is_the_editors(models: dict[str, Model], timed: bool) -> None:
    """The mean over its tokens of the surest row of each, as numpy has it in float64."""
    model, samples = models["granite_speech_nar"], synthetic_audio(48_000, seed=3)
    (segment,) = model.transcribe(samples, min_confidence=0, word_times=timed).segments
    encoded = model.run_encoder(model.compute_mel(samples))
    tokens = model.run_hypothesis(encoded.final, encoded.blank)
    e = model.hparams.editor
    slots = np.full(max(2 * len(tokens) + 1, e.min_edit_length), e.eos_token_id)
    slots[1 : 2 * len(tokens) : 2] = tokens
    audio = model.run_projector(encoded.captured)
    edited = model.run_editor(audio, slots, frozenset({"editing_logits"}))
    scale = e.logits_scaling if e.apply_logits_scaling else 1.0
    sure = log_softmax(edited.taps["editing_logits"] / scale).max(axis=1)
    runs: list[tuple[int, list[float]]] = []
    for token, value in zip(edited.ids, sure, strict=True):
        if not runs or runs[-1][0] != token:
            runs.append((int(token), []))
        runs[-1][1].append(value)
    of_tokens = [max(values) for token, values in runs if token != e.eos_token_id]
    assert len(of_tokens) == len(segment.token_ids) > 3
    assert segment.confidence == pytest.approx(exp(np.mean(of_tokens)), rel=1e-4)
    assert segment.no_speech_prob == pytest.approx(np.sort(encoded.blank)[:3].mean())


def test_of_what_is_not_edited_it_is_the_encoders(demo: Model) -> None:
    edited = demo.transcribe(DEMO_SAMPLES[0]).segments[0]
    (heard,) = demo.transcribe(DEMO_SAMPLES[0], editor="never", word_times=True).segments
    assert edited.confidence != heard.confidence
    assert heard.confidence is not None and heard.words is not None
    assert min(word.probability for word in heard.words) < heard.confidence < 1


def test_silence(demo: Model) -> None:
    (segment,) = demo.transcribe(np.zeros(SAMPLE_RATE, np.float32)).segments
    assert (segment.confidence, segment.no_speech_prob) == (None, 1.0)
    values = segment.to_dict()
    assert (values["confidence"], values["no_speech_prob"]) == (None, 1.0)


SEGMENT = Segment(
    2, 1.0, 6.5, " so it is", "so", token_ids=(4, 5), words=(Word("so", 1.0, 2.0, 0.9),),
    remarks=("from 1.0 to 6.5 s it is so",), confidence=0.4, no_speech_prob=0.2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("sure", "silent", "least", "stays"),
    [
        (0.4, 0.6, None, False),
        (0.5, 0.6, None, True),  # one of both is not enough
        (0.4, 0.5, None, True),
        (0.4, 0.2, None, True),
        (0.4, 0.9, 0.0, True),
        (0.7, 0.98, None, True),
        (0.7, 0.99, None, False),
        (0.8, 0.99, None, True),
        (0.4, 0.2, 0.5, False),
        (0.4, 0.6, 0.1, False),
        (0.5, 0.9, 0.5, True),
        (None, 1.0, 1.0, True),
    ],
)
def test_what_is_left_out(
    sure: float | None, silent: float, least: float | None, stays: bool
) -> None:
    segment = replace(SEGMENT, confidence=sure, no_speech_prob=silent)
    found = without_doubtful(segment, least)
    if stays:
        assert found is segment
        return
    assert (found.text, found.token_ids, found.words, found.turns) == ("", (), (), None)
    assert (found.start, found.end, found.hypothesis) == (1.0, 6.5, "so")
    assert (found.confidence, found.no_speech_prob) == (sure, silent)
    assert found.remarks[:1] == SEGMENT.remarks
    assert found.remarks[1].startswith("from 1.0 to 6.5 s 'so it is' is left out: ")


@pytest.mark.parametrize(
    ("sure", "heard", "least", "stays"),
    [
        (0.89, 0.2, None, False),
        (0.9, 0.2, None, True),
        (0.7, 0.25, None, True),
        (0.7, None, None, True),
        (0.7, 0.0, 0.0, True),
        (0.7, 0.0, 0.5, False),
        (0.7, 0.4, 0.5, True),
    ],
)
def test_what_is_made_up_is_left_out(
    sure: float, heard: float | None, least: float | None, stays: bool
) -> None:
    segment = replace(SEGMENT, confidence=sure, heard=heard)
    found = without_doubtful(segment, least)
    assert (found is segment) == stays
    if not stays:
        assert found.text == "" and "the encoder hears only 'so'" in found.remarks[-1]


def test_what_was_not_asked_for_stays_unasked() -> None:
    spoken = replace(SEGMENT, words=None, turns=(Turn("Speaker 1", "so it is"),))
    found = without_doubtful(spoken, 1.0)
    assert (found.words, found.turns) == (None, ())


def test_a_hum_is_no_speech(demo: Model, hum: np.ndarray) -> None:
    (segment,) = demo.transcribe(hum, min_confidence=0).segments
    assert segment.text and segment.remarks == ()
    assert segment.no_speech_prob is not None and segment.no_speech_prob > 0.9
    with pytest.warns(granite_gguf.AudioWarning, match=r"from 0\.0 to 5\.0 s .* is left out"):
        found = demo.transcribe(hum)
    assert (found.text, found.duration, found.token_ids) == ("", SECONDS, ())
    assert found.segments[0].confidence == segment.confidence


def test_speech_beside_a_hum_stays(demo: Model, hum: np.ndarray) -> None:
    speech = soundfile.read(DEMO_SAMPLES[0], dtype="float32")[0]
    alone = demo.transcribe(speech)
    assert alone.segments[0].remarks == ()
    with pytest.warns(granite_gguf.AudioWarning, match="is left out"):
        both = demo.transcribe(np.concatenate([speech, hum]), chunk_seconds=5)
    assert [bool(segment.text) for segment in both.segments] == [True, False]
    assert both.segments[0].remarks == ()
    assert both.text.split()[-4:] == alone.text.split()[-4:]


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(demo: Model, least: float) -> None:
    with pytest.raises(InputError, match="expected 0 to 1"):
        demo.transcribe(DEMO_SAMPLES[0], min_confidence=least)


def test_the_command(tmp_path: Path, hum: np.ndarray) -> None:
    soundfile.write(tmp_path / "hum.wav", hum, SAMPLE_RATE, subtype="FLOAT")
    found = run("transcribe", tmp_path / "hum.wav", DEMO_SAMPLES[0], "--json")
    silent, spoken = [json.loads(line) for line in found.stdout.splitlines()]
    assert silent["text"] == "" and "--min-confidence 0 keeps it" in found.stderr
    assert "is left out" in silent["segments"][0]["remarks"][0]
    (segment,) = spoken["segments"]
    assert 0.9 < segment["confidence"] < 1 and 0 < segment["no_speech_prob"] < 0.01
    kept = run("transcribe", tmp_path / "hum.wav", "--min-confidence", "0")
    assert kept.stdout.strip() and "left out" not in kept.stderr
