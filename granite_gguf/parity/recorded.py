"""The stage outputs of one recording: what a reference file holds, and what a model can record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from granite_gguf.arrays import FloatArray, IntArray
from granite_gguf.errors import AudioError
from granite_gguf.model import Model
from granite_gguf.nar import decoding
from granite_gguf.parity.thresholds import Precision, file_precision
from granite_gguf.spec.nar import HParams


class Names:
    """Stage outputs by their names in a reference file."""

    RAW_AUDIO = "raw_audio"  # (n,)
    MEL = "mel_spectrogram"  # (T, 160)
    ENCODER_LAYER = "encoder_layer_"  # K follows: (T, D)
    ENCODER_OUTPUT = "encoder_output"  # (T, captures * D)
    ENCODER_FINAL = "encoder_final"  # (T, D)
    ENCODER_LOGITS = "encoder_logits"  # (T, characters)
    BLANK_PROB = "blank_prob"  # (T,)
    BPE_LOGITS = "bpe_logits"  # (ceil(T / 4), V)
    PROJECTOR_OUTPUT = "projector_output"  # (3 * ceil(T / 15), 2048), or its first T // 5 rows
    AUDIO_EMBS = "audio_embs_for_llm"  # (T // 5, 2048)
    TEXT_IDS = "text_ids_with_slots"  # (n,)
    EDITING_LOGITS = "editing_logits"  # (n, V), not divided
    CTC_TEXT = "ctc_text"
    FINAL_TEXT = "final_text"


VECTORS = (Names.RAW_AUDIO, Names.BLANK_PROB)


@dataclass(frozen=True)
class Recorded:
    """Stage outputs of one recording, in the role of what is expected.

    Attributes:
        source: the file they come from, for messages.
        arrays: float32 by name; `VECTORS` are ``(n,)``, all others ``(rows, features)``. An output
            without rows is absent.
        precision: what computed them.
        text_ids: ``(n,)``, the editor's text with its slots.
        ctc_text: the first hypothesis.
        final_text: the transcript.
    """

    source: str
    arrays: Mapping[str, FloatArray]
    precision: Precision
    text_ids: IntArray | None = None
    ctc_text: str | None = None
    final_text: str | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether an output is there; audio too short for an audio token has its none."""
        if name == Names.TEXT_IDS:
            return self.text_ids is not None
        if name in (Names.CTC_TEXT, Names.FINAL_TEXT):
            return getattr(self, name) is not None
        return name in self.arrays

    @property
    def layers(self) -> list[str]:
        """The names of the captured encoder layers, in order."""
        prefix = Names.ENCODER_LAYER
        found = [name for name in self.arrays if name.startswith(prefix)]
        numbered = [name for name in found if name.removeprefix(prefix).isdigit()]
        return sorted(numbered, key=lambda name: int(name.removeprefix(prefix)))

    def audio_tokens(self, h: HParams) -> FloatArray | None:
        """The editor's audio tokens ``(T // 5, D)``, none of them where T is below 5."""
        if Names.AUDIO_EMBS in self.arrays:
            return self.arrays[Names.AUDIO_EMBS]
        output = self.arrays.get(Names.ENCODER_OUTPUT)
        if output is not None and len(output) < h.projector.downsample_rate:
            return np.zeros((0, h.editor.d_model), np.float32)
        return None


def layer_names(h: HParams) -> list[str]:
    """The captured encoder layers of a model by name, each once."""
    return [f"{Names.ENCODER_LAYER}{k}" for k in dict.fromkeys(h.encoder.captured_blocks)]


def record(model: Model, samples: FloatArray) -> Recorded:
    """Every stage of mono samples ``(n,)`` at the model's rate.

    Raises:
        AudioError: the audio is shorter than one frame, or too long for one pass.
    """
    mel = model.compute_mel(samples)
    if not len(mel):
        raise AudioError(f"{len(samples)} samples are shorter than one frame: nothing to compare")
    layers = layer_names(model.hparams)
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
    return Recorded(
        source=str(model.file.path),
        arrays={name: array for name, array in arrays.items() if array.size},
        precision=file_precision(model.file),
        text_ids=text_ids,
        ctc_text=model.detokenize(tokens),
        final_text=model.detokenize(decoding.edited_tokens(model.hparams.editor, edited.ids)),
    )
