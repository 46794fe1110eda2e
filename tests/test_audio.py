"""Reading, mixing and resampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from granite_gguf import AudioError
from granite_gguf.audio import prepare_audio, read_audio


def tone(rate: int, seconds: float = 1.0, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)).astype(
        np.float32
    )


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_any_rate_becomes_the_same_tone(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate), rate, subtype="FLOAT")
    samples = read_audio(path, 16000)
    assert samples.dtype == np.float32 and abs(len(samples) - 16000) <= 1
    # away from the ends, where a resampling filter rings
    np.testing.assert_allclose(samples[800:15000], tone(16000)[800:15000], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {"subtype": "PCM_16"}),
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "PCM_U8"}),
        ("a.wav", {"subtype": "DOUBLE"}),
        ("a.flac", {}),
        ("a.aiff", {}),
        ("a.ogg", {"subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {}),
    ],
)
def test_formats(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    path = tmp_path / name
    soundfile.write(path, tone(16000), 16000, **options)
    samples = read_audio(path, 16000)
    assert abs(len(samples) - 16000) < 2400  # lossy codecs pad
    assert 0.25 < np.sqrt((samples**2).mean()) < 0.4  # a sine of 0.5 has 0.354


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left = tone(16000)
    soundfile.write(path, np.stack([left, -left / 2], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path, 16000), left / 4, atol=1e-6)


def test_integers_span_their_range() -> None:
    samples = prepare_audio(np.array([-32768, 0, 16384], np.int16), 16000, 16000)
    np.testing.assert_array_equal(samples, [-1.0, 0.0, 0.5])


@pytest.mark.parametrize(
    ("data", "rate", "says"),
    [
        (np.zeros((2, 2, 2), np.float32), 16000, "shape"),
        (np.zeros(10, np.uint8), 16000, "uint8"),
        (np.zeros(10, np.float32), 0, "0 Hz"),
        (np.array([0.0, np.nan], np.float32), 16000, "finite"),
        (np.array([0.0, np.inf]), 16000, "finite"),
    ],
)
def test_unusable_arrays(data: np.ndarray, rate: float, says: str) -> None:
    with pytest.raises(AudioError, match=says):
        prepare_audio(data, rate, 16000)


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"missing\.wav: no such file"):
        read_audio(tmp_path / "missing.wav", 16000)
    with pytest.raises(AudioError, match="is a directory"):
        read_audio(tmp_path, 16000)
    for content in (b"", b"RIFF", b"no audio at all"):
        path = tmp_path / "bad.wav"
        path.write_bytes(content)
        with pytest.raises(AudioError, match=r"bad\.wav: cannot be read as audio"):
            read_audio(path, 16000)


def test_empty_audio_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0, np.float32), 44100)
    assert len(read_audio(path, 16000)) == 0
