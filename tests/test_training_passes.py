"""Several utterances in a pass, as the miniature is trained and measured with."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("jiwer")

import soundfile

from granite_gguf.reference import load_tokenizer
from training import evaluate, miniature
from training.dataset import Example
from training.passes import LENGTHS, LONGEST, Pass, Passes, as_example, passes_of
from training.stages import EditorStage
from training.tokens import encode_characters

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "training" / "checkpoint"
CHARACTERS = miniature.SIZE.encoder.characters
LOUDEST, FLOOR = 1.5, -0.5


def utterance(frames: int, text: str, voice: str = "en-us+m1", louder: float = 0.0) -> Example:
    rng = np.random.default_rng(frames)
    features = rng.uniform(FLOOR, LOUDEST, (frames, 160)).astype(np.float16)
    features[0, 0], features[-1, 0] = LOUDEST, FLOOR
    features += np.float16(louder)
    return Example(features, text, voice, encode_characters(text, CHARACTERS), [300])


def many(count: int, voices: int = 3) -> list[Example]:
    lengths = np.random.default_rng(0).integers(60, 300, count)
    return [utterance(int(n), "go back", f"voice{k % voices}") for k, n in enumerate(lengths)]


def test_an_utterance_is_taken_once_and_a_pass_is_not_too_long() -> None:
    given = many(300)
    drawn = list(Passes(given, random.Random(1)).training(40_000))
    parts = [id(part) for one in drawn for part in one.parts]
    assert len(set(parts)) == len(parts) and set(parts) <= set(map(id, given))
    assert 40_000 <= sum(one.frames for one in drawn) < 40_000 + LONGEST
    assert max(one.frames for one in drawn) <= LONGEST
    assert all(len(one.pauses) == len(one.parts) - 1 for one in drawn)
    assert all(5 <= pause <= 50 for one in drawn for pause in one.pauses)


def test_some_speech_stays_alone_and_most_passes_keep_a_voice() -> None:
    drawn = list(Passes(many(900), random.Random(2)).training(100_000))
    alone = sum(one.frames for one in drawn if len(one.parts) == 1)
    assert 0.25 < alone / sum(one.frames for one in drawn) < 0.45
    several = [one for one in drawn if len(one.parts) > 3]
    of_one = sum(len({part.voice for part in one.parts}) == 1 for one in several)
    assert 0.45 < of_one / len(several) < 0.75


def test_when_nothing_is_left_there_are_no_more() -> None:
    given = many(20)
    drawn = list(Passes(given, random.Random(3)).training(10**6))
    assert sorted(id(p) for one in drawn for p in one.parts) == sorted(map(id, given))


def test_words_that_do_not_exist_stay_alone_and_nothing_is_left_out() -> None:
    known = many(60)
    made = [replace(one, tokens=[]) for one in many(9)]
    drawn = passes_of([*known, *made], random.Random(5))
    parts = [id(part) for one in drawn for part in one.parts]
    assert sorted(parts) == sorted(map(id, [*known, *made]))
    assert {len(one.parts) for one in drawn if not one.parts[0].tokens} == {1}
    assert max(len(one.parts) for one in drawn) > 1
    assert passes_of([*known, *made], random.Random(6)) != drawn


@pytest.mark.parametrize("least, most", LENGTHS)
def test_passes_have_the_length_that_is_asked_for(least: int, most: int) -> None:
    drawn = list(Passes(many(900), random.Random(4)).of_length(least, most, 7))
    assert len(drawn) == 7
    assert all(least <= one.frames / 50 <= most for one in drawn)


def test_joined_they_have_one_floor_and_pauses_of_it() -> None:
    tokenizer = load_tokenizer(CHECKPOINT)
    quiet, loud = utterance(30, "open the door"), utterance(40, "go back", louder=0.5)
    found = as_example(Pass([quiet, loud], [7]), tokenizer, CHARACTERS)
    assert found.parts == ("open the door", "go back")
    assert as_example(Pass([loud], []), tokenizer, CHARACTERS) is loud
    led = as_example(Pass([quiet, loud], [7]), tokenizer, CHARACTERS, " ")
    assert led.tokens == tokenizer.encode(" open the door go back").ids != found.tokens
    floor = np.float16(LOUDEST + 0.5 - 2.0)
    assert found.frames == 77 and found.features.min() == floor
    assert (found.features[30:37] == floor).all()
    np.testing.assert_array_equal(found.features[:30], np.maximum(quiet.features, floor))
    np.testing.assert_array_equal(found.features[37:], loud.features)
    assert found.text == "open the door go back"
    assert tokenizer.decode(found.tokens) == found.text
    # A word behind another one is another token than at the beginning.
    assert found.tokens != tokenizer.encode("open the door").ids + tokenizer.encode("go back").ids


def test_errors_are_counted_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[list[int]] = []
    monkeypatch.setattr(
        EditorStage,
        "rates",
        lambda _, found: counted.append([e.frames for e in found]) or {"a": 0},
    )
    stage = EditorStage.__new__(EditorStage)
    names = stage.scores([utterance(n, "a") for n in (120, 300, 900)])
    assert counted == [[120], [300], [], [], [900]]
    assert list(names) == ["2-4 s a", "4-8 s a", "8-12 s a", "12-16 s a", "16-20 s a"]


def test_recordings_are_joined_for_the_evaluation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    recordings = []
    for n, frames in enumerate([100, 120, 140, 160] * 10):
        name = f"{n}.wav"
        sound = rng.uniform(-0.1, 0.1, frames * 320).astype(np.float32)
        soundfile.write(tmp_path / name, sound, 16_000, subtype="FLOAT")
        noisy = "+noise" if n % 4 == 3 else ""
        recordings.append(evaluate.Recording(name, f"say {n}", "a+b", frames, f"clean{noisy}"))
    found = list(evaluate.passes(recordings, 2, seed=0))
    assert [one.group for one in found[::2]] == [f"{a}-{b} s" for a, b in LENGTHS]
    for quiet, noisy in zip(found[::2], found[1::2], strict=True):
        assert quiet.noise is None and noisy.noise is not None
        assert list(noisy.groups) == [noisy.group, f"{noisy.group}, noisy"]
        sound = quiet.samples(tmp_path)
        assert len(sound) == 320 * quiet.drawn.frames
        assert not any("noise" in part.condition for part in quiet.drawn.parts)
        first, second = quiet.drawn.parts[0], sound[320 * quiet.drawn.parts[0].frames :]
        np.testing.assert_array_equal(sound[: -len(second) or None], first.samples(tmp_path))
        if quiet.drawn.pauses:
            assert not second[: 320 * quiet.drawn.pauses[0]].any()
        assert np.abs(noisy.samples(tmp_path)).min() > 0
    assert list(evaluate.passes(recordings, 2, seed=0)) == found
    assert len(found[-1].drawn.parts) > len(found[0].drawn.parts)
