"""How long a run over many recordings says that it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from granite_gguf import AudioError, Segment, Transcript
from granite_gguf.cli import console, job
from granite_gguf.cli.inputs import Recording
from granite_gguf.cli.outputs import plan_targets
from granite_gguf.formats import Shape
from granite_gguf.passes import Options
from granite_gguf.sound.reading import ALL

LENGTHS = [1.0, 2.0, 3.0, None, 6.0]  # seconds; the fourth is nowhere
MISSING = 3


class Progress:
    """What a bar over seconds is told."""

    def __init__(self) -> None:
        self.total: float | None = None
        self.left: list[float] = []
        self.done = 0.0

    @contextmanager
    def __call__(self, total: Callable[[], float | None], **_: Any) -> Iterator[Any]:
        self.total = total()
        yield console.AudioProgress(lambda _: None, self.advance, self.expect, nullcontext)

    def advance(self, seconds: float) -> None:
        self.done += seconds

    def expect(self, seconds: float) -> None:
        assert self.total is not None
        self.total += seconds
        self.left.append(self.total - self.done)


class Model:
    """Hears what a recording's length is; at the third it meets a fault."""

    def transcribe_events(self, sources: Iterator[Path], *_: Any, **__: Any) -> Iterator[Any]:
        for index, source in enumerate(sources):
            if not source.exists():
                yield SimpleNamespace(index=index, result=AudioError(f"{source}: no such file"))
                continue
            seconds = soundfile.info(source).duration
            segment = Segment(0, 0.0, seconds, "said", "")
            yield SimpleNamespace(index=index, result=segment)
            if seconds == LENGTHS[2]:
                raise ZeroDivisionError("a fault")
            yield SimpleNamespace(index=index, result=Transcript.of([segment]))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[job.Job, Progress]:
    for number, seconds in enumerate(LENGTHS):
        if seconds is not None:
            soundfile.write(tmp_path / f"{number}.wav", np.zeros(int(800 * seconds)), 800)
    recordings = [Recording(str(tmp_path / f"{n}.wav")) for n in range(len(LENGTHS))]
    progress = Progress()
    monkeypatch.setattr(job, "audio_progress", progress)
    everything = range(len(recordings))
    work = job.Job(
        recordings, everything, ["txt"], Shape(), None, Options(), ALL, quiet=True, verbose=False
    )
    return work, progress


def test_all_that_is_expected_is_done_or_no_longer_expected(
    made: tuple[job.Job, Progress],
) -> None:
    work, progress = made
    work.run(Model())  # type: ignore[arg-type]
    # The missing one is taken to be of the mean length, 3 s, until it fails.
    assert progress.left == pytest.approx([14, 12, 9, 6, 0])
    assert progress.done == progress.total == 12
    assert [Path(failure.name).stem for failure in work.failures] == ["2", "3"]


def test_of_very_many_some_are_asked(
    made: tuple[job.Job, Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, progress = made
    asked: list[str] = []

    def duration_of(path: Path, _: object) -> float:
        asked.append(path.stem)
        return float(path.stem) + 1

    monkeypatch.setattr(job, "_ASKED", 2)
    monkeypatch.setattr(job, "duration_of", duration_of)
    work.run(Model())  # type: ignore[arg-type]
    assert asked == ["0", "2", "4"]  # 1, 3 and 5 s: the mean of 3 for the others
    assert progress.left[0] == pytest.approx(14)
    assert progress.done == progress.total == 12


def test_files_are_written_in_the_order_that_takes_the_least_time(
    made: tuple[job.Job, Progress], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of unknown length and long ones first, some at a time; failures as they were named."""
    work, _ = made
    work.targets = plan_targets(work.recordings, ["txt"], tmp_path / "out", "{stem}.{format}")
    taken: list[str] = []

    class Watched(Model):
        def transcribe_events(self, sources: Iterator[Path], *_: Any, **__: Any) -> Iterator[Any]:
            def watched() -> Iterator[Path]:
                for source in sources:
                    taken.append(source.stem)
                    yield source

            return super().transcribe_events(watched())

    work.run(Watched())  # type: ignore[arg-type]
    assert taken == ["3", "4", "2", "1", "0"]
    assert [Path(failure.name).stem for failure in work.failures] == ["2", "3"]
    taken.clear()
    monkeypatch.setattr(job, "_SORTED", 2)
    work.run(Watched())  # type: ignore[arg-type]
    assert taken == ["1", "0", "3", "2", "4"]
    taken.clear()
    work.targets = None
    work.run(Watched())  # type: ignore[arg-type]
    assert taken == ["0", "1", "2", "3", "4"]


def test_a_header_is_read_once_for_length_and_order(
    made: tuple[job.Job, Progress], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work, _ = made
    work.targets = plan_targets(work.recordings, ["txt"], tmp_path / "out", "{stem}.{format}")
    asked: list[str] = []

    def duration_of(path: Path, _: object) -> float:
        asked.append(path.stem)
        return 1.0

    monkeypatch.setattr(job, "duration_of", duration_of)
    work.run(Model())  # type: ignore[arg-type]
    assert sorted(asked) == ["0", "1", "2", "4"]


def test_what_is_left_goes_on_as_all_went_so_far() -> None:
    """A burst in the last second, as a pass of several makes it, is no new speed."""
    task = SimpleNamespace(completed=100.0, total=1000.0, elapsed=50.0, speed=1e6)
    assert console._SpeedColumn().render(task).plain == "2.0x"  # type: ignore[arg-type]
    assert console._LeftColumn().render(task).plain == "0:07:30"  # type: ignore[arg-type]
    task.completed, task.total = 0.0, None
    assert console._SpeedColumn().render(task).plain == ""  # type: ignore[arg-type]
    assert console._LeftColumn().render(task).plain == "-:--:--"  # type: ignore[arg-type]
