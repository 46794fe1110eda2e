"""Runs every stage of a model from the reference's own inputs and judges what comes out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import AnyArray, FloatArray, IntArray
from granite_gguf.errors import ComparisonError
from granite_gguf.model import Model
from granite_gguf.nar import decoding
from granite_gguf.nar.results import EncoderResult, TokenResult
from granite_gguf.parity.comparison import Comparison, agreement, judge
from granite_gguf.parity.recorded import Names, Recorded, layer_names
from granite_gguf.parity.stages import (
    HYPOTHESIS,
    TOP1,
    TRANSCRIBE,
    StageSpec,
    check_dimensions,
    choose_stages,
    resolve_thresholds,
)
from granite_gguf.parity.thresholds import file_precision

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
    h = model.hparams
    chosen = choose_stages(h, recorded, stages)
    both = (file_precision(model.file), recorded.precision)
    limits = resolve_thresholds(h, chosen, thresholds or {}, both)
    check_audio(recorded, samples)
    check_dimensions(h, recorded)
    runner = _Runner(model, recorded, samples)
    return [runner.judge(stage, limits[stage.name]) for stage in chosen]


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


class _Runner:
    """Runs each part at most once and judges the stages from it."""

    def __init__(self, model: Model, recorded: Recorded, samples: FloatArray) -> None:
        self.model = model
        self.recorded = recorded
        self.samples = samples
        front_end = model.hparams.front_end
        self.frame = front_end.stride / front_end.sample_rate  # seconds

    def judge(self, stage: StageSpec, limit: float) -> StageResult:
        exact: dict[str, Callable[[float], StageResult]] = {
            HYPOTHESIS: self._hypothesis,
            TOP1: self._top1,
            TRANSCRIBE: self._transcribe,
        }
        return exact[stage.name](limit) if stage.exact else self._rows(stage.name, limit)

    # Stages of numbers

    def _rows(self, name: str, limit: float) -> StageResult:
        expected, notes = self.recorded.arrays[name], []
        if name == Names.MEL:
            actual = self.model.compute_mel(self.recorded.arrays.get(Names.RAW_AUDIO, self.samples))
        elif name == Names.BPE_LOGITS:
            actual, notes = self._head.taps[name], self._head_notes
        elif name == Names.PROJECTOR_OUTPUT:
            actual = self._projected
            kept = self._frames // self.model.hparams.projector.downsample_rate
            if len(expected) == kept != len(actual):
                actual, notes = actual[:kept], ["of whole audio tokens, as the reference has them"]
        elif name == Names.AUDIO_EMBS:
            projected = self.recorded.arrays[Names.PROJECTOR_OUTPUT]
            actual = self.model.scale_audio_tokens(projected, self._frames)
        elif name == Names.EDITING_LOGITS:
            actual = self._edited.taps[name]
        elif name == Names.ENCODER_OUTPUT:
            actual = self._encoded.captured
        else:
            actual = self._encoded.taps[name]
        judged = judge(actual, expected, limit)
        return StageResult(
            name,
            expected.shape,
            limit,
            judged.passed,
            comparison=judged.comparison,
            notes=(*judged.notes, *notes),
            cosines=judged.cosines,
            seconds_per_row=self._seconds_per_row(name),
        )

    def _seconds_per_row(self, name: str) -> float | None:
        h = self.model.hparams
        frames = {
            Names.BPE_LOGITS: h.hypothesis.pooling_window,
            Names.PROJECTOR_OUTPUT: h.projector.downsample_rate,
            Names.AUDIO_EMBS: h.projector.downsample_rate,
        }
        return None if name == Names.EDITING_LOGITS else self.frame * frames.get(name, 1)

    @property
    def _frames(self) -> int:
        return len(self.recorded.arrays[Names.ENCODER_OUTPUT])

    @cached_property
    def _encoded(self) -> EncoderResult[AnyArray]:
        taps = frozenset({*layer_names(self.model.hparams), Names.ENCODER_LOGITS})
        return self.model.run_encoder(self.recorded.arrays[Names.MEL], taps)

    @cached_property
    def _final(self) -> FloatArray:
        """The final state, the reference's where its file has it in one form or the other."""
        arrays, e = self.recorded.arrays, self.model.hparams.encoder
        if Names.ENCODER_FINAL in arrays:
            return arrays[Names.ENCODER_FINAL]
        captured_last = e.captured_blocks[-1] == e.n_layers
        # Captured before the feedback, it is the final state only where no feedback follows.
        before = e.capture_before_feedback and e.self_conditioning_layer == e.n_layers
        if Names.ENCODER_OUTPUT in arrays and captured_last and not before:
            return np.ascontiguousarray(arrays[Names.ENCODER_OUTPUT][:, -e.d_model :])
        return self._encoded.final

    @cached_property
    def _blank(self) -> FloatArray:
        found = self.recorded.arrays.get(Names.BLANK_PROB)
        return found if found is not None else self._encoded.blank

    @property
    def _head_notes(self) -> list[str]:
        if Names.BLANK_PROB in self.recorded.arrays:
            return []
        return ["blank_prob is this model's own, the reference has none"]

    @cached_property
    def _head(self) -> TokenResult[AnyArray]:
        taps = frozenset({Names.BPE_LOGITS})
        return self.model.run_hypothesis_head(self._final, self._blank, taps)

    @cached_property
    def _projected(self) -> FloatArray:
        return self.model.run_projector_windows(self.recorded.arrays[Names.ENCODER_OUTPUT])

    @cached_property
    def _edited(self) -> TokenResult[AnyArray]:
        audio_tokens = self.recorded.audio_tokens(self.model.hparams)
        assert audio_tokens is not None and self.recorded.text_ids is not None
        taps = frozenset({Names.EDITING_LOGITS})
        return self.model.run_editor(audio_tokens, self.recorded.text_ids, taps)

    # Stages of ids and texts

    def _hypothesis(self, limit: float) -> StageResult:
        tokens = self.model.run_hypothesis(self._final, self._blank)
        text, expected = self.model.detokenize(tokens), self.recorded.ctc_text or ""
        if self.model.hparams.hypothesis.retokenize:
            # The reference may have kept the text as it was before its normalisation.
            text, expected = text.strip().lower(), expected.strip().lower()
        result = self._text(HYPOTHESIS, text, expected, limit)
        slots = self._slots_note(tokens) if result.agreement == 1.0 else None
        notes = (*result.notes, *self._head_notes, *([slots] if slots else []))
        passed = result.passed and slots is None
        return StageResult(
            HYPOTHESIS, result.shape, limit, passed, agreement=result.agreement, notes=notes
        )

    def _slots_note(self, tokens: IntArray) -> str | None:
        """What is wrong where the text is right and the editor's ids are not."""
        expected = self.recorded.text_ids
        actual = decoding.insert_slots(self.model.hparams.editor, tokens)
        if expected is None or actual.tolist() == expected.tolist():
            return None
        if len(actual) != len(expected):
            return f"{len(actual)} text ids with slots, the reference has {len(expected)}"
        first = int(np.flatnonzero(actual != expected)[0])
        return f"text id {first} is {actual[first]}, the reference's {expected[first]}"

    def _top1(self, limit: float) -> StageResult:
        expected = self.recorded.arrays[Names.EDITING_LOGITS].argmax(axis=-1)
        equal = self._edited.ids == expected
        share = float(equal.mean())
        notes: tuple[str, ...] = ()
        if not equal.all():
            first = int(np.flatnonzero(~equal)[0])
            notes = (
                f"{int((~equal).sum())} of {len(equal)} ids differ, the first in row {first}: "
                f"{self._edited.ids[first]}, the reference's {expected[first]}",
            )
        return StageResult(
            TOP1, expected.shape, limit, share >= limit, agreement=share, notes=notes
        )

    def _transcribe(self, limit: float) -> StageResult:
        text = self.model.transcribe(self.samples).text
        return self._text(TRANSCRIBE, text, self.recorded.final_text or "", limit)

    @staticmethod
    def _text(name: str, text: str, expected: str, limit: float) -> StageResult:
        equal = agreement(text, expected)
        notes = () if text == expected else (f"{text!r}, the reference's {expected!r}",)
        return StageResult(
            name, (len(expected),), limit, equal >= limit, agreement=equal, notes=notes
        )
