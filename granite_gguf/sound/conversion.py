"""Samples as the front end wants them: mono float32 at its own rate.

blocks (n, channels) ┬→ one channel or their mean (n,) ┬→ resampled (m,) or (m, channels)
                     └→ all of them, where they are ───┘
                        to be told apart (n, channels)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import soxr

from granite_gguf.arrays import AnyArray, Samples
from granite_gguf.errors import AudioError, AudioWarning
from granite_gguf.sound.decoded import Decoded

_BLOCK = 65536  # samples of an array that are mixed at once
_MAX_CHANNELS = 256
# Channels cancel out where their mean has less than this part of their power (-17 dB). Where they
# are equally loud that takes a correlation below -0.96; independent ones keep half.
_CANCELLED = 0.02
_INAUDIBLE = 1e-9  # power of a sample of 16 bits that is 0 or 1
_CLEARLY_LOUDER = 2.0  # in power: 3 dB
_TOLERATED_SHORTFALL = 0.02
_LOUDEST = 16.0  # 24 dB above full scale: what is louder was never scaled


def prepare_audio(
    data: AnyArray,
    rate: float,
    sample_rate: int,
    *,
    channel: int | None = None,
    apart: bool = False,
) -> Samples:
    """Mix samples to mono and resample them.

    Args:
        data: ``(n,)`` or ``(n, channels)``; floats in [-1, 1], or int16 or int32 over their full
            range.
        rate: their rate in Hz.
        sample_rate: the rate wanted.
        channel: the channel to take, 1 the first; by default the mean of all.
        apart: whether to keep all channels instead, so that the result is ``(n, channels)``.

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
    data = data[:, None] if data.ndim == 1 else data
    mixer = Mixer(channel, "the samples", apart=apart)
    blocks = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    nothing = np.zeros((0, data.shape[1]) if apart else 0, np.float32)
    samples = np.concatenate([nothing, *(mixer.mixed(block, rate) for block in blocks)])
    peak = np.abs(samples).max(initial=0.0)
    if peak > _LOUDEST:
        raise AudioError(
            f"samples reach {peak:g}, expected floats in [-1, 1]: divide the values of int16 by "
            "32768, or give them as int16"
        )
    if rate != sample_rate and len(samples):
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    return np.ascontiguousarray(samples, dtype=np.float32)


def converted(
    name: str,
    streams: Iterator[Decoded],
    sample_rate: int,
    channel: int | None,
    *,
    apart: bool = False,
) -> Iterator[Samples]:
    """Streams one behind the other: the same samples as if converted in one piece, in blocks.

    The last arguments and the blocks' shape are as of :func:`prepare_audio`.

    Raises:
        AudioError: a stream is damaged or truncated, has no such channel or is not finite.
    """
    resampler = _Resampler(sample_rate)
    mixer = Mixer(channel, name, apart=apart)
    for stream in streams:
        yield from resampler.begin(stream.rate)
        count = 0
        for block in stream.blocks:
            count += len(block)
            try:
                samples = mixer.mixed(block, stream.rate)
            except AudioError as error:
                raise AudioError(f"{name}: {error}") from error
            yield resampler.resample(samples)
        if stream.promised is not None and count < stream.promised * (1 - _TOLERATED_SHORTFALL):
            raise AudioError(
                f"{name}: is truncated: {count / stream.rate:.1f} of "
                f"{stream.promised / stream.rate:.1f} s are there; fetch or record it again"
            )
    yield from resampler.end()


