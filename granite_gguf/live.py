"""What is just being spoken: an interim text soon, and the final one at each pause.

    samples as they come ┬→ pieces, cut at pauses → passes → final segments
                         └→ since the last final one → encoder → first hypothesis, the interim text

Final segments are those of :meth:`granite_gguf.Model.submit` of a pipe, and never change. The
interim text is what the encoder alone hears, without the language model, and is made anew from all
that was heard since the last final segment.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from threading import Condition
from typing import BinaryIO, cast

import numpy as np

from granite_gguf.arrays import AnyArray
from granite_gguf.errors import InputError
from granite_gguf.model import Model
from granite_gguf.sound.conversion import prepare_audio
from granite_gguf.sound.sndfile import RawFormat
from granite_gguf.transcription.jobs import Job
from granite_gguf.transcription.options import TranscribeOptions

_SAMPLE = 2  # bytes
_AUDIBLE = 30.0  # of 16 bits, as the root of the mean power: 60 dB below full scale
_BEHIND_SECONDS = 60.0


@dataclass(frozen=True)
class Interim:
    """What was heard after the last final segment.

    Attributes:
        finals: how many final segments there were; with more of them it is out of date.
        start: where it begins, in seconds.
        end: where it ends.
        text: the encoder's hypothesis.
    """

    finals: int
    start: float
    end: float
    text: str


class Live:
    """Speech on its way. One thread writes; another one may ask for the interim text.

    Args:
        model: transcribes.
        rate: of the samples, in Hz.
        wait: as for :meth:`granite_gguf.Model.submit`.
        options: as for :meth:`granite_gguf.Model.transcribe`, but for ``raw``, ``sample_rate`` and
            ``clip``.

    Raises:
        BusyError: there is no room, and it is not waited for.
        InputError: an option is out of range.
    """

    def __init__(
        self, model: Model, rate: int, *, wait: bool = True, options: TranscribeOptions
    ) -> None:
        if options.get("clip") is not None:
            raise InputError("live speech has no clip: all of it is transcribed")
        self._model, self._rate = model, rate
        self._feed = _Feed()
        self._changed = Condition()
        self._held = bytearray()  # since the last final segment
        self._start = 0  # the first sample of it
        self._heard = 0  # samples of it that an interim text was made of
        given: TranscribeOptions = {**options, "raw": RawFormat(rate, "s16le"), "sample_rate": None}
        self.job: Job = model.submit(cast(BinaryIO, self._feed), wait=wait, **given)

    def write(self, data: bytes) -> None:
        """Samples of 16 bits, mono, little-endian; a sample may be divided between two calls."""
        with self._changed:
            self._held += data
        self._feed.write(data)

    def end(self) -> None:
        """Nothing follows: what was heard becomes final."""
        self._feed.end()

    def cancel(self) -> None:
        """Let go of it."""
        self.job.cancel()
        self._feed.end()

    @property
    def behind(self) -> bool:
        """Whether much more has come than was taken up, so that a writer had better wait."""
        return self._feed.waiting > _BEHIND_SECONDS * self._rate * _SAMPLE

    def interim(self) -> Interim | None:
        """Listen to what came since the last final segment; None where nothing new did.

        It takes as long as the encoder does.
        """
        finals = self.job.finished
        with self._changed:
            final = round(finals[-1].end * self._rate) if finals else 0
            passed = min(max(0, final - self._start), len(self._held) // _SAMPLE)
            del self._held[: passed * _SAMPLE]
            self._start += passed
            self._heard = max(0, self._heard - passed)
            count = len(self._held) // _SAMPLE
            if count <= self._heard:
                return None
            samples = np.frombuffer(bytes(self._held[: count * _SAMPLE]), "<i2").astype(np.int16)
            self._heard = count
        text = self._hypothesis(samples)
        start = self._start / self._rate
        return Interim(len(finals), start, start + count / self._rate, text)

    def _hypothesis(self, samples: AnyArray) -> str:
        power = float(np.mean(samples.astype(np.float32) ** 2))
        if power < _AUDIBLE**2:
            return ""
        rate = self._model.hparams.front_end.sample_rate
        found: str = self._model.stages.hypothesis_text(prepare_audio(samples, self._rate, rate))
        return found.strip()


class _Feed(io.RawIOBase):
    """Bytes as they are written, for a reader that waits for them."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._bytes = bytearray()
        self._ended = False

    @property
    def waiting(self) -> int:
        """Bytes that nobody has read yet."""
        with self._changed:
            return len(self._bytes)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        with self._changed:
            if self._ended:
                raise InputError("nothing can follow: the recording has ended")
            self._bytes += data
            self._changed.notify_all()
        return len(data)

    def end(self) -> None:
        """Nothing follows."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1, /) -> bytes:
        """What there is, at most so many bytes; none at the end only."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes or self._ended)
            count = len(self._bytes) if count < 0 else count
            data = bytes(self._bytes[:count])
            del self._bytes[:count]
            return data
