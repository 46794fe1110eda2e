"""Who computes when: passes of many recordings on the threads of one model.

    pieces, in the order they come ─┬→ short ones: several in a pass, passes side by side
                                    └→ a long one, or a single one: alone, with all threads

A pass reads all weights, and its threads wait for one another after every operation. A short piece
gives them little to do in between: several in one pass, and several such passes of fewer threads,
finish more of them. Long ones would only need more memory.

Where a device of its own computes, the processor reads and prepares pieces meanwhile, and there are
two turns, so that one pass is brought in and out while another is computed. The second is not begun
before enough wait for it.

There is no thread here. Who brings a piece waits for its turn, computes what goes together with it,
and wakes the others. A recording waits with one piece at a time, so that a long one takes turns
with all others.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from threading import Condition, RLock, Semaphore, get_ident

from granite_gguf.errors import InputError
from granite_gguf.forks import tell_after_fork
from granite_gguf.passes import APART_AT_A_TIME, Lane, Options, PassLimits, Piece, Stop
from granite_gguf.transcript import Segment

SHORT_SECONDS = 30.0
MOST_TURNS = 4  # each takes memory for the activations of its recordings
_PREPARING = 8  # threads beside it; more of them only wait for the interpreter
_ENOUGH = 0.5  # of a full pass, to begin another beside one that is computed


@dataclass(frozen=True)
class TurnsThere:
    """How many passes run at a time.

    Attributes:
        count: so many.
        threads: of the processor, for each.
        preparing: how many threads may read and prepare pieces beside the passes; None where these
            take the same turns, with one thread.
    """

    count: int
    threads: int
    preparing: int | None = None


def turns_for(threads: int, apart: bool) -> TurnsThere:
    """The turns on so many threads of the processor, or on a device of its own."""
    if apart:
        share = max(1, threads // APART_AT_A_TIME)
        return TurnsThere(APART_AT_A_TIME, share, min(threads, _PREPARING))
    count = min(threads, MOST_TURNS)
    return TurnsThere(count, threads // count)


class Scheduler:
    """Gives out turns, first come, first served; each thread waits for its own.

    What is no pass goes before all passes that wait: it is short, and a recording that is read or
    over would else wait for every pass that was asked for before.

    Args:
        whole: computes with all threads.
        turns: how many there are, each with its share of the threads.
        new_lane: makes the lane of a number with such a share, when it is first wanted; where
            there is only one turn the whole lane takes it.

    Attributes:
        passes: how many passes were computed, by how many pieces went through each.
    """

    def __init__(self, whole: Lane, turns: TurnsThere, new_lane: Callable[[int], Lane]) -> None:
        self._whole, self._count, self._new_lane = whole, turns.count, new_lane
        self._preparing = turns.preparing
        self._lanes: list[Lane] = []
        self.passes: Counter[int] = Counter()
        self._closed = False
        self.after_fork()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Of those who wait or compute, none is in the child."""
        self._lock = RLock()
        self._over = Condition(self._lock)  # told when a turn ends
        self._waiting: set[_Wish] = set()
        self._queue: deque[_Wish] = deque()
        self._idle = list(self._lanes)
        self._given: set[_Wish] = set()
        self._owner: int | None = None  # the thread that has everything for itself
        self._apart = None if self._preparing is None else Semaphore(self._preparing)

    @property
    def limits(self) -> PassLimits:
        """How much audio a pass takes."""
        return self._whole.limits

    @property
    def recordings_at_once(self) -> int:
        """Of so many at work, enough wait to fill the passes that come next."""
        return self.limits.together.pieces * (self._count + 1)

    def check(self, options: Options) -> None:
        """Refuse what the model cannot do.

        Raises:
            InputError: it is asked for.
        """
        self._whole.check(options)

    @contextmanager
    def turn(self, stop: Stop) -> Iterator[None]:
        """Compute something else than a pass, with one thread.

        Raises:
            CancelledError: it is wanted no more.
            InputError: the model is closed.
        """
        if self._owner == get_ident():
            yield
        elif self._apart is not None:
            with self._apart:
                stop.check()
                yield
        else:
            with self._turn(_Wish(), stop):
                yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nothing of others run inside the block, whose passes have all threads.

        Raises:
            InputError: the model is closed.
        """
        with self._turn(_Wish(alone=True), Stop()):
            self._owner = get_ident()
            try:
                yield
            finally:
                self._owner = None

    def one_pass(self, piece: Piece, options: Options) -> Segment | None:
        """What is said in a piece; None where it does not fit in a pass.

        Raises:
            AudioError: it cannot be transcribed.
            CancelledError: it is wanted no more.
            InputError: the model is closed.
        """
        if self._owner == get_ident():
            return self._whole.one_pass([piece], options)[0]
        if self._apart is not None:
            with self._apart:
                piece = self._whole.prepare(piece)
        seconds = (piece.again + len(piece.samples)) / self.limits.sample_rate
        wish = _Wish(_Asked(piece, options, seconds), alone=seconds > SHORT_SECONDS)
        while not wish.done:
            with self._turn(wish, piece.stop):
                if wish.together:
                    self._compute(wish)
        piece.stop.check()
        return wish.found

    def close(self) -> None:
        """Wait for what runs, and give out no more turns."""
        with self._lock:
            self._closed = True
            self.wake()
            while self._given and self._owner != get_ident():
                self._over.wait()

    def wake(self) -> None:
        """Let those who wait see whether they are still wanted."""
        with self._lock:
            for wish in self._waiting:
                wish.tell()

    def _compute(self, wish: _Wish) -> None:
        """The pass of a wish and of those that go with it; if it fails, each is to go by itself."""
        asked = [of.asked for of in wish.together if of.asked is not None]
        try:
            with self._lane(wish) as lane:
                segments = lane.one_pass([of.piece for of in asked], asked[0].options)
        except Exception:
            if len(asked) == 1:
                raise
            # One of them is to blame, or there is too little memory for all.
            for of in wish.together:
                of.single = True
        else:
            with self._lock:
                self.passes[len(asked)] += 1
            for of, segment in zip(wish.together, segments, strict=True):
                of.found, of.done = segment, True

    @contextmanager
    def _lane(self, wish: _Wish) -> Iterator[Lane]:
        """What computes in a turn; there are no more of them than turns."""
        if wish.alone or self._count == 1:
            yield self._whole
            return
        with self._lock:
            if not self._idle:
                self._lanes.append(self._new_lane(len(self._lanes)))
                self._idle.append(self._lanes[-1])
            lane = self._idle.pop()
        try:
            yield lane
        finally:
            with self._lock:
                self._idle.append(lane)

    @contextmanager
    def _turn(self, wish: _Wish, stop: Stop) -> Iterator[None]:
        """Wait for a turn, or until another has done what is wished."""
        self._wait(wish, stop)
        try:
            yield
        finally:
            self._leave(wish)

    def _wait(self, wish: _Wish, stop: Stop) -> None:
        with self._lock:
            # Each is told by itself: with hundreds who wait, waking all for one takes the time of
            # a pass.
            wish.told = Condition(self._lock)
            self._waiting.add(wish)
            try:
                stop.check()
                self._line_up(wish)
                self._hand_out()
                while wish not in self._given and not wish.done:
                    if self._closed:
                        raise InputError("the model is closed")
                    stop.check()
                    wish.told.wait(stop.remaining)
            except BaseException:
                wish.gone = True
                self._leave(wish)
                raise
            finally:
                self._waiting.discard(wish)

    def _line_up(self, wish: _Wish) -> None:
        short = wish.asked is None and not wish.alone
        before = takewhile(lambda of: of.asked is None, self._queue) if short else self._queue
        self._queue.insert(len(list(before)), wish)

    def _leave(self, wish: _Wish) -> None:
        """End a turn, or the waiting for one."""
        with self._lock:
            if wish in self._queue:
                self._queue.remove(wish)
            self._given.discard(wish)
            # Those whose pass it did not compute wait again, before all others.
            others = [of for of in wish.together if of is not wish and not (of.done or of.gone)]
            self._queue.extendleft(reversed(others))
            for of in wish.together:
                of.tell()
            wish.together = []
            self._hand_out()
            self._over.notify_all()

    def _hand_out(self) -> None:
        """Give turns to those who are first in the queue, as far as there are any."""
        while self._queue and not self._closed and len(self._given) < self._count:
            first = self._queue[0]
            only = first.asked is not None and not self._given and len(self._queue) == 1
            if any(of.alone for of in self._given) or (first.alone and self._given):
                break
            if self._given and self.limits.together.padded and not self._enough(self._queue):
                break
            taken = self._together(first)
            first.alone = first.alone or only
            first.together = taken
            for of in first.together:
                self._queue.remove(of)
            self._given.add(first)
            first.tell()

    def _together(self, first: _Wish) -> list[_Wish]:
        """Those of the queue that go through one pass, so that each free turn gets its share."""
        if first.asked is None or first.alone or first.single:
            return [first]
        options, limits = first.asked.options, self.limits.together
        fitting = [
            of
            for of in self._queue
            if of.asked and of.asked.options == options and not (of.alone or of.single)
        ]
        free = self._count - len(self._given)
        if limits.padded:  # those of like length; all go into one pass, if it takes them
            length = first.asked.seconds
            fitting.sort(key=lambda of: (of is not first, abs(_seconds(of) - length)))
            free = 1
        taken: list[_Wish] = []
        total = longest = 0.0
        for of in fitting[: min(limits.pieces, -(-len(fitting) // free))]:
            longest, total = max(longest, _seconds(of)), total + _seconds(of)
            takes = longest * (len(taken) + 1) if limits.padded else total
            if taken and takes > limits.seconds:
                break
            taken.append(of)
        return taken

    def _enough(self, wishes: Sequence[_Wish]) -> bool:
        """Whether a pass is worth beginning while another is computed."""
        limits, takes = self.limits.together, max(map(_seconds, wishes)) * len(wishes)
        return len(wishes) >= _ENOUGH * limits.pieces or takes >= _ENOUGH * limits.seconds


@dataclass(frozen=True)
class _Asked:
    """A piece, what is to be computed of it, and how long it is."""

    piece: Piece
    options: Options
    seconds: float


@dataclass(eq=False)
class _Wish:
    """Somebody who waits for a turn.

    Attributes:
        asked: for a pass; None for a turn of another kind.
        alone: whether nothing else is to run meanwhile.
        single: whether it failed together with others, and is to be tried without them.
        together: once it has its turn, those whose pieces go through its pass, itself the first.
        found: the segment, or None where it does not fit.
        done: whether its pass was computed.
        gone: whether nobody waits for it any more.
        told: what its owner waits on.
    """

    asked: _Asked | None = None
    alone: bool = False
    single: bool = False
    together: list[_Wish] = field(default_factory=list)
    found: Segment | None = None
    done: bool = False
    gone: bool = False
    told: Condition | None = None

    def tell(self) -> None:
        """Let who waits for it look again."""
        if self.told is not None:
            self.told.notify_all()


def _seconds(wish: _Wish) -> float:
    return wish.asked.seconds if wish.asked else 0.0
