"""A service that is told to end: what becomes of everybody who is connected to it."""

from __future__ import annotations

import io
import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from granite_gguf.demo import DEMO_SAMPLES
from tests.signals import SAMPLE_RATE, synthetic_audio

pytest.importorskip("fastapi")

from granite_gguf.serve.run import complete_no_more, listening
from tests.serving import ROUTE, WAIT, error_of, metric, post, process, until

TEXT = DEMO_SAMPLES[1].with_suffix(".txt").read_text().strip()
BODY = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    + DEMO_SAMPLES[1].read_bytes()
    + b"\r\n--x--\r\n"
)
HEAD = (
    f"POST {ROUTE} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(BODY)}\r\n"
    "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
).encode()


def connecting(address: str) -> Callable[[bytes], socket.socket]:
    host, _, port = address.removeprefix("http://").partition(":")

    def connect(data: bytes = b"") -> socket.socket:
        made = socket.create_connection((host, int(port)), WAIT)
        made.sendall(data)
        return made

    return connect


def told(connection: socket.socket) -> tuple[int, str]:
    """The status and the text or the code of an answer, after which the connection is closed."""
    with connection:
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert "connection: close" in head.lower()
    values = json.loads(body)
    return int(head.split()[1]), values.get("text") or values["error"]["code"]


def refused(address: str) -> bool:
    try:
        connecting(address)(b"").close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.alone
def test_nobody_who_is_connected_is_cut_off() -> None:
    """Who asks within a second is answered, whoever asks later is told so, and none is reset."""
    with process("--threads", "1") as (server, address):
        connect = connecting(address)
        kept = connect(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")
        soon, late, half = connect(), connect(), connect(HEAD[:40])
        slow = connect(HEAD + BODY[:1000])
        time.sleep(0.3)
        server.send_signal(signal.SIGSTOP)
        waiting = [connect(HEAD + BODY) for _ in range(4)]  # which the process knows nothing of
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGCONT)
        time.sleep(0.4)
        assert refused(address)
        soon.sendall(HEAD + BODY)
        for one in (soon, *waiting):
            assert told(one) == (200, TEXT)
        time.sleep(1)
        late.sendall(HEAD + BODY)
        half.sendall(HEAD[40:] + BODY)
        for one in (late, half, kept):
            assert told(one) == (503, "ending")
        slow.sendall(BODY[1000:])
        assert told(slow) == (200, TEXT)
        assert server.wait(WAIT) == 0


@pytest.mark.slow
@pytest.mark.alone
def test_a_second_signal_ends_it_at_once() -> None:
    file = io.BytesIO()
    minutes = np.tile(synthetic_audio(40 * SAMPLE_RATE, seed=5), 20)
    soundfile.write(file, minutes, SAMPLE_RATE, format="FLAC")
    with process("--threads", "1") as (server, address), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, address, file.getvalue(), chunk_seconds=20)
        until(lambda: metric(address, "granite_recordings_at_work") == 1)
        server.send_signal(signal.SIGTERM)
        until(lambda: refused(address))
        assert server.poll() is None and not asked.done()
        server.send_signal(signal.SIGTERM)
        server.wait(WAIT)
        response = asked.result()
        assert response.status_code == 503 and error_of(response)["code"] == "ending"
        assert server.stderr is not None and not server.stderr.read()


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
def test_connections_that_wait_outlast_the_end_of_listening() -> None:
    with listening("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address, WAIT) as first:
            first.sendall(b"asked")
            complete_no_more(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, 0.2)
            taken, _ = listener.accept()
            with taken:
                assert taken.recv(5) == b"asked"
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
