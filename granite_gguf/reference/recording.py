"""What the PyTorch reference computes, in the form of a reference file.

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
from granite_gguf.reference.pipeline import Stages
from granite_gguf.reference.staged import StagedReference

ARCHITECTURE = "granite_nle"


def record_checkpoint(
    directory: Path,
    samples: NDArray[Any],
    dtype: str,
    progress: Callable[[str], None] = lambda _stage: None,
) -> tuple[Recorded, dict[str, str]]:
    """Every stage of 16 kHz mono samples (n), and what is to be known about the run.

    Raises:
        granite_gguf.errors.CheckpointError: the checkpoint cannot be used.
        granite_gguf.errors.AudioError: the audio is shorter than one frame.
    """
    try:
        reference = StagedReference(directory, TORCH_DTYPES[dtype], progress)
        stages = reference.run(samples)
    except CheckpointError as error:
        raise errors.CheckpointError(str(error)) from error
    about: dict[str, str] = {"layout": reference.config.semantics.layout}
    return recorded_from(stages, samples, dtype, str(directory)), about


def recorded_from(stages: Stages, samples: NDArray[Any], dtype: str, source: str) -> Recorded:
    """The stages under the names of a reference file.

    Raises:
        granite_gguf.errors.AudioError: there are no frames.
    """
    if not len(stages.mel_spectrogram):
        raise errors.AudioError(
            f"{len(samples)} samples are shorter than one frame: nothing to record"
        )
    names = (
        *(Names.MEL, Names.ENCODER_OUTPUT, Names.ENCODER_FINAL, Names.ENCODER_LOGITS),
        *(Names.BLANK_PROB, Names.BPE_LOGITS, Names.PROJECTOR_OUTPUT, Names.AUDIO_EMBS),
        Names.EDITING_LOGITS,
    )
    arrays = {Names.RAW_AUDIO: samples}
    for k, layer in stages.encoder_layers.items():
        arrays[f"{Names.ENCODER_LAYER}{k}"] = layer
    arrays |= {name: getattr(stages, name) for name in names}
    return Recorded(
        source=source,
        architecture=ARCHITECTURE,
        arrays={name: a.astype(np.float32) for name, a in arrays.items() if a.size},
        ids={Names.TEXT_IDS: stages.text_ids_with_slots},
        texts={Names.CTC_TEXT: stages.hypothesis_text, Names.FINAL_TEXT: stages.text},
        precision=Precision(others=DTYPES[dtype]),
    )
