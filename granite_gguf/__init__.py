"""Granite Speech NAR from one GGUF file on ggml.

>>> import granite_gguf
>>> with granite_gguf.load("model.gguf") as model:
...     transcript = model.transcribe("speech.wav")
>>> transcript.duration
3.0
"""

from granite_gguf._version import __version__
from granite_gguf.errors import (
    AudioError,
    AudioWarning,
    CheckpointError,
    ComparisonError,
    DeviceError,
    GraniteError,
    HubError,
    InputError,
    InputTypeError,
    MissingExtraError,
    ModelFileError,
    OutOfMemoryError,
    OutputError,
    UnsupportedModelError,
)
from granite_gguf.model import Model, load
from granite_gguf.nar.results import EncoderResult, TokenResult
from granite_gguf.sound.sndfile import RawFormat
from granite_gguf.transcript import Segment, Transcript, Word

__all__ = [
    "AudioError",
    "AudioWarning",
    "CheckpointError",
    "ComparisonError",
    "DeviceError",
    "EncoderResult",
    "GraniteError",
    "HubError",
    "InputError",
    "InputTypeError",
    "MissingExtraError",
    "Model",
    "ModelFileError",
    "OutOfMemoryError",
    "OutputError",
    "RawFormat",
    "Segment",
    "TokenResult",
    "Transcript",
    "UnsupportedModelError",
    "Word",
    "__version__",
    "load",
]