class _Resampler:
    """Blocks of samples at one rate after another, as blocks at a rate."""

    def __init__(self, sample_rate: int) -> None:
        self._rate, self._given_rate = sample_rate, sample_rate
        self._stream: soxr.ResampleStream | None = None
        self._nothing: Samples = np.zeros(0, np.float32)  # of as many channels

    def begin(self, rate: int) -> Iterator[Samples]:
        """From now on samples are at another rate; what is left of those before."""
        if rate != self._given_rate:
            yield from self.end()
            self._given_rate = rate

    def resample(self, samples: Samples) -> Samples:
        """The next block."""
        if self._given_rate == self._rate:
            return samples
        if self._stream is None:
            self._nothing = samples[:0]
            channels = samples.shape[1] if samples.ndim == 2 else 1
            self._stream = soxr.ResampleStream(
                self._given_rate, self._rate, channels, "float32", "HQ"
            )
        resampled: Samples = self._stream.resample_chunk(samples)
        return resampled

    def end(self) -> Iterator[Samples]:
        """What is left."""
        if self._stream is not None:
            yield self._stream.resample_chunk(self._nothing, last=True)
            self._stream = None


def _finite(samples: npt.NDArray[np.floating]) -> Samples:
    if not np.isfinite(samples).all():
        raise AudioError("samples are not all finite numbers")
    return np.ascontiguousarray(samples, dtype=np.float32)


class Mixer:
    """Makes one channel of several, block by block, unless they are to stay apart.

    The mean of channels of which one is the other upside down, as a wrongly soldered cable makes
    them, is silence. What the last second says of that decides; then the louder channel is taken.

    Args:
        channel: the channel to take, 1 the first; by default the mean of all.
        name: the recording's name, for the note.
        apart: whether all channels are kept.
    """

    def __init__(self, channel: int | None, name: str, *, apart: bool = False) -> None:
        self._channel, self._name, self._apart = channel, name, apart
        self._known: int | None = None  # channels, where they stay apart
        self._powers = np.zeros(0)  # of each channel, and of the mean of all
        self._taken: int | None = None
        self._told = False

    def mixed(self, block: npt.NDArray[np.floating], rate: float) -> Samples:
        """One channel, or the mean of all, ``(n,)``, of ``(n, channels)``; or all of them.

        Raises:
            AudioError: there is no such channel, their number changes where they stay apart, or a
                sample is not finite.
        """
        channels = block.shape[1]
        if self._apart:
            if self._known not in (None, channels):
                raise AudioError(
                    f"has {self._known} channels and then {channels}, which cannot be told apart"
                )
            self._known = channels
            return _finite(block)
        if self._channel is not None:
            if not 1 <= self._channel <= channels:
                counted = "1 channel" if channels == 1 else f"{channels} channels"
                raise AudioError(f"has {counted}, and channel {self._channel} is asked for")
            mixed = block[:, self._channel - 1]
        elif channels == 1:
            mixed = block[:, 0]
        else:
            mixed = block.mean(axis=1, dtype=np.float32)
        samples = _finite(mixed)
        if self._channel is None and channels > 1 and len(block):
            samples = _finite(self._audible(block, samples, rate))
        return samples

    def _audible(self, block: npt.NDArray[np.floating], mixed: AnyArray, rate: float) -> AnyArray:
        """The mean of a block, or its louder channel where that is next to nothing."""
        sums = np.array([np.einsum("i,i->", c, c, dtype=np.float64) for c in (*block.T, mixed)])
        if len(self._powers) != len(sums):
            self._powers, self._taken = np.zeros(len(sums)), None
        self._powers = self._powers * 0.5 ** (len(block) / rate) + sums
        *each, together = self._powers
        if together >= _CANCELLED * float(np.mean(each)) or max(sums) < _INAUDIBLE * len(block):
            self._taken = None
            return mixed
        loudest = int(np.argmax(each))
        if self._taken is None or each[loudest] > _CLEARLY_LOUDER * each[self._taken]:
            self._taken = loudest
        if not self._told:
            self._told = True
            warnings.warn(
                f"{self._name}: its channels cancel out, so the louder one (channel "
                f"{self._taken + 1}) is taken; --channel N takes another one",
                AudioWarning,
                stacklevel=2,
            )
        return block[:, self._taken]
