"""Whether a service says that it would answer, when it would and when it would not."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from granite_gguf import Model, ModelFileError

pytest.importorskip("fastapi")

from granite_gguf.serve import ready as module
from granite_gguf.serve.models import Models
from granite_gguf.serve.ready import Readiness
from tests.serving import WAIT, load_demo

READY, LOADING, STUCK = (200, "ready"), (503, "loading"), (503, "stuck")


@asynccontextmanager
async def readiness(load: Callable[[str], Model]) -> AsyncIterator[Readiness]:
    models = Models({"demo": "demo"}, load)
    ready = Readiness(models)
    ready.begin()
    yield ready
    await ready.end()
    await models.close()


async def becomes(ready: Readiness, state: tuple[int, str]) -> set[tuple[int, str]]:
    """Wait until it is in a state, and tell all states until then."""
    seen = set()
    end = time.monotonic() + WAIT
    while state not in seen:
        assert time.monotonic() < end, seen
        seen.add(await ready.state())
        await asyncio.sleep(0.01)
    return seen


def keeping(loaded: list[Model]) -> Callable[[str], Model]:
    """What loads the demonstration model and keeps it at hand."""

    def load(source: str) -> Model:
        loaded.append(load_demo(source))
        return loaded[-1]

    return load


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It wants to be answered anew after 0.05 s, and is patient for 0.3 s."""
    monkeypatch.setattr(module, "_RECENT_SECONDS", 0.05)
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.3)


def test_not_before_it_is_loaded() -> None:
    go = threading.Event()

    def load(source: str) -> Model:
        assert go.wait(WAIT)
        return load_demo(source)

    async def work() -> None:
        async with readiness(load) as ready:
            assert await ready.state() == LOADING
            await asyncio.sleep(0.1)
            assert await ready.state() == LOADING
            go.set()
            assert await becomes(ready, READY) <= {LOADING, READY}

    asyncio.run(work())


def test_never_where_it_cannot_be_loaded() -> None:
    def load(_source: str) -> Model:
        raise ModelFileError("damaged")

    async def work() -> None:
        async with readiness(load) as ready:
            await becomes(ready, (503, "the model cannot be loaded"))

    asyncio.run(work())


@pytest.mark.usefixtures("soon")
def test_stuck_while_nothing_is_answered_and_well_again_afterwards() -> None:
    """Somebody else has all of the model: the tone that it is given waits."""
    loaded: list[Model] = []

    async def work() -> None:
        async with readiness(keeping(loaded)) as ready:
            await becomes(ready, READY)
            with loaded[0]._scheduler.alone():
                assert READY in await becomes(ready, STUCK)  # not at once
                ready.progress()  # a segment of somebody's came after all
                assert await ready.state() == READY
                await becomes(ready, STUCK)
            await becomes(ready, READY)
            await asyncio.sleep(0.5)
            assert await ready.state() == READY  # by another tone, and not by that of long ago

    asyncio.run(work())


@pytest.mark.usefixtures("soon")
def test_stuck_where_the_tone_fails(caplog: pytest.LogCaptureFixture) -> None:
    loaded: list[Model] = []

    async def work() -> None:
        async with readiness(keeping(loaded)) as ready:
            await becomes(ready, READY)
            loaded[0].close()
            await becomes(ready, STUCK)

    with caplog.at_level(logging.ERROR):
        asyncio.run(work())
    assert "the model does not answer: the model is closed" in caplog.text
