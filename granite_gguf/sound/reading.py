"""Audio from files, streams and arrays, as the front end wants it: mono float32 at its own rate.

    decoded blocks (n, channels) → one channel or their mean (n,) → resampled (m,)

Files are decoded block by block, so that hours of audio need no more memory than seconds.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from granite_gguf import memory
from granite_gguf.errors import AudioError
from granite_gguf.sound import ffmpeg

Samples = npt.NDArray[np.float32]

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf"}
    | {".w64", ".rf64"}
    | ffmpeg.SUFFIXES
)
"""Names that mark a file of a folder as a recording."""

_BLOCK = 65536  # frames decoded at once
_MAX_CHANNELS = 256
_LOUDEST = 16.0  # 24 dB above full scale: what is louder was never scaled
# What libsndfile notes of a WAV or AIFF file that is shorter than its header says.
_SHORT_DATA = re.compile(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_LENGTH = 0x7FFF0000  # sizes from here on are written where the length is not known
_MP3_LENGTH_MARKS = (b"Xing", b"Info", b"VBRI")  # without one, an MP3 file's length is a guess
_TOLERATED_SHORTFALL = 0.02


@dataclass(frozen=True)
class AudioStream:
    """Audio being read.

    Attributes:
        duration: its length in seconds, or None where the file does not tell.
        blocks: mono float32 samples at the rate asked for; raises AudioError where the audio is
            damaged.
    """

    duration: float | None
    blocks: Iterator[Samples]


@contextmanager
def open_audio(
    source: str | PathLike[str] | BinaryIO, sample_rate: int, *, channel: int | None = None
) -> Iterator[AudioStream]:
    """Open a recording for reading piece by piece.

    Args:
        source: a file's path, or a file object opened for bytes.
        sample_rate: the rate wanted, in Hz.
        channel: the channel to take, 1 the first; by default the mean of all.

    Raises:
        AudioError: the file is missing, is no audio, is damaged, has no such channel or holds
            values that are not finite.
    """
    with ExitStack() as stack:
        name, file = _open(stack, source)
        decoded = _decode(stack, name, file)
        duration = None if decoded.frames is None else decoded.frames / decoded.rate
        yield AudioStream(duration, _converted(name, decoded, sample_rate, channel))


def read_audio(
    source: str | PathLike[str] | BinaryIO, sample_rate: int, *, channel: int | None = None
) -> Samples:
    """Read a whole recording; the arguments are those of :func:`open_audio`.

    Returns:
        float32 ``(n,)``, in [-1, 1] where the file is.

    Raises:
        AudioError: as :func:`open_audio`.
        OutOfMemoryError: there is no room for all of it.
    """
    with open_audio(source, sample_rate, channel=channel) as stream:
        if stream.duration is not None:
            memory.require(
                2 * int(stream.duration * sample_rate) * np.dtype(np.float32).itemsize,
                f"{stream.duration:.0f} s of audio in one array",
                "Transcribe the file itself, which is read piece by piece",
            )
        return np.concatenate([np.zeros(0, np.float32), *stream.blocks])


def duration_of(path: str | PathLike[str]) -> float | None:
    """Seconds of audio in a file, or None where it does not tell or cannot be read."""
    try:
        with open_audio(path, 16000) as stream:
            return stream.duration
    except AudioError:
        return None


def prepare_audio(
    data: npt.NDArray[Any], rate: float, sample_rate: int, *, channel: int | None = None
) -> Samples:
    """Mix samples to mono and resample them.

    Args:
        data: ``(n,)`` or ``(n, channels)``; floats in [-1, 1], or int16 or int32 over their full
            range.
        rate: their rate in Hz.
        sample_rate: the rate wanted.
        channel: the channel to take, 1 the first; by default the mean of all.

    Raises:
        AudioError: wrong shape, dtype or rate, no such channel, or values that are not finite or
            far beyond [-1, 1].

    >>> prepare_audio(np.array([[16384, 0], [-32768, 0]], np.int16), 16000, 16000).tolist()
    [0.25, -0.5]
    """
    data = np.asarray(data)
    if data.dtype in (np.int16, np.int32):
        data = data / np.float32(-float(np.iinfo(data.dtype).min))
    if not np.issubdtype(data.dtype, np.floating):
        raise AudioError(
            f"samples are {data.dtype}, expected floats in [-1, 1], or int16 or int32 over their "
            "full range"
        )
    if data.ndim not in (1, 2):
        raise AudioError(f"samples have the shape {data.shape}, expected (n,) or (n, channels)")
    if data.ndim == 2 and not 1 <= data.shape[1] <= _MAX_CHANNELS:
        raise AudioError(
            f"samples of shape {data.shape} have {data.shape[1]} channels, expected (n,) or "
            "(n, channels); transpose samples that are (channels, n)"
        )
    if not rate > 0:
        raise AudioError(f"the sample rate is {rate} Hz")
    samples = _mono(data.reshape(len(data), -1) if data.size else data.reshape(0, 1), channel)
    peak = np.abs(samples).max(initial=0.0)
    if peak > _LOUDEST:
        raise AudioError(
            f"samples reach {peak:g}, expected floats in [-1, 1]: divide the values of int16 by "
            "32768, or give them as int16"
        )
    if rate != sample_rate and len(samples):
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _open(stack: ExitStack, source: str | PathLike[str] | BinaryIO) -> tuple[str, Any]:
    """A name for messages, and what the decoders open: a path, or a file object that can seek."""
    if not isinstance(source, (str, PathLike)):
        own = getattr(source, "name", None)
        name = own if isinstance(own, str) else "the audio stream"
        return name, _seekable(stack, name, source)
    path = Path(source)
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    if path.is_dir():
        raise AudioError(f"{path}: is a directory, expected an audio file")
    try:
        file = stack.enter_context(path.open("rb"))
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror}") from error
    return str(path), _seekable(stack, str(path), file)


def _seekable(stack: ExitStack, name: str, file: BinaryIO) -> BinaryIO:
    """The file itself, or a copy of a pipe's contents on disk."""
    if not file.seekable():
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        file = copy
    start = file.tell()
    if not file.read(1):
        raise AudioError(f"{name}: cannot be read as audio: it is empty")
    file.seek(start)
    return file


