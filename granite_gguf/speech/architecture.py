"""The record of the autoregressive architecture."""

from __future__ import annotations

from typing import Any, NoReturn

from granite_gguf.architecture import Architecture
from granite_gguf.errors import UnsupportedModelError
from granite_gguf.graph.encoder import derived_weights
from granite_gguf.spec.derived import DerivedWeights, ReadWeight
from granite_gguf.speech.llama_cpp import LlamaCppPair
from granite_gguf.speech.parity import SPEECH_PARITY
from granite_gguf.speech.spec import SPEECH, HParams
from granite_gguf.speech.transcribe_cpp import TranscribeCppSpeech
from granite_gguf.storage.dialects.own import Own


def derived(h: HParams, read: ReadWeight) -> DerivedWeights:
    """The weights that the graphs read in place of some tensors."""
    return derived_weights(h.encoder, read)


def _refuse(*_: Any) -> NoReturn:
    raise UnsupportedModelError(
        f"{SPEECH.title} can be converted, quantized and inspected, but not run yet"
    )


SPEECH_ARCHITECTURE = Architecture(
    format=SPEECH,
    dialects=(Own(SPEECH), TranscribeCppSpeech(), LlamaCppPair()),
    derived=_refuse,
    lane=_refuse,
    parity=SPEECH_PARITY,
)
