"""Recordings as files in memory, pipes that bring them, and where one lies in another."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
import numpy as np
import soundfile

RATE = 16_000


def encoded(
    samples: np.ndarray, form: str, subtype: str | None = None, *, rate: int = RATE
) -> bytes:
    """A file of libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def muxed(
    container: str,
    codec: str,
    *parts: tuple[int, int, np.ndarray],
    form: str = "s16",
    languages: str = "",
) -> bytes:
    """Samples on tracks of a container, by FFmpeg's libraries: track, first time, samples."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        count = 1 + max(track for track, _, _ in parts)
        tracks = [output.add_stream(codec, rate=RATE, layout="mono") for _ in range(count)]
        for stream, language in zip(tracks, languages.split(), strict=False):
            stream.metadata["language"] = language
        for track, start, samples in parts:
            for at in range(0, len(samples), 1024):
                data = samples[None, at : at + 1024]
                data = (data * 32767).astype(np.int16) if form == "s16" else data
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data), form, "mono")
                frame.sample_rate, frame.pts = RATE, start + at
                output.mux(tracks[track].encode(frame))
        for stream in tracks:
            output.mux(stream.encode())
    return file.getvalue()


@contextmanager
def piped(data: bytes) -> Iterator[BinaryIO]:
    """A pipe that brings what a thread writes."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as end:
            end.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as pipe:
        yield pipe
    thread.join()


def place(samples: np.ndarray, wanted: np.ndarray) -> tuple[int, float]:
    """Where a recording lies in another, and how they correlate there: 1 is the same.

    The place is negative where the other one lacks its beginning.
    """
    size = 1 << (len(samples) + len(wanted)).bit_length()
    a, b = (np.fft.rfft(sound - sound.mean(), size) for sound in (samples, wanted))
    at = int(np.fft.irfft(a * b.conj(), size).argmax())
    at -= size if at >= len(samples) else 0
    found, there = samples[max(0, at) :][: len(wanted)], wanted[max(0, -at) :]
    count = min(len(found), len(there))
    return at, float(np.corrcoef(found[:count], there[:count])[0, 1])
