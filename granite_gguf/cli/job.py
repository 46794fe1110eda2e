"""What ``transcribe`` was asked for, done recording by recording: results, failures, a summary."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from statistics import fmean

from granite_gguf.cli.console import (
    AudioProgress,
    audio_progress,
    print_error,
    print_note,
    print_result,
    telling_warnings,
)
from granite_gguf.cli.faults import describe_fault
from granite_gguf.cli.inputs import Recording
from granite_gguf.cli.outputs import Targets
from granite_gguf.errors import GraniteError, OutputError, printable
from granite_gguf.files import replacing
from granite_gguf.formats import FORMATS, Shape
from granite_gguf.model import Model
from granite_gguf.passes import Options
from granite_gguf.sound.reading import Selection, duration_of
from granite_gguf.transcript import Segment, Transcript
from granite_gguf.transcription.many import longest_first

_ASKED = 1000  # recordings, for the length of them all
_SORTED = 1000  # at a time: their headers are read before the first of them is begun


@dataclass(frozen=True)
class Failure:
    """A recording without a result, and why; ``place`` is its own among all."""

    place: int
    name: str
    reason: str


@dataclass
class Job:
    """What was asked for, and what became of it.

    Attributes:
        recordings: all that were named, in order.
        chosen: places in ``recordings`` of those to be done, in order.
        targets: the files to write, or None for standard output.
    """

    recordings: Sequence[Recording]
    chosen: Sequence[int]
    formats: Sequence[str]
    shape: Shape
    targets: Targets | None
    options: Options
    take: Selection
    quiet: bool
    verbose: bool
    failures: list[Failure] = field(default_factory=list)
    audio_seconds: float = 0.0
    _expected: dict[int, float] = field(default_factory=dict)  # seconds by place
    _told: dict[int, float | None] = field(default_factory=dict)  # those of the headers read

    def run(self, model: Model) -> None:
        """Do it.

        Raises:
            OutputError: standard output cannot be written.
        """
        started = time.perf_counter()
        if self.verbose:
            print_note(f"{model.file.path} on {model.device.description}, {model.threads} threads")
        with (
            telling_warnings(quiet=self.quiet),
            audio_progress(self._total_seconds, quiet=self.quiet) as progress,
        ):
            for places in self._parts():
                done = 0
                while done < len(places):
                    done += self._run_some(model, places[done:], progress)
        self.failures.sort(key=attrgetter("place"))
        if len(self.recordings) > 1 and not self.quiet:
            self._summarise(time.perf_counter() - started)

    def _parts(self) -> Iterator[Sequence[int]]:
        """The places chosen, in the order in which they are done.

        What is printed comes in the order given, files are written in the order that takes the
        least time.
        """
        if self.targets is None:
            yield self.chosen
            return
        for first in range(0, len(self.chosen), _SORTED):
            places = self.chosen[first : first + _SORTED]
            yield [places[index] for index in longest_first(map(self._seconds, places))]

    def _run_some(self, model: Model, places: Sequence[int], progress: AudioProgress) -> int:
        """How many of the first are done with: all, or those up to one that met a fault."""
        done, advanced = 0, 0.0
        # The text of a single recording need not wait for its end.
        at_once = self.targets is None and len(self.recordings) == 1 and self.formats == ["txt"]
        sources = (self.recordings[place].open() for place in places)
        progress.name(self.recordings[places[0]].name)
        try:
            events = model.transcribe_events(sources, self.options, take=self.take)
            for event in events:
                place = places[event.index]
                if isinstance(event.result, Segment):
                    # Those of several channels may lie side by side.
                    reached = max(advanced, event.result.end - self.take.start)
                    progress.advance(reached - advanced)
                    advanced = reached
                    if at_once and event.result.text:
                        with progress.aside():
                            print_result(event.result.labelled)
                    continue
                self._expect_no_more(place, advanced, progress)
                advanced = 0.0
                with progress.aside():
                    if isinstance(event.result, Transcript):
                        self._deliver(place, event.result)
                    else:
                        self._fail(place, str(event.result))
                done = event.index + 1
                if done < len(places):
                    progress.name(self.recordings[places[done]].name)
        except (GraniteError, BrokenPipeError):
            raise
        except Exception as error:
            self._expect_no_more(places[done], advanced, progress)
            with progress.aside():
                self._fail(places[done], describe_fault(error))
            return done + 1
        return len(places)

    def _fail(self, place: int, reason: str) -> None:
        recording = self.recordings[place]
        if recording.path is not None and printable(recording.name) not in reason:
            reason = f"{recording.name}: {reason}"
        print_error(reason)
        self.failures.append(Failure(place, recording.name, reason))

    def _deliver(self, place: int, transcript: Transcript) -> None:
        recording = self.recordings[place]
        if self.verbose:
            count = len(transcript.segments)
            stages = ", ".join(f"{k} {v:.2f}" for k, v in transcript.timings.items())
            print_note(
                f"{recording.name}: {transcript.duration:.1f} s of audio in "
                f"{'1 pass' if count == 1 else f'{count} passes'}, "
                f"{transcript.real_time_factor:.1f}x real time; seconds: {stages}"
            )
            if transcript.decoding is not None:
                count = len(transcript.token_ids)
                print_note(f"{recording.name}: {count} tokens in {transcript.decoding}")
        if self.targets is None:
            self._print(recording, transcript)
        else:
            try:
                self._write(self.targets, place, transcript)
            except OutputError as error:
                self._fail(place, str(error))
                return
        self.audio_seconds += transcript.duration

    def _print(self, recording: Recording, transcript: Transcript) -> None:
        (name,) = self.formats
        if name != "txt":
            print_result(FORMATS[name].render(recording.name, transcript, self.shape), end="")
        elif len(self.recordings) > 1:
            line = transcript.labelled.translate(dict.fromkeys(map(ord, "\r\n\t"), " "))
            print_result(f"{printable(recording.name)}\t{line}")

    def _write(self, targets: Targets, place: int, transcript: Transcript) -> None:
        for name in targets.missing(place):
            text = FORMATS[name].render(self.recordings[place].name, transcript, self.shape)
            path = targets.write(place, name, text)
            if self.verbose:
                print_note(f"{path}: written")

    def _total_seconds(self) -> float | None:
        """All the audio together, or None where no recording tells its length.

        Of very many only some are asked; the others, and those that do not tell, are taken to be
        as long as these on average.
        """
        asked = self.chosen[:: max(1, len(self.chosen) // _ASKED)]
        found = {place: self._seconds(place) for place in asked}
        known = {place: seconds for place, seconds in found.items() if seconds is not None}
        if not known:
            return None
        mean = fmean(known.values())
        self._expected = {place: known.get(place, mean) for place in self.chosen}
        return sum(self._expected.values())

    def _seconds(self, place: int) -> float | None:
        if place not in self._told:
            path = self.recordings[place].path
            # A pipe can be read only once, so it is not asked.
            asked = path if path is not None and path.is_file() else None
            self._told[place] = None if asked is None else duration_of(asked, self.take)
        return self._told[place]

    def _expect_no_more(self, place: int, seconds: float, progress: AudioProgress) -> None:
        """Of a recording that is over, after so much of it."""
        progress.expect(seconds - self._expected.get(place, seconds))

    def _summarise(self, seconds: float) -> None:
        done = len(self.chosen) - len(self.failures)
        speed = self.audio_seconds / seconds if seconds else 0.0
        print_note(
            f"{done} of {len(self.chosen)} recordings transcribed: {self.audio_seconds:.1f} s of "
            f"audio in {seconds:.1f} s, {speed:.1f}x real time"
        )
        for failure in self.failures:
            print_note(f"failed: {failure.reason}")


def check_failures_file(path: Path) -> None:
    """See, before the work, that a list of failures may be written; an earlier one is replaced.

    Raises:
        OutputError: it is another file, or cannot be written.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no directory {path.parent}")
    try:
        with path.open("rb") as file:
            first = file.readline(1 << 20)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        known = not first or {"file", "error"} == set(json.loads(first))
    except (ValueError, TypeError):
        known = False
    if not known:
        raise OutputError(f"{path}: exists already and is no list of failures; name another file")


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """JSON lines: ``file`` and ``error``; empty where nothing failed.

    Raises:
        OutputError: it cannot be written.
    """
    values = ({"file": failure.name, "error": failure.reason} for failure in failures)
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    with replacing(path, force=True) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
