"""Tiny checkpoints and the files converted from them, made once a process; how workers share cores.

What the fixtures need is imported in them: a worker takes its cores before numpy and ggml count
them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from granite_gguf import Model
    from granite_gguf.ggml import Runtime


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several workers cores of its own: a test then has that many threads.

    Two workers whose models each have as many threads as the machine has cores take longer than
    one. Commands run as users run them: with streams that hold back what is written.
    """
    os.environ.pop("PYTHONUNBUFFERED", None)
    worker = getattr(config, "workerinput", None)
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        number = int(worker["workerid"].removeprefix("gw"))
        worker["cores"] = cores[number % len(cores) :: worker["workercount"]], cores
        os.sched_setaffinity(0, worker["cores"][0])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that must be alone come last, when the other workers run out of tests."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Where there are several workers, keep a test that must be alone from the others' tests."""
    worker = getattr(item.config, "workerinput", None)
    if worker is None:
        return (yield)
    with _all_cores(worker) if item.get_closest_marker("alone") else _among_others():
        return (yield)


@contextmanager
def _all_cores(worker: dict[str, Any]) -> Iterator[None]:
    """Run nothing else meanwhile, on all cores."""
    with _lock("gate", fcntl.LOCK_EX), _lock("tests", fcntl.LOCK_EX):
        few, all_ = worker.get("cores", (None, None))
        if all_:
            os.sched_setaffinity(0, all_)
        try:
            yield
        finally:
            if few:
                os.sched_setaffinity(0, few)


@contextmanager
def _among_others() -> Iterator[None]:
    """Run beside others, but let whoever waits to be alone go first."""
    with _lock("gate", fcntl.LOCK_EX):
        pass
    with _lock("tests", fcntl.LOCK_SH):
        yield


@contextmanager
def _lock(name: str, mode: int) -> Iterator[None]:
    path = Path(tempfile.gettempdir()) / f"granite-gguf-{os.getuid()}.{name}"
    with path.open("w") as file:
        fcntl.flock(file, mode)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell starts background jobs deaf to SIGINT, and processes started here would be, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """Of one CPU thread, or as many as the module says in ``THREADS``."""
    from granite_gguf.ggml import Runtime

    with Runtime("cpu", getattr(request.module, "THREADS", 1)) as made:
        yield made


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def checkpoints(workspace: Path) -> dict[str, Path]:
    """A tiny float32 checkpoint of each layout, with the same weights."""
    from tests.support.make_checkpoint import LAYOUTS, make_checkpoint

    made = {}
    for layout in LAYOUTS:
        made[layout] = workspace / f"tiny-{layout}"
        make_checkpoint(made[layout], layout=layout, size="tiny", seed=0, dtype="f32")
    return made


@pytest.fixture(scope="session")
def f32_files(checkpoints: dict[str, Path]) -> dict[str, Path]:
    """Each checkpoint converted to float32."""
    from granite_gguf.converters import convert

    files = {}
    for layout, directory in checkpoints.items():
        files[layout] = directory.with_suffix(".gguf")
        convert(directory, files[layout], outtype="f32")
    return files


@pytest.fixture(scope="session")
def models(f32_files: dict[str, Path]) -> Iterator[dict[str, Model]]:
    """Each float32 file loaded on the CPU; one thread is the fastest for models this small."""
    import granite_gguf

    loaded = {
        layout: granite_gguf.load(path, device="cpu", threads=1)
        for layout, path in f32_files.items()
    }
    yield loaded
    for model in loaded.values():
        model.close()


@pytest.fixture(scope="session")
def speech_checkpoints(workspace: Path) -> dict[str, Path]:
    """A tiny float32 checkpoint of each layout of the autoregressive model."""
    from tests.speech import LAYOUTS, make

    return {layout: make(workspace / f"speech-{layout}", layout) for layout in LAYOUTS}


@pytest.fixture(scope="session")
def speech_files(speech_checkpoints: dict[str, Path]) -> dict[str, Path]:
    """Each of them converted to float32."""
    from granite_gguf.converters import convert

    return {
        layout: convert(directory, directory.with_suffix(".gguf"), outtype="f32").path
        for layout, directory in speech_checkpoints.items()
    }


@pytest.fixture(scope="session")
def audio_file(workspace: Path) -> Path:
    """Three seconds of synthetic audio as a WAV file."""
    import soundfile

    from tests.signals import synthetic_audio

    path = workspace / "three seconds.wav"
    soundfile.write(path, synthetic_audio(48_000, seed=3), 16_000, subtype="FLOAT")
    return path
