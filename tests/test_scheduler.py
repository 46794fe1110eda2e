"""Who computes when: the scheduler with a lane that computes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import cast

import numpy as np
import pytest

from granite_gguf import AudioError, CancelledError, DeadlineError, InputError, Segment
from granite_gguf.arrays import Samples
from granite_gguf.passes import Options, PassLimits, Piece, Stop, Vad
from granite_gguf.sound.reading import ALL, AudioStream
from granite_gguf.sound.source import Source
from granite_gguf.transcription.recordings import transcribe_source
from granite_gguf.transcription.scheduler import Scheduler, TurnsThere

RATE = 1000
PLAIN = Options()
LIMITS = PassLimits(RATE, 100 * RATE, 60 * RATE, "the model's room")
SOON = 20.0  # seconds, by which what does not hang has happened


def piece(seconds: float, name: int = 0, stop: Stop | None = None) -> Piece:
    return Piece(name, np.zeros(int(seconds * RATE), np.float32), stop=stop or Stop())


class Office:
    """Lanes of so many threads in all; a pass lasts until it is let go."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.passes: list[tuple[str, list[int]]] = []
        self.free = threading.Event()
        self.at_work = self.most_at_work = 0
        self.error: Callable[[Sequence[Piece]], BaseException | None] = lambda _pieces: None
        self._lock = threading.Lock()
        self.scheduler = Scheduler(
            self.lane("whole", count), TurnsThere(count, 1), lambda n: self.lane(n, 1)
        )

    def lane(self, name: object, threads: int) -> object:
        office = self

        class Lane:
            stages = None
            limits = LIMITS

            def check(self, options: Options) -> None: ...

            def one_pass(self, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
                with office._lock:
                    office.passes.append((str(name), [p.start for p in pieces]))
                    office.at_work += threads
                    office.most_at_work = max(office.at_work, office.most_at_work)
                try:
                    error = office.error(pieces)
                    if error is not None:
                        raise error
                    assert office.free.wait(SOON)
                    return [Segment(0, 0.0, 1.0, str(p.start), "") for p in pieces]
                finally:
                    with office._lock:
                        office.at_work -= threads

            def close(self) -> None: ...

        return Lane()

    def ask(self, wanted: Piece, options: Options = PLAIN) -> str:
        segment = self.scheduler.one_pass(wanted, options)
        assert segment is not None
        return segment.text

    def begin(self, pool: ThreadPoolExecutor, wanted: Piece) -> Future[str]:
        """Ask for the first pass, and wait until it is at work."""
        asked = pool.submit(self.ask, wanted)
        end = time.monotonic() + SOON
        while not self.passes:
            assert time.monotonic() < end
            time.sleep(0.001)
        return asked

    def waiting(self, count: int) -> None:
        """Wait until so many wait for a turn."""
        end = time.monotonic() + SOON
        while len(self.scheduler._queue) != count:
            assert time.monotonic() < end
            time.sleep(0.001)


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(32)


def test_one_alone_has_all_threads(pool: ThreadPoolExecutor) -> None:
    office = Office(2)
    office.free.set()
    assert office.ask(piece(3, 7)) == "7"
    assert office.passes == [("whole", [7])]


def test_those_that_wait_share_passes_side_by_side(pool: ThreadPoolExecutor) -> None:
    office = Office(2)
    first = office.begin(pool, piece(3, 0))
    others = [pool.submit(office.ask, piece(1, 1))]
    for n in range(2, 7):
        office.waiting(n - 1)
        others.append(pool.submit(office.ask, piece(1, n)))
    office.waiting(6)
    office.free.set()
    assert [job.result(SOON) for job in [first, *others]] == list("0123456")
    assert sorted(starts for _, starts in office.passes[1:]) == [[1, 2, 3], [4, 5, 6]]
    assert {name for name, _ in office.passes[1:]} <= {"0", "1"}
    assert office.most_at_work == 2


def test_a_pass_takes_no_more_than_it_should(pool: ThreadPoolExecutor) -> None:
    """By number, by seconds, and only what is asked for in the same way."""
    office = Office(1)
    first = office.begin(pool, piece(3, 0))
    waiting = [
        (7.0, Options()),
        (8.0, Options()),
        (9.0, Options(word_times=True)),
        (2.0, Options()),
    ]
    waiting += [(0.1, Options())] * 10
    jobs = []
    for n, (seconds, options) in enumerate(waiting, start=1):
        jobs.append(pool.submit(office.ask, piece(seconds, n), options))
        office.waiting(n)
    office.free.set()
    assert [job.result(SOON) for job in [first, *jobs]] == [str(n) for n in range(15)]
    assert [starts for _, starts in office.passes] == [
        [0], [1, 2], [3], [4, *range(5, 5 + LIMITS.together.pieces - 1)], [12, 13, 14],
    ]  # fmt: skip


def test_a_long_one_waits_for_its_turn_and_has_everything(pool: ThreadPoolExecutor) -> None:
    office = Office(2)
    first = office.begin(pool, piece(3, 0))
    jobs = []
    for n, seconds in enumerate([2, 50, 2, 2], start=1):
        jobs.append(pool.submit(office.ask, piece(seconds, n)))
        office.waiting(n)
    office.free.set()
    for job in [first, *jobs]:
        job.result(SOON)
    # One behind it may join a pass before it, but none may begin one.
    assert [starts for _, starts in office.passes] == [[0], [1, 3], [2], [4]]
    assert office.passes[2][0] == "whole"
    assert office.most_at_work == 2


def test_where_one_is_to_blame_the_others_are_computed(pool: ThreadPoolExecutor) -> None:
    office = Office(1)
    first = office.begin(pool, piece(3, 0))
    office.error = lambda pieces: AudioError("bad") if 2 in [p.start for p in pieces] else None
    jobs = []
    for n in range(1, 4):
        jobs.append(pool.submit(office.ask, piece(1, n)))
        office.waiting(n)
    office.free.set()
    assert [job.result(SOON) for job in (first, jobs[0], jobs[2])] == ["0", "1", "3"]
    with pytest.raises(AudioError, match="bad"):
        jobs[1].result(SOON)
    assert office.ask(piece(1, 9)) == "9"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_whoever_is_interrupted_leaves_the_others_their_passes(
    pool: ThreadPoolExecutor, error: type[BaseException]
) -> None:
    office = Office(1)
    first = office.begin(pool, piece(3, 0))
    raised: list[BaseException] = []
    office.error = lambda pieces: error() if len(pieces) == 3 else None

    def ask_and_note(n: int) -> str | None:
        try:
            return office.ask(piece(1, n))
        except error as interruption:
            raised.append(interruption)
            return None

    jobs = []
    for n in range(1, 4):
        jobs.append(pool.submit(ask_and_note, n))
        office.waiting(n)
    office.free.set()
    assert [job.result(SOON) for job in (first, *jobs)] == ["0", None, "2", "3"]
    assert len(raised) == 1


def test_who_is_wanted_no_more_waits_no_longer(pool: ThreadPoolExecutor) -> None:
    office = Office(1)
    first = office.begin(pool, piece(3, 0))
    stop = Stop()
    cancelled = pool.submit(office.ask, piece(1, 1, stop))
    office.waiting(1)
    late = pool.submit(office.ask, piece(1, 2, Stop(0.05)))
    with pytest.raises(DeadlineError, match=r"within 0\.05 s"):
        late.result(SOON)
    stop.cancel()
    office.scheduler.wake()
    with pytest.raises(CancelledError, match="cancelled"):
        cancelled.result(SOON)
    office.free.set()
    assert first.result(SOON) == "0"
    assert [starts for _, starts in office.passes] == [[0]]  # nothing was computed for them
    with pytest.raises(CancelledError):
        office.ask(piece(1, 3, stop))
    assert office.ask(piece(1, 4)) == "4"


def test_what_is_cancelled_in_a_pass_is_not_given_out(pool: ThreadPoolExecutor) -> None:
    office = Office(1)
    stop = Stop()
    job = office.begin(pool, piece(1, 1, stop))
    stop.cancel()
    office.free.set()
    with pytest.raises(CancelledError):
        job.result(SOON)
    assert office.ask(piece(1, 4)) == "4"


def test_other_work_takes_turns_too(pool: ThreadPoolExecutor) -> None:
    office = Office(2)
    inside = threading.Barrier(3)

    def read() -> None:
        with office.scheduler.turn(Stop()):
            inside.wait(SOON)

    readers = [pool.submit(read) for _ in range(2)]
    while len(office.scheduler._given) < 2:
        time.sleep(0.001)
    job = pool.submit(office.ask, piece(1, 5))
    office.waiting(1)
    office.free.set()
    inside.wait(SOON)
    assert job.result(SOON) == "5"
    for reader in readers:
        reader.result(SOON)


def test_what_is_no_pass_goes_before_all_passes_that_wait(pool: ThreadPoolExecutor) -> None:
    office, order = Office(1), list[str]()

    def ask(number: int) -> None:
        office.ask(piece(10, number))
        order.append("pass")

    def read(number: int) -> None:
        with office.scheduler.turn(Stop()):
            order.append(f"read {number}")

    first = office.begin(pool, piece(3, 0))
    jobs = []
    for count, (do, number) in enumerate([(ask, 1), (read, 2), (ask, 3), (read, 4)], start=1):
        jobs.append(pool.submit(do, number))
        office.waiting(count)
    office.free.set()
    for job in [first, *jobs]:
        job.result(SOON)
    assert order == ["read 2", "read 4", "pass", "pass"]


class Recording:
    """One of a second; if damaged of twelve that break off, and it tells of two."""

    take, name, is_at_hand = ALL, "recording: ", True

    def __init__(self, *, damaged: bool = False) -> None:
        self._damaged = damaged

    @contextmanager
    def open(self, rate: int) -> Iterator[AudioStream]:
        def blocks() -> Iterator[Samples]:
            yield np.zeros(rate * (12 if self._damaged else 1), np.float32)
            if self._damaged:
                raise AudioError("breaks off")

        yield AudioStream(2.0 if self._damaged else 1.0, blocks())


def transcribed(office: Office, recording: Recording) -> Iterator[Segment]:
    options = Options(vad=Vad.OFF, chunk_seconds=5)
    return transcribe_source(office.scheduler, cast(Source, recording), options, Stop())


def test_a_recording_is_over_with_its_last_pass(pool: ThreadPoolExecutor) -> None:
    """Although another pass is at work by then, and no turn is left to look for its end."""
    office, late = Office(1), threading.Event()
    office.error = lambda _pieces: late.wait(SOON) and None if len(office.passes) > 1 else None
    first = pool.submit(lambda: list(transcribed(office, Recording())))
    while not office.passes:
        time.sleep(0.001)
    second = pool.submit(office.ask, piece(1, 7))
    office.waiting(1)
    office.free.set()
    assert len(first.result(SOON / 4)) == 1 and not second.done()
    late.set()
    assert second.result(SOON) == "7"


def test_what_is_wrong_behind_the_last_piece_does_not_hide_it() -> None:
    office = Office(1)
    office.free.set()
    segments = transcribed(office, Recording(damaged=True))
    first, second = next(segments), next(segments)
    assert first.text == "0" and len(office.passes) == 2 and int(second.text) >= 2 * RATE
    with pytest.raises(AudioError, match="breaks off"):
        next(segments)


def test_alone(pool: ThreadPoolExecutor) -> None:
    office = Office(2)
    office.free.set()
    with office.scheduler.alone():
        job = pool.submit(office.ask, piece(1, 1))
        office.waiting(1)
        assert office.ask(piece(1, 2)) == "2"
        with office.scheduler.turn(Stop()):
            pass
        assert not job.done()
    assert job.result(SOON) == "1"
    assert office.passes == [("whole", [2]), ("whole", [1])]


def test_closing(pool: ThreadPoolExecutor) -> None:
    office = Office(1)
    first = office.begin(pool, piece(3, 0))
    waiting = pool.submit(office.ask, piece(1, 1))
    office.waiting(1)
    closing = pool.submit(office.scheduler.close)
    with pytest.raises(InputError, match="closed"):
        waiting.result(SOON)
    assert not closing.done()  # it waits for what runs
    office.free.set()
    closing.result(SOON)
    assert first.result(SOON) == "0"
    with pytest.raises(InputError, match="closed"):
        office.ask(piece(1, 2))
