"""Runs every stage of a model from the reference's own inputs and judges what comes out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from granite_gguf.architectures import architecture_of
from granite_gguf.arrays import FloatArray
from granite_gguf.errors import ComparisonError
from granite_gguf.model import Model
from granite_gguf.parity.comparison import Comparison, judge
from granite_gguf.parity.stages import (
    check_architecture,
    check_fits,
    choose_stages,
    resolve_thresholds,
)
from granite_gguf.parity.thresholds import file_precision
from granite_gguf.recorded.outputs import Names, Precision, Recorded
from granite_gguf.recorded.stages import IsolatedStages, StageSpec

# The same recording through another decoder or resampler is far above, another one far below.
SAME_AUDIO = 0.99
SILENCE = 1e-4


@dataclass(frozen=True)
class StageResult:
    """One stage of one model against the reference.

    Attributes:
        name: the stage.
        shape: of what the reference expects; of ids and texts, their number.
        threshold: the lowest cosine of a row, or the lowest agreement, that passes.
        passed: the verdict.
        comparison: the figures of a stage of numbers; None where no row could be compared.
        agreement: of ids, the share of equal ones; of texts, 1 - edit distance / length.
        notes: what the figures do not say.
        cosines: one per row.
        seconds_per_row: the time from one row to the next; None where rows are not of time.
    """

    name: str
    shape: tuple[int, ...]
    threshold: float
    passed: bool
    comparison: Comparison | None = None
    agreement: float | None = None
    notes: tuple[str, ...] = ()
    cosines: npt.NDArray[np.float64] | None = None
    seconds_per_row: float | None = None


def record(model: Model, samples: FloatArray) -> Recorded:
    """Every stage of mono samples ``(n,)`` at the model's rate.

    Raises:
        AudioError: the audio is shorter than one frame, or too long for one pass.
    """
    recorded = architecture_of(model.file).parity.record(model, samples)
    return replace(recorded, precision=_precision(model))


def diff_model(
    model: Model,
    recorded: Recorded,
    samples: FloatArray,
    *,
    stages: Collection[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> list[StageResult]:
    """Judge a model by a reference.

    Args:
        model: the model.
        recorded: the reference's outputs.
        samples: ``(n,)``, the recording they were computed from, mono at the model's rate.
        stages: the stages to judge; by default all that the reference has.
        thresholds: by stage, in place of the defaults.

    Raises:
        ComparisonError: the reference is of other audio or another model, or lacks a stage.
        InputError: there is no such stage, or a threshold is out of range or for none judged.
        AudioError: the recording is too long for one pass.
    """
    check_architecture(model.file, recorded)
    parity = architecture_of(model.file).parity
    table = parity.table(model.hparams, recorded)
    chosen = choose_stages(table, recorded, stages)
    both = (_precision(model), recorded.precision)
    limits = resolve_thresholds(table, chosen, thresholds or {}, both)
    check_audio(recorded, samples)
    check_fits(model.file, parity, recorded)
    isolated = parity.run(
        model, recorded, samples, lambda heard: model.transcribe(heard, min_confidence=0).text
    )
    front_end = model.hparams.front_end
    frame = front_end.stride / front_end.sample_rate  # seconds
    return [
        _judge_outcome(isolated, stage, limits[stage.name])
        if stage.exact
        else _judge_rows(
            isolated, stage.name, recorded.arrays[stage.name], limits[stage.name], frame
        )
        for stage in chosen
    ]


def _precision(model: Model) -> Precision:
    besides = architecture_of(model.file).parity.besides(model)
    return file_precision(model.file, besides)


def check_audio(recorded: Recorded, samples: FloatArray) -> None:
    """See that the reference is of this recording, where it says of which it is.

    Raises:
        ComparisonError: it is of another.
    """
    expected = recorded.arrays.get(Names.RAW_AUDIO)
    if expected is None:
        return
    if len(expected) != len(samples):
        raise ComparisonError(
            f"{recorded.source}: was made from other audio: {len(expected)} samples, not "
            f"{len(samples)}; give the recording it was made from"
        )
    a, b = samples.astype(np.float64), expected.astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    alike = norms > 0 and float(a @ b) / norms >= SAME_AUDIO
    if not alike and not np.abs(a - b).max(initial=0.0) <= SILENCE:
        raise ComparisonError(
            f"{recorded.source}: was made from other audio of the same length; give the "
            "recording it was made from"
        )


def _judge_rows(
    isolated: IsolatedStages, name: str, expected: FloatArray, limit: float, frame: float
) -> StageResult:
    """A stage of numbers; ``frame`` is an encoder frame's length in seconds."""
    computed = isolated.compute(name)
    judged = judge(computed.array, expected, limit)
    per_row = computed.frames_per_row
    return StageResult(
        name,
        expected.shape,
        limit,
        judged.passed,
        comparison=judged.comparison,
        notes=(*judged.notes, *computed.notes),
        cosines=judged.cosines,
        seconds_per_row=None if per_row is None else frame * per_row,
    )


def _judge_outcome(isolated: IsolatedStages, stage: StageSpec, limit: float) -> StageResult:
    """A stage of ids or of a text."""
    found = isolated.compare(stage.name)
    return StageResult(
        stage.name,
        (found.count,),
        limit,
        found.agreement >= limit and not found.wrong,
        agreement=found.agreement,
        notes=found.notes,
    )
