"""The record of the autoregressive architecture."""

from __future__ import annotations

from collections.abc import Iterator

from granite_gguf.architecture import Architecture
from granite_gguf.graph.encoder import derived_weights
from granite_gguf.speech.lane import SpeechLane
from granite_gguf.speech.llama_cpp import LlamaCppPair
from granite_gguf.speech.parity import SPEECH_PARITY
from granite_gguf.speech.spec import SPEECH, HParams
from granite_gguf.speech.transcribe_cpp import TranscribeCppSpeech
from granite_gguf.stages.characters import labels_of
from granite_gguf.storage.dialects.own import Own
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.model_file import ModelFile


def _assumed(file: ModelFile[HParams]) -> Iterator[str]:
    h = file.hparams
    if h.family == "base" and not (h.prompt.variant or h.prompt.default):
        yield "the variant is 4.1-2b, whose words it is asked in"
    told = file.text(file.format.key(Keys.CTC.VOCAB))
    if told is None and labels_of(file):
        yield (
            f"the {h.encoder.ctc_vocab} labels of the character head are those of "
            "granite-speech-4.1-2b-nar: code points, and behind them katakana"
        )


SPEECH_ARCHITECTURE = Architecture(
    room="speech",
    format=SPEECH,
    dialects=(Own(SPEECH), TranscribeCppSpeech(), LlamaCppPair()),
    derived=lambda h, read: derived_weights(h.encoder, read),
    lane=SpeechLane,
    parity=SPEECH_PARITY,
    assumed=_assumed,
)
