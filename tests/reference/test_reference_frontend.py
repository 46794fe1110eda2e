"""The log-mel front end against a direct transform in numpy, and its edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from granite_gguf.reference import FrontEndConfig, log_mel, mel_bank  # noqa: E402
from granite_gguf.reference.frontend import mel_power, n_frames  # noqa: E402
from tests.signals import synthetic_audio  # noqa: E402

HUB = FrontEndConfig()
NATIVE = replace(HUB, keep_all_frames=True)


def float64_bank() -> np.ndarray:
    """Triangles (257, 80) straight from the definition of the HTK scale."""
    top = 2595 * np.log10(1 + 8000 / 700)
    edges = 700 * (10 ** (np.arange(82) * top / 81 / 2595) - 1)
    bins = np.arange(257) * 16000 / 512
    bank = np.zeros((257, 80))
    for band in range(80):
        left, peak, right = edges[band : band + 3]
        bank[:, band] = np.interp(bins, [left, peak, right], [0, 1, 0])
    return bank


def direct_power(audio: np.ndarray, frame: int) -> np.ndarray:
    """Power spectrum (257) of one frame by the Fourier sum, every sample looked up by hand."""
    n = len(audio)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    places = frame * 160 - 200 + np.arange(400)
    places = np.where(places < 0, -places, places)
    places = np.where(places >= n, 2 * (n - 1) - places, places)
    # 56 zeros on the left: the phase they add does not show in the power.
    waves = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)
    return np.abs(waves @ (audio[places].astype(np.float64) * window)) ** 2


def features(audio: np.ndarray, config: FrontEndConfig = HUB) -> np.ndarray:
    return log_mel(torch.from_numpy(audio), config).numpy()


def test_bank_is_htk_with_peak_one() -> None:
    bank = mel_bank(HUB)
    assert bank.shape == (257, 80)
    assert bank.dtype == torch.float32
    difference = np.abs(bank.numpy() - float64_bank()).max()
    # Built in float32, as torchaudio does: a float64 bank is some 5e-6 away, not equal.
    assert 1e-6 < difference < 1e-5
    assert bank.max() <= 1.0


@pytest.mark.parametrize("frame", [0, 1, 2, 9, 29, 30])
def test_power_of_a_frame_is_the_fourier_sum(frame: int) -> None:
    audio = synthetic_audio(4801, seed=3)
    expected = direct_power(audio, frame) @ float64_bank()
    power = mel_power(torch.from_numpy(audio), HUB).numpy()[frame]
    np.testing.assert_allclose(power, expected, rtol=2e-4, atol=1e-5 * expected.max())
    exact = mel_power(torch.from_numpy(audio).double(), HUB).numpy()[frame]
    np.testing.assert_allclose(exact, expected, rtol=2e-4, atol=1e-8)


def test_features_are_the_scaled_logarithm_of_two_frames() -> None:
    audio = synthetic_audio(4801, seed=4)
    power = np.stack([direct_power(audio, frame) for frame in range(30)]) @ float64_bank()
    logs = np.log10(np.maximum(power, 1e-10))
    logs = np.maximum(logs, logs.max() - 8) / 4 + 1
    made = features(audio)
    assert made.shape == (15, 160)
    np.testing.assert_allclose(made[:, :80], logs[0::2], atol=1e-4)
    np.testing.assert_allclose(made[:, 80:], logs[1::2], atol=1e-4)


@pytest.mark.parametrize(
    ("n_samples", "hub", "native"),
    [
        (0, 0, 0),
        (100, 0, 0),
        (256, 0, 0),
        (257, 0, 1),  # the least that can be padded by reflection
        (319, 0, 1),
        (320, 1, 2),  # 3 mel frames: the native layout keeps and completes the third
        (479, 1, 2),
        (480, 1, 2),
        (639, 1, 2),
        (640, 2, 3),
        (320 * 200, 200, 201),
        (320 * 200 - 1, 199, 200),
    ],
)
def test_number_of_frames(n_samples: int, hub: int, native: int) -> None:
    assert n_frames(n_samples, HUB) == hub
    assert n_frames(n_samples, NATIVE) == native
    if n_samples <= 640:
        audio = synthetic_audio(n_samples, seed=0)
        assert features(audio).shape == (hub, 160)
        assert features(audio, NATIVE).shape == (native, 160)


def test_digital_silence() -> None:
    assert set(features(np.zeros(1600, np.float32)).ravel()) == {np.float32(-1.5)}


def test_maximum_is_taken_after_the_cut() -> None:
    quiet = 1e-5 * synthetic_audio(10 * 320 + 319, seed=5)
    loud = quiet.copy()
    # The last kept mel frame, 19, ends at sample 3240; frames 20 and 21 are cut off.
    loud[3300:] = 1.0
    assert mel_power(torch.from_numpy(loud), HUB)[20:].max() > 1.0
    np.testing.assert_array_equal(features(loud), features(quiet))
    assert not np.array_equal(features(loud, NATIVE)[:10], features(quiet, NATIVE)[:10])


def test_native_completes_an_odd_number_of_frames_with_zero_power() -> None:
    made = features(synthetic_audio(640, seed=6), NATIVE)  # 5 mel frames
    floor = max(-10.0, (made.max() - 1) * 4 - 8) / 4 + 1
    np.testing.assert_allclose(made[2, 80:], floor, atol=1e-6)
    assert made[2, :80].max() > floor


def test_float64_runs_throughout() -> None:
    audio = synthetic_audio(3200, seed=7)
    exact = log_mel(torch.from_numpy(audio).double(), HUB)
    assert exact.dtype == torch.float64
    np.testing.assert_allclose(features(audio), exact.numpy(), atol=2e-5)
