"""Passes of the autoregressive model: prompts, drafts, limits, tags, and what a person is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from granite_gguf.arrays import FloatArray, IntArray
from granite_gguf.errors import InputError
from granite_gguf.passes import Editor, Options, Piece, Wish
from granite_gguf.speech import drafts
from granite_gguf.speech.greedy import End, Said
from granite_gguf.speech.lane import SpeechLane
from granite_gguf.speech.reading import Answer
from granite_gguf.speech.stages import SpeechStages
from granite_gguf.speech.transcribe import TAGGED_SECONDS, one_pass
from granite_gguf.stages import characters
from granite_gguf.transcript import Segment, Turn
from tests.gguf_editing import rewrite
from tests.signals import SAMPLE_RATE, synthetic_audio
from tests.speech import LAYOUTS, PUNCTUATED, stages_of

MOST = 20  # tokens: long enough to differ, too short for a loop
LENGTHS = (1.0, 0.3, 2.2, 0.7)
LETTERS = " etaoinshrdlcumwfgypbvkjxqz'"


@pytest.fixture(scope="module")
def models(speech_files: dict[str, Path]) -> Iterator[dict[str, SpeechStages]]:
    with ExitStack() as stack:
        yield {layout: stack.enter_context(stages_of(speech_files[layout])) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def lettered(
    speech_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SpeechStages]:
    """A plus model whose file tells the characters of its head."""
    path = tmp_path_factory.mktemp("lettered") / "plus.gguf"
    told = "\n".join(["", *LETTERS, *[""] * (40 - 1 - len(LETTERS))])
    rewrite(
        speech_files["plus"],
        path,
        replace={"granite_speech.ctc.vocab": (told, gguf.GGUFValueType.STRING)},
    )
    with stages_of(path) as model:
        yield model


def pieces_of(lengths: Sequence[float] = LENGTHS) -> list[Piece]:
    return [
        Piece(16_000 * n, synthetic_audio(int(s * SAMPLE_RATE), seed=n + 1))
        for n, s in enumerate(lengths)
    ]


def passed(model: SpeechStages, pieces: Sequence[Piece], **options: Any) -> list[Segment]:
    found = one_pass(model, pieces, Options(**options))
    assert all(segment is not None for segment in found)
    return [segment for segment in found if segment is not None]


def test_the_prompt_is_the_templates(
    models: dict[str, SpeechStages], speech_checkpoints: dict[str, Path]
) -> None:
    """Ids by the tokenizers library, of the whole text with the audio's tokens in it."""
    model, (piece, *_) = models["base"], pieces_of()
    tokenizer = Tokenizer.from_file(str(speech_checkpoints["base"] / "tokenizer.json"))
    audio = model.run_projector(model.run_encoder(model.compute_mel(piece.samples)).captured)
    text = f"USER: {'<|audio|>' * len(audio)}{PUNCTUATED}\n ASSISTANT:"
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids)
    rows = model.embed(ids)
    rows[ids == model.hparams.llm.audio_token_index] = audio
    (said,) = model.generate([rows], [MOST])
    (segment,) = passed(model, [piece], max_tokens=MOST)
    assert segment.token_ids == said.tokens
    assert segment.text == tokenizer.decode(list(said.tokens)).strip()
    assert segment.confidence == pytest.approx(np.exp(np.log(said.probabilities).mean()))
    blank = model.run_encoder(model.compute_mel(piece.samples)).blank
    assert segment.no_speech_prob == pytest.approx(np.sort(blank)[:3].mean())
    (other,) = passed(model, [piece], max_tokens=MOST, wish=Wish(translate_to="fr"))
    assert other.token_ids != said.tokens
    assert other.translated_to == "French" and segment.translated_to is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_together_is_the_same_as_alone(models: dict[str, SpeechStages], layout: str) -> None:
    model = models[layout]
    together = passed(model, pieces_of(), max_tokens=MOST)
    for n, segment in enumerate(together):
        (alone,) = passed(model, [pieces_of()[n]], max_tokens=MOST)
        assert (segment.token_ids, segment.hypothesis) == (alone.token_ids, alone.hypothesis)
        assert (segment.start, segment.end) == (n, pytest.approx(n + LENGTHS[n]))
    assert len({segment.token_ids for segment in together}) > 1


