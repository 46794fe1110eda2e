"""Audio tracks of MP4, WebM and whatever else FFmpeg's libraries know, through PyAV.

    packets → frames with a time → samples, with silence where no frame tells of a stretch

PyAV is an optional extra. Its wheels bring the libraries along: no ffmpeg need be installed.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, BinaryIO

import numpy as np

from granite_gguf.arrays import FloatArray
from granite_gguf.errors import AudioError, AudioWarning
from granite_gguf.sound.decoded import Decoded

SUFFIXES = frozenset(
    {".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".mka", ".aac", ".wma", ".amr"}
    | {".3gp", ".avi", ".mpg", ".mpeg", ".ts"}
)
INSTALL = "pip install 'granite-gguf[av]'"

_MICROSECONDS = 1_000_000
# Programme streams begin at any time; players count from there, as from 0 in other formats.
_ANY_START = frozenset({"mpegts", "mpeg"})
# Where these state a length, it is that of the samples, and not guessed from a bit rate.
_EXACT = frozenset({"mov"})
_GAP_SECONDS = 0.1  # less is rounding of times
_LEAP_SECONDS = 10.0  # more is another clock, in a format whose clock may start again
_LONGEST_GAP_SECONDS = 24 * 3600.0
_SILENCE = 1 << 16  # samples of a gap made at once


def decode(
    stack: ExitStack, name: str, file: BinaryIO, *, why: str, track: int | None = None
) -> Decoded:
    """Decode an audio track of a file.

    Args:
        stack: closes what is opened here.
        name: the file's name, for messages.
        file: the file, which can seek.
        why: what another reader said of it.
        track: the audio track to take, 1 the first, which is taken by default.

    Raises:
        AudioError: PyAV is not installed, or cannot read the file either, or it has no such track.
    """
    try:
        av = importlib.import_module("av")
    except ModuleNotFoundError as error:
        raise AudioError(
            f"{name}: cannot be read as audio: {why}. WAV, FLAC, OGG, Opus, MP3 and "
            f"AIFF are read; MP4, M4A, WebM and others with the extra `av`: {INSTALL}"
        ) from error
    try:
        # A temporary file may be written to, which PyAV would take for a wish.
        container = stack.enter_context(av.open(file, mode="r", metadata_errors="ignore"))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise AudioError(
            f"{name}: cannot be read as audio: neither libsndfile ({why}) nor FFmpeg "
            f"({_reason(error)}) knows it"
        ) from error
    stream = _track(name, container.streams.audio, track)
    if not stream.rate:  # FFmpeg has believed the file's name
        raise AudioError(f"{name}: cannot be read as audio: {why}")
    seconds = _seconds(container, stream)
    frames = None if seconds is None else int(seconds * stream.rate)
    exact = container.format.name.split(",")[0] in _EXACT and stream.duration
    samples = _Samples(av, name, container, stream)
    return Decoded(
        stream.rate,
        samples.blocks(),
        promised=frames if exact else None,
        expected=frames,
        seek=samples.seek,
    )


def _track(name: str, streams: Any, track: int | None) -> Any:
    if not streams:
        raise AudioError(f"{name}: has no audio track")
    count = len(streams)
    if track is not None and track > count:
        kept = "1 audio track" if count == 1 else f"{count} audio tracks"
        raise AudioError(f"{name}: has {kept}, and track {track} is asked for")
    if track is None and count > 1:
        named = ", ".join(f"{n} {_title(stream)}" for n, stream in enumerate(streams, start=1))
        warnings.warn(
            f"{name}: has {count} audio tracks ({named}), and the first is taken; "
            "--track N takes another one",
            AudioWarning,
            stacklevel=2,
        )
    return streams[(track or 1) - 1]


def _title(stream: Any) -> str:
    told = [stream.metadata.get("title"), stream.metadata.get("language")]
    return " ".join(text for text in told if text) or "without a name"


def _zero(container: Any) -> float:
    """The time in the file, in seconds, at which the recording begins."""
    if container.format.name in _ANY_START and container.start_time is not None:
        return float(container.start_time / _MICROSECONDS)
    return 0.0


def _seconds(container: Any, stream: Any) -> float | None:
    """From the recording's beginning to the end of the track, where that is told."""
    if stream.duration:
        start = stream.start_time or 0
        return max(0.0, float((start + stream.duration) * stream.time_base) - _zero(container))
    return container.duration / _MICROSECONDS if container.duration else None


class _Samples:
    """The samples of a track, each at its time: silence where no frame tells of a stretch."""

    def __init__(self, av: Any, name: str, container: Any, stream: Any) -> None:
        self._av, self._name, self._container, self._stream = av, name, container, stream
        self._frames: Iterator[Any] = container.decode(stream)
        self._done = 0

    def seek(self, sample: int) -> int:
        """Begin at a sample or before it, and tell where; see :class:`Decoded`."""
        container, stream = self._container, self._stream
        with self._damage():
            for target in (sample, 0):
                seconds = target / stream.rate + _zero(container)
                container.seek(int(seconds / stream.time_base), stream=stream)
                frames = container.decode(stream)
                first = next(frames, None)
                self._frames = frames if first is None else chain([first], frames)
                if first is not None and first.time is not None:
                    self._done = max(0, self._place(first))
                    if self._done <= sample:
                        return self._done
        self._done = 0
        return 0

    def blocks(self) -> Iterator[FloatArray]:
        """Float32 ``(n, channels)``."""
        rate = self._stream.rate
        any_start = self._container.format.name in _ANY_START
        longest = _LEAP_SECONDS if any_start else _LONGEST_GAP_SECONDS
        resampler, form = None, None
        with self._damage():
            for frame in self._frames:
                gap = 0 if frame.time is None else self._place(frame) - self._done
                if _GAP_SECONDS * rate < gap <= longest * rate:
                    channels = len(frame.layout.channels)
                    for begin in range(0, gap, _SILENCE):
                        yield np.zeros((min(_SILENCE, gap - begin), channels), np.float32)
                    self._done += gap
                if form != (frame.format.name, frame.layout.name, frame.sample_rate):
                    yield from _converted(resampler, None)
                    form = (frame.format.name, frame.layout.name, frame.sample_rate)
                    resampler = self._av.AudioResampler(format="fltp", rate=rate)
                for block in _converted(resampler, frame):
                    self._done += len(block)
                    yield block
            yield from _converted(resampler, None)

    def _place(self, frame: Any) -> int:
        """The sample that a frame begins with, by its time."""
        samples: float = (frame.time - _zero(self._container)) * self._stream.rate
        return round(samples)

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Turn what goes wrong while decoding inside the block into an AudioError."""
        try:
            yield
        except (self._av.error.FFmpegError, ValueError) as error:
            raise AudioError(
                f"{self._name}: cannot be read as audio: it is damaged or truncated "
                f"({_reason(error)})"
            ) from error


def _converted(resampler: Any, frame: Any) -> Iterator[FloatArray]:
    """A frame at the track's rate, or the rest where there is none to follow."""
    if resampler is not None:
        for converted in resampler.resample(frame):
            yield converted.to_ndarray().T


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
