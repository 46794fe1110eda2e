"""Audio from files and arrays, as the front end wants it: mono float32 at the model's rate."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from granite_gguf.errors import AudioError

Samples = npt.NDArray[np.float32]


def read_audio(path: str | PathLike[str], sample_rate: int) -> Samples:
    """Read a file of any format libsndfile knows, mix it to mono and resample it.

    Args:
        path: the file.
        sample_rate: the rate wanted, in Hz.

    Returns:
        float32 ``(n,)``, in [-1, 1] where the file is.

    Raises:
        AudioError: the file is missing, is no audio, is damaged or holds values that are not
            finite.
    """
    path = Path(path)
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    if path.is_dir():
        raise AudioError(f"{path}: is a directory, expected an audio file")
    try:
        data, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: cannot be read as audio: {error.error_string} "
            "WAV, FLAC, OGG/Vorbis, Opus, MP3 and AIFF are read; convert others first"
        ) from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return prepare_audio(data, rate, sample_rate)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error


def prepare_audio(data: npt.NDArray[Any], rate: float, sample_rate: int) -> Samples:
    """Mix samples to mono and resample them.

    Args:
        data: ``(n,)`` or ``(n, channels)``; floats in [-1, 1], or int16 or int32 over their full
            range.
        rate: their rate in Hz.
        sample_rate: the rate wanted.

    Raises:
        AudioError: wrong shape, dtype or rate, or values that are not finite.
    """
    data = np.asarray(data)
    if data.dtype in (np.int16, np.int32):
        data = data / np.float32(-float(np.iinfo(data.dtype).min))
    if not np.issubdtype(data.dtype, np.floating):
        raise AudioError(f"samples are {data.dtype}, expected floats, int16 or int32")
    if data.ndim not in (1, 2):
        raise AudioError(f"samples have the shape {data.shape}, expected (n,) or (n, channels)")
    if data.ndim == 2 and not 1 <= data.shape[1] <= 256:
        raise AudioError(f"samples of shape {data.shape} have {data.shape[1]} channels")
    if not rate > 0:
        raise AudioError(f"the sample rate is {rate} Hz")
    if data.ndim == 2:
        data = data.mean(axis=1, dtype=np.float32)
    if not np.isfinite(data).all():
        raise AudioError("samples are not all finite numbers")
    samples = data.astype(np.float32, copy=False)
    if rate != sample_rate and len(samples):
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    return np.ascontiguousarray(samples, dtype=np.float32)
