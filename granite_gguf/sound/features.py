"""Audio to stacked log-mel frames.

    samples (n,) → power spectrum → 80 mel bands → log10, 8 below the maximum → (T, 160)

One encoder frame is two mel frames side by side, 20 ms. No dither, no pre-emphasis.

Source: torchaudio's ``MelSpectrogram`` (HTK bands, no area normalisation, reflect padding) and
Whisper's logarithm, as the checkpoint's feature extractor combines them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import AnyArray
from granite_gguf.spec.hparams import FrontEnd

_MIN_POWER = 1e-10
_DYNAMIC_RANGE = 8.0  # in units of log10
_FRAMES_AT_ONCE = 4096  # bounds the memory of the spectrum of long audio


def frame_count(f: FrontEnd, samples: int) -> int:
    """Encoder frames T of audio of this length; 0 where it is too short to be analysed."""
    if samples <= f.n_fft // 2:  # cannot be reflected at its ends
        return 0
    if f.pad_last_frame:
        return -(-(samples // f.hop_length + 1) // f.frame_stack)
    if f.cut_after_maximum:
        return (samples // f.hop_length + 1) // f.frame_stack
    return samples // f.stride


def mel_filters(f: FrontEnd) -> npt.NDArray[np.float32]:
    """Triangular HTK filters from 0 Hz to half the sample rate, ``(n_fft // 2 + 1, n_mels)``.

    Computed in float32 in torchaudio's order of operations, because a bank computed in float64
    differs by 5e-6.
    """
    bins = _linspace(0.0, f.sample_rate // 2, f.n_fft // 2 + 1)
    top = 2595.0 * np.log10(1.0 + (f.sample_rate / 2.0) / 700.0)
    exponents = _linspace(0.0, top, f.n_mels + 2) / np.float32(2595.0)
    powers = np.power(10.0, exponents, dtype=np.float64).astype(np.float32)
    edges = np.float32(700.0) * (powers - np.float32(1.0))
    widths = edges[1:] - edges[:-1]
    slopes = edges[None, :] - bins[:, None]  # (bins, n_mels + 2)
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    filters: npt.NDArray[np.float32] = np.maximum(0, np.minimum(rising, falling))
    return filters


def _linspace(start: float, end: float, count: int) -> npt.NDArray[np.float32]:
    """Evenly spaced float32 numbers as torch computes them: in float32, from both ends inwards."""
    step = (np.float32(end) - np.float32(start)) / np.float32(count - 1)
    index = np.arange(count, dtype=np.float32)
    rising = np.float32(start) + step * index
    falling = np.float32(end) - step * index[::-1]
    spaced: npt.NDArray[np.float32] = np.where(index < count // 2, rising, falling)
    return spaced


def log_mel(
    f: FrontEnd, filters: npt.NDArray[np.float32], samples: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Features of an utterance.

    Args:
        f: the front end's numbers.
        filters: ``(n_fft // 2 + 1, n_mels)``.
        samples: mono, float32 in [-1, 1], at ``f.sample_rate``.

    Returns:
        float32 ``(T, frame_stack * n_mels)``, T as :func:`frame_count` says.
    """
    frames = frame_count(f, len(samples))
    wanted = frames * f.frame_stack
    if not frames:
        return np.zeros((0, f.frame_stack * f.n_mels), np.float32)
    heard = len(samples) // f.hop_length + 1
    # Cut before the logarithm and before the maximum: a loud tail that gives no frame counts not.
    power = _mel_power(f, filters, samples, heard if f.cut_after_maximum else min(wanted, heard))
    missing = wanted - len(power)
    if missing > 0:
        power = np.concatenate([power, np.zeros((missing, f.n_mels), np.float32)])
    # In float64, because float32 logarithms differ between libraries.
    log = np.log10(np.maximum(power, np.float32(_MIN_POWER)), dtype=np.float64)
    log = np.maximum(log, log.max() - _DYNAMIC_RANGE)
    mel: npt.NDArray[np.float32] = (log[:wanted] / 4.0 + 1.0).astype(np.float32)
    return mel.reshape(frames, f.frame_stack * f.n_mels)


def _mel_power(
    f: FrontEnd, filters: npt.NDArray[np.float32], samples: npt.NDArray[np.float32], frames: int
) -> npt.NDArray[np.float32]:
    padded = np.pad(samples, f.n_fft // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, f.n_fft)[:: f.hop_length][:frames]
    window = _hann(f)
    bins, weights, starts = _bands(filters.tobytes(), f.n_mels)
    power = np.empty((len(windows), f.n_mels), np.float32)
    for start in range(0, len(windows), _FRAMES_AT_ONCE):
        part = slice(start, start + _FRAMES_AT_ONCE)
        spectrum = np.fft.rfft(windows[part] * window, axis=1)
        strength = spectrum.real**2 + spectrum.imag**2
        power[part] = np.add.reduceat(strength[:, bins] * weights, starts, axis=1)
    return power


@lru_cache(maxsize=4)
def _bands(stored: bytes, n_mels: int) -> tuple[AnyArray, AnyArray, AnyArray]:
    """The bins of each filter one after the other, their weights, and where each filter begins.

    A matrix product would go through numpy's BLAS, which a child that is forked while another
    thread is in it can never use again, and which rounds by how many frames there are.
    """
    filters = np.frombuffer(stored, np.float32).reshape(-1, n_mels)
    # A filter without weights has a bin all the same, for its sum to be 0.
    bands = [
        np.flatnonzero(column) if column.any() else np.zeros(1, np.intp) for column in filters.T
    ]
    weights = [column[band] for column, band in zip(filters.T, bands, strict=True)]
    starts = np.cumsum([0, *map(len, bands[:-1])])
    return np.concatenate(bands), np.concatenate(weights).astype(np.float64), starts


def _hann(f: FrontEnd) -> npt.NDArray[np.float32]:
    """The window, centred in ``n_fft``."""
    window = np.zeros(f.n_fft, np.float32)
    start = (f.n_fft - f.win_length) // 2
    window[start : start + f.win_length] = hann_window(f.win_length)
    return window


def hann_window(length: int) -> npt.NDArray[np.float64]:
    """The periodic Hann window."""
    phase = 2.0 * np.pi * np.arange(length) / length
    window: npt.NDArray[np.float64] = 0.5 - 0.5 * np.cos(phase)
    return window
