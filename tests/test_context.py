"""Pieces that are heard with what goes before them, whose text they continue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import granite_gguf
from granite_gguf import InputError, Model
from granite_gguf.arrays import FloatArray
from granite_gguf.passes import Before, Options, Piece, Wish
from granite_gguf.speech.asking import RAW, around_audio
from granite_gguf.speech.greedy import End, Said
from granite_gguf.speech.stages import SpeechStages
from granite_gguf.speech.transcribe import one_pass
from granite_gguf.stages.characters import LOGITS, text_of
from granite_gguf.transcript import Segment, Turn
from granite_gguf.transcription.recordings import _Past
from tests.signals import SAMPLE_RATE, synthetic_audio

CONTEXT = 5.0


@pytest.fixture(scope="module")
def plus(speech_files: dict[str, Path]) -> Iterator[Model]:
    with granite_gguf.load(speech_files["plus"], device="cpu", threads=1) as loaded:
        yield loaded


def passed(model: Model, pieces: list[Piece], **options: Any) -> list[Segment]:
    found = one_pass(model.stages, pieces, Options(context=CONTEXT, max_tokens=12, **options))
    return [segment for segment in found if segment is not None]


def test_a_text_is_continued(plus: Model) -> None:
    """The audio so far, and the text so far behind the prompt; the rest is what is said. In
    company of a piece without, too, whose text stays what it is alone."""
    before = Before(synthetic_audio(16_100, seed=5), "so far")
    alone = Piece(0, synthetic_audio(12_000, seed=7))
    piece = Piece(16_100, synthetic_audio(9_600, seed=6), before=before)
    stages = plus.stages
    # Cut at its beginning, so that the piece's own samples begin with a frame of 320.
    heard = np.concatenate([before.samples[100:], piece.samples])
    audio = stages.run_projector(stages.run_encoder(stages.compute_mel(heard)).captured)
    prompt = stages.prompt(audio, around_audio(stages.hparams, RAW, "so far"))
    (said,) = stages.generate([prompt], [12])
    found = passed(plus, [piece, alone])
    assert found[0].token_ids == said.tokens and len(said.tokens) > 3
    assert (found[0].start, found[0].end) == (16_100 / 16_000, 25_700 / 16_000)
    assert found[1].token_ids == passed(plus, [alone])[0].token_ids
    assert found[0].token_ids != passed(plus, [Piece(16_100, piece.samples)])[0].token_ids


def test_who_speaks_goes_on(plus: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    answer: list[str] = []

    def generate(self: SpeechStages, prompts: list[FloatArray], *_: Any) -> list[Said]:
        tokens = tuple(int(n) for n in self.tokenize(answer[-1]))
        return [Said(tokens, (0.5,) * len(tokens), End.FINISHED)] * len(prompts)

    monkeypatch.setattr(SpeechStages, "generate", generate)
    before = Before(synthetic_audio(8000, seed=5), "[Speaker 1]: so [Speaker 2]: no")
    piece = Piece(8000, synthetic_audio(8000, seed=6), follows=True, before=before)
    for said, text, turns in (
        (" well [Speaker 1]: ok", "[Speaker 2]: well [Speaker 1]: ok", ["2 well", "1 ok"]),
        (" [Speaker 1]: ok", "[Speaker 1]: ok", ["1 ok"]),
        ("", "", []),
    ):
        answer.append(said)
        (segment,) = passed(plus, [piece], wish=Wish(speakers=True))
        assert segment.text == text and not segment.remarks
        assert segment.turns == tuple(Turn(f"Speaker {turn[0]}", turn[2:]) for turn in turns)


def test_words_lie_in_the_piece_itself(plus: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the encoder hears of a piece begins where that begins, in all that is made of it."""
    stages, letters = plus.stages, {c: n + 1 for n, c in enumerate(" etaoinshrdlu")}
    monkeypatch.setattr(stages, "known_characters", letters)
    before = Before(synthetic_audio(16_000, seed=5), "so far")
    piece = Piece(32_000, synthetic_audio(16_000, seed=6), before=before)
    heard = stages.compute_mel(np.concatenate([before.samples, piece.samples]))
    taps = stages.run_encoder(heard, frozenset({LOGITS})).taps
    (segment,) = passed(plus, [piece], word_times=True)
    assert segment.hypothesis == text_of(letters, taps[LOGITS][50:])
    assert segment.words and segment.no_speech_prob is not None
    assert all(2.0 <= word.start <= word.end <= 3.0 for word in segment.words)


