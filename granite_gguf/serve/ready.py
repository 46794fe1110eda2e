"""Whether a service would answer: its first model is loaded, and is not stuck."""

from __future__ import annotations

import asyncio
import logging
import time

import numpy as np

from granite_gguf.serve.models import Models
from granite_gguf.serve.work import Work

_RECENT_SECONDS = 30.0
_PATIENCE_SECONDS = 60.0
_PROBE_RATE = 16_000
_log = logging.getLogger(__name__)


def _nothing() -> None:
    """Nothing is to be done once it has answered."""


class Readiness:
    """Loads the first model, and sees that it answers.

    A model that has just finished a segment is well. Otherwise it is given half a second of a tone,
    in the background, and is stuck while that is overdue.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._loading: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._asked = self._answered = 0.0

    def begin(self) -> None:
        """Start to load."""
        self._loading = asyncio.create_task(self._load())

    async def end(self) -> None:
        """Look no further."""
        for task in (self._loading, self._probe):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    def progress(self) -> None:
        """A segment is finished."""
        self._answered = time.monotonic()

    async def state(self) -> tuple[int, str]:
        """A status of HTTP, and a word about it."""
        assert self._loading is not None
        if not self._loading.done():
            return 503, "loading"
        if self._loading.exception() is not None:
            return 503, "the model cannot be loaded"
        now = time.monotonic()
        if now - self._answered < _RECENT_SECONDS:
            return 200, "ready"
        if self._asked <= self._answered:
            self._asked = now
        if self._probe is None or self._probe.done():
            if self._probe is not None and self._probe.exception() is not None:
                _log.error("the model does not answer: %s", self._probe.exception())
            self._probe = asyncio.create_task(self._try())
        overdue = now - self._asked > _PATIENCE_SECONDS
        return (503, "stuck") if overdue else (200, "ready")

    async def _load(self) -> None:
        name = self._models.first
        await self._models.take(name)
        self._models.give_back(name)
        self._answered = time.monotonic()

    async def _try(self) -> None:
        model = await self._models.take(self._models.first)
        try:
            times = np.arange(_PROBE_RATE // 2) / _PROBE_RATE
            tone = (0.1 * np.sin(2 * np.pi * 300 * times)).astype(np.float32)
            # Of a text that is left out, as no speech, there would be a warning.
            job = model.submit(tone, sample_rate=_PROBE_RATE, wait=False, min_confidence=0)
            await Work(job, _nothing).result()
        finally:
            self._models.give_back(self._models.first)
        self.progress()
