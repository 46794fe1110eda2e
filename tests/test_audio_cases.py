"""Every odd kind of recording, from its file to its answer: the table in docs/reliability.md."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

import granite_gguf
from benchmarks.hours import PAUSE, noise, speech, watch, write
from granite_gguf import AudioError, Model
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.sound.reading import read_audio

RATE = 16_000
TEXT = DEMO_SAMPLES[0].with_suffix(".txt").read_text().strip()


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with granite_gguf.load(DEMO_MODEL, threads=1, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def said() -> np.ndarray:
    return soundfile.read(DEMO_SAMPLES[0], dtype="float32")[0]


def save(path: Path, samples: np.ndarray, subtype: str | None = "PCM_16", rate: int = RATE) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


# Nothing that could be text


def test_an_empty_file_is_an_error(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.touch()
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read as audio: it is empty"):
        model.transcribe(path)


@pytest.mark.parametrize("count", [0, 1, 159, 319])
def test_less_than_a_frame_has_no_text(
    model: Model, said: np.ndarray, tmp_path: Path, count: int
) -> None:
    transcript = model.transcribe(save(tmp_path / "a.wav", said[5000 : 5000 + count]))
    assert (transcript.text, transcript.words) == ("", ())
    assert transcript.duration == count / RATE


@pytest.mark.parametrize("level", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "FLOAT"])
def test_silence_and_direct_current_have_no_text(
    model: Model, tmp_path: Path, level: float, subtype: str
) -> None:
    path = save(tmp_path / "a.wav", np.full(2 * RATE, level, np.float32), subtype)
    transcript = model.transcribe(path, word_times=True)
    assert (transcript.text, transcript.hypothesis, transcript.words) == ("", "", ())
    assert transcript.duration == 2.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error(
    model: Model, said: np.ndarray, tmp_path: Path, value: float
) -> None:
    spoilt = said.copy()
    spoilt[-1] = value
    path = save(tmp_path / "a.wav", spoilt, "FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav: samples are not all finite"):
        model.transcribe(path)
    with pytest.raises(AudioError, match="samples are not all finite"):
        model.transcribe(spoilt)


def test_absurd_samples_are_an_error(model: Model, said: np.ndarray, tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", said * np.float32(1e30), "FLOAT")
    with pytest.raises(AudioError, match=r"expected numbers in \[-1, 1\]"):
        model.transcribe(path)


# Text as from the plain file


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wide_samples_say_the_same(
    model: Model, said: np.ndarray, tmp_path: Path, subtype: str
) -> None:
    assert model.transcribe(save(tmp_path / "a.wav", said, subtype)).text.strip() == TEXT


@pytest.mark.parametrize("rate", [8_000, 192_000])
def test_extreme_rates_are_resampled(
    model: Model, said: np.ndarray, tmp_path: Path, rate: int
) -> None:
    path = save(tmp_path / "a.wav", soxr.resample(said, RATE, rate), "FLOAT", rate)
    samples = model.load_audio(path)
    assert abs(len(samples) - len(said)) <= 2
    reached = min(rate, RATE) / 2
    spectra = [np.abs(np.fft.rfft(s[: len(said) - 8])) for s in (samples, said)]
    below = int(len(spectra[0]) * 0.9 * reached / (RATE / 2))
    error = np.linalg.norm(spectra[0][:below] - spectra[1][:below])
    assert error < 0.02 * np.linalg.norm(spectra[1][:below])
    transcript = model.transcribe(path)
    assert transcript.text.strip() if rate < RATE else transcript.text.strip() == TEXT


def test_sixteen_channels_are_averaged(model: Model, said: np.ndarray, tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", np.stack([said] * 16, axis=1))
    assert model.transcribe(path).text.strip() == TEXT
    one = save(tmp_path / "b.wav", np.stack([said * 0] * 15 + [said], axis=1))
    np.testing.assert_allclose(model.load_audio(one) * 16, said, atol=16 / 32768)
    assert model.transcribe(one, channel=16).text.strip() == TEXT
    assert model.transcribe(one, channel=1).text == ""


@pytest.mark.parametrize("name", ["a.mp3", "a.mp4", "a.flac", "a", "a.txt"])
def test_contents_count_and_not_the_name(
    model: Model, said: np.ndarray, tmp_path: Path, name: str
) -> None:
    wav = save(tmp_path / "right.wav", said)
    assert model.transcribe(wav.rename(tmp_path / name)).text.strip() == TEXT


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.m4a"])
def test_text_under_the_name_of_audio_is_an_error(model: Model, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("this is no audio\n" * 500)
    with pytest.raises(AudioError, match=rf"{name}: cannot be read as audio"):
        model.transcribe(path)


# Taken as it is


@pytest.mark.parametrize(
    ("gain", "offset", "subtype"),
    [(8.0, 0.0, "PCM_16"), (100.0, 0.0, "FLOAT"), (0.4, 0.5, "FLOAT"), (1.0, 0.0, "PCM_U8")],
    ids=["clipped", "beyond 1", "with an offset", "8 bits"],
)
def test_poor_recordings_are_transcribed(
    model: Model, said: np.ndarray, tmp_path: Path, gain: float, offset: float, subtype: str
) -> None:
    path = save(tmp_path / "a.wav", said * np.float32(gain) + np.float32(offset), subtype)
    transcript = model.transcribe(path)
    assert transcript.text.strip() and transcript.duration == len(said) / RATE


# Cut off


@pytest.mark.parametrize("name", ["a.mp3", "a.flac"])
@pytest.mark.parametrize("part", [0.03, 0.3, 0.6, 0.95])
def test_truncated_files_are_errors_and_the_others_go_on(
    said: np.ndarray, tmp_path: Path, name: str, part: float
) -> None:
    path = save(tmp_path / name, np.tile(said, 5), None)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(AudioError, match=rf"{name}: .*(truncated|cannot be read)"):
        read_audio(path, RATE)


def test_a_truncated_file_among_others(said: np.ndarray, tmp_path: Path) -> None:
    path = save(tmp_path / "a.flac", said, None)
    path.write_bytes(path.read_bytes()[:9000])
    command = [sys.executable, "-m", "granite_gguf", "transcribe", path, DEMO_SAMPLES[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and TEXT in done.stdout
    assert f"error: {path}: " in done.stderr and f"failed: {path}" in done.stderr


# Long


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "speech"])
def test_long_recordings_lose_nothing_and_hold_no_memory(
    model: Model, tmp_path: Path, kind: str
) -> None:
    """Four minutes; benchmarks/hours.py has an hour of noise and five of speech."""
    path = tmp_path / "long.flac"
    write(path, {"noise": noise, "speech": speech}[kind](), 240)
    seen = watch(model, path, 10)
    assert seen.seconds == 240 and seen.gaps == 0 and len(seen.texts) >= 24
    assert max(seen.memory[12:]) - min(seen.memory[6:12]) < 3000  # kB; 4 minutes are 15,000
    if kind == "speech":  # the model knows single sentences best
        once = sum(len(soundfile.read(sample)[0]) + PAUSE for sample in DEMO_SAMPLES)
        said_times = 240 * RATE / once
        for word in ("apples", "midnight", "library"):
            found = sum(text.count(word) for text in seen.texts)
            assert abs(found - said_times) < 0.15 * said_times + 1
