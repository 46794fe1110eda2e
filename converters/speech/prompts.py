"""Which of the released models a checkpoint is, and what its card asks it by."""

from __future__ import annotations

from granite_gguf.speech.spec import HParams, Prompt, named_variant

_RAW = "can you transcribe the speech into a written format?"
_PUNCTUATED = "transcribe the speech with proper punctuation and capitalization."
# The date is what the models were trained with, not today's.
_SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: {date}.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)
_PLUS_DATE, _THIRD_DATE = "December 19, 2024", "April 9, 2025"


def prompt(name: str, *, plus: bool, adapter: bool, draft: bool, width: int) -> Prompt:
    """How a model is asked.

    Args:
        name: of the checkpoint, in which the variant may stand.
        plus: whether it is a plus model.
        adapter: whether it has an adapter, as 3.x has.
        draft: whether it has a BPE head, as 4.1 has.
        width: of its language model.
    """
    if plus:
        fallback = "4.1-2b-plus"
    elif adapter:
        fallback = "3.3-2b" if width <= 2048 else "3.3-8b"
    else:
        fallback = "4.1-2b" if draft else "4.0-1b"
    return _asked_by(_stated(name, plus=plus, third=adapter) or fallback)


def prompt_of_file(names: str, h: HParams) -> Prompt:
    """How the model of a file is asked, as far as its names and its form tell; else empty."""
    plus, third = h.family == "plus", h.family == "3.x"
    fallback = "4.1-2b-plus" if plus else ""
    variant = h.prompt.variant or _stated(names, plus=plus, third=third) or fallback
    return _asked_by(variant) if variant else Prompt()


def _stated(names: str, *, plus: bool, third: bool) -> str:
    """The variant that stands in some names, unless models of that variant have another form."""
    variant = named_variant(names)
    fits = variant.endswith("-plus") is plus and variant.startswith("3.") is third
    return variant if fits else ""


def _asked_by(variant: str) -> Prompt:
    third, plus = variant.startswith("3."), variant.endswith("-plus")
    system = _SYSTEM.format(date=_THIRD_DATE if third else _PLUS_DATE) if third or plus else ""
    return Prompt(variant, _PUNCTUATED if variant == "4.1-2b" else _RAW, system)
