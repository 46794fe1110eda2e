"""Many recordings: the same transcripts as one by one, in order, whatever fails among them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import AudioError, InputError, Model, OutOfMemoryError, Segment, Transcript
from granite_gguf.arrays import Rows
from granite_gguf.demo import DEMO_MODEL
from granite_gguf.nar.decoding import insert_slots
from granite_gguf.nar.stages import Stages
from granite_gguf.nar.transcribe import one_pass
from granite_gguf.passes import Options, Piece
from granite_gguf.transcription.scheduler import SHORT_SECONDS
from tests.signals import SAMPLE_RATE, synthetic_audio

pytestmark = pytest.mark.alone  # several threads, each on a core
LENGTHS = (0.3, 2.0, 0.001, 3.1, 0.5, 1.0, 2.5, 0.2, 4.0, 1.7)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with granite_gguf.load(DEMO_MODEL, threads=2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [synthetic_audio(int(s * SAMPLE_RATE), seed=k) for k, s in enumerate(LENGTHS)]


def facts(transcript: object) -> tuple[object, ...]:
    """What must not depend on what runs beside it."""
    assert isinstance(transcript, Transcript)
    return tuple((s.start, s.end, s.token_ids, s.hypothesis, s.words) for s in transcript.segments)


def test_side_by_side_is_the_same_as_one_by_one(model: Model, clips: list[np.ndarray]) -> None:
    alone = [model.transcribe(clip, word_times=True, min_confidence=0) for clip in clips]
    assert any(transcript.words for transcript in alone)
    together = list(model.transcribe_many(clips, word_times=True, min_confidence=0))
    assert [facts(t) for t in together] == [facts(t) for t in alone]


def test_short_ones_run_at_the_same_time(model: Model, clips: list[np.ndarray]) -> None:
    taken = []

    def sources() -> Iterator[np.ndarray]:
        for clip in clips * 4:
            taken.append(clip)
            yield clip

    results = model.transcribe_many(sources())
    next(results)
    assert len(taken) > 2  # what comes next was begun before the first was finished
    assert len(taken) < len(clips) * 4  # but not everything is taken at once
    results.close()
    assert facts(model.transcribe(clips[0]))  # nothing is left in disorder
    assert [lane.stages.threads for lane in model._lanes] == [2, 1, 1]


def test_several_go_through_one_pass(
    clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its own attention, convolution, windows, positions and words."""
    sizes = []
    with granite_gguf.load(DEMO_MODEL, threads=1) as model:
        alone = [model.transcribe(clip, word_times=True, min_confidence=0) for clip in clips]
        pieces = [Piece(0, clip) for clip in clips]
        encode = model.run_encoder
        monkeypatch.setattr(
            model.stages,
            "run_encoder",
            lambda m, *taps: (sizes.append(len(m)), encode(m, *taps))[1],
        )
        together = one_pass(model.stages, pieces, Options(word_times=True))
    assert sizes == [len(clips) - 1]  # one is shorter than a frame
    for transcript, segment in zip(alone, together, strict=True):
        assert segment is not None
        (expected,) = transcript.segments
        assert (segment.token_ids, segment.hypothesis) == (expected.token_ids, expected.hypothesis)
        assert segment.end == expected.end
        assert segment.words is not None and expected.words is not None
        for word, other in zip(segment.words, expected.words, strict=True):
            assert (word.text, word.start, word.end) == (other.text, other.start, other.end)
            assert word.probability == pytest.approx(other.probability, rel=1e-3)


def test_the_stages_keep_recordings_apart(models: dict[str, Model]) -> None:
    """Also where a recording has several blocks of attention, and in all three layouts."""
    lengths = (4.7, 0.5, 9.0)  # one and a part, a part, and two and a part of 4 s
    clips = [synthetic_audio(int(s * SAMPLE_RATE), seed=k) for k, s in enumerate(lengths)]
    for model in models.values():
        mels = [model.compute_mel(clip) for clip in clips]
        encoded = model.run_encoder(Rows.of(mels))
        tokens = model.run_hypothesis(encoded.final, encoded.blank)
        audio = model.run_projector(encoded.captured)
        editor = model.hparams.editor
        texts = tokens.each(lambda ids, editor=editor: insert_slots(editor, ids))
        taps = frozenset({"editing_logits"})
        edited = model.run_editor(audio, texts, taps)
        for n, mel in enumerate(mels):
            one = model.run_encoder(mel)
            for name in ("captured", "final", "blank"):
                np.testing.assert_allclose(
                    getattr(encoded, name)[n], getattr(one, name), rtol=1e-4, atol=1e-5
                )
            np.testing.assert_array_equal(model.run_hypothesis(one.final, one.blank), tokens[n])
            np.testing.assert_allclose(
                audio[n], model.run_projector(one.captured), rtol=1e-3, atol=1e-4
            )
            alone = model.run_editor(audio[n], texts[n], taps)
            np.testing.assert_array_equal(edited.ids[n], alone.ids)
            np.testing.assert_allclose(
                edited.taps["editing_logits"][n], alone.taps["editing_logits"], rtol=1e-3, atol=1e-3
            )


