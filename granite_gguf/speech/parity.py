"""The stages of the autoregressive model, recorded and run one by one for a comparison.

The language model is compared after the prompt and after each token that the reference generated,
whatever this model would have said; what it says by itself is compared besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np

from granite_gguf.arrays import AnyArray, FloatArray
from granite_gguf.errors import AudioError
from granite_gguf.recorded.outputs import Names, Recorded
from granite_gguf.recorded.stages import (
    TRANSCRIBE,
    Computed,
    Outcome,
    Parity,
    StageSpec,
    Transcribe,
    compare_best,
    compare_ids,
    compare_texts,
    unequal_rows,
)
from granite_gguf.speech.asking import RAW, around_audio
from granite_gguf.speech.greedy import End
from granite_gguf.speech.loops import find_loop, token_budget
from granite_gguf.speech.spec import HParams
from granite_gguf.speech.stages import SpeechStages
from granite_gguf.stages.results import EncoderResult

TOP1 = "step_logits_top1"

_CACHE = "cache"  # a part of the model that no file holds
_STEPS = 32  # whose logits are recorded: 13 MB of the released vocabulary


def layer_names(h: HParams) -> list[str]:
    """Every layer by name, from the embedded input on."""
    return [f"{Names.ENCODER_LAYER}{k}" for k in range(h.encoder.n_layers + 1)]


def table(h: HParams, _: Recorded) -> list[StageSpec]:
    """Every stage of a model, in the order of the data."""
    encoder, language = ("encoder",), ("language", _CACHE)
    prompt = (Names.PROMPT_IDS, Names.PROJECTOR_OUTPUT)
    said = (*prompt, Names.GENERATED_IDS)
    return [
        StageSpec(Names.MEL, (Names.MEL,), ()),
        *(StageSpec(name, (Names.MEL, name), encoder, optional=True) for name in layer_names(h)),
        StageSpec(Names.ENCODER_OUTPUT, (Names.MEL, Names.ENCODER_OUTPUT), encoder),
        StageSpec(Names.ENCODER_LOGITS, (Names.MEL, Names.ENCODER_LOGITS), encoder, optional=True),
        StageSpec(
            Names.PROJECTOR_OUTPUT, (Names.ENCODER_OUTPUT, Names.PROJECTOR_OUTPUT), ("projector",)
        ),
        StageSpec(Names.PREFILL_LOGITS, (*prompt, Names.PREFILL_LOGITS), language),
        StageSpec(Names.STEP_LOGITS, (*said, Names.STEP_LOGITS), language),
        StageSpec(TOP1, (*said, Names.STEP_LOGITS), language, exact=True),
        StageSpec(Names.GENERATED_IDS, said, language, exact=True),
        StageSpec(
            TRANSCRIBE,
            (Names.PROMPT_IDS, Names.GENERATED_IDS, Names.FINAL_TEXT),
            (*encoder, "projector", *language),
            exact=True,
        ),
    ]


def widths(h: HParams) -> dict[str, int]:
    """How wide each output is."""
    return {
        Names.MEL: h.encoder.input_dim,
        Names.ENCODER_OUTPUT: h.projector.encoder_hidden_size,
        Names.ENCODER_LOGITS: h.encoder.ctc_vocab,
        Names.PROJECTOR_OUTPUT: h.llm.d_model,
        Names.PREFILL_LOGITS: h.llm.vocab_size,
        Names.STEP_LOGITS: h.llm.vocab_size,
        **dict.fromkeys(layer_names(h), h.encoder.d_model),
    }


def problems(h: HParams, recorded: Recorded) -> Iterator[str]:
    """Outputs whose numbers of rows, or of tokens, contradict one another."""
    alike = ((Names.MEL, Names.ENCODER_OUTPUT), (Names.MEL, Names.ENCODER_LOGITS))
    yield from unequal_rows(recorded, alike)
    rows, prompt = recorded.rows(), recorded.ids.get(Names.PROMPT_IDS)
    audio = rows.get(Names.PROJECTOR_OUTPUT)
    if prompt is not None and audio is not None:
        tokens = int((prompt == h.llm.audio_token_index).sum())
        if tokens != audio:
            yield (
                f"{Names.PROMPT_IDS} have {tokens} audio tokens, {Names.PROJECTOR_OUTPUT} has "
                f"{audio} rows"
            )
    steps, said = rows.get(Names.STEP_LOGITS, 0), rows.get(Names.GENERATED_IDS)
    if said is not None and steps > said:
        yield f"{Names.STEP_LOGITS} has {steps} rows, {Names.GENERATED_IDS} {said}"


def record(model: SpeechStages, samples: FloatArray) -> Recorded:
    """Every stage of mono samples ``(n,)`` at the model's rate, asked as the model's card does.

    Raises:
        AudioError: the audio is shorter than one frame.
    """
    h = model.hparams
    mel = model.compute_mel(samples)
    if not len(mel):
        raise AudioError(f"{len(samples)} samples are shorter than one frame: nothing to compare")
    layers = layer_names(h)
    encoded = model.run_encoder(mel, frozenset({*layers, Names.ENCODER_LOGITS}))
    audio = model.run_projector(encoded.captured)
    prompt = model.prompt_ids(len(audio), around_audio(h, h.prompt.default or RAW))
    rows = model.prompt_rows(prompt, audio)
    (said,) = model.generate([rows], [token_budget(len(samples) / h.front_end.sample_rate)])
    end = [h.llm.eos_token_id] if said.end is End.FINISHED else []
    ids = np.array([*said.tokens, *end], np.int64)
    logits = model.logits(rows, ids[: min(_STEPS, len(ids)) - 1])
    return Recorded(
        source=str(model.file.path),
        architecture=model.file.format.name,
        arrays={
            Names.RAW_AUDIO: samples,
            Names.MEL: mel,
            **{name: encoded.taps[name] for name in layers},
            Names.ENCODER_OUTPUT: encoded.captured,
            Names.ENCODER_LOGITS: encoded.taps[Names.ENCODER_LOGITS],
            Names.PROJECTOR_OUTPUT: audio,
            Names.PREFILL_LOGITS: logits[:1],
            Names.STEP_LOGITS: logits,
        },
        ids={Names.PROMPT_IDS: prompt, Names.GENERATED_IDS: ids},
        texts={Names.FINAL_TEXT: model.detokenize(np.array(said.tokens, np.int64))},
    )


class IsolatedStages:
    """Runs each part at most once, from the reference's own inputs."""

    def __init__(
        self, model: SpeechStages, recorded: Recorded, samples: FloatArray, _: Transcribe
    ) -> None:
        self.model = model
        self.recorded = recorded
        self.samples = samples

    def compute(self, name: str) -> Computed:
        """A stage of numbers."""
        stages: dict[str, Callable[[], Computed]] = {
            Names.MEL: lambda: Computed(self._mel),
            Names.ENCODER_OUTPUT: lambda: Computed(self._encoded.captured),
            Names.PROJECTOR_OUTPUT: self._projector_output,
            Names.PREFILL_LOGITS: lambda: Computed(self._logits[:1], (), None),
            Names.STEP_LOGITS: lambda: Computed(self._logits, (), None),
        }
        return stages[name]() if name in stages else Computed(self._encoded.taps[name])

    def compare(self, name: str) -> Outcome:
        """A stage of ids or of a text."""
        if name == TOP1:
            expected = self.recorded.arrays[Names.STEP_LOGITS].argmax(axis=-1)
            return compare_best(self._logits.argmax(axis=-1), expected)
        if name == Names.GENERATED_IDS:
            return compare_ids(self._say(self._prompt), self._expected)
        return self._transcribe()

    @cached_property
    def _mel(self) -> FloatArray:
        heard = self.recorded.arrays.get(Names.RAW_AUDIO, self.samples)
        return self.model.compute_mel(heard)

    @cached_property
    def _encoded(self) -> EncoderResult[AnyArray]:
        taps = frozenset({*layer_names(self.model.hparams), Names.ENCODER_LOGITS})
        return self.model.run_encoder(self.recorded.arrays[Names.MEL], taps)

    def _projector_output(self) -> Computed:
        projected = self.model.run_projector(self.recorded.arrays[Names.ENCODER_OUTPUT])
        return Computed(projected, (), self.model.hparams.projector.downsample_rate)

    @cached_property
    def _prompt(self) -> FloatArray:
        audio = self.recorded.arrays[Names.PROJECTOR_OUTPUT]
        return self.model.prompt_rows(self.recorded.ids[Names.PROMPT_IDS], audio)

    @cached_property
    def _logits(self) -> FloatArray:
        """Those that chose each of the first ids the reference generated, as they were said."""
        steps = len(self.recorded.arrays.get(Names.STEP_LOGITS, ())) or 1
        said = self.recorded.ids.get(Names.GENERATED_IDS, np.zeros(0, np.int64))
        return self.model.logits(self._prompt, said[: steps - 1])

    @property
    def _expected(self) -> list[int]:
        """What the reference says, cut where this package cuts a text."""
        ids = self.recorded.ids[Names.GENERATED_IDS].tolist()
        eos = self.model.hparams.llm.eos_token_id
        return _until_loop(ids[: ids.index(eos)] if eos in ids else ids)

    def _say(self, prompt: FloatArray) -> list[int]:
        budget = len(self.recorded.ids[Names.GENERATED_IDS])
        (said,) = self.model.generate([prompt], [budget])
        return list(said.tokens)

    def _transcribe(self) -> Outcome:
        """The text of this model alone, of the recording as it is given here."""
        h, prompt = self.model.hparams, self.recorded.ids[Names.PROMPT_IDS]
        encoded = self.model.run_encoder(self.model.compute_mel(self.samples))
        audio = self.model.run_projector(encoded.captured)
        wanted = int((prompt == h.llm.audio_token_index).sum())
        expected = self.model.detokenize(np.array(self._expected, np.int64))
        if len(audio) != wanted:
            note = f"{len(audio)} audio rows, the reference's prompt has {wanted}"
            return Outcome(len(expected), 0.0, (note,), wrong=True)
        said = self._say(self.model.prompt_rows(prompt, audio))
        return compare_texts(self.model.detokenize(np.array(said, np.int64)), expected)


def _until_loop(ids: Sequence[int]) -> list[int]:
    """Ids up to the end of a loop's first round."""
    for count in range(1, len(ids) + 1):
        loop = find_loop(ids[:count])
        if loop is not None:
            return list(ids[: loop.start + loop.period])
    return list(ids)


SPEECH_PARITY = Parity(
    table=table,
    widths=widths,
    problems=problems,
    record=record,
    run=IsolatedStages,
    besides=lambda model: {_CACHE: model.cache_type},
)