def test_what_was_said_before() -> None:
    """The last whole pieces that fit, of the same channel; nothing behind a text that was cut."""
    past, samples = _Past(25), np.zeros(10, np.float32)

    def said(text: str, channel: int | None = None, *, complete: bool = True) -> Piece:
        piece = Piece(0, samples, channel=channel)
        remarks = ("speakers are counted anew",)
        past.add(piece, Segment(0, 0.0, 1.0, text, "", remarks=remarks, complete=complete))
        return piece

    assert past.before(Piece(0, samples)) is None
    for text in ("a", "b", " c "):
        piece = said(text)
    before = past.before(piece)
    assert before is not None and before.text == "b c" and len(before.samples) == 20
    assert past.before(Piece(0, samples, channel=2)) is None
    other = said("x", channel=2)
    assert (found := past.before(other)) is not None and found.text == "x"
    assert said("d", complete=False) and past.before(piece) is None
    assert said("e") and (found := past.before(piece)) is not None and found.text == "e"
    none = _Past(0)
    none.add(piece, Segment(0, 0.0, 1.0, "a", ""))
    assert none.before(piece) is None


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")
def test_pieces_of_a_recording(plus: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each but the first is heard with the one before, and asked to go on with its text; but not
    behind a text that was cut."""
    heard: list[tuple[int, str]] = []
    ends: dict[int, End] = {}

    def generate(self: SpeechStages, prompts: list[FloatArray], *_: Any) -> list[Said]:
        tokens = tuple(int(n) for n in self.tokenize(f"piece {len(heard)}"))
        end = ends.get(len(heard), End.FINISHED)
        return [Said(tokens, (0.9,) * len(tokens), end)] * len(prompts)

    prompt = SpeechStages.prompt

    def asked(self: SpeechStages, audio: FloatArray, around: tuple[str, str]) -> FloatArray:
        heard.append((len(audio), around[1].partition("assistant<|end_of_role|>")[2]))
        return prompt(self, audio, around)

    monkeypatch.setattr(SpeechStages, "prompt", asked)
    monkeypatch.setattr(SpeechStages, "generate", generate)
    audio = synthetic_audio(22 * SAMPLE_RATE, seed=3)
    options: dict[str, Any] = {"chunk_seconds": 5, "vad": "off", "min_confidence": 0}
    alone = plus.transcribe(audio, **options)
    rows = [count for count, _ in heard]
    assert len(rows) >= 5 and {text for _, text in heard} == {""}
    heard.clear()
    found = plus.transcribe(audio, context=5, **options)
    assert [s.start for s in found.segments] == [s.start for s in alone.segments]
    assert [text for _, text in heard] == ["", *(f"piece {n + 1}" for n in range(len(rows) - 1))]
    assert heard[0][0] == rows[0]
    assert all(heard[n][0] > rows[n] + rows[n - 1] - 4 for n in range(1, len(rows)))
    heard.clear()
    ends[2] = End.BUDGET
    plus.transcribe(audio, context=5, speakers=True, **options)
    assert [text for _, text in heard][:5] == ["", "piece 1", "", "piece 3", "piece 4"]


def test_what_cannot_be(
    plus: Model, models: dict[str, Model], speech_files: dict[str, Path]
) -> None:
    audio = synthetic_audio(SAMPLE_RATE, seed=1)
    with granite_gguf.load(speech_files["base"], device="cpu", threads=1) as base:
        for model, context, says in (
            (plus, 0, "a context of 0 s is asked for, expected more than 0 and at most 240 s"),
            (plus, 241, "a context of 241 s is asked for"),
            (base, 5, "continues no text; granite-speech-4.1-2b-plus does"),
            (models["nle"], 5, "continues no text; granite-speech-4.1-2b-plus can"),
        ):
            with pytest.raises(InputError, match=says):
                model.transcribe(audio, context=context)
