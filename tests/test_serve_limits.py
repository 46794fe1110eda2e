"""What a service refuses, gives up and lets go of."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import Model, OutOfMemoryError
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from tests.commands import assert_refused, run
from tests.signals import SAMPLE_RATE, synthetic_audio

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")

from granite_gguf.serve.settings import Settings  # noqa: E402
from tests.serving import (  # noqa: E402
    ROUTE,
    WAIT,
    error_of,
    load_demo,
    metric,
    post,
    process,
    serving,
    until,
)

SAMPLE = DEMO_SAMPLES[1].read_bytes()
TEXT = DEMO_SAMPLES[1].with_suffix(".txt").read_text().strip()


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC")
    return file.getvalue()


@pytest.fixture(scope="module")
def long() -> bytes:
    """Two minutes, of which a thread of the demonstration model has some seconds to do."""
    return flac(np.tile(synthetic_audio(40 * SAMPLE_RATE, seed=5), 3))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    limits = Settings(max_megabytes=20, max_seconds=700, queue=2)
    with serving(limits) as address:
        yield address


def at_work(address: str, count: int) -> bool:
    return metric(address, "granite_recordings_at_work") == count


def test_key() -> None:
    with serving(Settings(key="sesame")) as address:
        for given in ({}, {"Authorization": "Bearer open"}, {"Authorization": "Basic sesame"}):
            for path in ("/v1/models", "/metrics", "/inference"):
                response = httpx.get(f"{address}{path}", headers=given)
                assert response.status_code == 401
                assert error_of(response)["code"] == "invalid_api_key"
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.audio.transcriptions.create(model="demo", file=SAMPLE)
        with openai.OpenAI(base_url=f"{address}/v1", api_key="sesame") as client:
            assert client.audio.transcriptions.create(model="demo", file=SAMPLE).text == TEXT
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}


def test_pages_of_others(address: str) -> None:
    """Neither a form of another site, nor a name of another site that points here."""
    url = f"{address}{ROUTE}"
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
    ):
        response = httpx.post(url, files={"file": SAMPLE}, headers=headers)
        assert response.status_code == 403
        error_of(response)
    response = httpx.post(url, files={"file": SAMPLE}, headers={"Origin": address})
    assert response.json()["text"] == TEXT
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_bytes(address: str) -> None:
    """Told in OpenAI's shape to a client that is still sending, whether or not it says how much."""
    huge = bytes(30_000_000)
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.audio.transcriptions.create(model="demo", file=huge)
        assert caught.value.status_code == 413 and caught.value.code == "file_too_large"
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    response = httpx.post(
        f"{address}{ROUTE}",
        content=iter([head, *[bytes(1_000_000)] * 30, b"\r\n--x--\r\n"]),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert response.status_code == 413
    assert "larger than 20 MB" in error_of(response)["message"]


def test_seconds(address: str) -> None:
    """A small file may hold very much audio: no more of it is decoded than is allowed."""
    quiet = flac(np.zeros(3 * 3600 * SAMPLE_RATE, np.float32))
    assert len(quiet) < 1_000_000
    # Of the second one the header does not tell how many samples there are.
    unknown = quiet[:21] + bytes([quiet[21] & 0xF0]) + bytes(4) + quiet[26:]
    for data in (quiet, unknown):
        started = time.monotonic()
        response = post(address, data)
        assert response.status_code == 413
        assert error_of(response)["code"] == "audio_too_long"
        assert time.monotonic() - started < 5
    assert at_work(address, 0)


def test_the_queue_is_bounded(address: str, long: bytes) -> None:
    with ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(post, address, long, chunk_seconds=5) for _ in range(2)]
        until(lambda: at_work(address, 2))
        response = post(address, SAMPLE)
        assert response.status_code == 429 and int(response.headers["Retry-After"]) >= 1
        assert error_of(response)["code"] == "queue_full"
        assert httpx.get(f"{address}/health").status_code == 200  # it is not deaf meanwhile
        assert [one.result().status_code for one in begun] == [200, 200]
    assert post(address, SAMPLE).json()["text"] == TEXT


