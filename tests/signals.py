"""Deterministic audio for tests: numpy only, and the same samples wherever it runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000


def uniform(count: int, seed: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1): SplitMix64, whose integers no numpy version can change."""
    start = seed * 0x632BE59BD9B4E019 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(start) + np.arange(1, count + 1, dtype=np.uint64)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.asarray((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def synthetic_audio(n_samples: int, seed: int) -> NDArray[np.float32]:
    """`n_samples` of babble at 16 kHz, below 1 in magnitude.

    The harmonics of a gliding tone, shaped by three gliding formants, under a syllable-like
    envelope that opens and closes; bursts of noise fall in between. A shorter signal is the start
    of a longer one of the same seed.
    """
    time = np.arange(n_samples) / SAMPLE_RATE
    draws = iter(uniform(32, seed + 1))

    def glide(low: float, high: float) -> NDArray[np.float64]:
        """A curve between two frequencies, its own rate and phase drawn."""
        rate, phase = 0.5 + 2.5 * next(draws), next(draws)
        place = 0.5 + 0.5 * np.sin(2 * np.pi * (rate * time + phase))
        return np.asarray(low + (high - low) * place)

    pitch = 110.0 + 60.0 * next(draws)
    vibrato, turn = 0.8 + next(draws), 2 * np.pi * time
    phase = pitch * turn + 0.12 * pitch / vibrato * np.sin(vibrato * turn)
    formants = [glide(250, 850), glide(800, 2400), glide(2200, 4200)]
    voice = np.zeros(n_samples)
    for harmonic in range(1, 37):
        frequency = harmonic * pitch
        gain = sum(1 / (1 + ((frequency - f) / 120) ** 2) for f in formants)
        voice += (0.02 + gain) / harmonic**0.5 * np.sin(harmonic * phase)
    syllables = (2.0 + 2.0 * next(draws)) * turn + 2 * np.pi * next(draws)
    envelope = np.clip(0.6 + np.sin(syllables) + 0.5 * np.sin(0.37 * syllables), 0.0, 1.0)
    bursts = np.clip(np.sin(1.7 * syllables + 2.0) - 0.6, 0.0, 0.4)
    noise = 2.0 * uniform(n_samples, seed) - 1.0
    signal = 0.12 * voice * envelope + noise * (0.002 + 0.4 * bursts)
    return np.asarray(np.tanh(signal), dtype=np.float32)
