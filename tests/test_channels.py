"""Channels that are transcribed each by itself, as of a call."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import AudioError, InputError, Model, Segment, Transcript, Word
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.formats import FORMATS, Shape
from granite_gguf.sound.reading import Selection, read_audio
from tests.commands import assert_refused, run
from tests.recordings import encoded, piped
from tests.signals import synthetic_audio

RATE = 16_000
TURNS = (DEMO_SAMPLES[0], DEMO_SAMPLES[1], DEMO_SAMPLES[0])
SAID = [soundfile.read(path, dtype="float32")[0] for path in TURNS]
TEXTS = [path.with_suffix(".txt").read_text().strip() for path in TURNS]
GAP = 4.0  # seconds between the turns


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with granite_gguf.load(DEMO_MODEL, threads=1, device="cpu") as loaded:
        yield loaded


def call() -> tuple[np.ndarray, list[float]]:
    """Turns on the channels 1, 2 and 1, and when each begins."""
    begins, at = [], 0.0
    for said in SAID:
        begins.append(at)
        at += len(said) / RATE + GAP
    samples = np.zeros((int(at * RATE), 2), np.float32)
    for n, (said, begin) in enumerate(zip(SAID, begins, strict=True)):
        first = round(begin * RATE)
        samples[first : first + len(said), n % 2] = said
    return samples, begins


def assert_heard(transcript: Transcript) -> None:
    spoken = [segment for segment in transcript.segments if segment.text.strip()]
    assert [segment.channel for segment in spoken] == [1, 2, 1]
    assert [segment.text.strip() for segment in spoken] == TEXTS
    for segment, begin, said in zip(spoken, call()[1], SAID, strict=True):
        assert abs(segment.start - begin) < 0.5
        assert abs(segment.end - begin - len(said) / RATE) < 0.5


def test_turns_in_time(model: Model, tmp_path: Path) -> None:
    """From a file at another rate, an array and a pipe."""
    samples, begins = call()
    path = tmp_path / "call.flac"
    soundfile.write(path, np.repeat(samples, 3, axis=0), 3 * RATE)
    transcript = model.transcribe(samples, channels="each", word_times=True)
    assert_heard(transcript)
    assert [word.speaker for word in transcript.words] == [
        f"Channel {1 + n % 2}" for n, text in enumerate(TEXTS) for _ in text.split()
    ]
    starts = [segment.words[0].start for segment in transcript.segments if segment.words]
    assert starts == pytest.approx(begins, abs=0.5)
    with piped(encoded(samples, "WAV")) as pipe:  # of which a turn may be cut in its pauses
        spoken = [s for s in model.transcribe(pipe, channels="each").segments if s.text.strip()]
    turns = [(n, list(parts)) for n, parts in groupby(spoken, key=lambda part: part.channel)]
    assert [n for n, _ in turns] == [1, 2, 1]
    assert [len(" ".join(part.text for part in parts).split()) for _, parts in turns] == [
        len(text.split()) for text in TEXTS
    ]
    (each,) = model.transcribe_many([path], channels="each")
    assert isinstance(each, Transcript)
    assert_heard(each)
    clip = model.transcribe(path, channels="each", clip=(begins[1] - 1, begins[2] - 1))
    (heard,) = [segment for segment in clip.segments if segment.text.strip()]
    assert (heard.channel, heard.text.strip()) == (2, TEXTS[1])
    assert abs(heard.start - begins[1]) < 0.5


def test_both_at_once(model: Model) -> None:
    """Each has what it would have alone; mixed, they spoil one another."""
    count = min(map(len, SAID[1:]))
    samples = np.stack([said[:count] for said in SAID[1:]], axis=1)
    both = model.transcribe(samples, channels="each")
    assert [segment.text for segment in both.segments] == [
        model.transcribe(samples[:, n]).text for n in (0, 1)
    ]
    assert model.transcribe(samples).text not in [segment.text for segment in both.segments]


def test_a_channel_without_sound_and_one_channel(model: Model) -> None:
    silent = np.stack([SAID[0], np.zeros_like(SAID[0])], axis=1)
    found = model.transcribe(silent, channels="each")
    assert [(s.channel, s.text.strip()) for s in found.segments] == [(1, TEXTS[0]), (2, "")]
    (mono,) = model.transcribe(SAID[0], channels="each").segments
    assert (mono.channel, mono.text.strip()) == (1, TEXTS[0])
    for nothing in (np.zeros((0, 2), np.float32), np.zeros((3200, 2), np.float32)):
        assert model.transcribe(nothing, channels="each").text == ""


def test_channels_apart_are_those_taken_one_by_one() -> None:
    samples = synthetic_audio(3 * RATE, seed=1)
    data = encoded(np.stack([samples, 0.3 * samples[::-1]], axis=1), "WAV", rate=22_050)
    both = read_audio(io.BytesIO(data), RATE, Selection(apart=True))
    for n in (0, 1):
        one = read_audio(io.BytesIO(data), RATE, Selection(channel=n + 1))
        np.testing.assert_allclose(both[:, n], one, atol=1e-6)


def test_what_cannot_be(model: Model) -> None:
    samples = np.zeros((RATE, 2), np.float32)
    with pytest.raises(InputError, match="channel is 1, and channels 'each': choose one"):
        model.transcribe(samples, channels="each", channel=1)
    with pytest.raises(InputError, match="by their channels or by the model"):
        model.transcribe(samples, channels="each", speakers=True)
    with pytest.raises(InputError, match="channels is 'both', expected 'mixed' or 'each'"):
        model.transcribe(samples, channels="both")
    joined = encoded(samples, "WAV") + encoded(samples[:, 0], "WAV")
    with pytest.raises(AudioError, match="has 2 channels and then 1"):
        model.transcribe(joined, channels="each")
    with pytest.raises(AudioError, match="not all finite"):
        model.transcribe(samples * np.nan, channels="each")


def spoken(text: str, start: float, channel: int, number: int) -> Segment:
    words = tuple(
        Word(word, start + n, start + n + 0.9, 1.0) for n, word in enumerate(text.split())
    )
    segment = Segment(number, start, start + len(words), text, text, words=words)
    return segment.of_channel(channel)


@pytest.fixture
def talk() -> Transcript:
    """The second speaks in between; the first goes on beyond a subtitle's seven seconds."""
    return Transcript.of([
        spoken("one two three four five six seven eight", 0.0, 1, 0),
        spoken("no & yes", 2.0, 2, 1),
    ])  # fmt: skip


