"""Several recordings, the short ones at work together; results in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import inf

from granite_gguf.errors import AudioError, DeviceError, InputError
from granite_gguf.passes import Options
from granite_gguf.sound.reading import ALL, Selection
from granite_gguf.sound.source import AudioInput, Source
from granite_gguf.transcript import Segment, Transcript
from granite_gguf.transcription.jobs import Job, Jobs
from granite_gguf.transcription.scheduler import SHORT_SECONDS, Scheduler

Failure = AudioError | DeviceError | MemoryError


def longest_first(seconds: Iterable[float | None]) -> list[int]:
    """The places of recordings in the order in which they are done soonest.

    Short ones share passes only with those begun beside them, and a long one, or one of unknown
    length, begins when all before it are done; so these go first.
    """
    known = enumerate(seconds)
    return [place for place, _ in sorted(known, key=lambda of: -inf if of[1] is None else -of[1])]


@dataclass(frozen=True)
class Event:
    """Progress with the recording ``index``: a segment, then its transcript or its error."""

    index: int
    result: Segment | Transcript | Failure


def transcribe_each(
    scheduler: Scheduler,
    jobs: Jobs,
    sources: Iterable[AudioInput],
    options: Options,
    *,
    sample_rate: float | None = None,
    take: Selection = ALL,
) -> Iterator[Event]:
    """Transcribe recordings; the events come in their order.

    A long one, or one of unknown length, begins when all before it are done: several at work at
    the same time would all be finished late, and each takes memory.

    Args:
        scheduler: gives the turns.
        jobs: takes recordings.
        sources: taken when their turn comes.
        options: the same for all.
        sample_rate: the rate of samples given as arrays, in Hz; the model's by default.
        take: what to take of each.
    """
    ahead = _Ahead(jobs, options)
    try:
        for given in sources:
            try:
                source = Source.of(given, take=take)
            except InputError:
                yield from ahead.finish(0)
                raise
            if source.is_samples and source.sample_rate is None:
                source = replace(source, sample_rate=sample_rate)
            seconds = source.seconds(scheduler.limits.sample_rate)
            short = seconds is not None and seconds <= SHORT_SECONDS
            yield from ahead.finish(scheduler.recordings_at_once - 1 if short else 0)
            ahead.begin(source)
            if not short:
                yield from ahead.finish(0)
        yield from ahead.finish(0)
    finally:
        ahead.cancel()


class _Ahead:
    """Recordings at work whose results were not asked for yet."""

    def __init__(self, jobs: Jobs, options: Options) -> None:
        self._jobs, self._options = jobs, options
        self._begun: deque[Job] = deque()
        self._finished = 0

    def begin(self, source: Source) -> None:
        self._begun.append(self._jobs.submit(source, self._options))

    def finish(self, left: int) -> Iterator[Event]:
        """The events of the first ones, until no more than so many are left."""
        while len(self._begun) > left:
            index, segments = self._finished, []
            try:
                for segment in self._begun[0].segments():
                    segments.append(segment)
                    yield Event(index, segment)
            except (AudioError, DeviceError, MemoryError) as error:
                yield Event(index, error)
            else:
                yield Event(index, Transcript.of(segments))
            self._begun.popleft()
            self._finished += 1

    def cancel(self) -> None:
        for job in self._begun:
            job.cancel()
