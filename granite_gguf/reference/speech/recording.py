"""What the autoregressive model computes in PyTorch, in the form of a reference file.

It computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from granite_gguf import errors
from granite_gguf.recorded.file import DTYPES
from granite_gguf.recorded.outputs import Names, Precision, Recorded
from granite_gguf.reference.config import CheckpointError
from granite_gguf.reference.dtypes import TORCH_DTYPES
from granite_gguf.reference.speech.pipeline import MOST_TOKENS, SpeechReference, SpeechStages
from granite_gguf.reference.speech.prompt import INSTRUCTION

ARCHITECTURE = "granite_speech"


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
        prompt: the instruction; by default to transcribe.
        max_tokens: the most tokens to generate.

    Raises:
        granite_gguf.errors.CheckpointError: the checkpoint cannot be used.
        granite_gguf.errors.AudioError: the audio is shorter than one frame.
    """
    asked = INSTRUCTION if prompt is None else prompt
    try:
        reference = SpeechReference(directory, TORCH_DTYPES[dtype], progress)
        stages = reference.run(samples, asked, max_tokens or MOST_TOKENS)
    except CheckpointError as error:
        raise errors.CheckpointError(str(error)) from error
    about = {"layout": reference.config.layout, "prompt": asked}
    return recorded_from(stages, samples, dtype, str(directory)), about


def recorded_from(stages: SpeechStages, samples: NDArray[Any], dtype: str, source: str) -> Recorded:
    """The stages under the names of a reference file.

    Raises:
        granite_gguf.errors.AudioError: there are no frames.
    """
    if not len(stages.mel_spectrogram):
        raise errors.AudioError(
            f"{len(samples)} samples are shorter than one frame: nothing to record"
        )
    names = (
        *(Names.MEL, Names.ENCODER_OUTPUT, Names.ENCODER_LOGITS, Names.PROJECTOR_OUTPUT),
        *(Names.PREFILL_LOGITS, Names.STEP_LOGITS),
    )
    arrays = {Names.RAW_AUDIO: samples}
    arrays |= {f"{Names.ENCODER_LAYER}{k}": layer for k, layer in stages.encoder_layers.items()}
    arrays |= {name: getattr(stages, name) for name in names}
    return Recorded(
        source=source,
        architecture=ARCHITECTURE,
        arrays={name: array.astype(np.float32) for name, array in arrays.items()},
        ids={name: getattr(stages, name) for name in (Names.PROMPT_IDS, Names.GENERATED_IDS)},
        texts={Names.FINAL_TEXT: stages.text},
        precision=Precision(others=DTYPES[dtype]),
    )
