"""Recordings that tools for speech lose words of: joined, endless, silent, late, raw ones."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import AudioError, AudioWarning, Model, RawFormat
from granite_gguf.cli.inputs import find_recordings
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.sound.conversion import prepare_audio
from granite_gguf.sound.reading import Selection, duration_of, open_audio, read_audio
from tests.recordings import RATE, encoded, muxed, piped, place

DATA = Path(__file__).parent / "data"
TEXTS = [sample.with_suffix(".txt").read_text().strip() for sample in DEMO_SAMPLES]
CODECS = {
    "wav": ("WAV", None),
    "flac": ("FLAC", None),
    "mp3": ("MP3", None),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with granite_gguf.load(threads=1, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def said() -> list[np.ndarray]:
    return [soundfile.read(sample, dtype="float32")[0] for sample in DEMO_SAMPLES]


def assert_in_a_row(samples: np.ndarray, parts: list[np.ndarray]) -> None:
    """All of the parts, each where the one before ends, but for what lossy codecs add."""
    assert abs(len(samples) - sum(map(len, parts))) < 2400 * len(parts)
    before = 0
    for part in parts:
        at, fit = place(samples, part)
        assert fit > 0.9 and abs(at - before) < 2400 * len(parts), (at, fit)
        before += len(part)


# Joined end to end


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("through", ["file", "pipe"])
def test_joined_recordings_are_read_to_the_end(
    said: list[np.ndarray], codec: str, through: str, tmp_path: Path
) -> None:
    data = b"".join(encoded(samples, *CODECS[codec]) for samples in said)
    path = tmp_path / "joined"
    path.write_bytes(data)
    if through == "file":
        assert_in_a_row(read_audio(path, RATE), said)
        told = duration_of(path)
        assert told is not None
        assert abs(told - sum(map(len, said)) / RATE) < 0.5
    else:
        with piped(data) as pipe:
            assert_in_a_row(read_audio(pipe, RATE), said)


@pytest.mark.parametrize("through", ["file", "pipe"])
def test_joined_flac_in_ogg_is_read_to_the_end(said: list[np.ndarray], through: str) -> None:
    data = b"".join(muxed("ogg", "flac", (0, 0, samples)) for samples in said)
    assert data.count(b"\x7fFLAC") == 3
    if through == "file":
        assert_in_a_row(read_audio(io.BytesIO(data), RATE), said)
    else:
        with piped(data) as pipe:
            assert_in_a_row(read_audio(pipe, RATE), said)


@pytest.mark.parametrize("codec", ["mp3", "vorbis", "wav"])
def test_joined_recordings_may_differ_in_rate_and_channels(
    said: list[np.ndarray], codec: str
) -> None:
    second = np.repeat(np.stack([said[1], said[1]], axis=1), 2, axis=0)
    rates = (RATE, 2 * RATE, RATE)
    data = b"".join(
        encoded(samples, *CODECS[codec], rate=rate)
        for samples, rate in zip((said[0], second, said[2]), rates, strict=True)
    )
    assert_in_a_row(read_audio(io.BytesIO(data), RATE), said)


def test_the_words_of_joined_mp3_files_and_nothing_on_stderr() -> None:
    command = [sys.executable, "-m", "granite_gguf", "transcribe", "-q", "--chunk-seconds", "5"]
    done = subprocess.run(
        [*command, DATA / "two-joined.mp3"], capture_output=True, text=True, check=True
    )
    words = done.stdout.split()
    assert {"eleven", "apples", "meeting", "midnight", "thirty", "first", "august"} <= set(words)
    assert done.stderr == ""


def test_what_libmpg123_says_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    code = """if True:
    import ctypes, io, sys, soundfile
    from granite_gguf.sound.chatter import without_chatter
    libc = ctypes.CDLL(None)
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")
    libc.fputs.argtypes = ctypes.c_char_p, ctypes.c_void_p
    data = open(sys.argv[1], "rb").read()
    soundfile.read(io.BytesIO(data))
    with without_chatter():
        with without_chatter():
            soundfile.read(io.BytesIO(data))
        libc.fputs(b"another library\\n", stderr)
        print("Python", file=sys.stderr)
    libc.fputs(b"behind it\\n", stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, DATA / "two-joined.mp3"],
        capture_output=True,
        text=True,
        check=True,
    )
    first, *rest = done.stderr.splitlines()
    assert first.startswith("Warning: Xing stream size off")
    assert rest == ["Python", "another library", "behind it"]


# Of unknown length


@pytest.mark.parametrize("through", ["file", "pipe"])
def test_flac_of_unknown_length(model: Model, said: list[np.ndarray], through: str) -> None:
    path = DATA / "unknown-length.flac"
    if through == "file":
        transcript = model.transcribe(path)
    else:
        with piped(path.read_bytes()) as pipe:
            transcript = model.transcribe(pipe)
    assert transcript.text.strip() == TEXTS[0]
    assert transcript.duration == len(said[0]) / RATE
    assert duration_of(path) is None


# Silence


