"""Several recordings, one after another or side by side.

    sources → short ones: a lane each, with its share of the threads → events in order
            → others: alone, with all threads

The threads of one pass wait for one another after every operation. A short recording gives them
little to do in between, so that several passes of fewer threads finish more of them. Long ones
would only need more memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from granite_gguf.audio import duration_of
from granite_gguf.errors import AudioError, DeviceError
from granite_gguf.pipeline import Options, transcribe_source
from granite_gguf.stages import AudioInput, Stages
from granite_gguf.transcript import Segment, Transcript

MOST_LANES = 4  # each takes memory for the activations of a recording
SHORT_SECONDS = 30.0


@dataclass(frozen=True)
class Event:
    """Progress with the recording ``index``: a segment, then its transcript or its error."""

    index: int
    result: Segment | Transcript | AudioError | DeviceError | MemoryError


def transcribe_each(
    whole: Stages,
    lanes: Sequence[Stages],
    sources: Iterable[AudioInput],
    options: Options,
    *,
    sample_rate: float | None = None,
    channel: int | None = None,
) -> Iterator[Event]:
    """Transcribe recordings; the events come in their order.

    Args:
        whole: computes with all threads.
        lanes: compute side by side.
        sources: taken when their turn comes.
        options: the same for all.
        sample_rate: the rate of samples given as arrays, in Hz; the model's by default.
        channel: the channel to take, 1 the first; by default the mean of all.
    """
    free: SimpleQueue[Stages] = SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def run(stages: Stages, index: int, source: AudioInput) -> Iterator[Event]:
        segments = []
        rate = sample_rate if isinstance(source, np.ndarray) else None
        try:
            for segment in transcribe_source(
                stages, source, options, sample_rate=rate, channel=channel
            ):
                segments.append(segment)
                yield Event(index, segment)
        except (AudioError, DeviceError, MemoryError) as error:
            yield Event(index, error)
        else:
            yield Event(index, Transcript.of(segments))

    def run_in_lane(index: int, source: AudioInput) -> list[Event]:
        lane = free.get()
        try:
            return list(run(lane, index, source))
        finally:
            free.put(lane)

    ahead: deque[Future[list[Event]]] = deque()
    with ThreadPoolExecutor(len(lanes), thread_name_prefix="granite-gguf-lane") as pool:
        try:
            for index, source in enumerate(sources):
                if len(lanes) > 1 and _is_short(source, sample_rate or _rate(whole)):
                    ahead.append(pool.submit(run_in_lane, index, source))
                    while len(ahead) > 2 * len(lanes):
                        yield from ahead.popleft().result()
                else:
                    while ahead:
                        yield from ahead.popleft().result()
                    yield from run(whole, index, source)
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _rate(stages: Stages) -> float:
    return stages.hparams.front_end.sample_rate


def _is_short(source: AudioInput, rate: float) -> bool:
    """Whether a recording is known to be short; a pipe is not asked."""
    if isinstance(source, np.ndarray):
        return len(source) <= SHORT_SECONDS * rate
    if not isinstance(source, (str, PathLike)) or not Path(source).is_file():
        return False
    seconds = duration_of(Path(source))
    return seconds is not None and seconds <= SHORT_SECONDS
