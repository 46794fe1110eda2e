"""Sentences to 16 kHz samples: espeak-ng, then rooms and noise."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import numpy.typing as npt
import soxr

from training.grammar import Sentence
from training.voices import Voice

SAMPLE_RATE = 16000
WAV_HEADER = 44
WAV_RATE = slice(24, 28)

Samples = npt.NDArray[np.float32]


def require_espeak() -> str:
    """Path of the synthesizer."""
    path = shutil.which("espeak-ng")
    if path is None:
        raise SystemExit("espeak-ng is not installed: apt-get install espeak-ng")
    return path


def speak(sentence: Sentence, voice: Voice) -> Samples:
    """The sentence in that voice, 16 kHz mono samples (n) in [-1, 1]."""
    command = [
        require_espeak(),
        *("-v", voice.name),
        *("-s", str(voice.words_per_minute)),
        *("-p", str(voice.pitch)),
        *("-a", str(voice.amplitude)),
        *("-g", str(voice.word_gap)),
        "--stdout",
        sentence.spoken,
    ]
    # The sizes in the header are those of an endless stream, so it is not read as a file.
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    rate = int.from_bytes(wav[WAV_RATE], "little")
    samples = np.frombuffer(wav[WAV_HEADER:], "<i2").astype(np.float32) / 32768
    resampled: Samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.clip(resampled, -1, 1)


def with_margins(samples: Samples, rng: np.random.Generator) -> Samples:
    """Up to 0.3 s of silence on either side."""
    before, after = rng.integers(0, int(0.3 * SAMPLE_RATE), 2)
    return np.pad(samples, (before, after))


def in_room(samples: Samples, rng: np.random.Generator) -> Samples:
    """The samples with a random exponentially decaying reverberation, the direct sound first."""
    seconds = rng.uniform(0.1, 0.5)  # for the tail to fall by 60 dB
    length = int(seconds * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail[: int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)] = 0
    tail *= rng.uniform(0.2, 0.8) / np.sqrt(np.sum(tail**2))
    tail[0] = 1
    size = len(samples) + length
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
    return limited(wet[: len(samples)].astype(np.float32))


def with_noise(samples: Samples, rng: np.random.Generator, decibels: float) -> Samples:
    """The samples with coloured noise, from white to brown, `decibels` below the speech."""
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    frequency = np.maximum(np.arange(len(spectrum)) / len(spectrum), 0.01)
    noise = np.fft.irfft(spectrum * frequency ** -rng.uniform(0, 1), len(samples))
    power = np.mean(samples**2) / np.mean(noise**2) / 10 ** (decibels / 10)
    return limited((samples + noise * np.sqrt(power)).astype(np.float32))


def limited(samples: Samples) -> Samples:
    """Turned down where it would clip."""
    return samples / max(1.0, float(np.abs(samples).max(initial=0)))
