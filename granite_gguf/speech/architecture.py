"""The record of the autoregressive architecture."""

from __future__ import annotations

from granite_gguf.architecture import Architecture
from granite_gguf.graph.encoder import derived_weights
from granite_gguf.speech.lane import SpeechLane
from granite_gguf.speech.llama_cpp import LlamaCppPair
from granite_gguf.speech.parity import SPEECH_PARITY
from granite_gguf.speech.spec import SPEECH
from granite_gguf.speech.transcribe_cpp import TranscribeCppSpeech
from granite_gguf.storage.dialects.own import Own

SPEECH_ARCHITECTURE = Architecture(
    room="speech",
    format=SPEECH,
    dialects=(Own(SPEECH), TranscribeCppSpeech(), LlamaCppPair()),
    derived=lambda h, read: derived_weights(h.encoder, read),
    lane=SpeechLane,
    parity=SPEECH_PARITY,
)
