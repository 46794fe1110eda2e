"""Granite Speech NAR from one GGUF file on ggml.

>>> import granite_gguf
>>> with granite_gguf.load("granite-speech-4.1-2b-nar-Q4_K_M.gguf") as model:
...     print(model.transcribe("speech.wav").text)
"""

from granite_gguf._version import __version__
from granite_gguf.errors import (
    AudioError,
    CheckpointError,
    ComparisonError,
    DeviceError,
    GraniteError,
    InputError,
    MissingExtraError,
    ModelFileError,
    OutputError,
    UnsupportedModelError,
)
from granite_gguf.model import Model, load
from granite_gguf.stage_results import EncoderResult, TokenResult
from granite_gguf.transcript import Segment, Transcript, Word

__all__ = [
    "AudioError",
    "CheckpointError",
    "ComparisonError",
    "DeviceError",
    "EncoderResult",
    "GraniteError",
    "InputError",
    "MissingExtraError",
    "Model",
    "ModelFileError",
    "OutputError",
    "Segment",
    "TokenResult",
    "Transcript",
    "UnsupportedModelError",
    "Word",
    "__version__",
    "load",
]
