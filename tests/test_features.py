"""The log-mel front end, against hand computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from granite_gguf.sound.features import frame_count, log_mel, mel_filters
from granite_gguf.spec.hparams import FrontEnd
from granite_gguf.speech.spec import FrontEnd as SpeechFrontEnd
from tests.signals import synthetic_audio

FRONT_END = FrontEnd()
NATIVE = replace(FRONT_END, pad_last_frame=True)
FILTERS = mel_filters(FRONT_END)


@pytest.mark.parametrize(
    ("samples", "hub", "native"),
    [
        (0, 0, 0),
        (256, 0, 0),  # cannot be reflected
        (257, 0, 1),
        (319, 0, 1),
        (320, 1, 2),  # n // 160 + 1 = 3 mel frames: one pair, or two with one frame appended
        (479, 1, 2),
        (480, 1, 2),
        (639, 1, 2),
        (640, 2, 3),
        (176_000, 550, 551),
    ],
)
def test_frame_counts(samples: int, hub: int, native: int) -> None:
    assert frame_count(FRONT_END, samples) == hub
    assert frame_count(NATIVE, samples) == native
    audio = synthetic_audio(samples, seed=1)
    assert log_mel(FRONT_END, FILTERS, audio).shape == (hub, 160)
    assert log_mel(NATIVE, FILTERS, audio).shape == (native, 160)


def test_filters_are_htk_triangles_of_peak_one() -> None:
    # Band 0 rises from 0 Hz to the first edge and falls to the second; bins are 31.25 Hz apart.
    # hz -> mel: 2595 log10(1 + f / 700); 8000 Hz is 2840.023 mel; 81 steps of 35.06201 mel.
    edges = 700 * (10 ** (np.arange(82) * 2840.0230 / 81 / 2595) - 1)
    bins = np.arange(257) * 31.25
    for band in (0, 1, 40, 79):
        low, peak, high = edges[band : band + 3]
        expected = np.clip(np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)),
                           0, None)  # fmt: skip
        np.testing.assert_allclose(FILTERS[:, band], expected, atol=2e-5)


def test_one_frame_by_direct_transform() -> None:
    """Frame 3 of a signal by the definition of the discrete Fourier transform, in float64."""
    audio = synthetic_audio(4800, seed=2)
    padded = np.pad(audio.astype(np.float64), 256, mode="reflect")
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    mels = []
    for frame in range(30):
        part = padded[160 * frame : 160 * frame + 512] * window
        angles = -2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512
        mels.append(np.abs(np.exp(angles) @ part) ** 2 @ FILTERS.astype(np.float64))
    log = np.log10(np.maximum(mels, 1e-10))
    expected = np.maximum(log, log.max() - 8) / 4 + 1
    actual = log_mel(FRONT_END, FILTERS, audio)
    np.testing.assert_allclose(actual, expected.reshape(15, 160), atol=1e-4)


def test_silence() -> None:
    assert (log_mel(FRONT_END, FILTERS, np.zeros(3200, np.float32)) == -1.5).all()


def test_a_loud_tail_that_gives_no_frame_changes_nothing_before_it() -> None:
    audio = synthetic_audio(3200 + 310, seed=1)
    # Frame 19 of the mel spectrum, the last one kept, ends at sample 160 * 19 + 256 - 56.
    louder = audio.copy()
    louder[3300:] = 0.99
    np.testing.assert_array_equal(
        log_mel(FRONT_END, FILTERS, audio), log_mel(FRONT_END, FILTERS, louder)
    )


def test_frames_stand_side_by_side_in_time_order() -> None:
    audio = np.zeros(1600, np.float32)
    audio[800] = 1.0  # centred in mel frame 5
    mel = log_mel(FRONT_END, FILTERS, audio)
    assert mel[2, 80:].mean() > mel[2, :80].mean() > mel[0, :80].mean()


@pytest.mark.parametrize(
    ("samples", "frames"), [(256, 0), (320, 1), (480, 2), (640, 2), (5600, 18), (40_000, 125)]
)
def test_the_autoregressive_models_cut_after_the_maximum(samples: int, frames: int) -> None:
    """All mel frames count for the maximum, also the odd one that is then left out."""
    f = SpeechFrontEnd()
    assert frame_count(f, samples) == frames
    audio = synthetic_audio(samples, seed=1)
    mel = log_mel(f, FILTERS, audio)
    assert mel.shape == (frames, 160)
    if samples == 40_000:  # 251 mel frames
        loud = np.concatenate([audio[:-80], np.full(80, 0.99, np.float32)])
        assert (log_mel(f, FILTERS, loud)[:100] > mel[:100]).any()
