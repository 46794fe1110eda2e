"""What the character head of the encoder writes: one label a frame, 0 for nothing.

logits (T, characters) → best labels → runs merged, blanks dropped → text
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from granite_gguf.arrays import FloatArray
from granite_gguf.ctc import collapse
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.model_file import ModelFile

BLANK = 0
LOGITS = "encoder_logits"
"""The tap of the encoder that has the head's logits."""
_LATIN = 256  # the released heads' first labels are code points
_KATAKANA = 0x30A1  # the code point of the label behind those


def labels(size: int, told: str | None) -> Mapping[str, int]:
    """A head's label of each character; none where they are not known.

    Args:
        size: how many labels there are.
        told: the characters by label, a line each. Checkpoints of the family do not tell them; the
            NAR model's does, whose head is as large.

    >>> labels(348, None)["e"], labels(348, None)["\u30a1"], labels(4, "\\n \\ne\\n")
    (101, 256, {' ': 1, 'e': 2})
    """
    if told is not None:
        return {c: n for n, c in enumerate(told.split("\n")[:size]) if len(c) == 1 and n != BLANK}
    if size < _LATIN:
        return {}
    latin = {chr(code): code for code in range(32, _LATIN)}
    return latin | {chr(_KATAKANA + n): _LATIN + n for n in range(size - _LATIN)}


def labels_of(file: ModelFile[Any]) -> Mapping[str, int]:
    """The labels of a file's head."""
    return labels(file.hparams.encoder.ctc_vocab, file.text(file.format.key(Keys.CTC.VOCAB)))


def text_of(known: Mapping[str, int], logits: FloatArray) -> str:
    """What is heard in frames ``(T, characters)``, without spaces at either end."""
    characters = {label: c for c, label in known.items()}
    heard = collapse(logits.argmax(axis=1), BLANK)
    return "".join(characters.get(int(label), "") for label in heard).strip()


def log_posteriors(known: Mapping[str, int], logits: FloatArray) -> FloatArray:
    """Log-probabilities ``(T, characters)``, in which a space counts as blank."""
    rows: FloatArray = logits - logits.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    if " " in known:
        rows[:, BLANK] = np.logaddexp(rows[:, BLANK], rows[:, known[" "]])
    return rows
