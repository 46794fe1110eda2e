"""The stage outputs of one recording: what a reference file holds, and what a model can record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from granite_gguf.arrays import FloatArray, IntArray
from granite_gguf.ggml.types import F32, I32, GGMLType


class Names:
    """Stage outputs by their names in a reference file."""

    RAW_AUDIO = "raw_audio"  # (n,)
    MEL = "mel_spectrogram"  # (T, 160)
    ENCODER_LAYER = "encoder_layer_"  # K follows: (T, D)
    ENCODER_OUTPUT = "encoder_output"  # (T, captures * D)
    ENCODER_LOGITS = "encoder_logits"  # (T, characters)
    PROJECTOR_OUTPUT = "projector_output"  # (3 * ceil(T / 15), 2048); of an editor also T // 5 rows
    FINAL_TEXT = "final_text"

    # Where the text is edited
    ENCODER_FINAL = "encoder_final"  # (T, D)
    BLANK_PROB = "blank_prob"  # (T,)
    BPE_LOGITS = "bpe_logits"  # (ceil(T / 4), V)
    AUDIO_EMBS = "audio_embs_for_llm"  # (T // 5, 2048)
    TEXT_IDS = "text_ids_with_slots"  # (n,)
    EDITING_LOGITS = "editing_logits"  # (n, V), not divided
    CTC_TEXT = "ctc_text"

    # Where it is written token by token; logits are divided
    PROMPT_IDS = "prompt_ids"  # (P,), the audio token once for each audio row
    PREFILL_LOGITS = "prefill_logits"  # (1, V), of the last prompt row
    STEP_LOGITS = "step_logits"  # (S, V), that chose the first S generated ids
    GENERATED_IDS = "generated_ids"  # (G,), with the end of the text where it came to one


VECTORS = (Names.RAW_AUDIO, Names.BLANK_PROB)
IDS = {Names.TEXT_IDS: F32, Names.PROMPT_IDS: I32, Names.GENERATED_IDS: I32}
"""And what they are written as."""

TEXTS = (Names.CTC_TEXT, Names.FINAL_TEXT)


@dataclass(frozen=True)
class Precision:
    """What the parts of a model are stored as, or were computed in.

    Attributes:
        parts: the coarsest type of each, by its name.
        others: that of a part without one.
    """

    parts: Mapping[str, GGMLType] = field(default_factory=dict)
    others: GGMLType = F32

    def of(self, part: str) -> GGMLType:
        """That of a part."""
        return self.parts.get(part, self.others)


@dataclass(frozen=True)
class Recorded:
    """Stage outputs of one recording, in the role of what is expected.

    Attributes:
        source: the file they come from, for messages.
        architecture: of the model, as its files name it; empty where nothing tells.
        arrays: float32 by name; `VECTORS` are ``(n,)``, all others ``(rows, features)``. An output
            without rows is absent.
        ids: token ids ``(n,)`` by name.
        texts: by name.
        precision: what computed them.
        about: what else is to be known, by name.
    """

    source: str
    architecture: str
    arrays: Mapping[str, FloatArray]
    ids: Mapping[str, IntArray] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    precision: Precision = field(default_factory=Precision)
    about: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether an output is there."""
        return any(name in outputs for outputs in (self.arrays, self.ids, self.texts))

    def rows(self) -> dict[str, int]:
        """How many rows, or ids, each output has."""
        rows = {name: len(array) for name, array in self.arrays.items()}
        return rows | {name: len(ids) for name, ids in self.ids.items()}
