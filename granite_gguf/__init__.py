"""Granite Speech NAR from one GGUF file on ggml.

>>> import granite_gguf
>>> with granite_gguf.load("model.gguf") as model:
...     transcript = model.transcribe("speech.wav")
>>> transcript.duration
3.0
"""

from granite_gguf._version import __version__
from granite_gguf.converters import convert
from granite_gguf.errors import (
    AudioError,
    AudioWarning,
    BusyError,
    CancelledError,
    CheckpointError,
    ComparisonError,
    DeadlineError,
    DeviceError,
    GraniteError,
    HubError,
    InputError,
    InputTypeError,
    MissingExtraError,
    ModelFileError,
    OutOfMemoryError,
    OutputError,
    TooLongError,
    UnsupportedModelError,
)
from granite_gguf.evaluation.figures import Evaluation
from granite_gguf.evaluation.run import evaluate
from granite_gguf.model import Model, load
from granite_gguf.parity.diff import StageResult
from granite_gguf.parity.with_reference import compare
from granite_gguf.quantize import quantize
from granite_gguf.sound.sndfile import RawFormat
from granite_gguf.stages.results import EncoderResult, TokenResult
from granite_gguf.transcript import Segment, Transcript, Word
from granite_gguf.transcription.jobs import Job
from granite_gguf.transcription.options import TranscribeOptions

__all__ = [
    "AudioError",
    "AudioWarning",
    "BusyError",
    "CancelledError",
    "CheckpointError",
    "ComparisonError",
    "DeadlineError",
    "DeviceError",
    "EncoderResult",
    "Evaluation",
    "GraniteError",
    "HubError",
    "InputError",
    "InputTypeError",
    "Job",
    "MissingExtraError",
    "Model",
    "ModelFileError",
    "OutOfMemoryError",
    "OutputError",
    "RawFormat",
    "Segment",
    "StageResult",
    "TokenResult",
    "TooLongError",
    "TranscribeOptions",
    "Transcript",
    "UnsupportedModelError",
    "Word",
    "__version__",
    "compare",
    "convert",
    "evaluate",
    "load",
    "quantize",
]
