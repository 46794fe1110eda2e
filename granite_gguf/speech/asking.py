"""What a model is asked for, in the words that it was trained with: text alone.

Wish → instruction → text before the audio, text behind it
"""

from __future__ import annotations

from collections.abc import Sequence

from granite_gguf.errors import InputError
from granite_gguf.passes import PUNCTUATING, TELLING_SPEAKERS, TRANSLATING, Hotword, Wish
from granite_gguf.speech.spec import HParams

AUDIO = "<|audio|>"

RAW = "can you transcribe the speech into a written format?"
PUNCTUATED = "transcribe the speech with proper punctuation and capitalization."
SPEAKERS = (
    "Speaker attribution: Transcribe and denote who is speaking by adding [Speaker 1]: and "
    "[Speaker 2]: tags before speaker turns."
)
WORD_TIMES = (
    "Timestamps: Transcribe the speech. After each word, add a timestamp tag showing the end time "
    "in centiseconds, e.g. hello [T:45] world [T:82]"
)

LANGUAGES = {
    "en": "English", "fr": "French", "de": "German", "es": "Spanish", "pt": "Portuguese",
    "ja": "Japanese", "it": "Italian", "zh": "Mandarin",
}  # fmt: skip
"""What can be translated into, by code."""

# The dates are part of what was trained with: never today's.
_SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: {}.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)
SYSTEMS = {"plus": _SYSTEM.format("December 19, 2024"), "3.x": _SYSTEM.format("April 9, 2025")}
"""What is said before the question, by family, where anything is."""


def language_name(wanted: str) -> str:
    """The English name of a language that can be translated into.

    Raises:
        InputError: there is none of that name.

    >>> language_name("fr"), language_name("german")
    ('French', 'German')
    """
    for code, name in LANGUAGES.items():
        if wanted.strip().lower() in (code, name.lower()):
            return name
    known = ", ".join(f"{code} ({name})" for code, name in LANGUAGES.items())
    raise InputError(f"no model translates into {wanted!r}; expected one of {known}")


def instruction(h: HParams, wish: Wish) -> str:
    """The words for a wish.

    Raises:
        InputError: the model cannot do it, or not together; it tells what can.
    """
    if wish.prompt is not None:
        return _given(wish, wish.prompt)
    if wish.speakers or wish.word_times:
        return _tagged(h, wish)
    if wish.translate_to is not None:
        return _translation(h, wish)
    return _transcription(h, wish)


def around_audio(h: HParams, words: str, so_far: str = "") -> tuple[str, str]:
    """The prompt's text before the audio and behind it.

    Args:
        h: tells the form, which is that of the checkpoint's chat template.
        words: the instruction.
        so_far: how the answer begins.

    Raises:
        InputError: the instruction has a token in it that stands for audio.
    """
    if AUDIO in words or AUDIO in so_far:
        raise InputError(f"a prompt with {AUDIO} in it: the audio has a place of its own")
    if h.family == "base":
        return "USER: ", f"{words}\n ASSISTANT:{so_far}"
    system = h.prompt.system or SYSTEMS[h.family]
    space = " " if h.family == "plus" else ""
    before = f"{_role('system')}{system}<|end_of_text|>\n{_role('user')}"
    return before, f"{space}{words}<|end_of_text|>\n{_role('assistant')}{so_far}"


def _role(name: str) -> str:
    return f"<|start_of_role|>{name}<|end_of_role|>"


def _punctuates(h: HParams) -> bool:
    """Whether it is 4.1-2b; files that do not name their variant are taken for it."""
    return h.family == "base" and not h.prompt.variant.startswith("4.0")


def _require(able: bool, h: HParams, what: str, others: str) -> None:
    if not able:
        name = h.prompt.variant or h.family
        raise InputError(f"this model ({name}) {what}; {others} can do that")


def _given(wish: Wish, prompt: str) -> str:
    others = (
        wish.translate_to, wish.punctuation, wish.keywords or None,
        wish.speakers or None, wish.word_times or None,
    )  # fmt: skip
    if any(other is not None for other in others):
        raise InputError("a prompt stands alone: say in its words what else is wanted")
    if not prompt.strip():
        raise InputError("the prompt is empty")
    return prompt


def _tagged(h: HParams, wish: Wish) -> str:
    what = "speakers" if wish.speakers else "the times of words"
    _require(h.family == "plus", h, f"does not tell {what}", TELLING_SPEAKERS)
    if wish.speakers and wish.word_times:
        raise InputError("speakers and times of words have no common mode: ask for one of them")
    if wish.translate_to is not None or wish.punctuation or wish.keywords:
        raise InputError(f"{what} are told in a mode without other options: leave them out")
    return SPEAKERS if wish.speakers else WORD_TIMES


def _translation(h: HParams, wish: Wish) -> str:
    _require(h.family != "plus", h, "does not translate", TRANSLATING)
    name = language_name(wish.translate_to or "")
    keywords = _listed(wish.hotwords)
    if not _punctuates(h):
        _require(not wish.punctuation, h, "is not asked for punctuation", PUNCTUATING)
        _require(not keywords, h, "takes no keywords with a translation", PUNCTUATING)
        return f"can you translate the speech into {name}?"
    if wish.punctuation:
        _refuse_both(keywords)
    ending = " with proper punctuation and capitalization" if wish.punctuation else ""
    return f"translate the speech to {name}{ending}.{keywords}"


def _transcription(h: HParams, wish: Wish) -> str:
    keywords = _listed(wish.hotwords)
    if wish.punctuation:
        _require(_punctuates(h), h, "is not asked for punctuation", PUNCTUATING)
        _refuse_both(keywords)
        return PUNCTUATED
    if keywords:
        if h.family == "plus":
            return f"Can you transcribe the speech into a written format?{keywords}"
        return f"transcribe the speech to text.{keywords}" if _punctuates(h) else RAW + keywords
    if wish.punctuation is None:
        return h.prompt.default or (PUNCTUATED if _punctuates(h) else RAW)
    return RAW


def _refuse_both(keywords: str) -> None:
    if keywords:
        raise InputError(
            "keywords and punctuation have no common instruction: leave one of them out, or give "
            "a prompt of your own"
        )


def _listed(keywords: Sequence[Hotword]) -> str:
    if any(word.weight != 1 for word in keywords):
        raise InputError(
            "keywords with weights: this model is told them in words, which weigh nothing; leave "
            "the weights out"
        )
    return f" Keywords: {', '.join(word.text for word in keywords)}" if keywords else ""
