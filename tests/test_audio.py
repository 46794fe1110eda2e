"""Reading, mixing and resampling."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from granite_gguf import AudioError
from granite_gguf.sound.conversion import prepare_audio
from granite_gguf.sound.reading import Selection, open_audio, read_audio
from tests.signals import synthetic_audio


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


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_streams_are_bit_identical_to_the_whole(tmp_path: Path, rate: int) -> None:
    """Several blocks, so that every state is carried over a border."""
    path = tmp_path / "long.wav"
    data = np.stack([synthetic_audio(rate * 9, seed=s) for s in (1, 2)], axis=1)
    soundfile.write(path, data, rate, subtype="FLOAT")
    with open_audio(path, 16000) as stream:
        assert stream.duration == 9.0
        blocks = list(stream.blocks)
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), prepare_audio(data, rate, 16000))
    np.testing.assert_array_equal(
        read_audio(path, 16000, Selection(channel=2)), prepare_audio(data[:, 1], rate, 16000)
    )


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.mp3"])
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    soundfile.write(path, tone(16000, seconds=5), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=rf"{name}: .*truncated"):
        read_audio(path, 16000)


def test_a_wav_file_of_unknown_length_is_whole(tmp_path: Path) -> None:
    """What programs write into a pipe: sizes that mean until the end."""
    path = tmp_path / "piped.wav"
    soundfile.write(path, tone(16000), 16000, subtype="FLOAT")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read_audio(path, 16000)) == 16000


def test_pipes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(16000), 16000)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb") as end:
        end.write(path.read_bytes())
        end.close()
        np.testing.assert_array_equal(read_audio(pipe, 16000), read_audio(path, 16000))


def test_damage_behind_the_first_block_is_found(tmp_path: Path) -> None:
    path = tmp_path / "late.wav"
    samples = tone(16000, seconds=20)
    samples[250_000] = np.nan
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"late\.wav: samples are not all finite"):
        read_audio(path, 16000)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "aac"), ("m4a", "aac"), ("webm", "libopus"), ("mkv", "libopus"), ("mov", "pcm_s16le")],
)
def test_containers(tmp_path: Path, container: str, codec: str) -> None:
    path = tmp_path / f"a.{container}"
    encode(path, tone(48000, seconds=3), 48000, codec)
    samples = read_audio(path, 16000)
    assert abs(len(samples) - 48000) < 2400  # lossy codecs pad
    assert 0.3 < np.sqrt((samples[8000:40000] ** 2).mean()) < 0.4
    peak = np.abs(np.fft.rfft(samples[8000:24000])).argmax()
    assert peak == 440


def test_containers_without_audio_or_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode(path, tone(48000, seconds=3), 48000, "aac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"a\.mp4: "):
        read_audio(path, 16000)
    silent = tmp_path / "film.mp4"
    with av.open(silent, "w") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        for packet in video.encode(av.VideoFrame(64, 64, "yuv420p")):
            output.mux(packet)
        for packet in video.encode():
            output.mux(packet)
    with pytest.raises(AudioError, match=r"film\.mp4: has no audio track"):
        read_audio(silent, 16000)


def test_without_pyav_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    encode(path, tone(48000), 48000, "aac")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"a\.mp4: .*pip install 'granite-gguf\[av\]'"):
        read_audio(path, 16000)


def encode(path: Path, samples: np.ndarray, rate: int, codec: str) -> None:
    """Write a stereo file with FFmpeg's libraries."""
    with av.open(path, "w") as output:
        stream = output.add_stream(codec, rate=rate, layout="stereo")
        data = np.stack([samples, samples])
        frame = av.AudioFrame.from_ndarray(data.astype(np.float32), "fltp", "stereo")
        frame.rate = rate
        for packet in [*stream.encode(frame), *stream.encode()]:
            output.mux(packet)
