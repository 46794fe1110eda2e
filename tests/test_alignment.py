"""Forced alignment against hand-made posteriors and an exhaustive search."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from granite_gguf.words.alignment import SKIP, Span, align
from granite_gguf.words.boundaries import place_words


def posteriors(path: list[int | None], tokens: int, sure: float = 0.9) -> tuple:
    """Log-probabilities in which each window has one likely token, None the blank."""
    table = np.full((len(path), tokens + 1), (1 - sure) / tokens)
    for window, token in enumerate(path):
        table[window, 0 if token is None else token + 1] = sure
    logs = np.log(table)
    return logs[:, 0], logs[:, 1:]


def test_words_are_found_where_their_tokens_are() -> None:
    blank, tokens = posteriors([None, 0, None, 1, 1, 2, None, None, 0, None], 3)
    assert align(blank, tokens, [[0], [1, 2], [0]]) == [Span(1, 1), Span(3, 5), Span(8, 8)]


def test_a_repeated_token_needs_a_blank_between() -> None:
    blank, tokens = posteriors([0, 0, None, 0], 2)
    assert align(blank, tokens, [[0], [0]]) == [Span(0, 1), Span(3, 3)]
    blank, tokens = posteriors([0, 0, 0, 0], 2)
    first, second = align(blank, tokens, [[0], [0]])
    assert first is None or second is None or first.last + 1 < second.first


def test_inserted_words_do_not_push_others_aside() -> None:
    blank, tokens = posteriors([0, None, 1, 2], 6, sure=1 - 1e-9)
    words = [[3], [0], [4, 5], [1], [2], [5, 5, 5, 5, 5]]
    assert align(blank, tokens, words) == [None, Span(0, 0), None, Span(2, 2), Span(3, 3), None]


def test_nothing_to_align() -> None:
    assert align(np.zeros(0), np.zeros((0, 1)), [[0]]) == [None]
    assert align(np.zeros(3), np.zeros((3, 0)), []) == []


@pytest.mark.parametrize("seed", range(12))
def test_the_path_is_the_best_of_all(seed: int) -> None:
    """Every choice of words left out and every CTC path, on random posteriors."""
    rng = np.random.default_rng(seed)
    raw = np.log(rng.dirichlet(np.full(4, 0.3), size=5) + 1e-12)
    words = [[0], [1, 2], [0]]
    found = align(raw[:, 0], raw[:, 1:], words)
    best, chosen = -np.inf, None
    for size in range(len(words) + 1):
        for kept in combinations(range(len(words)), size):
            target = [t + 1 for k in kept for t in words[k]]
            price = SKIP * sum(len(words[k]) for k in range(len(words)) if k not in kept)
            for path in product(range(4), repeat=5):
                merged = [t for i, t in enumerate(path) if i == 0 or t != path[i - 1]]
                if [t for t in merged if t] != target:
                    continue
                score = price + sum(raw[i, t] for i, t in enumerate(path))
                if score > best + 1e-9:
                    best, chosen = score, (kept, path)
    assert chosen is not None
    kept, path = chosen
    assert [k for k, span in enumerate(found) if span is not None] == list(kept)
    windows = [i for i, t in enumerate(path) if t]
    covered = {i for s in found if s is not None for i in (s.first, s.last)}
    assert covered <= set(windows) and (not windows or windows[0] in covered)


def level(loud: str) -> np.ndarray:
    """Features of a band: a letter is loud, a dot quiet."""
    return np.array([[0.2 if c == "." else 1.4] for c in loud], np.float32)


def test_words_last_until_a_pause_or_the_next_one() -> None:
    mel = level("........aaaaaaaabbbbbb..........cccccccc....")
    blank = np.ones(len(mel))  # nothing is known inside the windows
    spans = [Span(0, 0), Span(4, 4), Span(9, 9)]  # the first comes ahead of its sound
    assert place_words(spans, blank, mel, 4) == [(8, 16), (16, 22), (32, 40)]


def test_a_word_that_was_not_heard_has_the_gap() -> None:
    mel = level("a" * 40)
    spans = [None, Span(2, 2), None, None, Span(6, 6), None]
    placed = place_words(spans, np.ones(40), mel, 4)
    assert placed == [(0, 8), (8, 12), (12, 24), (12, 24), (24, 28), (28, 40)]


def test_spoken_frames_inside_a_window_are_used() -> None:
    blank = np.ones(24)
    blank[[6, 13]] = 0.1
    assert place_words([Span(1, 3), Span(5, 5)], blank, level("a" * 24), 4)[0] == (6, 20)