def test_silence_behind_speech_spoils_nothing(model: Model) -> None:
    path = DATA / "thirty-seconds-of-silence-after.opus"
    transcript = model.transcribe(path, word_times=True)
    assert transcript.text.strip() == TEXTS[0]
    assert abs(transcript.duration - 32.3) < 0.1
    assert model.transcribe(path, vad="off", min_confidence=0).text.strip() != TEXTS[0]


@pytest.mark.parametrize("seconds", [1.5, 12, 40])
@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_times_stay_those_of_the_recording(
    model: Model, said: list[np.ndarray], seconds: float, noise: float
) -> None:
    silence = np.zeros(int(seconds * RATE), np.float32)
    samples = np.concatenate([silence, said[1], silence])
    samples += noise * np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    found = model.transcribe(samples, word_times=True)
    plain = model.transcribe(said[1], word_times=True)
    assert found.text == plain.text and found.duration == len(samples) / RATE
    for word, same in zip(found.words, plain.words, strict=True):
        assert abs(word.start - same.start - seconds) < 0.3
        assert abs(word.end - same.end - seconds) < 0.5


def test_a_long_pause_is_not_transcribed(model: Model, said: list[np.ndarray]) -> None:
    pause = np.zeros(12 * RATE, np.float32)
    samples = np.concatenate([said[0], pause, said[1]])
    found = model.transcribe(samples, word_times=True)
    assert [segment.text.strip() for segment in found.segments] == TEXTS[:2]
    first, second = found.segments
    assert first.end == second.start and second.end == len(samples) / RATE
    assert second.words is not None
    assert second.words[0].start >= len(said[0]) / RATE + 12


# Videos


def test_sound_that_starts_late_keeps_its_times(model: Model, said: list[np.ndarray]) -> None:
    path = DATA / "audio-starts-at-3s.mkv"
    samples = read_audio(path, RATE)
    at, fit = place(samples, said[0])
    assert fit > 0.9 and abs(at / RATE - 2.936) < 0.1
    assert not samples[: int(2.8 * RATE)].any()
    starts = [
        next(word.start for word in model.transcribe(given, word_times=True).words
             if word.text == "eleven")
        for given in (path, said[0])
    ]  # fmt: skip
    assert abs(starts[0] - starts[1] - at / RATE) < 0.2


