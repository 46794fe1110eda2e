"""Which of the released models a checkpoint is, and what its card asks it by."""

from __future__ import annotations

import re

from granite_gguf.spec.speech import Prompt

_RAW = "can you transcribe the speech into a written format?"
_PUNCTUATED = "transcribe the speech with proper punctuation and capitalization."
# The date is what the models were trained with, not today's.
_SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: {date}.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)
_PLUS_DATE, _THIRD_DATE = "December 19, 2024", "April 9, 2025"

_VARIANT = re.compile(r"(\d\.\d)(?:-speech)?-(\d+b)(-plus)?", re.IGNORECASE)


def prompt(name: str, *, plus: bool, adapter: bool, draft: bool, width: int) -> Prompt:
    """How a model is asked.

    Args:
        name: of the checkpoint, in which the variant may stand.
        plus: whether it is a plus model.
        adapter: whether it has an adapter, as 3.x has.
        draft: whether it has a BPE head, as 4.1 has.
        width: of its language model.
    """
    found = _VARIANT.search(name)
    if plus:
        fallback = "4.1-2b-plus"
    elif adapter:
        fallback = "3.3-2b" if width <= 2048 else "3.3-8b"
    else:
        fallback = "4.1-2b" if draft else "4.0-1b"
    variant = found[0].lower().replace("-speech", "") if found else fallback
    third = variant.startswith("3.")
    fits = bool(found and found[3]) is plus and third is adapter
    if not fits:
        variant, third = fallback, adapter
    system = _SYSTEM.format(date=_THIRD_DATE if third else _PLUS_DATE) if third or plus else ""
    return Prompt(variant, _PUNCTUATED if variant == "4.1-2b" else _RAW, system)
