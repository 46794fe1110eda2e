"""What the models compute in PyTorch, in the form of a reference file.

It computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from granite_gguf import errors
from granite_gguf.recorded.file import DTYPES
from granite_gguf.recorded.outputs import Names, Precision, Recorded
from granite_gguf.reference.config import CheckpointError
from granite_gguf.reference.dtypes import TORCH_DTYPES
from granite_gguf.reference.pipeline import Stages
from granite_gguf.reference.sections import read_json
from granite_gguf.reference.speech.layouts import MODEL_TYPES
from granite_gguf.reference.speech.pipeline import MOST_TOKENS, SpeechReference, SpeechStages
from granite_gguf.reference.speech.prompt import INSTRUCTION
from granite_gguf.reference.staged import StagedReference

ARCHITECTURE, SPEECH_ARCHITECTURE = "granite_nle", "granite_speech"

Told = tuple[Recorded, dict[str, str]]


def writes_tokens(directory: Path) -> bool:
    """Whether a checkpoint's model writes token by token, by its ``config.json``.

    Raises:
        CheckpointError: it cannot be read.
    """
    return read_json(directory / "config.json").get("model_type") in MODEL_TYPES


def record_checkpoint(
    directory: Path,
    samples: NDArray[Any],
    dtype: str,
    progress: Callable[[str], None] = lambda _stage: None,
    *,
    prompt: str | None = None,
    max_tokens: int | None = None,
) -> Told:
    """Every stage of 16 kHz mono samples (n), and what is to be known about the run.

    Args:
        directory: the checkpoint.
        samples: the recording.
        dtype: f32 or bf16.
        progress: is told of each stage before its weights are read.
        prompt: the instruction, where the model is given one; by default to transcribe.
        max_tokens: the most tokens, where the model writes one after the other.

    Raises:
        granite_gguf.errors.CheckpointError: the checkpoint cannot be used.
        granite_gguf.errors.AudioError: the audio is shorter than one frame.
        granite_gguf.errors.InputError: the model takes no prompt.
    """
    try:
        if writes_tokens(directory):
            asked = INSTRUCTION if prompt is None else prompt
            speech = SpeechReference(directory, TORCH_DTYPES[dtype], progress)
            said = speech.run(samples, asked, max_tokens or MOST_TOKENS)
            about = {"layout": speech.config.layout, "prompt": asked}
            return of_speech(said, samples, dtype, str(directory)), about
        refuse_prompt(directory, prompt, max_tokens)
        nar = StagedReference(directory, TORCH_DTYPES[dtype], progress)
        stages = nar.run(samples)
        return _of_nar(stages, samples, dtype, str(directory)), {
            "layout": nar.config.semantics.layout
        }
    except CheckpointError as error:
        raise errors.CheckpointError(str(error)) from error


def _of_nar(stages: Stages, samples: NDArray[Any], dtype: str, source: str) -> Recorded:
    arrays = _arrays(
        stages,
        samples,
        *(Names.MEL, Names.ENCODER_OUTPUT, Names.ENCODER_FINAL, Names.ENCODER_LOGITS),
        *(Names.BLANK_PROB, Names.BPE_LOGITS, Names.PROJECTOR_OUTPUT, Names.AUDIO_EMBS),
        Names.EDITING_LOGITS,
    )
    return Recorded(
        source=source,
        architecture=ARCHITECTURE,
        arrays=arrays,
        ids={Names.TEXT_IDS: stages.text_ids_with_slots},
        texts={Names.CTC_TEXT: stages.hypothesis_text, Names.FINAL_TEXT: stages.text},
        precision=Precision(others=DTYPES[dtype]),
    )


def refuse_prompt(directory: Path, prompt: str | None, max_tokens: int | None) -> None:
    """Say of a model that edits that it is asked nothing.

    Raises:
        granite_gguf.errors.InputError: it is.
    """
    if prompt is not None or max_tokens is not None:
        raise errors.InputError(
            f"{directory}: is a model that edits a hypothesis: it is given no prompt, and "
            "writes all tokens at once"
        )


def of_speech(stages: SpeechStages, samples: NDArray[Any], dtype: str, source: str) -> Recorded:
    """The stages of a model that writes token by token, as a reference file has them."""
    arrays = _arrays(
        stages,
        samples,
        *(Names.MEL, Names.ENCODER_OUTPUT, Names.ENCODER_LOGITS, Names.PROJECTOR_OUTPUT),
        *(Names.PREFILL_LOGITS, Names.STEP_LOGITS),
    )
    return Recorded(
        source=source,
        architecture=SPEECH_ARCHITECTURE,
        arrays=arrays,
        ids={name: getattr(stages, name) for name in (Names.PROMPT_IDS, Names.GENERATED_IDS)},
        texts={Names.FINAL_TEXT: stages.text},
        precision=Precision(others=DTYPES[dtype]),
    )


def _arrays(
    stages: Stages | SpeechStages, samples: NDArray[Any], *names: str
) -> Mapping[str, NDArray[np.float32]]:
    """The arrays of stages, as a reference file has them, and the samples."""
    if not len(stages.mel_spectrogram):
        raise errors.AudioError(
            f"{len(samples)} samples are shorter than one frame: nothing to record"
        )
    arrays = {Names.RAW_AUDIO: samples}
    arrays |= {f"{Names.ENCODER_LAYER}{k}": layer for k, layer in stages.encoder_layers.items()}
    arrays |= {name: getattr(stages, name) for name in names}
    return {name: array.astype(np.float32) for name, array in arrays.items() if array.size}
