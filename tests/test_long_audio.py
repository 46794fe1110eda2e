"""Recordings in several passes, word times and streams, through the Python API."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from granite_gguf import AudioError, InputError, Model, Segment
from granite_gguf.architectures import open_model_file
from granite_gguf.nar.decoding import edited_tokens, insert_slots
from granite_gguf.nar.transcribe import longest_pass
from tests.signals import synthetic_audio

RATE = 16_000
LAYOUTS = ("nle", "granite_speech_nar", "native")


@pytest.fixture(scope="module")
def limited(f32_files: dict[str, Path]) -> Iterator[Model]:
    """A model of only 200 positions: a pass takes at most 19.3 s."""
    file = open_model_file(f32_files["granite_speech_nar"])
    editor = replace(file.hparams.editor, max_positions=200)
    with Model(replace(file, hparams=replace(file.hparams, editor=editor))) as m:
        yield m


def with_pauses(seconds: int) -> np.ndarray:
    samples = synthetic_audio(seconds * RATE, seed=11)
    for at in range(2, seconds, 3):
        samples[at * RATE : at * RATE + RATE // 3] = 0
    return samples


@pytest.mark.slow
def test_one_pass_is_the_stages_one_after_the_other(models: dict[str, Model]) -> None:
    samples = synthetic_audio(70 * RATE, seed=4)  # longer than what the file tells
    for model in models.values():
        assert len(list(model.transcribe_stream(samples))) == 3
        (segment,) = model.transcribe_stream(samples, chunk_seconds=80)
        encoded = model.run_encoder(model.compute_mel(samples))
        slots = insert_slots(
            model.hparams.editor, model.run_hypothesis(encoded.final, encoded.blank)
        )
        ids = model.run_editor(model.run_projector(encoded.captured), slots).ids
        assert segment.token_ids == tuple(edited_tokens(model.hparams.editor, ids))


def test_the_limit_is_that_of_the_positions(models: dict[str, Model]) -> None:
    for layout in LAYOUTS:
        h = models[layout].hparams
        longest = longest_pass(h, h.editor.max_positions)
        assert 408 <= longest / RATE < 410
        frames = [len(models[layout].compute_mel(np.zeros(n, np.float32))) // 5 for n in
                  (longest, longest + 1)]  # fmt: skip
        assert [count + h.editor.min_edit_length for count in frames] == [4096, 4097]


def test_longer_audio_is_cut_and_nothing_is_lost(limited: Model) -> None:
    samples = with_pauses(65)
    segments = list(limited.transcribe_stream(samples))
    assert len(segments) > 3
    assert [s.index for s in segments] == list(range(len(segments)))
    assert segments[0].start == 0 and segments[-1].end == 65.0
    for segment, following in pairwise(segments):
        assert segment.end == following.start
        assert (segment.end - 2) % 3 < 1 / 3  # in a pause
    for segment in segments:
        part = samples[round(segment.start * RATE) : round(segment.end * RATE)]
        assert limited.transcribe(part).text == segment.text
    whole = limited.transcribe(samples)
    assert whole.segments == tuple(
        replace(s, timings=w.timings) for s, w in zip(segments, whole.segments, strict=True)
    )
    assert whole.text.split() == " ".join(s.text for s in segments).split()


def test_speech_too_dense_for_a_pass_is_cut_again(
    limited: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds fit by their length; with 100 tokens for them, only shorter pieces do."""
    dense = lambda ids: ids.each(lambda part: np.arange(len(part) * 4 // 5) % 50 + 100)  # noqa: E731
    monkeypatch.setattr(limited.stages, "read_hypothesis", dense)
    segments = list(limited.transcribe_stream(with_pauses(10), chunk_seconds=15))
    assert len(segments) >= 2
    assert segments[-1].end == 10.0 and all(s.hypothesis for s in segments)
    endless = lambda ids: ids.each(lambda _: np.full(200, 100))  # noqa: E731
    monkeypatch.setattr(limited.stages, "read_hypothesis", endless)
    with pytest.raises(AudioError, match="200 positions"):
        limited.transcribe(with_pauses(3))


def test_the_longest_pass_is_a_property_of_the_file(f32_files: dict[str, Path]) -> None:
    """Half a minute where the checkpoint does not tell, as none that is published does."""
    file = open_model_file(f32_files["nle"])
    assert file.hparams.front_end.max_pass_seconds == 30
    front_end = replace(file.hparams.front_end, max_pass_seconds=8.0)
    samples = with_pauses(25)
    with Model(replace(file, hparams=replace(file.hparams, front_end=front_end))) as model:
        lengths = [s.end - s.start for s in model.transcribe_stream(samples)]
        assert len(lengths) >= 4 and max(lengths) <= 8
        assert len(list(model.transcribe_stream(samples[: 8 * RATE]))) == 1
        assert len(list(model.transcribe_stream(samples, chunk_seconds=25))) == 1


@pytest.mark.parametrize("seconds", [4.9, 0, -1, 500, float("nan")])
def test_lengths_of_pieces_have_limits(models: dict[str, Model], seconds: float) -> None:
    with pytest.raises(InputError, match=r"expected 5 to 408 s"):
        models["nle"].transcribe(synthetic_audio(100, seed=1), chunk_seconds=seconds)


@pytest.mark.slow
def test_the_first_segment_does_not_wait_for_the_rest(
    models: dict[str, Model], tmp_path: Path
) -> None:
    """A quarter of an hour of audio in a file that breaks off behind the middle."""
    path = tmp_path / "long.flac"
    soundfile.write(path, np.tile(with_pauses(30), 30), RATE)
    data = path.read_bytes()
    stream = models["nle"].transcribe_stream(io.BytesIO(data[: len(data) * 2 // 3]))
    first = next(stream)
    assert isinstance(first, Segment) and 15 <= first.end <= 30
    with pytest.raises(AudioError, match="damaged or truncated"):
        list(stream)


def test_files_streams_and_arrays_agree(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["granite_speech_nar"]
    stereo = np.stack([with_pauses(12), synthetic_audio(12 * RATE, seed=8)], axis=1)
    path = tmp_path / "a.wav"
    soundfile.write(path, stereo, 22_050, subtype="FLOAT")
    with path.open("rb") as file:
        texts = {
            model.transcribe(path).text,
            model.transcribe(file).text,
            model.transcribe(io.BytesIO(path.read_bytes())).text,
            model.transcribe(stereo, sample_rate=22_050).text,
        }
    assert len(texts) == 1
    left = model.transcribe(stereo[:, 0], sample_rate=22_050).text
    assert model.transcribe(path, channel=1).text == left
    assert model.transcribe(path, channel=2).text != left
    with pytest.raises(AudioError, match=r"a\.wav: has 2 channels, and channel 3"):
        model.transcribe(path, channel=3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_word_times(models: dict[str, Model], layout: str) -> None:
    model = models[layout]
    samples = synthetic_audio(20 * RATE, seed=6)
    plain = model.transcribe(samples, chunk_seconds=6)
    timed = model.transcribe(samples, chunk_seconds=6, word_times=True)
    assert plain.text == timed.text and plain.words == ()
    assert "words" in timed.timings and "words" not in plain.timings
    assert " ".join(word.text for word in timed.words).split() == timed.text.split()
    for segment in timed.segments:
        for word in segment.words or ():
            assert segment.start <= word.start <= word.end <= segment.end + 0.02
            assert 0 < word.probability <= 1
        starts = [word.start for word in segment.words or ()]
        assert starts == sorted(starts)


def test_probabilities_are_those_of_the_editor(models: dict[str, Model]) -> None:
    """Against a softmax of all logits, token by token, in float64."""
    for layout, scale in (("nle", 1.0), ("granite_speech_nar", 8.0)):
        model = models[layout]
        samples = synthetic_audio(8 * RATE, seed=6)
        encoded = model.run_encoder(model.compute_mel(samples))
        slots = insert_slots(
            model.hparams.editor, model.run_hypothesis(encoded.final, encoded.blank)
        )
        edited = model.run_editor(
            model.run_projector(encoded.captured), slots, frozenset({"editing_logits"})
        )
        logits = edited.taps["editing_logits"].astype(np.float64) / scale
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        expected, row = [], 0
        eos = model.hparams.editor.eos_token_id
        while row < len(edited.ids):
            end = row
            while end < len(edited.ids) and edited.ids[end] == edited.ids[row]:
                end += 1
            if edited.ids[row] != eos:
                expected.append(max(odds[k, edited.ids[row]] for k in range(row, end)))
            row = end
        words = model.transcribe(samples, word_times=True).words
        lowest = min(word.probability for word in words)
        assert lowest == pytest.approx(min(expected), rel=1e-4)
        assert all(any(w.probability == pytest.approx(p, rel=1e-4) for p in expected)
                   for w in words)  # fmt: skip


def test_results_are_frozen(models: dict[str, Model]) -> None:
    transcript = models["nle"].transcribe(synthetic_audio(RATE, seed=1), word_times=True)
    for thing in (transcript, transcript.segments[0], *transcript.words[:1]):
        with pytest.raises(FrozenInstanceError):
            thing.start = 1.0  # type: ignore[misc,union-attr]
        assert thing.to_dict()
