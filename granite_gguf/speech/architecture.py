"""The record of the autoregressive architecture."""

from __future__ import annotations

from typing import Any, NoReturn

from granite_gguf.architecture import Architecture
from granite_gguf.errors import UnsupportedModelError
from granite_gguf.graph.encoder import derived_weights
from granite_gguf.recorded.stages import Parity
from granite_gguf.speech.lane import SpeechLane
from granite_gguf.speech.llama_cpp import LlamaCppPair
from granite_gguf.speech.spec import SPEECH
from granite_gguf.speech.transcribe_cpp import TranscribeCppSpeech
from granite_gguf.storage.dialects.own import Own


def _refuse(*_: Any) -> NoReturn:
    raise UnsupportedModelError(f"{SPEECH.title} can be run, but not compared yet")


SPEECH_ARCHITECTURE = Architecture(
    format=SPEECH,
    dialects=(Own(SPEECH), TranscribeCppSpeech(), LlamaCppPair()),
    derived=lambda h, read: derived_weights(h.encoder, read),
    lane=SpeechLane,
    parity=Parity(table=_refuse, widths=_refuse, alike=(), record=_refuse, run=_refuse),
)