def test_formats(talk: Transcript) -> None:
    made = {name: form.render("call.wav", talk, Shape()) for name, form in FORMATS.items()}
    assert made["txt"] == (
        "Channel 1: one two three four five six seven eight\nChannel 2: no & yes\n"
    )
    assert made["srt"] == (
        "1\n00:00:00,000 --> 00:00:06,900\nChannel 1: one two three\nfour five six seven\n\n"
        "2\n00:00:02,000 --> 00:00:04,900\nChannel 2: no & yes\n\n"
        "3\n00:00:07,000 --> 00:00:07,900\nChannel 1: eight\n\n"
    )
    assert made["vtt"].split("\n\n")[2] == (
        "00:00:02.000 --> 00:00:04.900\n<v Channel 2>no &amp; yes"
    )
    assert made["lrc"].splitlines()[:2] == [
        "[00:00.00]Channel 1: one two three four five six", "[00:02.00]Channel 2: no & yes"
    ]  # fmt: skip
    rows = list(csv.reader(io.StringIO(made["csv"])))
    assert rows[2] == ["2000", "4900", "Channel 2: no & yes"]
    assert made["tsv"].splitlines()[3] == "7000\t7900\tChannel 1: eight"
    values = json.loads(made["json"])
    assert [segment["channel"] for segment in values["segments"]] == [1, 2]
    assert {word["speaker"] for word in values["segments"][1]["words"]} == {"Channel 2"}
    assert talk.duration == 8.0


def test_no_room_for_the_name(talk: Transcript) -> None:
    text = FORMATS["srt"].render("call.wav", talk, Shape(width=8, lines=1))
    assert "Channel" not in text and "\neight\n" in text


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    soundfile.write(path, call()[0], RATE)
    lines = [f"Channel {1 + n % 2}: {text}" for n, text in enumerate(TEXTS)]
    assert run("transcribe", path, "--channels", "each").stdout.splitlines() == lines
    two = run("transcribe", path, path, "--channels", "each")
    assert two.stdout.splitlines() == [f"{path}\t{' '.join(lines)}"] * 2
    refused = run("transcribe", path, "--channels", "each", "--channel", "1")
    assert_refused(refused, 2, "channel is 1, and channels 'each'")
