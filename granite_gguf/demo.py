"""The demonstration models and samples that ship with the package.

Miniatures of both architectures, trained on synthetic speech over a few hundred English words: they
show the whole path from audio to text without a download. The cards in ``data`` say what they are
for and what not.
"""

from __future__ import annotations

from pathlib import Path

from granite_gguf.errors import InputError

_DATA = Path(__file__).parent / "data"

DEMO_MODEL = _DATA / "granite-nle-demo-Q6_K.gguf"
"""The one that edits: all matrices Q6_K."""

DEMO_MODELS = {"nar": DEMO_MODEL, "base": _DATA / "granite-speech-demo-Q6_K.gguf"}
"""Each by its name: ``base`` writes token by token, with or without punctuation, or in Spanish, as
it is asked."""

DEMO_SAMPLES = tuple(_DATA / f"sample-{n}.flac" for n in (1, 2, 3))
"""Recordings of voices that the training never heard; the text of each is in a .txt beside it."""

DEMO_NOTE = (
    "note: this is the demonstration model: it knows a few hundred English words of synthetic "
    "speech and turns everything else into them. Choose a real model with -m"
)
"""What a person is told who uses the model without having asked for it."""

_PREFIX = "demo:"


def demo_file(name: str) -> Path | None:
    """The file of a demonstration model from its name among models, None for other names.

    Raises:
        InputError: there is no such demonstration model.

    >>> demo_file("demo:base").name, demo_file("model.gguf")
    ('granite-speech-demo-Q6_K.gguf', None)
    """
    if not name.startswith(_PREFIX):
        return None
    chosen = name.removeprefix(_PREFIX)
    if chosen not in DEMO_MODELS:
        known = " or ".join(f"{_PREFIX}{known}" for known in DEMO_MODELS)
        raise InputError(f"{name}: no such file, and the demonstration models are {known}")
    return DEMO_MODELS[chosen]


def demo_name(file: Path) -> str | None:
    """The name among models of one of these files, which holds wherever the package lies."""
    return next((_PREFIX + name for name, path in DEMO_MODELS.items() if path == file), None)
