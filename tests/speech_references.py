"""Reference files of tiny autoregressive models, computed in PyTorch.

    python -m tests.speech_references    write tests/expected/speech/LAYOUT.ref.gguf

One of each checkpoint ``make_speech_checkpoint(layout=LAYOUT, size="tiny", seed=0, dtype="f32")``
and of ``synthetic_audio(SAMPLES, AUDIO_SEED)``. Needs the reference extra.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from granite_gguf.recorded.file import write_reference
from granite_gguf.recorded.outputs import Recorded
from tests.signals import synthetic_audio
from tests.speech import AUDIO_SEED, EXPECTED, LAYOUTS, make

SAMPLES = 5600  # 18 frames: a whole window of the projector and a partial one
TOKENS = 8


def reference_path(layout: str) -> Path:
    return EXPECTED / f"{layout}.ref.gguf"


def torch_reference(directory: Path) -> Recorded:
    """What PyTorch computes of a checkpoint."""
    from granite_gguf.reference.recording import record_checkpoint

    samples = synthetic_audio(SAMPLES, AUDIO_SEED)
    recorded, _ = record_checkpoint(directory, samples, "f32", max_tokens=TOKENS)
    return recorded


if __name__ == "__main__":
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            recorded = torch_reference(make(Path(folder) / layout, layout))
        write_reference(
            reference_path(layout),
            recorded,
            backend="granite_gguf.reference",
            model_dir=f"tiny {layout}",
            about={"dtype": "f32", "layout": layout},
            force=True,
        )