def _decode(stack: ExitStack, name: str, file: BinaryIO) -> ffmpeg.Decoded:
    start = file.tell()
    try:
        sound = stack.enter_context(soundfile.SoundFile(file))
    except soundfile.LibsndfileError as error:
        file.seek(start)
        return ffmpeg.decode(stack, name, file, why=error.error_string)
    short = _SHORT_DATA.search(sound.extra_info)
    if short and int(short[2]) < int(short[1]) < _UNKNOWN_LENGTH:
        raise AudioError(
            f"{name}: is truncated: {short[2]} of {short[1]} bytes of samples are there; "
            "fetch or record it again"
        )
    counted = sound.format != "MP3" or _mp3_tells_its_length(file)
    frames = sound.frames if counted else None
    return ffmpeg.Decoded(sound.samplerate, frames, _read_blocks(name, sound))


def _mp3_tells_its_length(file: BinaryIO) -> bool:
    position = file.tell()
    file.seek(0)
    head = file.read(1 << 18)
    file.seek(position)
    return any(mark in head for mark in _MP3_LENGTH_MARKS)


def _read_blocks(name: str, sound: soundfile.SoundFile) -> Iterator[Samples]:
    while True:
        try:
            block = sound.read(_BLOCK, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{name}: cannot be read as audio: it is damaged or truncated "
                f"({error.error_string})"
            ) from error
        if not len(block):
            return
        yield block


def _converted(
    name: str, decoded: ffmpeg.Decoded, sample_rate: int, channel: int | None
) -> Iterator[Samples]:
    """Mono blocks at the wanted rate; the same samples as if converted in one piece."""
    resampler = None
    if decoded.rate != sample_rate:
        resampler = soxr.ResampleStream(decoded.rate, sample_rate, 1, "float32", "HQ")
    count = 0
    for block in decoded.blocks:
        count += len(block)
        try:
            samples = _mono(block, channel)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from error
        yield samples if resampler is None else resampler.resample_chunk(samples)
    if decoded.frames is not None and count < decoded.frames * (1 - _TOLERATED_SHORTFALL):
        raise AudioError(
            f"{name}: is truncated: {count / decoded.rate:.1f} of "
            f"{decoded.frames / decoded.rate:.1f} s are there; fetch or record it again"
        )
    if resampler is not None and count:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _mono(data: npt.NDArray[np.floating], channel: int | None) -> Samples:
    """One channel, or the mean of all, of ``(n, channels)``."""
    if channel is None:
        mixed = data.mean(axis=1, dtype=np.float32) if data.shape[1] > 1 else data[:, 0]
    elif 1 <= channel <= data.shape[1]:
        mixed = data[:, channel - 1]
    else:
        raise AudioError(f"has {data.shape[1]} channels, and channel {channel} is asked for")
    if not np.isfinite(mixed).all():
        raise AudioError("samples are not all finite numbers")
    return np.ascontiguousarray(mixed, dtype=np.float32)
