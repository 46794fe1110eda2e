"""Recordings handed over to a model: handles, room, deadlines, and threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import granite_gguf
from granite_gguf import (
    AudioError,
    BusyError,
    CancelledError,
    DeadlineError,
    InputError,
    InputTypeError,
    Model,
    Transcript,
)
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.ggml import Runtime
from tests.signals import SAMPLE_RATE, synthetic_audio

pytestmark = pytest.mark.alone  # several threads, each on a core


@pytest.fixture
def model() -> Iterator[Model]:
    with granite_gguf.load(DEMO_MODEL, threads=2, max_jobs=4) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def long() -> np.ndarray:
    return synthetic_audio(40 * SAMPLE_RATE, seed=5)


def facts(transcript: Transcript) -> tuple[object, ...]:
    return tuple((s.start, s.end, s.token_ids, s.hypothesis, s.words) for s in transcript.segments)


@pytest.mark.slow
def test_the_same_as_transcribe(model: Model, long: np.ndarray) -> None:
    sources = [*DEMO_SAMPLES, long]
    expected = [model.transcribe(s, chunk_seconds=8, word_times=True) for s in sources]
    jobs = [model.submit(s, chunk_seconds=8, word_times=True) for s in sources]
    assert [facts(job.result()) for job in jobs] == [facts(t) for t in expected]
    assert all(job.done for job in jobs)
    for job, transcript in zip(jobs, expected, strict=True):  # and once more
        assert [s.text for s in job.segments()] == [s.text for s in transcript.segments]


def test_short_ones_overtake_a_long_one(model: Model, long: np.ndarray) -> None:
    slow = model.submit(np.tile(long, 6), chunk_seconds=8)
    next(slow.segments())
    assert model.submit(DEMO_SAMPLES[0]).result().text
    assert not slow.done
    slow.cancel()


@pytest.mark.slow
def test_two_callers_use_no_more_threads_than_asked_for(
    model: Model, long: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, lock = 0, 0, threading.Lock()
    compute = Runtime.compute

    def counted(self: Runtime, *args: object) -> object:
        nonlocal running, most
        with lock:
            running += self.threads
            most = max(most, running)
        try:
            return compute(self, *args)
        finally:
            with lock:
                running -= self.threads

    monkeypatch.setattr(Runtime, "compute", counted)
    mel = model.compute_mel(long)
    with ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(lambda: list(model.transcribe_many(list(DEMO_SAMPLES) * 3))),
            pool.submit(lambda: list(model.transcribe_many(list(DEMO_SAMPLES) * 3))),
            pool.submit(lambda: model.transcribe(long, chunk_seconds=10)),
            pool.submit(lambda: model.run_encoder(mel)),
        ]
        for of in work:
            of.result()
    assert most == 2 == model.threads


@pytest.mark.slow
def test_cancelled(model: Model, long: np.ndarray) -> None:
    jobs = [model.submit(np.tile(long, 20), chunk_seconds=8) for _ in range(4)]
    first = next(jobs[0].segments())
    assert first.end > 0
    for job in jobs:
        job.cancel()
    for job in jobs:
        with pytest.raises(CancelledError, match="cancelled"):
            job.result(timeout=30)
    # Their room is given back.
    again = [model.submit(DEMO_SAMPLES[0], wait=False) for _ in range(4)]
    assert len({job.result().text for job in again}) == 1


def test_deadline(model: Model, long: np.ndarray) -> None:
    job = model.submit(np.tile(long, 20), chunk_seconds=8, deadline=0.3)
    with pytest.raises(DeadlineError, match=r"within 0\.3 s"):
        job.result(timeout=30)
    assert model.submit(DEMO_SAMPLES[0], deadline=60).result().text


def test_room(model: Model, long: np.ndarray) -> None:
    jobs = [model.submit(np.tile(long, 20), chunk_seconds=8) for _ in range(4)]
    with pytest.raises(BusyError, match="4 recordings are at work"):
        model.submit(DEMO_SAMPLES[0], wait=False)
    threading.Timer(0.2, jobs[1].cancel).start()
    waited = model.submit(DEMO_SAMPLES[0])  # until one is done
    assert jobs[1].done
    assert waited.result().text
    for job in jobs:
        job.cancel()


def test_waiting_for_a_result(model: Model, long: np.ndarray) -> None:
    job = model.submit(np.tile(long, 20), chunk_seconds=8)
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        job.result(timeout=0.01)
    assert not job.done
    job.cancel()


def test_errors(model: Model, long: np.ndarray) -> None:
    job = model.submit("missing.wav")
    with pytest.raises(AudioError, match=r"missing\.wav"):
        job.result()
    with pytest.raises(InputError, match="pieces of 1 s"):
        model.submit(long, chunk_seconds=1)
    with pytest.raises(InputTypeError, match="no option 'chunk'; expected some of sample_rate, ch"):
        model.submit(long, chunk=1)  # type: ignore[call-arg]
    with pytest.raises(InputTypeError, match="no option 'words'"):
        model.transcribe(long, words=True)  # type: ignore[call-arg]
    with pytest.raises(InputTypeError):
        model.submit(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_jobs is 0"):
        granite_gguf.load(DEMO_MODEL, max_jobs=0)


def test_closing_ends_all_jobs(long: np.ndarray) -> None:
    model = granite_gguf.load(DEMO_MODEL, threads=2)
    jobs = [model.submit(np.tile(long, 20), chunk_seconds=8) for _ in range(3)]
    next(jobs[0].segments())
    model.close()
    for job in jobs:
        with pytest.raises(InputError, match="closed"):
            job.result(timeout=30)
    with pytest.raises(InputError, match="closed"):
        model.submit(DEMO_SAMPLES[0]).result()


@pytest.mark.slow
def test_a_process_ends_although_jobs_are_at_work() -> None:
    import subprocess
    import sys

    script = (
        "import numpy as np, granite_gguf\n"
        "model = granite_gguf.load(threads=1)\n"
        "noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 600).astype(np.float32)\n"
        "job = model.submit(noise, chunk_seconds=6)\n"
        "print(len([next(job.segments())]))\n"
    )
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "1\n", "")
    assert time.monotonic() - started < 60
