"""Odd recordings that other tools' users report: each is read whole, or refused in a sentence."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from granite_gguf import AudioError, AudioWarning, RawFormat
from granite_gguf.cli.inputs import find_recordings
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.sound.reading import Selection, read_audio
from tests.recordings import RATE, encoded, muxed, piped, place

SAID = soundfile.read(DEMO_SAMPLES[0], dtype="float32")[0]
PCM = (SAID * 32767).astype("<i2").tobytes()
FORM = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
UNKNOWN = 0xFFFFFFFF


def riff(*chunks: tuple[bytes, bytes, int | None], size: int | None = None) -> bytes:
    """A WAV file of chunks: name, contents, and the length it states where that is another."""
    body = b"WAVE"
    for name, data, stated in chunks:
        length = len(data) if stated is None else stated
        body += name + struct.pack("<I", length) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def agreement(heard: np.ndarray, expected: np.ndarray) -> float:
    """The correlation where one fits best on the other, which is at most 75 ms away."""
    at, fit = place(heard, expected)
    return fit if abs(at) <= 1200 else 0.0


ID3 = b"ID3\x03\0\0\0\0\x07\x68" + bytes(1000)
ID3_AT_THE_END = b"TAG" + bytes(125)
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0x80000000) + bytes(8)
MP3 = encoded(SAID, "MP3")
WAV = encoded(SAID, "WAV", "PCM_16")
DATA = (b"data", PCM, None)

READ = {
    "mp3, a tag between two": (MP3 + ID3 + MP3, 2),
    "mp3, two tags behind the sound": (ID3 + MP3 + ID3 + ID3_AT_THE_END, 1),
    "mp3, an APE tag behind the sound": (MP3 + APE + ID3_AT_THE_END, 1),
    "mp3, 4 kB of zeros between two": (MP3 + bytes(4096) + MP3, 2),
    "mp3, a tag in the middle of a frame": (MP3[:-301] + ID3 + MP3, 2),
    "ogg, Vorbis and then Opus": (encoded(SAID, "OGG", "VORBIS") + encoded(SAID, "OGG", "OPUS"), 2),
    "wav behind wav": (WAV + WAV, 2),
    "wav, sizes unknown": (riff((b"fmt ", FORM, None), (b"data", PCM, UNKNOWN), size=UNKNOWN), 1),
    "wav, sizes 0": (riff((b"fmt ", FORM, None), (b"data", PCM, 0), size=0), 1),
    "wav, sizes of an empty file": (riff((b"fmt ", FORM, None), (b"data", PCM, 0), size=36), 1),
    "wav, JUNK first": (riff((b"JUNK", bytes(28), None), (b"fmt ", FORM, None), DATA), 1),
    "wav, LIST of odd size": (
        riff((b"fmt ", FORM, None), (b"LIST", b"INFOISFT\5\0\0\0Lavf5", None), DATA),
        1,
    ),
    "rf64": (encoded(SAID, "RF64", "PCM_16"), 1),
    "w64": (encoded(SAID, "W64", "PCM_16"), 1),
    "caf": (encoded(SAID, "CAF", "PCM_16"), 1),
    "au, size unknown": (
        b".snd"
        + struct.pack(">IIIII", 24, UNKNOWN, 3, RATE, 1)
        + np.frombuffer(PCM, "<i2").astype(">i2").tobytes(),
        1,
    ),
    "wav, mu-law": (encoded(SAID, "WAV", "ULAW"), 1),
    "wav, A-law": (encoded(SAID, "WAV", "ALAW"), 1),
    "wav, IMA ADPCM": (encoded(SAID, "WAV", "IMA_ADPCM"), 1),
    "wav, MS ADPCM": (encoded(SAID, "WAV", "MS_ADPCM"), 1),
    "wav, 64-bit floats": (encoded(SAID, "WAV", "DOUBLE"), 1),
    "wav, one of two channels silent": (encoded(np.stack([SAID, 0 * SAID], 1), "WAV", None), 1),
    "wav, 5.1 with sound in its fourth channel alone": (
        encoded(np.stack([0 * SAID] * 3 + [SAID] + [0 * SAID] * 2, 1), "WAV", None),
        1,
    ),
    "wav, a thousandth on direct current": (encoded(SAID / 1000 + 0.2, "WAV", "FLOAT"), 1),
    "m4a, AAC": (muxed("ipod", "aac", (0, 0, SAID), form="fltp"), 1),
    "mov, PCM": (muxed("mov", "pcm_s16le", (0, 0, SAID)), 1),
    "avi, PCM": (muxed("avi", "pcm_s16le", (0, 0, SAID)), 1),
    "mpeg-ts, MP2, whose clock begins at 1.4 s": (muxed("mpegts", "mp2", (0, 0, SAID)), 1),
}


@pytest.mark.parametrize("through", ["file", "pipe"])
@pytest.mark.parametrize("name", READ)
def test_it_is_read_whole(name: str, through: str) -> None:
    data, times = READ[name]
    if through == "file":
        heard = read_audio(io.BytesIO(data), RATE)
    else:
        with piped(data) as pipe:
            heard = read_audio(pipe, RATE)
    # Codecs fill up their last block; what a cut frame held is lost.
    assert len(heard) / (times * len(SAID)) == pytest.approx(1, abs=0.03)
    assert agreement(heard[: len(SAID)], SAID) > 0.95
    assert times == 1 or agreement(heard[-len(SAID) :], SAID) > 0.95


REFUSED = {
    "mp3 cut in a frame, and another behind it": (MP3[:-301] + MP3, "truncated"),
    "wav that states more than there is": (
        riff((b"fmt ", FORM, None), (b"data", PCM, 10 * len(PCM))),
        "truncated",
    ),
    "flac that ends behind its header": (DEMO_SAMPLES[0].read_bytes()[:42], "truncated"),
    "flac cut in half": (DEMO_SAMPLES[0].read_bytes()[:10_000], "truncated"),
    "a byte": (b"R", "cannot be read as audio"),
    "zeros": (bytes(100_000), "cannot be read as audio"),
    "a page of the web": (b"<!doctype html><html>404", "cannot be read as audio"),
}


@pytest.mark.parametrize("through", ["file", "pipe"])
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str, through: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(AudioError, match=message):
        if through == "file":
            read_audio(io.BytesIO(data), RATE)
        else:
            with piped(data) as pipe:
                read_audio(pipe, RATE)


def test_a_file_that_says_it_is_empty_is() -> None:
    """A chunk behind no samples is not taken for samples."""
    empty = riff((b"fmt ", FORM, None), (b"data", b"", None), (b"LIST", b"INFO" + bytes(400), None))
    assert len(read_audio(io.BytesIO(empty), RATE)) == 0


def test_a_gap_and_a_late_start_keep_their_times() -> None:
    silence = np.zeros(RATE, np.float32)
    heard = read_audio(
        io.BytesIO(muxed("matroska", "flac", (0, 0, SAID), (0, len(SAID) + RATE, SAID))), RATE
    )
    assert agreement(heard, np.concatenate([SAID, silence, SAID])) > 0.99
    late = read_audio(io.BytesIO(muxed("matroska", "libopus", (0, RATE, SAID))), RATE)
    assert agreement(late, np.concatenate([silence, SAID])) > 0.95


def test_an_empty_track_before_the_spoken_one() -> None:
    video = muxed("matroska", "pcm_s16le", (1, 0, SAID))
    with pytest.warns(AudioWarning, match="2 audio tracks"):
        assert len(read_audio(io.BytesIO(video), RATE)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        second = read_audio(io.BytesIO(video), RATE, take=Selection(track=2))
    assert agreement(second, SAID) > 0.99


def test_eight_channels_that_cancel_out() -> None:
    with pytest.warns(AudioWarning, match="cancel out"):
        heard = read_audio(io.BytesIO(encoded(np.stack([SAID, -SAID] * 4, 1), "WAV", None)), RATE)
    assert abs(np.corrcoef(heard, SAID)[0, 1]) > 0.99


def test_half_a_raw_sample_at_the_end() -> None:
    take = Selection(raw=RawFormat(RATE))
    heard = read_audio(io.BytesIO(PCM + b"\1"), RATE, take=take)
    assert len(heard) == len(SAID)
    with pytest.raises(AudioError, match="empty"):
        read_audio(io.BytesIO(b""), RATE, take=take)


def test_what_a_folder_holds_besides_recordings(tmp_path: Path) -> None:
    """Trash, previews, links that lead round or nowhere; capital letters; ends of lines."""
    for name in ("a.WAV", "b\nc.wav", "über.wav", ".Trashes/x.wav", "__MACOSX/._a.wav", "t.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(WAV)
    (tmp_path / "round").symlink_to(tmp_path)
    names = [Path(found.name).name for found in find_recordings([str(tmp_path)], None)]
    assert sorted(names) == ["a.WAV", "b\nc.wav", "über.wav"]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder to be looked at by a user whom permissions bind, which they do not bind root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.iterdir():
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444], ids=oct)
def test_what_may_not_be_read_is_not_missed(shared_folder: Path, mode: int) -> None:
    for name in ("open", "shut"):
        (shared_folder / name).mkdir()
        (shared_folder / name / "a.wav").write_bytes(WAV)
    (shared_folder / "shut").chmod(mode)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        found = find_recordings([str(shared_folder)], None)
        good, bad = (recording for recording in found)
        assert good.path == shared_folder / "open" / "a.wav"
        assert bad.path is not None and shared_folder / "shut" in (bad.path, bad.path.parent)
        with pytest.raises(AudioError, match=r"shut.*Permission denied"):
            read_audio(bad.path, RATE)
    finally:
        if root:
            os.seteuid(0)