def test_tracks(said: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    path.write_bytes(
        muxed("matroska", "flac", (0, 0, said[0]), (1, 0, said[1]), languages="eng deu")
    )
    with pytest.warns(AudioWarning, match=r"two\.mkv: has 2 audio tracks .*deu.*--track N"):
        first = read_audio(path, RATE)
    assert place(first, said[0])[1] > 0.99
    second = read_audio(path, RATE, Selection(track=2))  # no warning, which would be an error
    assert place(second, said[1])[1] > 0.99
    with pytest.raises(AudioError, match=r"two\.mkv: has 2 audio tracks, and track 3 is asked"):
        read_audio(path, RATE, Selection(track=3))
    with pytest.raises(AudioError, match=r"flac: has 1 audio track, and track 2 is asked"):
        read_audio(DEMO_SAMPLES[0], RATE, Selection(track=2))


# Channels


def test_channels_that_cancel_out(model: Model) -> None:
    path = DATA / "antiphase.flac"
    with pytest.warns(AudioWarning, match=r"antiphase\.flac: its channels cancel out"):
        assert model.transcribe(path).text.strip() == TEXTS[0]
    command = [sys.executable, "-m", "granite_gguf", "transcribe", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == TEXTS[0]
    assert f"note: {path}: its channels cancel out" in done.stderr
    done = subprocess.run([*command, "-q"], capture_output=True, text=True, check=True)
    assert "cancel" not in done.stderr


def test_the_louder_of_channels_that_cancel_out(said: list[np.ndarray]) -> None:
    with pytest.warns(AudioWarning, match=r"channel 2\) is taken"):
        samples = prepare_audio(np.stack([-0.8 * said[0], said[0]], axis=1), RATE, RATE)
    np.testing.assert_array_equal(samples, said[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (said[0], 0 * said[0], 0.5 * said[0], -0.5 * said[0], np.roll(said[0], 8)):
            pair = np.stack([said[0], other], axis=1)
            mixed = prepare_audio(pair, RATE, RATE)
            np.testing.assert_array_equal(mixed, pair.mean(axis=1, dtype=np.float32))


# Hidden files


def test_hidden_files_are_taken_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / ".trash"
    hidden.mkdir()
    apple = (DATA / "._apple-double.wav").read_bytes()
    for path in (tmp_path / "a.wav", hidden / "b.wav"):
        path.write_bytes(DEMO_SAMPLES[0].read_bytes())
    (tmp_path / "._a.wav").write_bytes(apple)
    monkeypatch.chdir(tmp_path)

    def found(name: str) -> list[str]:
        return [Path(recording.name).name for recording in find_recordings([name], None)]

    assert found(str(tmp_path)) == found("*.wav") == found("**/*.wav") == ["a.wav"]
    assert found("._a.wav") == ["._a.wav"] and found(".trash") == ["b.wav"]
    with pytest.raises(AudioError, match=r"\._a\.wav: cannot be read as audio"):
        read_audio(tmp_path / "._a.wav", RATE)


# Raw samples


@pytest.mark.parametrize(
    ("form", "dtype", "scale", "zero"),
    [
        ("u8", "u1", 128, 128),
        ("s8", "i1", 128, 0),
        ("s16le", "<i2", 32768, 0),
        ("s16be", ">i2", 32768, 0),
        ("s32le", "<i4", 2**31, 0),
        ("s32be", ">i4", 2**31, 0),
        ("f32le", "<f4", 1, 0),
        ("f32be", ">f4", 1, 0),
        ("f64le", "<f8", 1, 0),
        ("f64be", ">f8", 1, 0),
    ],
)
@pytest.mark.parametrize("through", ["file", "pipe"])
def test_raw_samples(form: str, dtype: str, scale: float, zero: float, through: str) -> None:
    samples = np.array([0.0, 0.5, -1.0, 0.25, 0.75, -0.125] * 4, np.float32)
    raw = (samples * scale + zero).astype(dtype).tobytes()
    take = Selection(raw=RawFormat(8000, form, 2))
    if through == "file":
        with open_audio(io.BytesIO(raw), 8000, take) as stream:
            assert stream.duration == 12 / 8000
            (block,) = stream.blocks
    else:
        with piped(raw) as pipe:
            block = read_audio(pipe, 8000, take)
    np.testing.assert_array_equal(block, samples.reshape(-1, 2).mean(axis=1))


def test_24_bit_and_companded_raw_samples() -> None:
    def read(form: str, data: bytes) -> list[float]:
        return read_audio(io.BytesIO(data), 8000, Selection(raw=RawFormat(8000, form))).tolist()

    assert read("s24le", bytes.fromhex("000040 000080")) == [0.5, -1.0]
    assert read("s24be", bytes.fromhex("400000 800000")) == [0.5, -1.0]
    # ITU-T G.711: the codes of zero and of the largest values
    assert read("mulaw", bytes.fromhex("ff 80 00")) == [0.0, 32124 / 32768, -32124 / 32768]
    assert read("alaw", bytes.fromhex("d5 aa 2a")) == [8 / 32768, 32256 / 32768, -32256 / 32768]


def test_raw_samples_by_the_command(said: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    raw = (said[0] * 32767).astype("<i2").tobytes()
    path.write_bytes(raw)
    command = [sys.executable, "-m", "granite_gguf", "transcribe", "--raw-rate", str(RATE)]
    for source, given in ((path, None), ("-", raw)):
        done = subprocess.run([*command, source], input=given, capture_output=True, check=True)
        assert done.stdout.decode().strip() == TEXTS[0]
    for wrong, says in (
        (["--raw-format", "s17"], b"'s17' are not known, expected one of u8, s8, s16le"),
        (["--raw-channels", "0"], b"raw samples of 0 channels, expected 1 to 256"),
    ):
        done = subprocess.run([*command, path, *wrong], capture_output=True, check=False)
        assert done.returncode != 0 and says in b" ".join(done.stderr.split())
    done = subprocess.run(
        [*command[:4], path, "--raw-format", "s8"], capture_output=True, check=False
    )
    assert done.returncode != 0 and b"--raw-rate" in done.stderr


# A pipe that does not end


@pytest.mark.parametrize("codec", [*CODECS, "raw"])
def test_text_comes_as_pauses_come(
    model: Model, said: list[np.ndarray], codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last part is held back until the first sentence has been told."""
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    pause = np.zeros(3 * RATE, np.float32)
    samples = np.concatenate([said[0], pause, said[1], pause])
    raw = codec == "raw"
    data = (samples * 32767).astype("<i2").tobytes() if raw else encoded(samples, *CODECS[codec])
    if codec == "wav":
        data = data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:]
    most = len(data) * 3 // 4
    reading, writing = os.pipe()
    told = threading.Event()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as end:
            end.write(data[:most])
            assert told.wait(20)
            end.write(data[most:])

    thread = threading.Thread(target=write)
    thread.start()
    texts = []
    with os.fdopen(reading, "rb") as pipe:
        form = RawFormat(RATE) if raw else None
        for segment in model.transcribe_stream(pipe, raw=form):
            texts.append(segment.text.strip())
            if texts[-1]:
                told.set()
    thread.join()
    found = [text for text in texts if text]
    assert len(found) == 2
    for text, right in zip(found, TEXTS, strict=False):
        assert len(set(text.split()) & set(right.split())) >= len(set(right.split())) - 2


def test_a_stalled_pipe_can_be_left(said: list[np.ndarray]) -> None:
    reading, writing = os.pipe()
    os.write(writing, encoded(said[0], "WAV")[:40_000])
    with os.fdopen(reading, "rb") as pipe:
        with open_audio(pipe, RATE) as stream:
            assert len(next(stream.blocks))
        os.close(writing)
