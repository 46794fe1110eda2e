"""A recording at work, followed from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from granite_gguf.transcript import Segment, Transcript
from granite_gguf.transcription.jobs import Job


class Work:
    """Follows a job, without a thread of its own.

    Args:
        job: the job.
        ended: is called in the loop once the job is over, whether or not anybody still follows.
    """

    def __init__(self, job: Job, ended: Callable[[], None]) -> None:
        self._job, self._ended = job, ended
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._over = False
        job.listen(self._tell)

    def cancel(self) -> None:
        """Let go of it."""
        self._job.cancel()

    async def segments(self) -> AsyncIterator[Segment]:
        """Each segment when it is finished; errors are those of :meth:`Job.segments`."""
        count = 0
        while True:
            self._changed.clear()
            done = self._job.done  # asked first: then there are no more than are there
            for segment in self._job.finished[count:]:
                count += 1
                yield segment
            if done:
                self._job.result()  # which raises what went wrong
                return
            await self._changed.wait()

    async def result(self) -> Transcript:
        """All of it; errors are those of :meth:`Job.segments`."""
        async for _ in self.segments():
            pass
        return self._job.result()

    def _tell(self) -> None:
        """In the job's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        self._changed.set()
        if self._job.done and not self._over:
            self._over = True
            self._ended()