def test_where_one_pass_is_refused_each_goes_alone(
    model: Model, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [facts(model.transcribe(clip, min_confidence=0)) for clip in clips]
    encode = Stages.run_encoder

    def refuse(self: Stages, mel: Rows, *rest: object) -> object:
        if len(mel) > 1:
            raise OutOfMemoryError("too much")
        return encode(self, mel, *rest)

    monkeypatch.setattr(Stages, "run_encoder", refuse)
    found = model.transcribe_many(clips, min_confidence=0)
    assert [facts(t) for t in found] == expected


def test_failures_stay_in_their_place(
    model: Model, clips: list[np.ndarray], tmp_path: Path
) -> None:
    good, bad, missing = tmp_path / "good.wav", tmp_path / "bad.wav", tmp_path / "missing.wav"
    soundfile.write(good, clips[3], SAMPLE_RATE, subtype="FLOAT")
    bad.write_bytes(b"RIFF nothing of the kind")
    nan = np.full(4000, np.nan, np.float32)
    found = list(model.transcribe_many([good, bad, clips[0], missing, nan, str(good)]))
    assert [isinstance(result, AudioError) for result in found] == [0, 1, 0, 1, 1, 0]
    assert facts(found[0]) == facts(found[5]) == facts(model.transcribe(clips[3]))
    assert "bad.wav" in str(found[1]) and "missing.wav" in str(found[3])


def test_long_ones_yield_segments_on_the_way(model: Model, clips: list[np.ndarray]) -> None:
    long = np.tile(clips[8], 8)
    assert len(long) > SHORT_SECONDS * SAMPLE_RATE
    events = model.transcribe_events([clips[1], long, clips[0]], Options(chunk_seconds=10))
    kinds = [(event.index, type(event.result)) for event in events]
    assert kinds[:2] == [(0, Segment), (0, Transcript)]
    assert kinds[-2:] == [(2, Segment), (2, Transcript)]
    assert kinds[2:-2] == [(1, Segment)] * (len(kinds) - 5) + [(1, Transcript)]
    assert len(kinds) > 8


def test_arrays_of_another_rate(model: Model, clips: list[np.ndarray]) -> None:
    (result,) = model.transcribe_many([clips[1]], sample_rate=8000)
    assert facts(result) == facts(model.transcribe(clips[1], sample_rate=8000))


def test_closing_in_the_middle(clips: list[np.ndarray]) -> None:
    model = granite_gguf.load(DEMO_MODEL, threads=2)
    results = model.transcribe_many(clips * 4, min_confidence=0)
    next(results)
    model.close()
    with pytest.raises(InputError, match="closed"):
        list(results)
    with pytest.raises(InputError, match="closed"):
        list(model.transcribe_many(clips))


def test_options_are_checked_first(model: Model) -> None:
    with pytest.raises(InputError, match="pieces of 1 s"):
        list(model.transcribe_many([], chunk_seconds=1))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU OpenMP")
@pytest.mark.parametrize("given, found", [(None, "'1000'"), ("77", "'77'")])
def test_waiting_threads_do_not_spin_long(given: str | None, found: str) -> None:
    script = "import granite_gguf, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    env = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    env |= {"OMP_DISPLAY_ENV": "verbose"} | ({"GOMP_SPINCOUNT": given} if given else {})
    run = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    if "GOMP_" not in run.stderr:
        pytest.skip("this ggml was built without GNU OpenMP")
    assert f"GOMP_SPINCOUNT = {found}" in run.stderr
    assert run.stdout.strip() == str(given)  # what the process and its children see is unchanged
