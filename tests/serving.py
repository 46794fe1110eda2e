"""A service on loopback, in a thread or as a process, for the tests of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

import granite_gguf
from granite_gguf import Model
from granite_gguf.demo import DEMO_MODEL
from granite_gguf.serve.app import create_app
from granite_gguf.serve.models import Models
from granite_gguf.serve.run import listening
from granite_gguf.serve.settings import Settings

WAIT = 30.0
ROUTE = "/v1/audio/transcriptions"


def load_demo(_source: str) -> Model:
    return granite_gguf.load(DEMO_MODEL, threads=1)


@contextmanager
def serving(
    settings: Settings | None = None,
    *,
    names: tuple[str, ...] = ("demo",),
    load: Callable[[str], Model] = load_demo,
) -> Iterator[str]:
    """The address of a service in a thread; it has ended after the block, its threads too."""
    app = create_app(Models({name: name for name in names}, load), settings or Settings())
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            until(lambda: httpx.get(f"{address}/ready").status_code == 200)
            yield address
        finally:
            server.should_exit = True
            thread.join(WAIT)
            assert not thread.is_alive()


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``granite-gguf serve`` and its address."""
    own = {key: value for key, value in os.environ.items() if "GRANITE" not in key}
    started = subprocess.Popen(
        [sys.executable, "-m", "granite_gguf", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE, text=True, env={**own, **environment},
    )  # fmt: skip
    try:
        assert started.stderr is not None
        lines = iter(started.stderr.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://\S+", line)))
        until(lambda: httpx.get(f"{address}/ready").status_code == 200)
        yield started, address
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def until(holds: Callable[[], bool]) -> None:
    """Wait until it does, for a bounded time."""
    end = time.monotonic() + WAIT
    while True:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def post(address: str, file: bytes, route: str = ROUTE, **fields: Any) -> httpx.Response:
    return httpx.post(f"{address}{route}", files={"file": file}, data=fields, timeout=WAIT)


def metric(address: str, name: str) -> float:
    """The sum of a metric over its labels."""
    text = httpx.get(f"{address}/metrics").text
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error in OpenAI's shape, and nothing besides."""
    (error,) = json.loads(response.text).values()
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    return dict(error)
