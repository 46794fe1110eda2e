"""Audio tracks of MP4, WebM and whatever else FFmpeg's libraries know, through PyAV.

PyAV is an optional extra. Its wheels bring the libraries along: no ffmpeg need be installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from granite_gguf.errors import AudioError

SUFFIXES = frozenset(
    {".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".mka", ".aac", ".wma", ".amr"}
    | {".3gp", ".avi", ".mpg", ".mpeg", ".ts"}
)
INSTALL = "pip install 'granite-gguf[av]'"


@dataclass(frozen=True)
class Decoded:
    """A recording being decoded.

    Attributes:
        rate: samples a second.
        frames: how many samples of each channel the file says to hold, or None.
        blocks: float32 ``(n, channels)``.
    """

    rate: int
    frames: int | None
    blocks: Iterator[npt.NDArray[np.float32]]


def decode(stack: ExitStack, name: str, file: BinaryIO, *, why: str) -> Decoded:
    """Decode the first audio track of a file.

    Args:
        stack: closes what is opened here.
        name: the file's name, for messages.
        file: the file, from where it stands.
        why: what another reader said of it.

    Raises:
        AudioError: PyAV is not installed, or cannot read the file either.
    """
    try:
        av = importlib.import_module("av")
    except ModuleNotFoundError as error:
        raise AudioError(
            f"{name}: cannot be read as audio: {why.rstrip('.')}. WAV, FLAC, OGG, Opus, MP3 and "
            f"AIFF are read; MP4, M4A, WebM and others with the extra `av`: {INSTALL}"
        ) from error
    try:
        container = stack.enter_context(av.open(file, metadata_errors="ignore"))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise AudioError(
            f"{name}: cannot be read as audio: neither libsndfile ({why.rstrip('.')}) nor FFmpeg "
            f"({_reason(error)}) knows it"
        ) from error
    if not container.streams.audio:
        raise AudioError(f"{name}: has no audio track")
    stream = container.streams.audio[0]
    if not stream.rate:  # FFmpeg has believed the file's name
        raise AudioError(f"{name}: cannot be read as audio: {why.rstrip('.')}")
    frames = None
    if stream.duration is not None and stream.time_base is not None:
        frames = int(stream.duration * stream.time_base * stream.rate)
    return Decoded(stream.rate, frames, _blocks(av, name, container, stream))


def _blocks(av: Any, name: str, container: Any, stream: Any) -> Iterator[npt.NDArray[np.float32]]:
    resampler = av.AudioResampler(format="fltp", rate=stream.rate)
    try:
        for frame in container.decode(stream):
            for converted in resampler.resample(frame):
                yield converted.to_ndarray().T
        for converted in resampler.resample(None):
            yield converted.to_ndarray().T
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(
            f"{name}: cannot be read as audio: it is damaged or truncated ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
