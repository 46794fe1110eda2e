"""A stretch of a recording: its samples from every kind of file, and its times."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import AudioError, AudioWarning, InputError, InputTypeError, Model
from granite_gguf.cli.inputs import Recording, parse_clip
from granite_gguf.cli.live import live_stdin
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.live import Live
from granite_gguf.sound.clip import Clip
from granite_gguf.sound.decoded import Decoded
from granite_gguf.sound.reading import Selection, duration_of, open_audio, read_audio
from granite_gguf.sound.sndfile import RawFormat
from tests.commands import assert_refused, run
from tests.recordings import encoded, muxed, piped, place
from tests.signals import synthetic_audio

RATE = 16_000
LONG = synthetic_audio(20 * RATE, seed=5)
CLIP = Clip(7.3, 11.05)
FIRST, LAST = round(7.3 * RATE), round(11.05 * RATE)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with granite_gguf.load(DEMO_MODEL, threads=1, device="cpu") as loaded:
        yield loaded


FILES: dict[str, Callable[[], bytes]] = {
    "wav": lambda: encoded(LONG, "WAV"),
    "flac": lambda: encoded(LONG, "FLAC"),
    "aiff": lambda: encoded(LONG, "AIFF"),
    "vorbis": lambda: encoded(LONG, "OGG", "VORBIS"),
    "opus": lambda: encoded(LONG, "OGG", "OPUS"),
    "mp3": lambda: encoded(LONG, "MP3"),
    "mkv": lambda: muxed("matroska", "pcm_s16le", (0, 0, LONG)),
    "ts": lambda: muxed("mpegts", "mp2", (0, 0, LONG)),
    "joined": lambda: encoded(LONG[: 5 * RATE], "WAV") + encoded(LONG[5 * RATE :], "WAV"),
    "joined mp3": lambda: encoded(LONG[: 9 * RATE], "MP3") + encoded(LONG[9 * RATE :], "MP3"),
}
AAC = partial(muxed, "mp4", "aac", (0, 0, LONG), form="fltp")


@pytest.mark.parametrize("kind", FILES)
def test_a_clip_is_what_reading_all_has_there(kind: str) -> None:
    """Also from a pipe, which cannot seek."""
    data = FILES[kind]()
    whole = read_audio(io.BytesIO(data), RATE)[FIRST:LAST]
    clip = read_audio(io.BytesIO(data), RATE, Selection(clip=CLIP))
    np.testing.assert_allclose(clip, whole, atol=1e-3)
    assert duration_of(io.BytesIO(data), Selection(clip=CLIP)) in (None, pytest.approx(3.75))
    with piped(data) as pipe:
        np.testing.assert_allclose(read_audio(pipe, RATE, Selection(clip=CLIP)), whole, atol=1e-3)


def test_a_clip_of_aac() -> None:
    """Its decoder fills what was noise with noise of its own."""
    data = AAC()
    whole = read_audio(io.BytesIO(data), RATE)[FIRST:LAST]
    at, agreement = place(read_audio(io.BytesIO(data), RATE, Selection(clip=CLIP)), whole)
    assert at == 0 and agreement > 0.999


def test_other_rates_channels_and_samples_without_a_header() -> None:
    stereo = np.stack([LONG, -0.5 * LONG], axis=1)
    data = encoded(stereo, "WAV", rate=22_050)
    take = Selection(channel=2, clip=Clip(7.0, 8.0))
    there = slice(7 * RATE + 100, 8 * RATE - 100)
    whole = read_audio(io.BytesIO(data), RATE, Selection(channel=2))[there]
    np.testing.assert_allclose(read_audio(io.BytesIO(data), RATE, take)[100:-100], whole, atol=1e-3)
    raw = (LONG * 32767).astype("<i2")
    found = read_audio(io.BytesIO(raw.tobytes()), RATE, Selection(raw=RawFormat(RATE), clip=CLIP))
    np.testing.assert_array_equal(found, raw[FIRST:LAST] / np.float32(32768))


@pytest.mark.parametrize("make", [*(FILES[k] for k in ("wav", "flac", "opus", "mp3")), AAC])
def test_what_is_before_and_behind_is_not_decoded(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the second before it, and for what a block has beyond its end."""
    decoded = []

    def counted(self: Clip, name: str, streams: Iterator[Decoded]) -> Iterator[Decoded]:
        def blocks(stream: Decoded) -> Iterator[np.ndarray]:
            for block in stream.blocks:
                decoded.append(len(block))
                yield block

        for stream in streams:
            # The iterator is made where it is asked for: after the seek.
            yield replace(stream, blocks=blocks(stream))

    of_streams = Clip.of_streams
    monkeypatch.setattr(
        Clip, "of_streams", lambda self, name, s: of_streams(self, name, counted(self, name, s))
    )
    read_audio(io.BytesIO(make()), RATE, Selection(clip=CLIP))
    assert sum(decoded) <= (3.75 + 1.2) * RATE + 65_536


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (-1, None, "begins at -1 s, expected 0 or later"),
        (float("nan"), None, "begins at nan s"),
        (float("inf"), None, "begins at inf s"),
        (3, 3, "begins at 3 s and ends at 3 s, expected an end behind its start"),
        (3, 2, "ends at 2 s"),
        (3, float("nan"), "ends at nan s"),
    ],
)
def test_nonsense(model: Model, start: float, end: float | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        model.transcribe(LONG, clip=(start, end))


def test_clips_that_are_none(model: Model) -> None:
    for given in (3, "34", (1, 2, 3), ("a", None), {"start": 1}):
        with pytest.raises(InputTypeError, match=r"clip is .*, expected two numbers of seconds"):
            model.transcribe(LONG, clip=given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="live speech has no clip"):
        Live(model, RATE, options={"clip": (0, 1)})


@pytest.mark.parametrize("form", ["file", "pipe", "array"])
def test_beyond_the_end(model: Model, tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, LONG, RATE)

    def transcribe(start: float, end: float | None) -> granite_gguf.Transcript:
        if form == "pipe":
            with piped(path.read_bytes()) as pipe:
                return model.transcribe(pipe, clip=(start, end))
        return model.transcribe(path if form == "file" else LONG, clip=(start, end))

    with pytest.raises(AudioError, match=r"ends at 20\.00 s, and the clip begins at 20 s"):
        transcribe(20, None)
    with pytest.warns(AudioWarning, match=r"ends at 20\.00 s, before the clip does at 30 s"):
        assert transcribe(19, 30).duration == 1.0


def test_times_are_those_of_the_recording(model: Model, tmp_path: Path) -> None:
    said = [soundfile.read(path, dtype="float32")[0] for path in DEMO_SAMPLES[:2]]
    path = tmp_path / "two.flac"
    soundfile.write(path, np.concatenate(said), RATE)
    start = len(said[0]) / RATE
    alone = model.transcribe(said[1], word_times=True)
    for source in (path, np.concatenate(said)):
        clip = model.transcribe(source, clip=(start, None), word_times=True)
        assert clip.text == alone.text
        assert clip.duration == pytest.approx(alone.duration)
        assert clip.segments[0].start == pytest.approx(start)
        assert [w.start - start for w in clip.words] == pytest.approx(
            [w.start for w in alone.words], abs=1e-4
        )
    assert model.submit(path, clip=(start, None)).result().text == alone.text


def test_the_longest_allowed_is_of_the_clip() -> None:
    with open_audio(io.BytesIO(FILES["wav"]()), RATE, Selection(max_seconds=5, clip=CLIP)) as found:
        assert found.duration == pytest.approx(3.75) and found.start == 7.3


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("90-120", 90, 120),
        ("1:30-2:00.5", 90, 120.5),
        ("0.5-", 0.5, None),
        ("1:00:01-", 3601, None),
    ],
)
def test_clocks(text: str, start: float, end: float | None) -> None:
    assert parse_clip(text) == (start, end)


@pytest.mark.parametrize("text", ["", "-", "90", "-90", "1:75-2:00", "a-b", "1-2-3", "1e3-", "٣-٤"])
def test_clocks_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="expected START-END in seconds or as H:MM:SS"):
        parse_clip(text)


def test_the_command() -> None:
    found = run("transcribe", DEMO_SAMPLES[2], "--clip", "0:01-0:03.5", "--json")
    values = json.loads(found.stdout)
    assert (values["segments"][0]["start"], values["duration"]) == (1.0, 2.5)
    assert_refused(
        run("transcribe", DEMO_SAMPLES[2], "--clip", "60-"), 1, "the clip begins at 60 s"
    )
    with pytest.raises(InputError, match="leave --clip out"):
        live_stdin([Recording("-")], ["txt"], Selection(clip=CLIP), {}, files=False)


def test_a_clip_may_be_the_whole() -> None:
    whole = read_audio(io.BytesIO(FILES["wav"]()), RATE, Selection(clip=Clip(0, 20)))
    assert len(whole) == len(LONG)
