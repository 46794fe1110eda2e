"""What models are asked, word for word as their cards have it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from granite_gguf import InputError
from granite_gguf.passes import Wish
from granite_gguf.speech.asking import around_audio, instruction, language_name
from granite_gguf.speech.spec import HParams, Prompt


class Asked:
    """What of a model's numbers matters here."""

    def __init__(self, family: str, variant: str = "", default: str = "", system: str = "") -> None:
        self.family, self.prompt = family, Prompt(variant, default, system)


def model(family: str, variant: str = "", **more: str) -> HParams:
    return cast(HParams, Asked(family, variant, **more))


BASE, FOUR, PLUS, THREE = (
    model("base", "4.1-2b"),
    model("base", "4.0-1b"),
    model("plus", "4.1-2b-plus"),
    model("3.x", "3.3-2b"),
)
RAW = "can you transcribe the speech into a written format?"


@pytest.mark.parametrize(
    "h, wish, words",
    [
        (BASE, {}, "transcribe the speech with proper punctuation and capitalization."),
        (BASE, {"punctuation": False}, RAW),
        (FOUR, {}, RAW),
        (PLUS, {}, RAW),
        (THREE, {}, RAW),
        (model("base", "4.1-2b", default="say it"), {}, "say it"),
        (
            BASE,
            {"keywords": ("Grnit", "Zoë")},
            "transcribe the speech to text. Keywords: Grnit, Zoë",
        ),
        (FOUR, {"keywords": ("Grnit",)}, f"{RAW} Keywords: Grnit"),
        (
            PLUS,
            {"keywords": ("Grnit",)},
            "Can you transcribe the speech into a written format? Keywords: Grnit",
        ),
        (BASE, {"translate_to": "fr"}, "translate the speech to French."),
        (
            BASE,
            {"translate_to": "Mandarin", "punctuation": True},
            "translate the speech to Mandarin with proper punctuation and capitalization.",
        ),
        (
            BASE,
            {"translate_to": "ja", "keywords": ("a", "b")},
            "translate the speech to Japanese. Keywords: a, b",
        ),
        (THREE, {"translate_to": "de"}, "can you translate the speech into German?"),
        (
            PLUS,
            {"speakers": True},
            "Speaker attribution: Transcribe and denote who is speaking by adding [Speaker 1]: "
            "and [Speaker 2]: tags before speaker turns.",
        ),
        (
            PLUS,
            {"word_times": True},
            "Timestamps: Transcribe the speech. After each word, add a timestamp tag showing the "
            "end time in centiseconds, e.g. hello [T:45] world [T:82]",
        ),
        (THREE, {"prompt": "what is said?"}, "what is said?"),
    ],
)
def test_instructions(h: HParams, wish: dict[str, Any], words: str) -> None:
    assert instruction(h, Wish(**wish)) == words


@pytest.mark.parametrize(
    "h, wish, problem",
    [
        (PLUS, {"translate_to": "fr"}, "does not translate; granite-speech-4.1-2b, "),
        (BASE, {"speakers": True}, r"\(4.1-2b\) does not tell speakers; .*-plus can"),
        (THREE, {"word_times": True}, "does not tell the times of words; .*-plus can"),
        (FOUR, {"punctuation": True}, "not asked for punctuation; granite-speech-4.1-2b can"),
        (THREE, {"translate_to": "fr", "punctuation": True}, "not asked for punctuation"),
        (THREE, {"translate_to": "fr", "keywords": ("a",)}, "no keywords with a translation"),
        (BASE, {"translate_to": "Klingon"}, r"'Klingon'; expected one of en \(English\)"),
        (BASE, {"punctuation": True, "keywords": ("a",)}, "no common instruction"),
        (BASE, {"keywords": ("a", " ")}, "a keyword is empty"),
        (BASE, {"keywords": ("Ada :2",)}, "weigh nothing"),
        (PLUS, {"speakers": True, "word_times": True}, "no common mode"),
        (PLUS, {"speakers": True, "keywords": ("a",)}, "without other options"),
        (BASE, {"prompt": "x", "translate_to": "fr"}, "stands alone"),
        (BASE, {"prompt": " "}, "is empty"),
    ],
)
def test_what_a_model_cannot_do(h: HParams, wish: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        instruction(h, Wish(**wish))


def test_the_forms_of_prompts() -> None:
    """As the chat templates of the checkpoints make them."""
    assert around_audio(BASE, RAW) == ("USER: ", f"{RAW}\n ASSISTANT:")
    plus = (
        "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\n"
        "Today's Date: December 19, 2024.\n"
        "You are Granite, developed by IBM. You are a helpful AI assistant<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>",
        f" {RAW}<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    )
    assert around_audio(PLUS, RAW) == plus
    before, behind = around_audio(THREE, RAW)
    assert before == plus[0].replace("December 19, 2024", "April 9, 2025")
    assert behind == plus[1][1:]  # only plus has a space behind the audio


def test_a_files_own_system_turn_and_what_was_said_so_far() -> None:
    before, behind = around_audio(model("plus", system="Be good"), RAW, "so far")
    assert before.startswith("<|start_of_role|>system<|end_of_role|>Be good<|end_of_text|>\n")
    assert behind.endswith("assistant<|end_of_role|>so far")


def test_audio_has_one_place() -> None:
    for words, so_far in (("<|audio|> what?", ""), ("what?", "<|audio|>")):
        with pytest.raises(InputError, match="a place of its own"):
            around_audio(BASE, words, so_far)


def test_languages() -> None:
    assert [language_name(n) for n in ("en", " ZH ", "portuguese")] == [
        "English",
        "Mandarin",
        "Portuguese",
    ]
