"""WAV, FLAC, MP3, Ogg and what else libsndfile decodes, from files and from pipes.

libsndfile reads through callbacks. A file's part is a file of its own to it. A pipe is one, too,
for FLAC and MP3, which are read in order once the header is known; for WAV, AU and Ogg it is given
a real pipe, which a thread fills, because it would look for the end of a file first.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import BinaryIO

import soundfile

from granite_gguf.arrays import FloatArray
from granite_gguf.errors import AudioError, InputError
from granite_gguf.forks import tell_after_fork
from granite_gguf.memory import starting_threads
from granite_gguf.sound.chatter import without_chatter
from granite_gguf.sound.decoded import Decoded
from granite_gguf.sound.joined import UNKNOWN_SIZE, Kind, Part, sized
from granite_gguf.sound.lumps import Readable
from granite_gguf.sound.view import View

_BLOCK = 65536  # frames decoded at once
_BLOCKS_A_SECOND = 4  # of what comes through a pipe, perhaps as it is spoken
_FED_AT_ONCE = 1 << 9  # bytes: less than 50 ms of most
_UNKNOWN_FRAMES = 1 << 48
_HEAD = 1 << 12  # bytes, in which a header is
_ENDLESS = 1 << 60  # bytes of a pipe, as told to a decoder that asks
# What libsndfile notes of a WAV or AIFF file that is shorter than its header says.
_SHORT_DATA = re.compile(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_DATA = re.compile(r"^\s*data : (\d+)", re.MULTILINE)  # bytes of samples of a WAV file

_RAW = {
    "u8": ("PCM_U8", "FILE"), "s8": ("PCM_S8", "FILE"),
    "s16le": ("PCM_16", "LITTLE"), "s16be": ("PCM_16", "BIG"),
    "s24le": ("PCM_24", "LITTLE"), "s24be": ("PCM_24", "BIG"),
    "s32le": ("PCM_32", "LITTLE"), "s32be": ("PCM_32", "BIG"),
    "f32le": ("FLOAT", "LITTLE"), "f32be": ("FLOAT", "BIG"),
    "f64le": ("DOUBLE", "LITTLE"), "f64be": ("DOUBLE", "BIG"),
    "mulaw": ("ULAW", "FILE"), "alaw": ("ALAW", "FILE"),
}  # fmt: skip
RAW_FORMATS = tuple(_RAW)
"""Forms of a sample, as FFmpeg names them."""
_MOST_CHANNELS = 256


@dataclass(frozen=True)
class RawFormat:
    """How to read samples that no header describes.

    Attributes:
        rate: samples of a channel in a second.
        format: one of :data:`RAW_FORMATS`.
        channels: their number; their samples take turns.

    Raises:
        InputError: a field is out of range.
    """

    rate: int
    format: str = "s16le"
    channels: int = 1

    def __post_init__(self) -> None:
        if self.format not in _RAW:
            raise InputError(
                f"raw samples of the format {self.format!r} are not known, expected one of "
                f"{', '.join(_RAW)}"
            )
        if self.rate < 1:
            raise InputError(f"the rate of raw samples is {self.rate} Hz, expected 1 or more")
        if not 1 <= self.channels <= _MOST_CHANNELS:
            raise InputError(
                f"raw samples of {self.channels} channels, expected 1 to {_MOST_CHANNELS}"
            )


class NotReadError(Exception):
    """libsndfile does not know the format; the message says what it says."""


class _InOrder(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its start to its end: no seek after every block."""

    def seekable(self) -> bool:
        """Whether to seek."""
        return False


