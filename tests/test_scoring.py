"""What counts as an error, against jiwer and counts by hand; and the bootstrap, by enumeration."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from granite_gguf import InputError
from granite_gguf.evaluation.bootstrap import DRAWS, compare, drawn_rates, interval
from granite_gguf.evaluation.leaderboard import join_compounds, join_sessions
from granite_gguf.evaluation.scoring import Edits, Score, Scorer, same_words, total

kaldialign = pytest.importorskip("kaldialign")
pytest.importorskip("whisper_normalizer")


def test_rates_and_totals() -> None:
    assert Edits(1, 0, 0, 4).rate == 0.25
    assert Edits(0, 0, 0, 0).rate == 0 and Edits(2, 0, 0, 0).rate == float("inf")
    first = Score(Edits(0, 1, 0, 2), Edits(3, 0, 0, 9), 0)
    sum_ = total([first, Score(Edits(0, 0, 0, 8), Edits(0, 0, 0, 40), 1)])
    assert (sum_.words.rate, sum_.characters, sum_.exact) == (0.1, Edits(3, 0, 0, 49), 1)


def test_whisper_counts_by_hand() -> None:
    scorer = Scorer("whisper")
    same = scorer.score("Mr. Smith, colour!", "mister smith color", "en")
    assert same == Score(Edits(0, 0, 0, 3), Edits(0, 0, 0, 18), 0)
    # cat→cut is one substitution, "down" one deletion; of characters a→u, and " down".
    wrong = scorer.score("the cat sat down", "the cut sat", "en")
    assert wrong.words == Edits(0, 1, 1, 4) and wrong.characters == Edits(0, 5, 1, 16)
    # The English normaliser would spell out and join what the basic one leaves alone.
    assert scorer.score("Grüße, Welt", "grüße welt", "de").words == Edits(0, 0, 0, 2)
    assert scorer.score("a b", "", "en").words == Edits(0, 2, 0, 2)
    assert scorer.score("...", "x", "de").words == Edits(1, 0, 0, 0)
    assert scorer.score("", "", "en") == Score(Edits(0, 0, 0, 0), Edits(0, 0, 0, 0), 1)
    assert scorer.score("white paper", "whitepaper", "en").words == Edits(0, 1, 1, 2)


def test_plain_counts_what_stands_there() -> None:
    scorer = Scorer("plain")
    assert scorer.score("Mr. Smith  came", "mr. Smith came", "en").words == Edits(0, 0, 1, 3)
    assert scorer.score("a\n b", "a b", "en") == Score(Edits(0, 0, 0, 2), Edits(0, 0, 0, 3), 0)


@pytest.mark.parametrize(
    ("expected", "found", "counts"),
    [
        ("a white paper", "a whitepaper", Edits(0, 0, 0, 3)),
        ("a whitepaper", "a white paper", Edits(0, 0, 0, 2)),
        ("a whitepaper", "a white papers", Edits(1, 0, 1, 2)),
        ("the cat sat down", "the cut sat", Edits(0, 1, 1, 4)),
        ("the cat sat", "well the cat sat", Edits(1, 0, 0, 3)),
    ],
)
def test_leaderboard_counts_by_hand(expected: str, found: str, counts: Edits) -> None:
    assert Scorer("leaderboard").score(expected, found, "en").words == counts


def test_leaderboard_leaves_references_out_and_joins_in_other_languages() -> None:
    scorer = Scorer("leaderboard")
    assert scorer.ignores("", "en") and scorer.ignores("(um)", "en")
    assert scorer.ignores("Ignore Time Segment in Scoring.", "en")
    assert not scorer.ignores("ignore time", "en")
    assert not Scorer("whisper").ignores("", "en")
    # Four expected words become three; the inserted word remains.
    counted = scorer.score("der haus meister kam", "und der hausmeister kam", "de").words
    assert counted == Edits(1, 0, 0, 3)
    assert join_compounds(["a", "b", "c"], ["x", "b", "c"]) == (["a", "b", "c"], ["x", "b", "c"])


def test_counts_are_those_of_jiwer() -> None:
    jiwer = pytest.importorskip("jiwer")
    scorer, draw = Scorer("plain"), random.Random(0)
    for _ in range(300):
        expected, found = (
            " ".join(draw.choices(["a", "bc", "def"], k=draw.randint(1, 9))) for _ in range(2)
        )
        score = scorer.score(expected, found, "en")
        for ours, process in (
            (score.words, jiwer.process_words),
            (score.characters, jiwer.process_characters),
        ):
            out = process(expected, found)
            assert ours.errors == out.insertions + out.deletions + out.substitutions
            assert ours.units == out.hits + out.deletions + out.substitutions
            # Equally short ways differ in what they substitute, not in what is left over.
            assert ours.insertions - ours.deletions == out.insertions - out.deletions


@pytest.mark.parametrize("scoring", ["leaderboard", "whisper", "plain"])
def test_an_alignment_has_the_errors_that_are_counted(scoring: str) -> None:
    scorer, draw = Scorer(scoring), random.Random(1)
    for language in ("en", "de") * 50:
        expected, found = (
            " ".join(draw.choices(["cat", "mat", "catmat"], k=draw.randint(0, 7))) for _ in range(2)
        )
        pairs = scorer.align(expected, found, language)
        words = scorer.score(expected, found, language).words
        assert sum(not same_words(pair) for pair in pairs) == words.errors
        assert sum(pair[0] is None for pair in pairs) == words.insertions
        assert sum(pair[1] is None for pair in pairs) == words.deletions


def test_versions_name_the_rule() -> None:
    merged, plain = Scorer("leaderboard").versions, Scorer("plain").versions
    assert (merged["scoring"], merged["compounds"]) == ("leaderboard", "merged")
    assert merged["kaldialign"] == plain["kaldialign"] == kaldialign.__version__
    assert merged["as of"] == "2026-08" and "as of" not in plain
    assert "whisper-normalizer" in merged and "whisper-normalizer" not in plain
    with pytest.raises(InputError, match="scoring is 'jiwer', expected one of 'leaderboard'"):
        Scorer("jiwer")


# Sessions


def chunk(index: object, text: str, seconds: float | None = 1.0) -> dict[str, object]:
    return {
        "audio_filepath": f"s_{index}", "parent_id": "s", "chunk_index": index, "text": "a b c",
        "pred_text": text, "duration": 10.0, "time": seconds,
    }  # fmt: skip


def test_chunks_are_joined_by_session() -> None:
    other = ("line 2", {"audio_filepath": "x", "text": "x", "pred_text": "x"})
    rows = [("line 1", chunk(1, " c")), other, ("line 3", chunk(0, "a b ")), ("4", chunk(2, ""))]
    joined = join_sessions(rows)
    assert joined[1] == other
    session = joined[0][1]
    assert (session["audio_filepath"], session["pred_text"]) == ("s", "a b c")
    assert (session["duration"], session["time"]) == (30.0, 3.0)
    ((_, unknown),) = join_sessions([("1", chunk(0, "a", None)), ("2", chunk(1, "b"))])
    assert unknown["time"] is None
    with pytest.raises(InputError, match=r"session 's' has the chunks \[0, 2\], expected all"):
        join_sessions([("1", chunk(0, "a")), ("2", chunk(2, "b"))])
    with pytest.raises(InputError, match="field 'chunk_index' is 'x', expected a number"):
        join_sessions([("1", chunk("x", "a"))])


# Bootstrap

ERRORS, WORDS = (0, 1, 2, 6), (9, 4, 5, 8)
OTHER_ERRORS = (1, 0, 2, 3)


def edits(errors: tuple[int, ...]) -> list[Edits]:
    return [Edits(0, 0, wrong, words) for wrong, words in zip(errors, WORDS, strict=True)]


def every_draw(value: Callable[[tuple[int, ...]], float]) -> list[float]:
    """What all 256 equally likely draws of the four recordings give, in order."""
    return sorted(map(value, product(range(4), repeat=4)))


def rate_of(errors: tuple[int, ...], draw: tuple[int, ...]) -> float:
    return sum(errors[i] for i in draw) / sum(WORDS[i] for i in draw)


def test_an_interval_holds_the_middle_of_all_draws() -> None:
    rates = drawn_rates(edits(ERRORS), range(4), seed=(0, 0))
    assert rates is not None and rates.shape == (DRAWS,)
    exact = every_draw(lambda draw: rate_of(ERRORS, draw))
    low, high = interval(rates)
    # The quantiles of 10,000 draws lie 0.16 % of the draws, or 0.4 of 256, beside the true ones.
    assert exact[4] <= low <= exact[8] and exact[247] <= high <= exact[251]
    assert abs(float(rates.mean()) - np.mean(exact)) < 0.005


def test_draws_by_hand() -> None:
    """The same draws one after another, in plain Python."""
    rates = drawn_rates(edits(ERRORS), range(4), seed=(7, 1))
    other = drawn_rates(edits(OTHER_ERRORS), range(4), seed=(7, 1))
    assert rates is not None and other is not None
    numbers = np.random.default_rng([7, 1])
    for index in range(200):
        draw = tuple(int(numbers.integers(0, 4)) for _ in range(4))
        assert (rates[index], other[index]) == (rate_of(ERRORS, draw), rate_of(OTHER_ERRORS, draw))
    ordered = sorted(rates.tolist())
    place = 0.025 * (DRAWS - 1)
    below, above = ordered[int(place)], ordered[int(place) + 1]
    assert interval(rates)[0] == pytest.approx(below + (place - int(place)) * (above - below))
    again = drawn_rates(edits(ERRORS), range(4), seed=(8, 1))
    assert again is not None and (again != rates).any()


def test_a_paired_comparison_by_all_draws() -> None:
    rates = drawn_rates(edits(ERRORS), range(4), seed=(0,))
    other = drawn_rates(edits(OTHER_ERRORS), range(4), seed=(0,))
    assert rates is not None and other is not None
    found = compare(rates, other)
    exact = every_draw(lambda draw: rate_of(OTHER_ERRORS, draw) - rate_of(ERRORS, draw))
    better = sum(difference < 0 for difference in exact) / 256
    worse_or_same = sum(difference >= 0 for difference in exact) / 256
    assert found.better == pytest.approx(better, abs=0.015)
    assert found.p == pytest.approx(2 * worse_or_same, abs=0.03)
    assert exact[4] <= found.low <= exact[8] and exact[247] <= found.high <= exact[251]
    same = compare(rates, rates)
    assert (same.better, same.p, same.low, same.high) == (0, 1, 0, 0)
    never = compare(rates, rates + 1)
    assert never.p == pytest.approx(2 / (DRAWS + 1))


def test_speakers_are_drawn_whole() -> None:
    """Two speakers have three different draws, with the rates 1/13, 9/26 and 8/13."""
    rates = drawn_rates(edits(ERRORS), ["a", "a", "b", "b"], seed=(0,))
    assert rates is not None
    values, counts = np.unique(rates, return_counts=True)
    assert values.tolist() == [1 / 13, 9 / 26, 8 / 13]
    assert counts / DRAWS == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    assert drawn_rates(edits(ERRORS), ["a"] * 4, seed=(0,)) is None
    nothing = [Edits(1, 0, 0, 0), Edits(0, 0, 0, 3)]
    assert drawn_rates(nothing, range(2), seed=(0,)) is None


def test_another_implementation_agrees() -> None:
    """Kaldi's, which takes 1.96 standard deviations for the interval."""
    draw = random.Random(3)
    said = [["w"] * draw.randint(3, 12) for _ in range(150)]
    found = [[word if draw.random() > 0.2 else "x" for word in words] for words in said]
    kaldi = kaldialign.bootstrap_wer_ci(said, found, replications=DRAWS)
    scorer = Scorer("plain")
    scores = [
        scorer.score(" ".join(a), " ".join(b), "en") for a, b in zip(said, found, strict=True)
    ]
    rates = drawn_rates([score.words for score in scores], range(150), seed=(0,))
    assert rates is not None
    assert interval(rates) == pytest.approx((kaldi["ci95min"], kaldi["ci95max"]), abs=0.003)
