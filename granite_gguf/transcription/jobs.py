"""Recordings at work, each in a thread of its own that mostly waits for its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Condition, Semaphore, Thread
from weakref import finalize

from granite_gguf.errors import BusyError
from granite_gguf.forks import tell_after_fork
from granite_gguf.memory import starting_threads
from granite_gguf.passes import Options, Stop
from granite_gguf.sound.source import Source
from granite_gguf.transcript import Segment, Transcript
from granite_gguf.transcription.recordings import transcribe_source
from granite_gguf.transcription.scheduler import Scheduler


class Job:
    """A recording that was handed over; made by :meth:`granite_gguf.Model.submit`.

    It goes on by itself, whether or not anybody asks for its segments. Several threads may use it.
    """

    def __init__(self, scheduler: Scheduler, stop: Stop) -> None:
        self._scheduler, self._stop = scheduler, stop
        self._changed = Condition()
        self._segments: list[Segment] = []
        self._error: BaseException | None = None
        self._done = False
        self._tell: Callable[[], None] = _nothing

    @property
    def done(self) -> bool:
        """Whether it is over, well or not."""
        return self._done

    @property
    def finished(self) -> tuple[Segment, ...]:
        """The segments that are finished so far; it waits for none."""
        with self._changed:
            return tuple(self._segments)

    def listen(self, tell: Callable[[], None]) -> None:
        """Have something called at once, after each segment and at the end, from any thread.

        It is to be quick, and takes the place of an earlier one.
        """
        with self._changed:
            self._tell = tell
        tell()

    def cancel(self) -> None:
        """Let go of it: it stops before its next pass, between tokens where it makes tokens."""
        self._stop.cancel()
        self._scheduler.wake()

    def segments(self) -> Iterator[Segment]:
        """Each segment, from the first on, when it is finished.

        Raises:
            AudioError: the recording cannot be transcribed.
            CancelledError: it was cancelled; as DeadlineError, its time was over.
            InputError: an option is out of range, or the model was closed.
        """
        index = 0
        while True:
            with self._changed:
                while index == len(self._segments) and not self._done:
                    self._changed.wait()
                found = self._segments[index:]
            yield from found
            index += len(found)
            if not found:
                if self._error is not None:
                    raise self._error
                return

    def result(self, timeout: float | None = None) -> Transcript:
        """The transcript, once it is whole. Errors are those of :meth:`segments`.

        Raises:
            TimeoutError: it is not, ``timeout`` seconds from now; the work goes on.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._done:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"the transcript is not there after {timeout:g} s")
                self._changed.wait(left)
        return Transcript.of(self.segments())

    def _run(self, source: Source, options: Options) -> None:
        error: BaseException | None = None
        try:
            for segment in transcribe_source(self._scheduler, source, options, self._stop):
                with self._changed:
                    self._segments.append(segment)
                    self._changed.notify_all()
                self._tell()
        except BaseException as raised:  # carried over to whoever asks
            error = raised
        with self._changed:
            self._error, self._done = error, True
            self._changed.notify_all()
            tell, self._tell = self._tell, _nothing  # who listens may hold it in turn
        tell()


def _nothing() -> None:
    """Nobody listens."""


class Jobs:
    """Takes recordings, no more than ``most`` at a time."""

    def __init__(self, scheduler: Scheduler, most: int) -> None:
        self._scheduler, self._most = scheduler, most
        self.after_fork()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """None of the parent's is at work in the child."""
        self._room = Semaphore(self._most)
        self._crew = _Crew()

    def submit(
        self, source: Source, options: Options, *, deadline: float | None = None, wait: bool = True
    ) -> Job:
        """Begin with a recording.

        Args:
            source: the recording.
            options: what to compute.
            deadline: seconds from now, after which it is wanted no more.
            wait: whether to wait until there is room for it.

        Raises:
            BusyError: there is no room, and it is not waited for.
            OutOfMemoryError: the system refuses another thread.
        """
        room, stop = self._room, Stop(deadline)
        if not room.acquire(blocking=wait):
            raise BusyError(f"{self._most} recordings are at work already: try again later")
        job = Job(self._scheduler, stop)

        def work() -> None:
            try:
                job._run(source, options)
            finally:
                room.release()

        try:
            self._crew.do(work)
        except BaseException:
            room.release()
            raise
        return job


class _Crew:
    """Threads that are kept for what comes next, and end when nobody holds the crew any more.

    What a thread does when it ends, inside libraries with locks of their own, might be cut short by
    a fork. The end of the process waits for none of them.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = Semaphore(0)
        finalize(self, self._work.put, None)

    def do(self, work: Callable[[], None]) -> None:
        """Let a thread do it.

        Raises:
            OutOfMemoryError: the system refuses another thread.
        """
        if self._idle.acquire(blocking=False):
            self._work.put(work)
            return
        with starting_threads():
            Thread(
                target=_serve,
                args=(work, self._work, self._idle),
                name="granite-gguf-job",
                daemon=True,
            ).start()


def _serve(
    work: Callable[[], None] | None, queue: SimpleQueue[Callable[[], None] | None], idle: Semaphore
) -> None:
    while work is not None:
        work()
        work = None  # which holds the model
        idle.release()
        work = queue.get()
    queue.put(None)  # for the next
