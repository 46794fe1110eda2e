"""A whole recording through a model, in as many passes as it needs.

    stream of samples → pieces → one pass of each → segments

What a pass takes is told by the model's limits. A longer recording is cut at pauses; a piece that
does not fit, because much is said in it, is cut again.
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from heapq import merge
from itertools import chain, count, islice, starmap, tee
from math import inf
from operator import attrgetter

import numpy as np

from granite_gguf.arrays import Samples
from granite_gguf.errors import AudioError, AudioWarning, InputError
from granite_gguf.memory import starting_threads
from granite_gguf.passes import Before, Options, PassLimits, Piece, Stop, Vad
from granite_gguf.sound.pieces import chunks, spoken
from granite_gguf.sound.reading import AudioStream
from granite_gguf.sound.silence import LONG_PAUSE_SECONDS, Detector, Loudness, stretches
from granite_gguf.sound.silero import Silero
from granite_gguf.sound.source import Source
from granite_gguf.transcript import Segment, joined
from granite_gguf.transcription.doubt import without_doubtful
from granite_gguf.transcription.scheduler import Scheduler

SHORTEST_CHUNK_SECONDS = 5.0  # the second half of a piece should have a pause between words
_UNSPLITTABLE_SECONDS = 0.2
_TURN_SECONDS = 1.0  # pauses that divide what is said on a channel, so that others come between
_ALMOST_SECONDS = 0.5  # what a header says of the length need not be so exact
_HEARD_SECONDS = 60.0  # at a time, for the level by which silence is told from sound


def check_options(scheduler: Scheduler, options: Options) -> None:
    """Refuse what the model cannot do.

    Raises:
        InputError: a number is out of range, or an option is not for this model.
        MissingExtraError: what is to find silence is not installed.
    """
    limits = scheduler.limits
    longest = limits.most / limits.sample_rate
    seconds = options.chunk_seconds
    if seconds is not None and not SHORTEST_CHUNK_SECONDS <= seconds <= longest:
        raise InputError(
            f"pieces of {seconds:g} s are asked for, expected {SHORTEST_CHUNK_SECONDS:g} to "
            f"{int(longest)} s: shorter ones may have no pause to be cut at, and longer ones do "
            f"not fit in {limits.room}"
        )
    _detector(limits, options)
    least = options.min_confidence
    if least is not None and not 0 <= least <= 1:
        raise InputError(f"min_confidence is {least:g}, expected 0 to 1")
    scheduler.check(options)
    if options.context is not None:
        room = longest - _longest_piece(limits, options) / limits.sample_rate
        if not 0 < options.context <= room:
            raise InputError(
                f"a context of {options.context:g} s is asked for, expected more than 0 and at "
                f"most {int(room)} s: together with a piece, more does not fit in {limits.room}"
            )


def _detector(limits: PassLimits, options: Options) -> Detector | None:
    """What finds silence in a recording; None where it is left in."""
    if options.vad is Vad.OFF:
        return None
    return (Silero if options.vad is Vad.SILERO else Loudness)(limits.sample_rate)


def transcribe_source(
    scheduler: Scheduler, source: Source, options: Options, stop: Stop
) -> Iterator[Segment]:
    """Transcribe a recording of any length; files are decoded as the work goes on.

    Errors are those of :meth:`granite_gguf.Model.transcribe`.

    Raises:
        CancelledError: it is wanted no more.
    """
    check_options(scheduler, options)

    def reading() -> AbstractContextManager[None]:
        # Whoever waits for a pipe must keep nobody from computing.
        return scheduler.turn(stop) if source.is_at_hand else nullcontext()

    past = _Past(round((options.context or 0) * scheduler.limits.sample_rate))
    longest = _longest_piece(scheduler.limits, options)

    def pieces() -> Iterator[Piece]:
        with reading():
            stream = stack.enter_context(source.open(scheduler.limits.sample_rate))
            cut = _pieces_of_each if source.take.apart else _pieces
            read = _Reading(cut(scheduler.limits, stream, options), scheduler.limits, stream)
            read.on()
        for number in count():
            if not read.is_on:
                with reading():
                    read.on()
            piece = read.take()
            if piece is None:
                return
            stop.check()
            yield replace(piece, stop=stop, follows=number > 0)

    def said(piece: Piece) -> Iterator[Segment]:
        for found in _transcribe_piece(scheduler, piece, longest, options, past):
            yield found.of_channel(piece.channel)

    # Where a pass takes many, a recording has as many pieces at work. Nothing waits for what is
    # only being said.
    together = scheduler.limits.together
    ahead = together.padded and options.context is None and source.is_at_hand
    said_of_all: Iterator[Segment]
    with ExitStack() as stack:
        if ahead:
            said_of_all = stack.enter_context(closing(_ahead(said, pieces(), together.pieces)))
        else:
            said_of_all = chain.from_iterable(map(said, pieces()))
        for index, found in enumerate(said_of_all):
            segment = without_doubtful(found, options.min_confidence)
            for remark in segment.remarks:
                warnings.warn(f"{source.name}{remark}", AudioWarning, stacklevel=2)
            yield replace(segment, index=index)


class _Reading:
    """The pieces of a stream as they are read.

    Of what comes through no pipe it is known together with the last piece that there is no other,
    where the stream tells its length: else a recording would not be over before its turn to look.
    """

    def __init__(self, pieces: Iterator[Piece], limits: PassLimits, stream: AudioStream) -> None:
        self._pieces, self._next = pieces, deque[Future[Piece | None]]()
        known = not stream.live and stream.duration is not None
        end = stream.start + (stream.duration or 0.0) - _ALMOST_SECONDS
        self._end = end * limits.sample_rate if known else inf

    @property
    def is_on(self) -> bool:
        """Whether a piece, the end or an error is there to be taken."""
        return bool(self._next)

    def on(self) -> None:
        """Read a piece; behind what must be the last one, look for another."""
        piece = self._read()
        if piece is not None and piece.stretch[1] >= self._end:
            self._read()

    def _read(self) -> Piece | None:
        started, found = time.perf_counter(), Future[Piece | None]()
        self._next.append(found)
        try:
            piece = next(self._pieces, None)
        except Exception as error:  # it is raised behind the piece before it
            found.set_exception(error)
            return None
        timings = {"audio": time.perf_counter() - started}
        found.set_result(piece and replace(piece, timings=timings))
        return piece

    def take(self) -> Piece | None:
        """The next piece; None at the end."""
        return self._next.popleft().result()


def _ahead(
    said: Callable[[Piece], Iterator[Segment]], pieces: Iterator[Piece], most: int
) -> Generator[Segment, None, None]:
    """What is said in pieces, in their order, with so many of them at work at a time."""
    first = list(islice(pieces, 2))
    if len(first) < 2:
        yield from chain.from_iterable(map(said, first))
        return
    waiting: deque[Future[list[Segment]]] = deque()
    with starting_threads(), ThreadPoolExecutor(most, "granite-gguf-piece") as pool:
        try:
            for piece in chain(first, pieces):
                waiting.append(pool.submit(lambda of: list(said(of)), piece))
                if len(waiting) == most:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _pieces_of_each(limits: PassLimits, stream: AudioStream, options: Options) -> Iterator[Piece]:
    """What of each channel of a recording goes through the model, in the order of beginnings.

    Only what the channel behind has still to hear of what the one ahead has heard is in memory.
    """
    first = next(stream.blocks, np.zeros((0, 1), np.float32))
    copies = tee(chain([first], stream.blocks), first.shape[1])

    def pieces(number: int, blocks: Iterator[Samples]) -> Iterator[Piece]:
        own = (np.ascontiguousarray(block[:, number]) for block in blocks)
        for piece in _pieces(limits, replace(stream, blocks=own), options, pause=_TURN_SECONDS):
            # Who speaks when is told by where the sound is.
            within = piece.within if not len(piece.samples) else None
            yield replace(piece, channel=number + 1, within=within)

    yield from merge(*starmap(pieces, enumerate(copies)), key=attrgetter("start"))


def _pieces(
    limits: PassLimits,
    stream: AudioStream,
    options: Options,
    *,
    pause: float = LONG_PAUSE_SECONDS,
) -> Iterator[Piece]:
    """What of a recording goes through the model, piece by piece, cut at pauses of such seconds."""
    rate, longest = limits.sample_rate, _longest_piece(limits, options)
    offset = round(stream.start * rate)
    detector = _detector(limits, options)
    if detector is None:
        cut = spoken if stream.live else chunks
        for start, samples in cut(stream.blocks, rate=rate, longest=longest):
            yield Piece(offset + start, samples)
        return
    if stream.live:
        heard = spoken(stream.blocks, rate=rate, longest=longest)
    else:
        heard = chunks(stream.blocks, rate=rate, longest=max(longest, int(rate * _HEARD_SECONDS)))
    for place, samples in heard:
        start = offset + place
        sounding = detector.sounding(samples)
        for begin, first, last, end in stretches(sounding, len(samples), rate, pause=pause):
            within = (start + begin, start + end)
            yield from _parts(
                Piece(start + first, samples[first:last], within=within), rate, longest
            )


def _parts(piece: Piece, rate: int, longest: int) -> Iterator[Piece]:
    """A piece in pieces of at most so many samples, which stand for all that it does."""
    for offset, part in chunks(iter([piece.samples]), rate=rate, longest=longest):
        start, end = piece.start + offset, piece.start + offset + len(part)
        is_last = offset + len(part) == len(piece.samples)
        yield replace(
            piece,
            start=start,
            samples=part,
            follows=piece.follows or offset > 0,
            timings={} if offset else piece.timings,
            within=(start if offset else piece.stretch[0], piece.stretch[1] if is_last else end),
        )


def _longest_piece(limits: PassLimits, options: Options) -> int:
    """Samples of the longest piece."""
    if options.chunk_seconds is not None:
        return int(limits.sample_rate * options.chunk_seconds)
    return limits.piece


class _Past:
    """What was said before the piece that comes next, channel by channel.

    Args:
        most: samples of it that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._said: dict[int | None, deque[Before]] = defaultdict(deque)

    def before(self, piece: Piece) -> Before | None:
        """What is to be heard again before a piece, if anything is."""
        said = self._said[piece.channel]
        if not said:
            return None
        text = joined([part.text.strip() for part in said])
        return Before(np.concatenate([part.samples for part in said]), text)

    def add(self, piece: Piece, segment: Segment) -> None:
        """Take note of what was said in a piece, and forget what is too long ago.

        Behind a text that was cut short nothing can go on.
        """
        said = self._said[piece.channel]
        said.append(Before(piece.samples, segment.text))
        if not segment.complete:
            said.clear()
        while sum(len(part.samples) for part in said) > self._most:
            said.popleft()


def _transcribe_piece(
    scheduler: Scheduler, piece: Piece, longest: int, options: Options, past: _Past
) -> Iterator[Segment]:
    """One pass, or several where the piece needs more positions than there are."""
    rate = scheduler.limits.sample_rate
    segment = scheduler.one_pass(replace(piece, before=past.before(piece)), options)
    if segment is not None:
        past.add(piece, segment)
        yield segment
        return
    samples = piece.samples
    longest = min(longest, len(samples) // 2)
    if longest < _UNSPLITTABLE_SECONDS * rate:
        raise AudioError(
            f"{len(samples) / rate:.2f} s of audio need more than {scheduler.limits.room}"
        )
    for part in _parts(piece, rate, longest):
        yield from _transcribe_piece(scheduler, part, longest, options, past)
