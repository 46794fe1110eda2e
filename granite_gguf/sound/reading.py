"""Audio from files, pipes and arrays, as the front end wants it: mono float32 at its own rate.

    file → parts, each a stream ┐
    pipe → streams in order     ┴→ decoded blocks (n, channels) → mono, resampled blocks (m,)

Files are decoded block by block, so that hours of audio need no more memory than seconds. A pipe of
a format that can be read in order is read as it comes; another one is copied to disk first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np

from granite_gguf import memory
from granite_gguf.arrays import Samples
from granite_gguf.errors import AudioError, InputError, TooLongError
from granite_gguf.sound import ffmpeg
from granite_gguf.sound.clip import Clip
from granite_gguf.sound.conversion import converted
from granite_gguf.sound.decoded import Decoded
from granite_gguf.sound.joined import Kind, Part, kind_of, parts_of_file, parts_of_pipe
from granite_gguf.sound.pipe import Pipe
from granite_gguf.sound.sndfile import NotReadError, RawFormat, decode_part, decode_pipe

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf"}
    | {".w64", ".rf64"}
    | ffmpeg.SUFFIXES
)
"""Names that mark a file of a folder as a recording."""

_IN_ORDER = frozenset({Kind.WAV, Kind.AU, Kind.FLAC, Kind.MP3, Kind.OGG})
_AT_ONCE = 1 << 16  # bytes of a pipe
_HEAD = 1 << 12  # bytes of a pipe that tell what comes
_TAGGED_HEAD = 1 << 20  # where it begins with a tag, which may hold a picture


@dataclass(frozen=True)
class Selection:
    """What to take of a recording.

    Attributes:
        channel: the channel, 1 the first; by default the mean of all.
        track: the audio track of a container, 1 the first; by default the first.
        raw: how to read samples that no header describes; None where there is a header.
        max_seconds: the longest recording, or clip of one, that is taken; by default any.
        clip: the stretch to take; by default all.
        apart: whether to keep all channels apart.

    Raises:
        InputError: one channel is to be taken, and all are to be kept.
    """

    channel: int | None = None
    track: int | None = None
    raw: RawFormat | None = None
    max_seconds: float | None = None
    clip: Clip | None = None
    apart: bool = False

    def __post_init__(self) -> None:
        if self.apart and self.channel is not None:
            raise InputError(f"channel is {self.channel}, and channels 'each': choose one of both")

    @property
    def start(self) -> float:
        """Where in the recording begins what is taken, in seconds."""
        return 0.0 if self.clip is None else self.clip.start

    def check_length(self, name: str, seconds: float) -> None:
        """Refuse a recording that is longer than what is taken.

        Raises:
            TooLongError: it is.
        """
        if self.max_seconds is not None and seconds > self.max_seconds:
            raise TooLongError(f"{name}: is longer than {self.max_seconds:g} s, the most allowed")


ALL = Selection()


@dataclass(frozen=True)
class AudioStream:
    """Audio being read.

    Attributes:
        duration: its length in seconds, or None where that is not known.
        blocks: mono float32 samples ``(n,)`` at the rate asked for, or ``(n, channels)`` where
            these are kept apart; raises AudioError where the audio is damaged.
        live: whether it comes through a pipe, perhaps as it is spoken.
        start: where in the recording it begins, in seconds.
    """

    duration: float | None
    blocks: Iterator[Samples]
    live: bool = False
    start: float = 0.0


@contextmanager
def open_audio(
    source: str | PathLike[str] | BinaryIO, sample_rate: int, take: Selection = ALL
) -> Iterator[AudioStream]:
    """Open a recording for reading piece by piece.

    Args:
        source: a file's path, or a file object opened for bytes.
        sample_rate: the rate wanted, in Hz.
        take: what to take of it.

    Raises:
        AudioError: the file is missing, is no audio, is damaged, has no such channel or track, or
            holds values that are not finite, or ends before the clip begins; as TooLongError, it
            is longer than what is taken.
    """
    with ExitStack() as stack:
        name, file = _open(stack, source)
        if file.seekable():
            duration, streams = _from_file(stack, name, file, take)
        else:
            duration, streams = _from_pipe(stack, name, file, take)
        live = not file.seekable()
        if take.clip is not None:
            streams = take.clip.of_streams(name, streams)
            duration = None if duration is None else take.clip.length(duration)
        # What a header says may be true, and need not: both are looked at.
        take.check_length(name, duration or 0.0)
        blocks = converted(name, streams, sample_rate, take.channel, apart=take.apart)
        counted = _counted(name, blocks, sample_rate, take)
        yield AudioStream(duration, counted, live, take.start)


def read_audio(
    source: str | PathLike[str] | BinaryIO, sample_rate: int, take: Selection = ALL
) -> Samples:
    """Read a whole recording; the arguments are those of :func:`open_audio`.

    Returns:
        float32 ``(n,)``, or ``(n, channels)`` apart; in [-1, 1] where the file is.

    Raises:
        AudioError: as :func:`open_audio`.
        OutOfMemoryError: there is no room for all of it.
    """
    with open_audio(source, sample_rate, take) as stream:
        if stream.duration is not None:
            memory.require(
                2 * int(stream.duration * sample_rate) * np.dtype(np.float32).itemsize,
                f"{stream.duration:.0f} s of audio in one array",
                "Transcribe the file itself, which is read piece by piece",
            )
        blocks = list(stream.blocks)
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def duration_of(source: str | PathLike[str] | BinaryIO, take: Selection = ALL) -> float | None:
    """Seconds of audio in a file, or None where it does not tell or cannot be read."""
    try:
        with open_audio(source, 16000, take) as stream:
            return stream.duration
    except AudioError:
        return None


def recordings_of(folder: Path) -> list[Path]:
    """The recordings in a folder and its subfolders, in order of name.

    Names that begin with a dot are left out: hidden files, and what macOS leaves beside others. A
    folder that may not be read is among them, as a recording that cannot be: nothing in it is
    missed without a word.
    """
    found: list[Path] = []

    def shut(error: OSError) -> None:
        found.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=shut):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            path
            for name in names
            if not name.startswith(".")
            and (path := Path(parent, name)).suffix.lower() in AUDIO_SUFFIXES
            and _may_be_file(path)
        ]
    return sorted(found)


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # in a folder that may be listed and not entered
        return True


def _open(stack: ExitStack, source: str | PathLike[str] | BinaryIO) -> tuple[str, BinaryIO]:
    """A name for messages, and the file."""
    if not isinstance(source, (str, PathLike)):
        own = getattr(source, "name", None)
        return own if isinstance(own, str) else "the audio stream", source
    path = Path(source)
    try:
        return str(path), stack.enter_context(path.open("rb"))
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in the name
        raise AudioError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise AudioError(f"{path}: is a directory, expected an audio file") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror}") from error


def _counted(
    name: str, blocks: Iterator[Samples], sample_rate: int, take: Selection
) -> Iterator[Samples]:
    """The same blocks, as far as the recording may go."""
    count = 0
    for block in blocks:
        count += len(block)
        take.check_length(name, count / sample_rate)
        yield block


def _from_file(
    stack: ExitStack, name: str, file: BinaryIO, take: Selection
) -> tuple[float | None, Iterator[Decoded]]:
    """How many seconds there are, if that is known, and the streams one behind the other."""
    start = file.tell()
    end = file.seek(0, os.SEEK_END)
    if start == end:
        raise AudioError(f"{name}: cannot be read as audio: it is empty")
    kind, parts = Kind.OTHER, [Part(start, end)]
    if take.raw is None:
        kind, parts = parts_of_file(file, start, end)
    try:
        durations = [_seconds(name, file, part, kind, take) for part in parts]
    except NotReadError as error:
        file.seek(start)
        decoded = ffmpeg.decode(stack, name, file, why=str(error), track=take.track)
        return decoded.seconds, iter([decoded])
    _check_track(name, take)
    known = [seconds for seconds in durations if seconds is not None]
    duration = sum(known) if len(known) == len(parts) else None
    return duration, _streams(name, file, parts, kind, take)


def _seconds(name: str, file: BinaryIO, part: Part, kind: Kind, take: Selection) -> float | None:
    with ExitStack() as stack:
        return decode_part(stack, name, file, part, kind, take.raw).seconds


def _streams(
    name: str, file: BinaryIO, parts: list[Part], kind: Kind, take: Selection
) -> Iterator[Decoded]:
    for part in parts:
        with ExitStack() as stack:
            yield decode_part(stack, name, file, part, kind, take.raw)


def _from_pipe(
    stack: ExitStack, name: str, file: BinaryIO, take: Selection
) -> tuple[float | None, Iterator[Decoded]]:
    """The same for what comes in order; read to its end first where it cannot be so decoded."""
    pipe = Pipe(file)
    stack.callback(pipe.close)
    head = pipe.peek(_HEAD)
    if not head:
        raise AudioError(f"{name}: cannot be read as audio: it is empty")
    kind = Kind.OTHER if take.raw is not None else kind_of(head)
    if head.startswith(b"ID3"):
        kind = kind_of(pipe.peek(_TAGGED_HEAD))
    if kind in _IN_ORDER or take.raw is not None:
        streams = _streams_in_order(name, pipe, kind, take)
        try:
            first = next(streams)
        except NotReadError:
            pipe.rewind()
        else:
            pipe.forget()
            _check_track(name, take)
            return None, _put_before(first, streams)
    copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    while data := pipe.read(_AT_ONCE):
        pipe.forget()
        copy.write(data)
    copy.seek(0)
    return _from_file(stack, name, copy, take)


def _streams_in_order(name: str, pipe: Pipe, kind: Kind, take: Selection) -> Iterator[Decoded]:
    for source in parts_of_pipe(kind, pipe):
        with ExitStack() as stack:
            yield decode_pipe(stack, name, source, kind, take.raw)


def _put_before(first: Decoded, others: Iterator[Decoded]) -> Iterator[Decoded]:
    yield first
    yield from others


def _check_track(name: str, take: Selection) -> None:
    if take.track is not None and take.track > 1:
        raise AudioError(f"{name}: has 1 audio track, and track {take.track} is asked for")
