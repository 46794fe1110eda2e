"""Long audio is cut at pauses, and nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from granite_gguf.sound.pieces import chunks, cut_point
from tests.signals import synthetic_audio, uniform

RATE = 16_000


def in_blocks(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return iter([samples[i : i + size] for i in range(0, len(samples), size)])


@pytest.fixture(scope="module")
def babble() -> np.ndarray:
    return synthetic_audio(100 * RATE, seed=7)


@pytest.mark.parametrize("seconds", [0, 3, 9.999, 10, 10.001, 12.4, 12.6, 20, 31, 47.3, 100])
@pytest.mark.parametrize("block", [1_000, 65_536])
def test_pieces_partition_the_audio(babble: np.ndarray, seconds: float, block: int) -> None:
    samples = babble[: int(seconds * RATE)]
    pieces = list(chunks(in_blocks(samples, block), rate=RATE, longest=10 * RATE))
    ends = np.cumsum([len(piece) for _, piece in pieces])
    assert [start for start, _ in pieces] == [0, *ends[:-1]]
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in pieces]), samples)
    assert all(len(piece) <= 10 * RATE for _, piece in pieces)
    if len(pieces) > 1:  # none too short to be understood
        assert min(len(piece) for _, piece in pieces) >= 2.5 * RATE - 1


def test_what_fits_stays_whole(babble: np.ndarray) -> None:
    samples = babble[: 25 * RATE]
    for longest, count in ((25 * RATE, 1), (25 * RATE - 1, 2)):
        assert len(list(chunks(in_blocks(samples, 5_000), rate=RATE, longest=longest))) == count


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_cuts_lie_in_the_middle_of_pauses(noise: float) -> None:
    """Words of 0.6 s with gaps of 50 ms, and pauses of 0.4 s at known places."""
    samples = synthetic_audio(60 * RATE, seed=5)
    samples[np.abs(samples) < 0.01] = 0.05  # no pauses but those made here
    for gap in np.arange(0.6, 60, 0.65):
        samples[int(gap * RATE) : int((gap + 0.05) * RATE)] = 0
    pauses = np.arange(3.0, 60, 4.1)
    for pause in pauses:
        samples[int(pause * RATE) : int((pause + 0.4) * RATE)] = 0
    samples += np.float32(noise) * (2 * uniform(len(samples), 1).astype(np.float32) - 1)
    starts = [s / RATE for s, _ in chunks(iter([samples]), rate=RATE, longest=10 * RATE)]
    assert len(starts) >= 7
    for start in starts[1:]:
        assert np.abs(pauses + 0.2 - start).min() < 0.06


def test_the_longest_of_equal_pauses_is_taken() -> None:
    samples = np.ones(20 * RATE, np.float32)
    samples[6 * RATE : int(6.3 * RATE)] = 0
    samples[8 * RATE : 9 * RATE] = 0
    assert cut_point(samples, RATE, 10 * RATE) == pytest.approx(8.5 * RATE, abs=RATE // 100)


def test_only_a_piece_is_held() -> None:
    """An hour of audio, of which no more is read than the piece at hand needs."""
    read = 0

    def hour() -> Iterator[np.ndarray]:
        nonlocal read
        for _ in range(3600):
            read += RATE
            yield np.zeros(RATE, np.float32)

    done = 0
    for start, piece in chunks(hour(), rate=RATE, longest=60 * RATE):
        assert read - start <= 77 * RATE
        done += len(piece)
    assert done == 3600 * RATE
