"""Several recordings, one after another or together.

    sources → short ones: several in a pass, passes side by side → events in order
            → others: alone, with all threads

A pass reads all weights, and its threads wait for one another after every operation. A short
recording gives them little to do in between: several in one pass, and several such passes of fewer
threads, finish more of them. Long ones would only need more memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Lock

from granite_gguf.errors import AudioError, DeviceError
from granite_gguf.nar.stages import Stages
from granite_gguf.nar.transcribe import one_pass
from granite_gguf.passes import Options, Piece
from granite_gguf.sound.reading import ALL, Selection
from granite_gguf.sound.source import AudioInput, Source
from granite_gguf.transcript import Segment, Transcript
from granite_gguf.transcription.recordings import (
    read_whole,
    transcribe_source,
)

MOST_LANES = 4  # each takes memory for the activations of its recordings
SHORT_SECONDS = 30.0
MOST_TOGETHER = 8
TOGETHER_SECONDS = 16.0  # from here on a pass does not get faster by the second

Failure = AudioError | DeviceError | MemoryError


@dataclass(frozen=True)
class Event:
    """Progress with the recording ``index``: a segment, then its transcript or its error."""

    index: int
    result: Segment | Transcript | Failure


def transcribe_each(
    whole: Stages,
    lanes: Sequence[Stages],
    sources: Iterable[AudioInput],
    options: Options,
    *,
    sample_rate: float | None = None,
    take: Selection = ALL,
) -> Iterator[Event]:
    """Transcribe recordings; the events come in their order.

    Args:
        whole: computes with all threads.
        lanes: compute side by side.
        sources: taken when their turn comes.
        options: the same for all.
        sample_rate: the rate of samples given as arrays, in Hz; the model's by default.
        take: what to take of each.
    """
    rate = whole.hparams.front_end.sample_rate
    ahead: deque[Future[list[Event]]] = deque()
    waiting = _Waiting(options)
    free: SimpleQueue[Stages] = SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def work() -> None:
        lane = free.get()
        try:
            waiting.transcribe_some(lane)
        finally:
            free.put(lane)

    with ThreadPoolExecutor(len(lanes), thread_name_prefix="granite-gguf-lane") as pool:
        try:
            for index, given in enumerate(sources):
                source = Source.of(given, take=take)
                if source.is_samples and source.sample_rate is None:
                    source = replace(source, sample_rate=sample_rate)
                seconds = source.seconds(rate)
                if seconds is not None and seconds <= SHORT_SECONDS:
                    ahead.append(waiting.add(index, source, seconds))
                    pool.submit(work)
                    while len(ahead) > MOST_TOGETHER * len(lanes):
                        yield from ahead.popleft().result()
                else:
                    while ahead:
                        yield from ahead.popleft().result()
                    yield from _alone(whole, index, source, options)
            while ahead:
                yield from ahead.popleft().result()
        finally:
            waiting.clear()


@dataclass(frozen=True)
class _Short:
    """A short recording, and where its events go."""

    index: int
    source: Source
    seconds: float
    events: Future[list[Event]]


class _Waiting:
    """Short recordings that no lane has taken yet."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = Lock()
        self._queue: deque[_Short] = deque()

    def add(self, index: int, source: Source, seconds: float) -> Future[list[Event]]:
        short = _Short(index, source, seconds, Future())
        with self._lock:
            self._queue.append(short)
        return short.events

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()

    def transcribe_some(self, lane: Stages) -> None:
        """Transcribe what waits, as far as it goes into one pass; that may be nothing."""
        taken = self._take()
        try:
            for short, events in zip(taken, self._together(lane, taken), strict=True):
                short.events.set_result(events)
        except BaseException as error:
            for short in taken:
                if not short.events.done():
                    short.events.set_exception(error)

    def _take(self) -> list[_Short]:
        taken: list[_Short] = []
        seconds = 0.0
        with self._lock:
            while self._queue and len(taken) < MOST_TOGETHER:
                seconds += self._queue[0].seconds
                if taken and seconds > TOGETHER_SECONDS:
                    break
                taken.append(self._queue.popleft())
        return taken

    def _together(self, lane: Stages, taken: Sequence[_Short]) -> Iterator[list[Event]]:
        """Their events; what does not go together goes alone."""
        segments = self._one_pass(lane, taken) if len(taken) > 1 else {}
        for short in taken:
            segment = segments.get(short.index)
            if segment is None:
                yield list(_alone(lane, short.index, short.source, self._options))
            else:
                yield [Event(short.index, r) for r in (segment, Transcript.of([segment]))]

    def _one_pass(self, lane: Stages, taken: Sequence[_Short]) -> dict[int, Segment]:
        """The segments of those that can be read and are a single piece."""
        pieces: dict[int, Piece] = {}
        for short in taken:
            try:
                piece = read_whole(lane, short.source, self._options)
            except Exception:  # by itself it fails again, and says so
                continue
            if piece is not None:
                pieces[short.index] = piece
        try:
            segments = one_pass(lane, list(pieces.values()), self._options)
        except (AudioError, DeviceError, MemoryError):
            return {}  # one of them is to blame, or there is too little memory for all
        found = zip(pieces, segments, strict=True)
        return {index: segment for index, segment in found if segment is not None}


def _alone(stages: Stages, index: int, source: Source, options: Options) -> Iterator[Event]:
    segments = []
    try:
        for segment in transcribe_source(stages, source, options):
            segments.append(segment)
            yield Event(index, segment)
    except (AudioError, DeviceError, MemoryError) as error:
        yield Event(index, error)
    else:
        yield Event(index, Transcript.of(segments))
