"""The stages of the non-autoregressive model, recorded and run one by one for a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from granite_gguf.arrays import AnyArray, FloatArray, IntArray
from granite_gguf.errors import AudioError
from granite_gguf.nar import decoding
from granite_gguf.nar.spec import HParams
from granite_gguf.nar.stages import Stages
from granite_gguf.recorded.outputs import Names, Recorded
from granite_gguf.recorded.stages import (
    TRANSCRIBE,
    Computed,
    Outcome,
    Parity,
    StageSpec,
    Transcribe,
    compare_best,
    compare_texts,
    layer_names,
    unequal_rows,
)
from granite_gguf.stages.results import EncoderResult, TokenResult

HYPOTHESIS = "hypothesis"
TOP1 = "editing_logits_top1"

_OWN_BLANK = "blank_prob is this model's own, the reference has none"


def table(h: HParams, recorded: Recorded) -> list[StageSpec]:
    """Every stage of a model, in the order of the data."""
    encoder, head = ("encoder",), ("encoder", "hypothesis")
    heard = () if _has_no_tokens(h, recorded) else (Names.AUDIO_EMBS,)
    editor = (Names.TEXT_IDS, *heard, Names.EDITING_LOGITS)
    projector = (Names.ENCODER_OUTPUT, Names.PROJECTOR_OUTPUT)
    return [
        StageSpec(Names.MEL, (Names.MEL,), ()),
        *(
            StageSpec(name, (Names.MEL, name), encoder, optional=True)
            for name in layer_names(h.encoder)
        ),
        StageSpec(Names.ENCODER_OUTPUT, (Names.MEL, Names.ENCODER_OUTPUT), encoder),
        StageSpec(Names.ENCODER_LOGITS, (Names.MEL, Names.ENCODER_LOGITS), encoder),
        StageSpec(Names.BPE_LOGITS, (Names.MEL, Names.BPE_LOGITS), head[1:], optional=True),
        StageSpec(HYPOTHESIS, (Names.MEL, Names.CTC_TEXT), head, exact=True),
        StageSpec(Names.PROJECTOR_OUTPUT, projector, ("projector",)),
        StageSpec(Names.AUDIO_EMBS, (*projector, Names.AUDIO_EMBS), (), optional=True),
        StageSpec(Names.EDITING_LOGITS, editor, ("editor",)),
        StageSpec(TOP1, editor, ("editor",), exact=True),
        StageSpec(
            TRANSCRIBE, (Names.FINAL_TEXT,), (*head, "projector", "editor"), exact=True
        ),
    ]  # fmt: skip


def _has_no_tokens(h: HParams, recorded: Recorded) -> bool:
    """Whether the audio is too short for an audio token: outputs without rows are absent."""
    output = recorded.arrays.get(Names.ENCODER_OUTPUT)
    short = output is not None and len(output) < h.projector.downsample_rate
    return short and Names.AUDIO_EMBS not in recorded.arrays


def widths(h: HParams) -> dict[str, int]:
    """How wide each output is."""
    e, p, d = h.encoder, h.projector, h.editor
    return {
        Names.MEL: e.input_dim,
        Names.ENCODER_OUTPUT: p.num_encoder_layers * p.encoder_dim,
        Names.ENCODER_FINAL: e.d_model,
        Names.ENCODER_LOGITS: e.ctc_vocab,
        Names.BPE_LOGITS: h.hypothesis.bpe_vocab,
        Names.PROJECTOR_OUTPUT: p.llm_dim,
        Names.AUDIO_EMBS: d.d_model,
        Names.EDITING_LOGITS: d.vocab_size,
        **dict.fromkeys(layer_names(e), e.d_model),
    }


def problems(_: HParams, recorded: Recorded) -> Iterator[str]:
    """Outputs whose numbers of rows contradict one another."""
    alike = ((Names.ENCODER_FINAL, Names.BLANK_PROB), (Names.EDITING_LOGITS, Names.TEXT_IDS))
    return unequal_rows(recorded, alike)


def record(model: Stages, samples: FloatArray) -> Recorded:
    """Every stage of mono samples ``(n,)`` at the model's rate.

    Raises:
        AudioError: the audio is shorter than one frame, or too long for one pass.
    """
    mel = model.compute_mel(samples)
    if not len(mel):
        raise AudioError(f"{len(samples)} samples are shorter than one frame: nothing to compare")
    layers = layer_names(model.hparams.encoder)
    encoded = model.run_encoder(mel, frozenset({*layers, Names.ENCODER_LOGITS}))
    head = model.run_hypothesis_head(encoded.final, encoded.blank, frozenset({Names.BPE_LOGITS}))
    tokens = model.run_hypothesis(encoded.final, encoded.blank)
    text_ids = decoding.insert_slots(model.hparams.editor, tokens)
    projected = model.run_projector_windows(encoded.captured)
    audio_tokens = model.scale_audio_tokens(projected, len(mel))
    rows, limit = len(audio_tokens) + len(text_ids), model.hparams.editor.max_positions
    if rows > limit:
        raise AudioError(f"the audio needs {rows} positions in one pass, the model has {limit}")
    edited = model.run_editor(audio_tokens, text_ids, frozenset({Names.EDITING_LOGITS}))
    arrays = {
        Names.RAW_AUDIO: samples,
        Names.MEL: mel,
        **{name: encoded.taps[name] for name in layers},
        Names.ENCODER_OUTPUT: encoded.captured,
        Names.ENCODER_FINAL: encoded.final,
        Names.ENCODER_LOGITS: encoded.taps[Names.ENCODER_LOGITS],
        Names.BLANK_PROB: encoded.blank,
        Names.BPE_LOGITS: head.taps[Names.BPE_LOGITS],
        Names.PROJECTOR_OUTPUT: projected,
        Names.AUDIO_EMBS: audio_tokens,
        Names.EDITING_LOGITS: edited.taps[Names.EDITING_LOGITS],
    }
    final = decoding.edited_tokens(model.hparams.editor, edited.ids)
    return Recorded(
        source=str(model.file.path),
        architecture=model.file.format.name,
        arrays={name: array for name, array in arrays.items() if array.size},
        ids={Names.TEXT_IDS: text_ids},
        texts={Names.CTC_TEXT: model.detokenize(tokens), Names.FINAL_TEXT: model.detokenize(final)},
    )


class IsolatedStages:
    """Runs each part at most once, from the reference's own inputs."""

    def __init__(
        self, model: Stages, recorded: Recorded, samples: FloatArray, transcribe: Transcribe
    ) -> None:
        self.model = model
        self.recorded = recorded
        self.samples = samples
        self.transcribe = transcribe

    def compute(self, name: str) -> Computed:
        """A stage of numbers."""
        stages: dict[str, Callable[[], Computed]] = {
            Names.MEL: self._mel,
            Names.ENCODER_OUTPUT: lambda: Computed(self._encoded.captured),
            Names.BPE_LOGITS: self._bpe_logits,
            Names.PROJECTOR_OUTPUT: self._projector_output,
            Names.AUDIO_EMBS: self._audio_embs,
            Names.EDITING_LOGITS: lambda: Computed(self._edited.taps[name], (), None),
        }
        return stages[name]() if name in stages else Computed(self._encoded.taps[name])

    def _mel(self) -> Computed:
        heard = self.recorded.arrays.get(Names.RAW_AUDIO, self.samples)
        return Computed(self.model.compute_mel(heard))

    def _bpe_logits(self) -> Computed:
        window = self.model.hparams.hypothesis.pooling_window
        return Computed(self._head.taps[Names.BPE_LOGITS], self._head_notes, window)

    def _projector_output(self) -> Computed:
        token = self.model.hparams.projector.downsample_rate
        kept, expected = self._frames // token, self.recorded.arrays[Names.PROJECTOR_OUTPUT]
        if len(expected) == kept != len(self._projected):
            notes = ("of whole audio tokens, as the reference has them",)
            return Computed(self._projected[:kept], notes, token)
        return Computed(self._projected, (), token)

    def _audio_embs(self) -> Computed:
        projected = self.recorded.arrays[Names.PROJECTOR_OUTPUT]
        scaled = self.model.scale_audio_tokens(projected, self._frames)
        return Computed(scaled, (), self.model.hparams.projector.downsample_rate)

    def compare(self, name: str) -> Outcome:
        """A stage of ids or of a text."""
        if name == HYPOTHESIS:
            return self._hypothesis()
        if name == TOP1:
            expected = self.recorded.arrays[Names.EDITING_LOGITS].argmax(axis=-1)
            return compare_best(self._edited.ids, expected)
        text = self.transcribe(self.samples)
        return compare_texts(text, self.recorded.texts[Names.FINAL_TEXT])

    @property
    def _frames(self) -> int:
        return len(self.recorded.arrays[Names.ENCODER_OUTPUT])

    @cached_property
    def _encoded(self) -> EncoderResult[AnyArray]:
        taps = frozenset({*layer_names(self.model.hparams.encoder), Names.ENCODER_LOGITS})
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
    def _head_notes(self) -> tuple[str, ...]:
        return () if Names.BLANK_PROB in self.recorded.arrays else (_OWN_BLANK,)

    @cached_property
    def _head(self) -> TokenResult[AnyArray]:
        taps = frozenset({Names.BPE_LOGITS})
        return self.model.run_hypothesis_head(self._final, self._blank, taps)

    @cached_property
    def _projected(self) -> FloatArray:
        return self.model.run_projector_windows(self.recorded.arrays[Names.ENCODER_OUTPUT])

    @cached_property
    def _edited(self) -> TokenResult[AnyArray]:
        none = np.zeros((0, self.model.hparams.editor.d_model), np.float32)
        audio_tokens = self.recorded.arrays.get(Names.AUDIO_EMBS, none)
        text_ids = self.recorded.ids[Names.TEXT_IDS]
        return self.model.run_editor(audio_tokens, text_ids, frozenset({Names.EDITING_LOGITS}))

    def _hypothesis(self) -> Outcome:
        tokens = self.model.run_hypothesis(self._final, self._blank)
        text, expected = self.model.detokenize(tokens), self.recorded.texts[Names.CTC_TEXT]
        if self.model.hparams.hypothesis.retokenize:
            # The reference may have kept the text as it was before its normalisation.
            text, expected = text.strip().lower(), expected.strip().lower()
        found = compare_texts(text, expected)
        slots = self._slots_note(tokens) if found.agreement == 1.0 else ()
        notes = (*found.notes, *self._head_notes, *slots)
        return Outcome(found.count, found.agreement, notes, wrong=bool(slots))

    def _slots_note(self, tokens: IntArray) -> tuple[str, ...]:
        """What is wrong where the text is right and the editor's ids are not."""
        expected = self.recorded.ids.get(Names.TEXT_IDS)
        actual = decoding.insert_slots(self.model.hparams.editor, tokens)
        if expected is None or actual.tolist() == expected.tolist():
            return ()
        if len(actual) != len(expected):
            return (f"{len(actual)} text ids with slots, the reference has {len(expected)}",)
        first = int(np.flatnonzero(actual != expected)[0])
        return (f"text id {first} is {actual[first]}, the reference's {expected[first]}",)


NAR_PARITY = Parity(
    table=table, widths=widths, problems=problems, record=record, run=IsolatedStages
)