def test_a_draft_changes_nothing_but_the_steps(
    models: dict[str, SpeechStages], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (piece, *_) = models["base"], pieces_of()
    (plain,) = passed(model, [piece], max_tokens=MOST, draft=False)
    (drafted,) = passed(model, [piece], max_tokens=MOST)
    assert plain.token_ids == drafted.token_ids
    assert plain.decoding is not None and plain.decoding.guessed == 0
    assert drafted.decoding is not None and drafted.decoding.guessed > 0
    # The first hypothesis as it would be if it were right.
    monkeypatch.setattr(
        SpeechStages, "read_hypothesis", lambda self, ids: np.array(plain.token_ids)
    )
    (right,) = passed(model, [piece], max_tokens=MOST)
    assert right.token_ids == plain.token_ids
    assert right.decoding is not None and right.decoding.steps < plain.decoding.steps / 2
    for untouched in ({"wish": Wish(translate_to="fr")}, {"draft": False}):
        (segment,) = passed(model, [piece], max_tokens=MOST, **untouched)
        assert segment.decoding is not None and segment.decoding.guessed == 0


def test_a_sure_draft_is_the_text_where_it_may_be_fast(
    models: dict[str, SpeechStages], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By entropies in float64, with a bound between those of the pieces; never in other cases."""
    model, pieces = models["base"], pieces_of((0.6, 0.3, 1.1))
    worst = []
    for piece in pieces:
        encoded = model.run_encoder(model.compute_mel(piece.samples))
        taps = model.run_hypothesis_head(
            encoded.final, encoded.blank, frozenset({"bpe_logits"})
        ).taps
        logits = taps["bpe_logits"].astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        worst.append(float((-odds * np.log(odds)).sum(axis=1).max()))
    bound = float(np.mean(sorted(worst)[1:]))
    unsure = int(np.argmax(worst))
    monkeypatch.setattr(drafts, "_SURE", bound)
    plain: dict[str, Any] = {"wish": Wish(punctuation=False), "max_tokens": 40, "word_times": True}

    def fast(**options: Any) -> list[Segment]:
        found = one_pass(model, pieces, Options(**{**plain, **options}), fast=True)
        return [segment for segment in found if segment is not None]

    exact = passed(model, pieces, **plain)
    assert [s.decoding and s.decoding.unseen for s in exact] == [0, 0, 0]
    for n, (segment, slow) in enumerate(zip(fast(), exact, strict=True)):
        assert segment.hypothesis == slow.hypothesis and segment.decoding is not None
        if n == unsure:
            assert segment.token_ids == slow.token_ids
            assert segment.decoding.unseen == 0 and segment.decoding.steps
            continue
        assert segment.text == slow.hypothesis != slow.text
        assert segment.decoding.unseen == len(segment.token_ids) and not segment.decoding.steps
        assert f", {len(segment.token_ids)} tokens were taken without" in str(segment.decoding)
        assert segment.words and " ".join(w.text for w in segment.words) == " ".join(
            segment.text.split()
        )
    for options in (
        {"draft": False},
        {"wish": Wish()},  # asks for punctuation, which is not heard
        {"wish": Wish(punctuation=False, keywords=("Ada",))},
        {"wish": Wish(translate_to="fr")},
        {"wish": Wish(prompt="what is said?")},
        {"max_tokens": 1},
    ):
        assert not any(s.decoding and s.decoding.unseen for s in fast(**options)), options


def test_how_sure_a_draft_has_to_be() -> None:
    assert drafts.is_sure(np.array([0.1, 0.69], np.float32))
    assert not drafts.is_sure(np.array([0.1, 0.71, 0.2], np.float32))
    assert not drafts.is_sure(np.zeros(0, np.float32))


def test_what_the_heads_hear(models: dict[str, SpeechStages], lettered: SpeechStages) -> None:
    """The BPE head's tokens where there is one; otherwise characters, where they are known."""
    (piece, *_) = pieces_of()
    base = models["base"]
    encoded = base.run_encoder(base.compute_mel(piece.samples))
    ids = base.run_hypothesis_head(encoded.final, encoded.blank).ids
    (segment,) = passed(base, [piece], max_tokens=1)
    assert segment.hypothesis == base.detokenize(base.read_hypothesis(ids)).strip() != ""
    (segment,) = passed(models["plus"], [piece], max_tokens=1)
    assert segment.hypothesis == ""
    (segment,) = passed(lettered, [piece], max_tokens=1)
    taps = lettered.run_encoder(lettered.compute_mel(piece.samples), frozenset({"encoder_logits"}))
    best = taps.taps["encoder_logits"].argmax(1)
    heard = [n for k, n in enumerate(best) if n and (k == 0 or best[k - 1] != n)]
    letters = dict(enumerate(LETTERS, 1))
    assert segment.hypothesis == "".join(letters.get(n, "") for n in heard).strip() != ""
    # What is shown of live speech is the same, by whichever head.
    assert lettered.hypothesis_text(piece.samples) == segment.hypothesis
    assert base.hypothesis_text(piece.samples) == base.detokenize(base.read_hypothesis(ids))
    assert models["plus"].hypothesis_text(piece.samples) == ""
    assert lettered.hypothesis_text(np.zeros(8000, np.float32)) == ""


def test_labels_of_a_head_that_are_not_told() -> None:
    """As the NAR model's are: code points, and katakana behind them; the blank is nobody's."""
    known = characters.labels(348, None)
    assert (known["e"], known["é"], known["ァ"], known[" "]) == (101, 233, 256, 32)
    assert len(known) == 348 - 32
    assert characters.labels(256, None) == {c: n for c, n in known.items() if n < 256}
    assert characters.labels(40, None) == {}


def test_silence_says_nothing(models: dict[str, SpeechStages]) -> None:
    silent = [Piece(0, np.zeros(n, np.float32)) for n in (0, 200, 16_000)]
    for segment in passed(models["base"], silent, word_times=True):
        assert (segment.text, segment.words, segment.decoding) == ("", (), None)


def test_a_loop_is_cut_and_told_with_its_time(models: dict[str, SpeechStages]) -> None:
    """A random model whose head is its embedding says one token for ever."""
    piece = replace(pieces_of()[2], within=(0, 48_000))
    (segment,) = passed(models["plus"], [piece])
    assert 0 < len(segment.token_ids) < 20
    (remark,) = segment.remarks
    assert remark.startswith("from 0.0 to 3.0 s the model repeats itself")


def test_a_budget_is_kept_and_told(models: dict[str, SpeechStages]) -> None:
    segments = passed(models["base"], pieces_of(), max_tokens=5)
    for segment in segments:
        assert len(segment.token_ids) == 5
        (remark,) = segment.remarks
        assert "is cut after 5 tokens; --max-tokens" in remark
    with pytest.raises(InputError, match="max_tokens is 0, expected 1 or more"):
        passed(models["base"], pieces_of(), max_tokens=0)


def test_a_piece_that_is_wanted_no_more(
    models: dict[str, SpeechStages], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, model = pieces_of(), models["base"]
    (alone,) = passed(model, pieces[:1], max_tokens=MOST)
    ends: list[list[End]] = []
    generate = SpeechStages.generate

    def watched(*given: Any) -> list[Said]:
        said = generate(*given)
        ends.append([text.end for text in said])
        return said

    monkeypatch.setattr(SpeechStages, "generate", watched)
    pieces[1].stop.cancel()
    segments = passed(model, pieces[:2], max_tokens=MOST)
    assert segments[0].token_ids == alone.token_ids
    assert ends[0][1] is End.UNWANTED


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a model answer with a text."""

    def say(text: str) -> None:
        def generate(self: SpeechStages, prompts: list[FloatArray], *_: Any) -> list[Said]:
            tokens = tuple(int(n) for n in self.tokenize(text))
            sure = tuple(0.5 + 0.4 * n / len(tokens) for n in range(len(tokens)))
            return [Said(tokens, sure, End.FINISHED)] * len(prompts)

        monkeypatch.setattr(SpeechStages, "generate", generate)

    return say


def test_a_plus_model_times_words_itself(models: dict[str, SpeechStages], saying: Any) -> None:
    saying(" _ [T:12] sö [T:40]ask [T:95] why")
    piece = replace(pieces_of((1.5,))[0], start=32_000)
    (segment,) = passed(models["plus"], [piece], word_times=True)
    assert segment.text == "sö ask why"
    assert segment.words is not None
    assert [(w.text, w.start, pytest.approx(w.end), w.aligned) for w in segment.words] == [
        ("sö", 2.12, 2.4, True),
        ("ask", 2.4, 2.95, True),
        ("why", 2.95, 3.5, False),
    ]
    probabilities = [word.probability for word in segment.words]
    assert probabilities == sorted(probabilities) and 0.5 < probabilities[0] < probabilities[-1]


def test_word_times_by_tags_are_for_five_minutes(models: dict[str, SpeechStages]) -> None:
    long = Piece(0, np.zeros(int((TAGGED_SECONDS + 1) * SAMPLE_RATE), np.float32))
    assert one_pass(models["plus"], [long], Options(word_times=True)) == [None]
    assert one_pass(models["plus"], [long], Options()) != [None]


def test_speakers(lettered: SpeechStages, saying: Any) -> None:
    saying("well [Speaker 1]: so ask [Speaker 2]: why?")
    begins, follows = pieces_of((1.0, 1.0))
    pieces = [begins, replace(follows, follows=True)]
    first, second = passed(lettered, pieces, wish=Wish(speakers=True), word_times=True)
    assert first.text == "well [Speaker 1]: so ask [Speaker 2]: why?"
    assert first.turns == (
        Turn(None, "well"), Turn("Speaker 1", "so ask"), Turn("Speaker 2", "why?")
    )  # fmt: skip
    assert first.words is not None
    assert [(w.text, w.speaker) for w in first.words] == [
        *(("well", None), ("so", "Speaker 1"), ("ask", "Speaker 1"), ("why?", "Speaker 2"))
    ]
    assert not first.remarks and "counted anew" in second.remarks[0]


def test_words_are_placed_by_the_characters_that_are_heard(
    lettered: SpeechStages, saying: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Posteriors by hand: "ask" at frames 10 to 12, "it" at 30 and 31, a space between."""
    saying("Ask IT!")
    label = {letter: n for n, letter in enumerate(LETTERS, 1)}
    run = SpeechStages.run_encoder

    def heard(self: SpeechStages, *given: Any) -> Any:
        encoded = run(self, *given)
        logits = encoded.taps["encoder_logits"]
        logits.array[:] = 0
        logits.array[:, 0] = 9
        for at, letter in zip((10, 11, 12, 20, 30, 31), "ask it", strict=True):
            logits.array[at, label[letter]] = 18
        encoded.blank.array[:] = logits.array.argmax(1) == 0
        return encoded

    monkeypatch.setattr(SpeechStages, "run_encoder", heard)
    wish = Wish(prompt="say it")  # with anything else to ask, tags are not asked for
    (segment,) = passed(lettered, pieces_of((1.0,)), wish=wish, word_times=True)
    assert segment.hypothesis == "ask it" and segment.words is not None
    ask, it = segment.words
    assert (ask.text, it.text, ask.aligned, it.aligned) == ("Ask", "IT!", True, True)
    assert ask.start == pytest.approx(0.2, abs=0.03) and it.start == pytest.approx(0.6, abs=0.03)


def test_words_of_a_translation_are_spread(models: dict[str, SpeechStages], saying: Any) -> None:
    saying(" bonne nuit")
    wish = Wish(translate_to="fr")
    (segment,) = passed(models["base"], pieces_of((1.1,)), wish=wish, word_times=True)
    assert segment.words is not None
    assert [(w.text, w.start, w.end, w.aligned) for w in segment.words] == [
        ("bonne", 0.0, pytest.approx(0.6), False),
        ("nuit", pytest.approx(0.6), pytest.approx(1.1), False),
    ]


def test_words_that_nothing_times_are_spread_for_subtitles(
    models: dict[str, SpeechStages], saying: Any
) -> None:
    """Plus that tells speakers tells no times, and its file not the characters of its head."""
    saying("[Speaker 1]: so ask [Speaker 2]: why")
    piece = replace(pieces_of((1.1,))[0], start=32_000)
    (segment,) = passed(
        models["plus"], [piece], wish=Wish(speakers=True), word_times=True, rough_times=True
    )
    assert segment.words is not None
    assert [(w.text, w.start, w.end, w.aligned, w.speaker) for w in segment.words] == [
        ("so", 2.0, pytest.approx(2.3), False, "Speaker 1"),
        ("ask", pytest.approx(2.3), pytest.approx(2.7), False, "Speaker 1"),
        ("why", pytest.approx(2.7), pytest.approx(3.1), False, "Speaker 2"),
    ]


def test_words_by_the_draft_head(models: dict[str, SpeechStages], saying: Any) -> None:
    saying("so ask why")
    (segment,) = passed(models["base"], pieces_of((2.0,)), word_times=True)
    assert segment.words is not None
    assert [word.text for word in segment.words] == ["so", "ask", "why"]
    times = [(word.start, word.end) for word in segment.words]
    assert all(0 <= start < end <= 2 for start, end in times) and times == sorted(times)


@pytest.mark.parametrize(
    "layout, options, problem",
    [
        ("lora", Options(word_times=True), "does not tell the characters"),
        ("plus", Options(wish=Wish(translate_to="fr")), "does not translate; granite-speech-4.1"),
        ("base", Options(wish=Wish(speakers=True)), "does not tell speakers; .*-plus can"),
        ("base", Options(max_tokens=0), "max_tokens is 0"),
        ("base", Options(editor=Editor.NEVER), "editor is 'never', and this model has none; .*nar"),
    ],
)
def test_what_a_model_cannot_do(
    speech_files: dict[str, Path], layout: str, options: Options, problem: str
) -> None:
    with stages_of(speech_files[layout]) as model:
        lane = SpeechLane(model.file, model.tokenizer, model._weights, model._runtime)
        with pytest.raises(InputError, match=problem):
            lane.check(options)
        lane.check(Options())
        lane.close()


def test_ends_of_tokens_within_characters(models: dict[str, SpeechStages]) -> None:
    tokenizer = models["base"].tokenizer
    tokens: IntArray = tokenizer.encode("a好 é!")
    ends = tokenizer.ends(tokens.tolist())
    assert len(tokens) > 5 and ends == sorted(ends) and ends[-1] == len("a好 é!")
    assert ends[0] == 1


@settings(max_examples=60, deadline=None)
@given(tokens=st.lists(st.integers(0, 600), max_size=30))
def test_any_tokens_have_words(models: dict[str, SpeechStages], tokens: list[int]) -> None:
    """Also bytes that are no text, and special tokens."""
    tokenizer = models["base"].tokenizer
    ends = tokenizer.ends(tokens)
    text = tokenizer.decode(tokens)
    assert ends == sorted(ends) and (ends or [0])[-1] == len(text)
    said = Said(tuple(tokens), (0.5,) * len(tokens), End.FINISHED)
    words = Answer(tokenizer, said).words()
    assert [word.text for word in words] == text.split()
    assert all(len(word.tokens) for word in words)


def test_a_word_has_the_probability_of_its_least_sure_token(
    models: dict[str, SpeechStages],
) -> None:
    tokenizer = models["base"].tokenizer
    tokens = tuple(int(n) for n in tokenizer.encode("etq xr"))
    assert len(tokens) > 3
    sure = tuple(0.9 - 0.1 * n for n in range(len(tokens)))
    first, last = Answer(tokenizer, Said(tokens, sure, End.FINISHED)).words()
    of_first = [n for n in range(len(tokens)) if " " not in tokenizer.decode(tokens[: n + 1])]
    assert first.tokens.tolist() == [tokens[n] for n in of_first]
    assert first.probability == sure[of_first[-1]]
    assert last.probability == sure[-1]
