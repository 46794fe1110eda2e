"""Output files, against hand-written ones and the formats' rules."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granite_gguf import InputError, Segment, Transcript, Word
from granite_gguf.formats import FORMATS, Shape
from granite_gguf.formats.cues import cues


def spoken(text: str, start: float = 0.0, each: float = 0.4) -> tuple[Word, ...]:
    return tuple(
        Word(word, start + each * i, start + each * (i + 1), 0.9)
        for i, word in enumerate(text.split())
    )


def transcript(*parts: tuple[str, float, float]) -> Transcript:
    segments = [
        Segment(i, start, end, text, text, words=spoken(text, start))
        for i, (text, start, end) in enumerate(parts)
    ]
    return Transcript.of(segments)


TWO = transcript(("Good <morning> & welcome.", 0.0, 9.5), ("a --> b", 3600.0, 3602.0))


def test_srt() -> None:
    assert FORMATS["srt"].render("x.wav", TWO, Shape()) == (
        "1\n00:00:00,000 --> 00:00:01,600\nGood <morning> & welcome.\n\n"
        "2\n01:00:00,000 --> 01:00:01,200\na -> b\n\n"
    )


def test_vtt() -> None:
    assert FORMATS["vtt"].render("x.wav", TWO, Shape()) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.600\nGood &lt;morning&gt; &amp; welcome.\n\n"
        "01:00:00.000 --> 01:00:01.200\na --&gt; b\n\n"
    )


def test_tsv() -> None:
    assert FORMATS["tsv"].render("x.wav", TWO, Shape()) == (
        "start\tend\ttext\n0\t1600\tGood <morning> & welcome.\n3600000\t3601200\ta --> b\n"
    )


def test_txt_and_json() -> None:
    assert FORMATS["txt"].render("x.wav", TWO, Shape()) == "Good <morning> & welcome.\na --> b\n"
    values = json.loads(FORMATS["json"].render("x.wav", TWO, Shape()))
    assert values["text"] == "Good <morning> & welcome. a --> b"
    assert values["segments"][1] == {
        "id": 1,
        "start": 3600.0,
        "end": 3602.0,
        "text": "a --> b",
        "confidence": None,
        "no_speech_prob": None,
        "words": [
            {"word": w, "start": s, "end": e, "probability": 0.9, "aligned": True}
            for w, s, e in (("a", 3600.0, 3600.4), ("-->", 3600.4, 3600.8), ("b", 3600.8, 3601.2))
        ],
    }
    line = FORMATS["jsonl"].render("x.wav", TWO, Shape())
    assert json.loads(line) == values and line.count("\n") == 1


def test_the_language_is_told_where_it_is_known() -> None:
    """By the model, which has translated into it, or by the caller."""

    def language_of(**told: str) -> object:
        whole = Transcript.of([Segment(0, 0.0, 1.0, "yes", "", **told)])
        return json.loads(FORMATS["json"].render("x.wav", whole, Shape())).get("language")

    assert language_of() is None
    assert language_of(language="pt") == "pt"
    assert language_of(language="en", translated_to="French") == "French"


def test_full_subtitles_end_at_punctuation() -> None:
    text = "We came at noon, had a long lunch; then we went down to the sea"
    lines = [cue.lines for cue in cues(transcript((text, 0.0, 9.0)), Shape(width=40, lines=1))]
    assert lines == [("We came at noon, had a long lunch;",), ("then we went down to the sea",)]
    text = "Well, it is a day of which nobody knows the end"  # too early for a break
    lines = [cue.lines for cue in cues(transcript((text, 0.0, 9.0)), Shape(width=30, lines=1))]
    assert lines == [("Well, it is a day of which",), ("nobody knows the end",)]


def test_nothing_said() -> None:
    silent = transcript(("", 0.0, 2.0))
    made = {name: entry.render("x.wav", silent, Shape()) for name, entry in FORMATS.items()}
    assert (made["txt"], made["srt"], made["vtt"]) == ("", "", "WEBVTT\n\n")
    assert made["tsv"] == "start\tend\ttext\n"


def test_subtitles_end_with_sentences_and_pauses() -> None:
    words = spoken("one two three four five six. seven") + spoken("eight nine", start=9.0)
    segment = Segment(0, 0.0, 10.0, "", "", words=words)
    found = [(cue.start, cue.end, " ".join(cue.lines)) for cue in cues(Transcript.of([segment]))]
    assert found == [
        (0, 2400, "one two three four five six."),
        (2400, 2800, "seven"),
        (9000, 9800, "eight nine"),
    ]


words_of_any_kind = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=100),
        st.floats(0, 3),
        st.floats(0, 2),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(words_of_any_kind, st.builds(Shape, st.integers(8, 60), st.integers(1, 4)))
def test_subtitles_keep_every_word_and_the_rules(
    parts: list[tuple[str, float, float]], shape: Shape
) -> None:
    words, at = [], 0.0
    for text, gap, length in parts:
        words.append(Word(text, at + gap, at + gap + length, 0.5))
        at += gap + length
    made = cues(Transcript.of([Segment(0, 0.0, at, "", "", words=tuple(words))]), shape)
    assert "".join("".join(cue.lines) for cue in made).replace(" ", "") == "".join(
        text for text, _, _ in parts
    )
    for cue in made:
        assert 1 <= len(cue.lines) <= shape.lines
        assert all(0 < len(line) <= shape.width for line in cue.lines)
        assert 0 <= cue.start < cue.end
    for cue, following in pairwise(made):
        assert cue.end <= following.start
    whole = Transcript.of([Segment(0, 0.0, at, "", "", words=tuple(words))])
    for name in ("srt", "vtt"):
        arrows = FORMATS[name].render("x", whole, shape).count("-->")
        assert arrows == len(made)


def test_lrc_clears_the_line_where_a_pause_follows() -> None:
    said = transcript(
        ("first line. second one here.", 59.5, 62.0), ("after a pause", 125.25, 130.0)
    )
    assert FORMATS["lrc"].render("x.wav", said, Shape(width=20)) == (
        "[00:59.50]first line.\n[01:00.30]second one here.\n[01:01.50]\n"
        "[02:05.25]after a pause\n[02:06.45]\n"
    )


def test_csv_is_read_back_by_the_standard_library() -> None:
    said = transcript(('he said "no, never"', 0.0, 2.0), ("a --> b", 5.0, 7.0))
    text = FORMATS["csv"].render("x.wav", said, Shape())
    assert text.splitlines()[1] == '0,1600,"he said ""no, never"""'
    assert list(csv.reader(io.StringIO(text))) == [
        ["start", "end", "text"], ["0", "1600", 'he said "no, never"'], ["5000", "6200", "a --> b"]
    ]  # fmt: skip


def test_the_shape_of_subtitles() -> None:
    said = transcript(("one two three four five six seven", 0.0, 3.0))

    def lines(width: int, count: int) -> list[tuple[str, ...]]:
        return [cue.lines for cue in cues(said, Shape(width, count))]

    assert lines(16, 3) == [("one two three", "four five", "six seven")]
    assert lines(16, 2) == [("one two three", "four five six"), ("seven",)]
    assert lines(16, 1) == [("one two three",), ("four five six",), ("seven",)]
    assert lines(40, 2) == [("one two three four five six seven",)]


@pytest.mark.parametrize(("width", "count"), [(7, 2), (42, 0)])
def test_an_impossible_shape(width: int, count: int) -> None:
    with pytest.raises(InputError, match=f"{width if width < 8 else count} .*expected"):
        Shape(width, count)
