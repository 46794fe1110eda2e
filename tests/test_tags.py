"""The tags of the plus models, by hand."""

from __future__ import annotations

import pytest

from granite_gguf.speech.tags import speakers, timed_words


def said(text: str) -> list[tuple[str | None, str]]:
    return [(part.speaker, text[part.start : part.end].strip()) for part in speakers(text)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("so ask", [(None, "so ask")]),
        (
            "[Speaker 1]: so ask [Speaker 2]: what? [Speaker 1]: that",
            [("Speaker 1", "so ask"), ("Speaker 2", "what?"), ("Speaker 1", "that")],
        ),
        ("well [Speaker 1]: so", [(None, "well"), ("Speaker 1", "so")]),
        ("[Speaker 1]: [Speaker 2]:so", [("Speaker 2", "so")]),
        ("[Speaker 12] so [Speaker]: x", [("Speaker 12", "so [Speaker]: x")]),
    ],
)
def test_speakers(text: str, expected: list[tuple[str | None, str]]) -> None:
    assert said(text) == expected


def times(text: str, seconds: float = 100.0) -> list[tuple[str, float, float, bool]]:
    return [
        (text[w.start : w.end], w.begin_seconds, pytest.approx(w.end_seconds), w.told)
        for w in timed_words(text, seconds)
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("hello [T:45] world [T:82]", [("hello", 0, 0.45, True), ("world", 0.45, 0.82, True)]),
        # a silence takes time and is no word
        ("_ [T:30] so [T:52] _ [T:99]", [("so", 0.3, 0.52, True)]),
        # words may follow one another without a space
        ("if[T:962]you[T:970]", [("if", 0, 9.62, True), ("you", 9.62, 9.7, True)]),
        # a time begins anew after ten seconds, and after twenty
        (
            "a [T:999] b [T:4] c [T:990] d [T:10]",
            [
                ("a", 0, 9.99, True),
                ("b", 9.99, 10.04, True),
                ("c", 10.04, 19.9, True),
                ("d", 19.9, 20.1, True),
            ],
        ),
        # a word without a tag goes on to the end, or shares the stretch of the next tag
        ("a [T:100] b", [("a", 0, 1, True), ("b", 1, 100, False)]),
        ("a b [T:100]", [("a", 0, 0.5, False), ("b", 0.5, 1, True)]),
        ("[T:50][T:50] a [T:60]", [("a", 0.5, 0.6, True)]),
    ],
)
def test_times(text: str, expected: list[tuple[str, float, float, bool]]) -> None:
    assert times(text) == expected


def test_a_time_that_goes_back_by_mistake_tells_nothing() -> None:
    """Ten seconds later would lie far behind the end."""
    assert times("a [T:100] b [T:90] c [T:150]", 3.0) == [
        ("a", 0, 1, True),
        ("b", 1, 1, False),
        ("c", 1, 1.5, True),
    ]
