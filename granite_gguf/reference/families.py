"""Which model a checkpoint holds, and who records it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from granite_gguf import errors
from granite_gguf.recorded.outputs import Recorded
from granite_gguf.reference import recording
from granite_gguf.reference.config import CheckpointError
from granite_gguf.reference.sections import read_json
from granite_gguf.reference.speech import recording as speech
from granite_gguf.reference.speech.layouts import MODEL_TYPES


def writes(directory: Path) -> bool:
    """Whether a checkpoint's model writes token by token, by its `config.json`.

    Raises:
        granite_gguf.errors.CheckpointError: it cannot be read.
    """
    try:
        return read_json(directory / "config.json").get("model_type") in MODEL_TYPES
    except CheckpointError as error:
        raise errors.CheckpointError(str(error)) from error


def record_checkpoint(
    directory: Path,
    samples: NDArray[Any],
    dtype: str,
    progress: Callable[[str], None] = lambda _stage: None,
    *,
    prompt: str | None = None,
    max_tokens: int | None = None,
) -> tuple[Recorded, dict[str, str]]:
    """Every stage of 16 kHz mono samples (n), and what is to be known about the run.

    Args:
        directory: the checkpoint.
        samples: the recording.
        dtype: f32 or bf16.
        progress: is told of each stage before its weights are read.
        prompt: the instruction, where the model is given one.
        max_tokens: the most tokens, where the model writes one after the other.

    Raises:
        granite_gguf.errors.CheckpointError: the checkpoint cannot be used.
        granite_gguf.errors.AudioError: the audio is shorter than one frame.
        granite_gguf.errors.InputError: the model takes no prompt.
    """
    if writes(directory):
        return speech.record_checkpoint(
            directory, samples, dtype, progress, prompt=prompt, max_tokens=max_tokens
        )
    if prompt is not None or max_tokens is not None:
        raise errors.InputError(
            f"{directory}: is a model that edits a hypothesis: it is given no prompt, and writes "
            "all tokens at once"
        )
    return recording.record_checkpoint(directory, samples, dtype, progress)
