"""Speech on its way: interim texts, and final ones that never change."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import CancelledError, InputError, Model
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.live import Live

RATE = 16_000
TEXTS = [path.with_suffix(".txt").read_text().strip() for path in DEMO_SAMPLES]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with granite_gguf.load(DEMO_MODEL, threads=1) as loaded:
        yield loaded


def spoken(*names: int, pause: float = 1.2) -> bytes:
    """Samples of 16 bits, with a pause behind each."""
    quiet = np.zeros(round(pause * RATE), np.int16)
    parts = [soundfile.read(DEMO_SAMPLES[n], dtype="int16")[0] for n in names]
    return b"".join(part.tobytes() for sample in parts for part in (sample, quiet))


def written(live: Live, data: bytes, step: int = 3201) -> None:
    """In parts that divide samples."""
    for at in range(0, len(data), step):
        live.write(data[at : at + step])


def test_finals_are_those_of_a_pipe(model: Model) -> None:
    live = Live(model, RATE, options={})
    written(live, spoken(0, 1))
    live.end()
    finals = list(live.job.segments())
    assert [s.text.strip() for s in finals if s.text] == TEXTS[:2]
    with pytest.raises(InputError, match="nothing can follow"):
        live.write(b"more")


def test_interim_texts_come_before_the_pause_and_start_behind_it(model: Model) -> None:
    live = Live(model, RATE, options={})
    first = spoken(1, pause=0)
    half = first[: len(first) // 4 * 2]
    written(live, half)
    interim = live.interim()
    assert interim is not None and (interim.finals, interim.start) == (0, 0.0)
    heard = model.transcribe(np.frombuffer(half, np.int16), vad="off").hypothesis.strip()
    assert interim.text == heard and len(heard.split()) >= 5
    assert live.interim() is None  # nothing new
    written(live, first[len(half) :] + spoken(pause=0) + bytes(2 * RATE))
    [final] = [next(live.job.segments())]
    assert final.text.strip() == TEXTS[1]
    written(live, spoken(0, pause=0))
    after = live.interim()
    assert after is not None and after.finals == 1
    assert after.start == pytest.approx(final.end, abs=1 / RATE)
    everything = first + spoken(pause=0) + bytes(2 * RATE) + spoken(0, pause=0)
    behind = np.frombuffer(everything, np.int16)[round(final.end * RATE) :]
    assert after.text == model.transcribe(behind, vad="off").hypothesis.strip() != ""
    live.cancel()
    with pytest.raises(CancelledError):
        live.job.result()


def test_silence_has_no_interim_text(model: Model) -> None:
    live = Live(model, RATE, options={})
    live.write(bytes(2 * RATE))
    interim = live.interim()
    assert interim is not None and interim.text == ""
    live.end()
    assert live.job.result().text == ""


def test_another_rate(model: Model) -> None:
    samples, _ = soundfile.read(DEMO_SAMPLES[1], dtype="int16")
    import soxr

    live = Live(model, 24_000, options={})
    live.write(soxr.resample(samples, RATE, 24_000).astype("<i2").tobytes())
    interim = live.interim()
    assert interim is not None
    assert len(set(interim.text.split()) & set(TEXTS[1].split())) >= 9
    live.end()
    assert live.job.result().text.strip() == TEXTS[1]


def test_a_reader_that_waits_is_let_go(model: Model) -> None:
    live = Live(model, RATE, options={})
    live.write(bytes(RATE))
    failed: list[BaseException] = []

    def follow() -> None:
        try:
            list(live.job.segments())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(0.05)
    live.cancel()
    thread.join(10)
    assert not thread.is_alive() and isinstance(failed[0], CancelledError)
