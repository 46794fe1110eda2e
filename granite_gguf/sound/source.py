"""What a recording may be given as, and how it is read.

path | file object | bytes of a file | array | list | tensor | dict of `datasets`
    → Source (something to open, or an array) → mono samples at the model's rate
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, TextIOBase
from os import PathLike
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Protocol, cast

import numpy as np

from granite_gguf.arrays import AnyArray, Samples
from granite_gguf.errors import InputError, InputTypeError, brief
from granite_gguf.sound import reading
from granite_gguf.sound.conversion import prepare_audio
from granite_gguf.sound.reading import ALL, AudioStream, Selection


class ArrayLike(Protocol):
    """What numpy can read: an array, or a tensor on the CPU."""

    def __array__(self) -> AnyArray: ...


AudioInput = (
    str
    | PathLike[str]
    | BinaryIO
    | bytes
    | bytearray
    | memoryview
    | ArrayLike
    | Sequence[Any]
    | Mapping[str, Any]
)
"""A recording, in any of the forms that :meth:`Source.of` takes."""

_AT_HAND = (BytesIO, SpooledTemporaryFile)  # file objects that wait for nobody

_ACCEPTED = (
    "a file's path, a file object opened for bytes, a file's contents as bytes, samples as a numpy "
    "array, a tensor on the CPU or a list of numbers, or a dict with 'array' and 'sampling_rate', "
    "'bytes' or 'path'"
)


@dataclass(frozen=True)
class Source:
    """A recording, and how to read it.

    Attributes:
        audio: a path, a file object, or samples ``(n,)`` or ``(n, channels)``.
        sample_rate: the rate of samples in Hz; the model's by default.
        take: what to take of it.
    """

    audio: str | PathLike[str] | BinaryIO | AnyArray
    sample_rate: float | None = None
    take: Selection = ALL

    @classmethod
    def of(
        cls, given: AudioInput, *, sample_rate: float | None = None, take: Selection = ALL
    ) -> Source:
        """A recording in any form.

        Args:
            given: a file's path; a file object opened for bytes; a file's contents as ``bytes``,
                ``bytearray`` or ``memoryview``; samples ``(n,)``, ``(n, channels)`` or ``(1, n)``
                as a numpy array, a list or anything that numpy reads, such as a tensor on the CPU;
                or a dict as the library `datasets` has it: ``array`` and ``sampling_rate``,
                ``bytes``, or ``path``.
            sample_rate: the rate of samples in Hz; the model's by default.
            take: what to take of it.

        Raises:
            InputTypeError: it is something else.
            InputError: a dict lacks what it should have, or tells another rate; or numpy cannot
                read what should be samples.

        >>> source = Source.of({"array": [[0.0, 0.5, 0.25]], "sampling_rate": 8000, "path": None})
        >>> source.audio, source.sample_rate
        (array([0.  , 0.5 , 0.25]), 8000)
        """
        if isinstance(given, Mapping):
            given, sample_rate = _of_dict(given, sample_rate)
        if isinstance(given, (bytes, bytearray, memoryview)):
            return cls(BytesIO(given), sample_rate, take)
        if isinstance(given, (str, PathLike)):
            return cls(given, sample_rate, take)
        if hasattr(given, "__array__") or isinstance(given, (list, tuple)):
            return cls(_array(given), sample_rate, take)
        if isinstance(given, TextIOBase):
            raise InputTypeError("the file object is opened for text: open it for bytes ('rb')")
        if all(hasattr(given, name) for name in ("read", "seek", "seekable")):
            return cls(cast(BinaryIO, given), sample_rate, take)
        raise InputTypeError(f"audio is {brief(given)} of {type(given)}, expected {_ACCEPTED}")

    @property
    def is_samples(self) -> bool:
        """Whether it is an array and not something to open."""
        return isinstance(self.audio, np.ndarray)

    @property
    def name(self) -> str:
        """What messages call it: a file's path and a colon, or nothing."""
        return f"{self.audio}: " if isinstance(self.audio, (str, PathLike)) else ""

    @property
    def is_at_hand(self) -> bool:
        """Whether reading it waits for nobody, as reading a pipe may."""
        if isinstance(self.audio, (str, PathLike)):
            return not Path(self.audio).exists() or Path(self.audio).is_file()
        return isinstance(self.audio, (np.ndarray, *_AT_HAND))

    def seconds(self, rate: float) -> float | None:
        """How long it is, where that is known; a pipe or an open file is not asked.

        ``rate`` is that of samples without one of their own, in Hz.
        """
        if isinstance(self.audio, np.ndarray):
            if not self.audio.ndim:
                return None
            whole = len(self.audio) / (self.sample_rate or rate)
            return whole if self.take.clip is None else self.take.clip.length(whole)
        if not self.is_at_hand:
            return None
        start = self.audio.tell() if isinstance(self.audio, _AT_HAND) else 0
        seconds = reading.duration_of(self.audio, self.take)
        if isinstance(self.audio, _AT_HAND):
            self.audio.seek(start)
        return seconds

    def load(self, rate: int) -> Samples:
        """All of it as float32 samples at a rate in Hz: mono ``(n,)``, or ``(n, channels)`` apart.

        Raises:
            AudioError: the file or the array cannot be used.
            InputError: a sample rate was given for a file.
        """
        if isinstance(self.audio, np.ndarray):
            given = rate if self.sample_rate is None else self.sample_rate
            audio, clip = self.audio, self.take.clip
            if clip is not None and audio.ndim and given > 0:
                audio = clip.of_samples(audio, given)
            take = self.take
            return prepare_audio(audio, given, rate, channel=take.channel, apart=take.apart)
        self._refuse_rate()
        return reading.read_audio(self.audio, rate, self.take)

    @contextmanager
    def open(self, rate: int) -> Iterator[AudioStream]:
        """Its samples at a rate in Hz, block by block; errors are those of :meth:`load`."""
        if isinstance(self.audio, np.ndarray):
            samples = self.load(rate)
            self.take.check_length("the array", len(samples) / rate)
            yield AudioStream(len(samples) / rate, iter([samples]), start=self.take.start)
            return
        self._refuse_rate()
        with reading.open_audio(self.audio, rate, self.take) as stream:
            yield stream

    def _refuse_rate(self) -> None:
        if self.sample_rate is not None:
            raise InputError("sample_rate belongs to samples; a file has its own")


def _of_dict(given: Mapping[str, Any], rate: float | None) -> tuple[AudioInput, float | None]:
    """What is in a dict of the library `datasets`, and its rate."""
    if given.get("array") is not None:
        told = given.get("sampling_rate")
        if told is not None and rate is not None and told != rate:
            raise InputError(f"sample_rate is {rate:g}, and the dict's sampling_rate {told:g}")
        return given["array"], rate if told is None else told
    for name in ("bytes", "path"):
        if given.get(name) is not None:
            return given[name], rate
    raise InputError(
        f"the dict has {brief(sorted(map(str, given)))}, expected 'array' and 'sampling_rate', "
        "'bytes' or 'path'"
    )


def _array(given: Any) -> AnyArray:
    """Samples ``(n,)`` or ``(n, channels)``; ``(1, n)``, as audio libraries have it, are mono."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # of a tensor elsewhere, of ragged lists
        raise InputError(f"samples of {type(given)} cannot be read by numpy: {error}") from error
    return array[0] if array.ndim == 2 and len(array) == 1 else array