def test_who_goes_away_frees_the_room(address: str, long: bytes) -> None:
    """Whether it waits for the text or reads what is streamed: the rest is not computed."""
    before = metric(address, "granite_audio_seconds_total")
    with httpx.Client(timeout=0.5) as client:
        fields = {"chunk_seconds": "5"}
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"{address}{ROUTE}", files={"file": long}, data=fields)
        until(lambda: at_work(address, 0))
    with httpx.stream(
        "POST", f"{address}{ROUTE}", files={"file": long}, data={"stream": "1", **fields}
    ) as response:
        next(response.iter_lines())
    until(lambda: at_work(address, 0))
    assert metric(address, "granite_audio_seconds_total") - before < 120


def test_deadline(long: bytes) -> None:
    with serving(Settings(deadline=0.5)) as address:
        response = post(address, long)
        assert response.status_code == 504
        assert response.headers["X-Should-Retry"] == "false"
        assert error_of(response)["code"] == "deadline_exceeded"
        assert post(address, SAMPLE).json()["text"] == TEXT


def test_uploads() -> None:
    with serving(Settings(uploads=1)) as address:
        hold, held = threading.Event(), threading.Event()

        def slowly() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            held.set()
            hold.wait(WAIT)
            yield SAMPLE + b"\r\n--x--\r\n"

        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(
                httpx.post, f"{address}{ROUTE}", content=slowly(), timeout=WAIT,
                headers={"Content-Type": "multipart/form-data; boundary=x"},
            )  # fmt: skip
            held.wait(WAIT)
            until(lambda: post(address, SAMPLE).status_code == 429)
            hold.set()
            assert slow.result().json()["text"] == TEXT
        assert post(address, SAMPLE).json()["text"] == TEXT


def test_memory_asks() -> None:
    """There is room for one model at a time: the idle one goes when another is asked for."""
    loaded: list[Model] = []

    def load(_source: str) -> Model:
        if any(not model._closed for model in loaded):
            raise OutOfMemoryError("no room for two")
        loaded.append(load_demo(""))
        return loaded[-1]

    with serving(names=("one", "two"), load=load) as address:
        for name in ("one", "two", "two", "one"):
            assert post(address, SAMPLE, model=name).json()["text"] == TEXT
        assert len(loaded) == 3
    assert all(model._closed for model in loaded)


def test_a_model_that_does_not_load(caplog: pytest.LogCaptureFixture) -> None:
    def load(source: str) -> Model:
        return granite_gguf.load(DEMO_MODEL if source == "good" else "/nowhere/model.gguf")

    with serving(names=("good", "bad"), load=load) as address:
        response = post(address, SAMPLE, model="bad")
        assert response.status_code == 500
        assert error_of(response)["code"] == "model_unusable"
        assert "nowhere" not in response.text and "/nowhere/model.gguf" in caplog.text
        assert post(address, SAMPLE).json()["text"] == TEXT
        assert at_work(address, 0)


@pytest.mark.slow
@pytest.mark.alone
def test_a_signal_loses_nothing(tmp_path: Path, long: bytes) -> None:
    """What was accepted is answered; then it ends, and leaves nothing of the recordings."""
    with process("--threads", "1", "--log-requests", TMPDIR=str(tmp_path)) as (server, address):
        tone = 0.1 * np.sin(2 * np.pi * 300 * np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE)
        (remark,) = post(address, flac(tone)).json()["remarks"]
        assert "is left out" in remark
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(post, address, SAMPLE) for _ in range(7)]
            asked.append(pool.submit(post, address, long, chunk_seconds=20))
            until(lambda: at_work(address, 8) or all(one.done() for one in asked[:7]))
            server.send_signal(signal.SIGTERM)
            found = [one.result() for one in asked]
        assert [one.status_code for one in found] == [200] * 8
        assert [one.json()["text"] for one in found[:7]] == [TEXT] * 7
        assert server.wait(WAIT) == 0
        assert server.stderr is not None
        log = server.stderr.read()
        assert "POST /v1/audio/transcriptions" in log and "meeting" not in log
        assert "left out" not in log
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")
    assert not os.listdir(tmp_path)  # noqa: PTH208


@pytest.mark.slow
def test_the_command_refuses() -> None:
    for arguments, says in [
        (("--host", "0.0.0.0"), "beyond this machine anybody could ask"),
        (("--api-key",), "--api-key needs the key in the environment"),
        (("-m", "a=x.gguf", "-m", "a=y.gguf"), "two models are named a"),
        (("-m", "/nowhere/x.gguf"), "/nowhere/x.gguf"),
        (("--host", "192.0.2.1", "--no-api-key"), "cannot listen on 192.0.2.1"),
    ]:
        assert_refused(run("serve", *arguments), 2, says)
