"""File names in the form that the Hugging Face Hub reads: the type stands last."""

from __future__ import annotations

import re

_TYPE = re.compile(r"[-.](?:I?Q\d\w*|BF16|F16|F32)$", re.IGNORECASE)


def split_type(stem: str) -> tuple[str, str]:
    """A name without its ending, and the type at its end with what separates it.

    >>> split_type("granite-speech-4.1-2b-nar-Q4_K_M")
    ('granite-speech-4.1-2b-nar', '-Q4_K_M')
    >>> split_type("model")
    ('model', '')
    """
    match = _TYPE.search(stem)
    end = match.start() if match else len(stem)
    return stem[:end], stem[end:]
