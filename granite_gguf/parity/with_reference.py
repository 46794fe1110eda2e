"""A model beside whatever can be its reference: a file of recorded stages, or another model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from granite_gguf.architectures import DIALECTS, HALVES
from granite_gguf.errors import ComparisonError, brief
from granite_gguf.model import Model, load
from granite_gguf.parity.diff import StageResult, diff_model, record
from granite_gguf.recorded.file import ARCHITECTURE, architecture, read_reference
from granite_gguf.recorded.outputs import Recorded


def recorded_by(path: Path, audio: str | PathLike[str], **loading: Any) -> Recorded:
    """The stages that a reference file holds, or that another model computes of a recording.

    Args:
        path: of the file, or of a model's.
        audio: the recording.
        loading: how to load a model, as in :func:`granite_gguf.load`.

    Raises:
        ComparisonError: it is neither.
        AudioError: the recording cannot be read.
    """
    found = architecture(path)
    if found == ARCHITECTURE:
        return read_reference(path)
    if found not in (*DIALECTS, *HALVES):
        raise ComparisonError(
            f"{path}: holds {brief(found)}, expected a reference file ({ARCHITECTURE!r}) or a "
            f"model ({' or '.join(map(repr, DIALECTS))})"
        )
    with load(path, **loading) as model:
        return record(model, model.load_audio(audio))


def compare(
    model: Model,
    reference: str | PathLike[str] | Model,
    audio: str | PathLike[str],
    *,
    stages: Collection[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> list[StageResult]:
    """Judge a model stage by stage, each from the reference's own inputs.

    Args:
        model: the model.
        reference: a reference file, another model's file, or a loaded model.
        audio: the recording.
        stages: the stages to judge; by default all that the reference has.
        thresholds: lowest cosine or agreement by stage, in place of the defaults, which follow
            from what the stage's weights are stored as.

    Raises:
        ComparisonError: the reference is of other audio or another model, or lacks a stage.
        InputError: there is no such stage, or a threshold is out of range or for none judged.
        AudioError: the recording cannot be read, or is too long for one pass.

    >>> all(stage.passed for stage in compare(model, "model.gguf", "speech.wav"))
    True
    """
    samples = model.load_audio(audio)
    if isinstance(reference, Model):
        recorded = record(reference, samples)
    else:
        recorded = recorded_by(Path(reference), audio, device="cpu")
    return diff_model(model, recorded, samples, stages=stages, thresholds=thresholds)
