"""Which of the released models a checkpoint is, and what its card asks it by."""

from __future__ import annotations

from granite_gguf.speech.asking import PUNCTUATED, RAW, SYSTEMS
from granite_gguf.speech.spec import HParams, Prompt, stated_variant


def prompt(name: str, *, plus: bool, third: str, draft: bool, width: int) -> Prompt:
    """How a model is asked.

    Args:
        name: of the checkpoint, in which the variant may stand.
        plus: whether it is a plus model.
        third: the version of one of 3.x, else empty.
        draft: whether it has a BPE head, as 4.1 has.
        width: of its language model.
    """
    if plus:
        fallback = "4.1-2b-plus"
    elif third:
        fallback = f"{third}-{'2b' if width <= 2048 and third != '3.2' else '8b'}"
    else:
        fallback = "4.1-2b" if draft else "4.0-1b"
    return _asked_by(stated_variant(name, plus=plus, third=bool(third)) or fallback)


def prompt_of(h: HParams) -> Prompt:
    """How the model of a file is asked, as far as its variant and its form tell; else empty."""
    variant = h.prompt.variant or ("4.1-2b-plus" if h.family == "plus" else "")
    return _asked_by(variant) if variant else Prompt()


def _asked_by(variant: str) -> Prompt:
    family = "plus" if variant.endswith("-plus") else "3.x" if variant.startswith("3.") else "base"
    words = PUNCTUATED if variant == "4.1-2b" else RAW
    return Prompt(variant, words, SYSTEMS.get(family, ""))