class _Opening:
    """soundfile opens one file after another, by a lock that a child would wait for in vain where
    another thread of its parent was opening one.
    """

    def __init__(self) -> None:
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Nobody opens a file in the child yet."""
        if hasattr(soundfile.SoundFile, "_sf_error_lock"):  # from 0.14 on
            soundfile.SoundFile._sf_error_lock = threading.Lock()


_OPENING = _Opening()


def decode_part(
    stack: ExitStack, name: str, file: BinaryIO, part: Part, kind: Kind, raw: RawFormat | None
) -> Decoded:
    """Decode a stream within a file that can seek.

    Raises:
        NotReadError: its format is another one.
        AudioError: it is shorter than it says.
    """
    view = View(file, part)
    if kind is Kind.WAV:
        view.replace_head(_HEAD, sized)
    sound = _opened(stack, view, kind, raw)
    short = _SHORT_DATA.search(sound.extra_info)
    if short and int(short[2]) < int(short[1]) < UNKNOWN_SIZE:
        raise AudioError(
            f"{name}: is truncated: {short[2]} of {short[1]} bytes of samples are there; "
            "fetch or record it again"
        )
    known = sound.frames < _UNKNOWN_FRAMES and part.samples is None

    def seek(sample: int) -> int:
        with _quiet(kind), _damage(name):
            return int(sound.seek(sample)) if sample < sound.frames else 0

    return Decoded(
        sound.samplerate,
        _blocks(name, sound, _BLOCK, view.check, kind),
        promised=sound.frames if known else None,
        expected=part.samples,
        seek=seek if sound.frames < _UNKNOWN_FRAMES else None,
    )


def decode_pipe(
    stack: ExitStack, name: str, source: Readable, kind: Kind, raw: RawFormat | None
) -> Decoded:
    """Decode a stream that comes in order.

    Raises:
        NotReadError: its format is another one, or this one cannot be read in order.
    """
    if kind in (Kind.FLAC, Kind.MP3) and raw is None:
        ordered = _Ordered(source)
        sound = _opened(stack, ordered, kind, None)
        ordered.opened()
        check = ordered.check
    else:
        fed = _Fed(source)
        stack.callback(fed.stop)
        try:
            sound = _opened(stack, fed.descriptor, kind, raw)
        except NotReadError:
            fed.stop()
            raise
        check = fed.check
    stated = _DATA.search(sound.extra_info) if kind is Kind.WAV else None
    known = stated is not None and int(stated[1]) < UNKNOWN_SIZE
    known |= kind is Kind.FLAC and sound.frames < _UNKNOWN_FRAMES
    size = max(1, sound.samplerate // _BLOCKS_A_SECOND)
    return Decoded(
        sound.samplerate,
        _blocks(name, sound, size, check, kind),
        promised=sound.frames if known else None,
    )


def _opened(
    stack: ExitStack, file: object, kind: Kind, raw: RawFormat | None
) -> soundfile.SoundFile:
    how: dict[str, object] = {"closefd": False}
    if raw is not None:
        subtype, endian = _RAW[raw.format]
        how |= {"format": "RAW", "subtype": subtype, "endian": endian}
        how |= {"samplerate": raw.rate, "channels": raw.channels}
    try:
        with _quiet(kind):
            return stack.enter_context(_InOrder(file, **how))
    except soundfile.LibsndfileError as error:
        raise NotReadError(error.error_string.rstrip(".")) from error


def _blocks(
    name: str, sound: soundfile.SoundFile, size: int, check: Callable[[], None], kind: Kind
) -> Iterator[FloatArray]:
    while True:
        with _damage(name):
            with _quiet(kind):
                block = sound.read(size, dtype="float32", always_2d=True)
            check()
        if not len(block):
            return
        yield block


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Turn what goes wrong while decoding inside the block into an AudioError."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{name}: cannot be read as audio: it is damaged or truncated ({error.error_string})"
        ) from error
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from error


def _quiet(kind: Kind) -> AbstractContextManager[object]:
    return without_chatter() if kind is Kind.MP3 else nullcontext()


class _Ordered:
    """A pipe as a file whose header may be read again, and whose end is far away."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._header: bytearray | None = bytearray()
        self._rest = b""  # of the header, once that is known
        self._at = 0
        self._error: OSError | None = None

    def opened(self) -> None:
        """What is read from here on is not read again."""
        assert self._header is not None
        self._rest = bytes(self._header[self._at :])
        self._header = None

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + (0, self._at, _ENDLESS)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            data = self._bytes(len(buffer))
        except OSError as error:
            self._error, data = error, b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def check(self) -> None:
        """Raise what went wrong in a callback."""
        if self._error is not None:
            raise self._error

    def _bytes(self, count: int) -> bytes:
        if self._header is None:
            data, self._rest = self._rest[:count], self._rest[count:]
            return data + self._source.read(count - len(data)) if len(data) < count else data
        if self._at > _ENDLESS // 2:
            return bytes(count)  # a decoder looks for a tag at the end of a file
        missing = self._at + count - len(self._header)
        if missing > 0:
            self._header += self._source.read(missing)
        return bytes(self._header[self._at : self._at + count])


class _Fed:
    """A pipe of the system, which a thread fills."""

    def __init__(self, source: Readable) -> None:
        self.descriptor, self._writing = os.pipe()
        self._source = source
        self._error: OSError | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._feed, name="granite-gguf-feed", daemon=True)
        with starting_threads():
            self._thread.start()

    def stop(self) -> None:
        """Close the pipe, and wait for the thread, which ends where it would write on."""
        if not self._stopped:
            self._stopped = True
            os.close(self.descriptor)
            self._thread.join()

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error is not None:
            raise self._error

    def _feed(self) -> None:
        try:
            while data := self._source.read(_FED_AT_ONCE):
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(self._writing, rest) :]
        except BrokenPipeError:
            return  # nobody reads on
        except OSError as error:
            self._error = error
        finally:
            os.close(self._writing)
