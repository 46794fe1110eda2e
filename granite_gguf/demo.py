"""The demonstration model and samples that ship with the package.

A miniature of the architecture, trained on synthetic speech over a few hundred English words: it
shows the whole path from audio to text without a download. ``data/MODEL_CARD.md`` says what it is
for and what not.
"""

from __future__ import annotations

from pathlib import Path

_DATA = Path(__file__).parent / "data"

DEMO_MODEL = _DATA / "granite-nle-demo-Q6_K.gguf"
"""The model: all matrices Q6_K."""

DEMO_SAMPLES = tuple(_DATA / f"sample-{n}.flac" for n in (1, 2, 3))
"""Recordings of voices that the training never heard; the text of each is in a .txt beside it."""

DEMO_NOTE = (
    "note: this is the demonstration model: it knows a few hundred English words of synthetic "
    "speech and turns everything else into them. Choose a real model with -m"
)
"""What a person is told who uses the model without having asked for it."""
