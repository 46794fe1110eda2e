"""Times a model's stages and compares them with the floor of their matrix products."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from granite_gguf.arrays import FloatArray
from granite_gguf.bench.floor import Floor, measure_floor
from granite_gguf.cuda.gpu import names_gpu
from granite_gguf.errors import InputError
from granite_gguf.ggml import ProductShape, Runtime
from granite_gguf.memory import peak_resident
from granite_gguf.model import Model, load
from granite_gguf.transcript import Decoding

_WITHOUT_PRODUCTS = frozenset({"audio", "features"})  # stages that multiply no weights


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of a stage over several runs, and the least that its products need.

    ``floor`` is None where it was not measured, or depends on what is said; ``ratio`` is
    ``minimum / floor``. ``peak`` is what they would take at the most that the processor can do,
    None where that is not known.
    """

    minimum: float
    median: float
    floor: float | None = None
    ratio: float | None = None
    peak: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What :func:`measure` finds.

    Attributes:
        model: path of the file.
        device: what computed, as ggml describes it.
        threads: CPU threads.
        precision: ``exact`` or ``fast``.
        kernels: number of matrices by stage and kernel.
        duration: seconds of audio.
        load: seconds until the model was ready.
        stages: by stage; ``whole`` is the sum of them and of the front end.
        real_time_factor: seconds of audio in a second, by the median of the whole.
        peak_memory: resident bytes at the highest, after loading and all runs; 0 where the system
            does not tell.
        file_size: bytes.
        text_rows: rows of the editor, the slots included; None where there were several passes, or
            nothing is edited.
        repeats: runs that were timed, after one that was not.
        tokens: of the text.
        decoding: what it took to write them, where that is done token by token.
    """

    model: str
    device: str
    threads: int
    precision: str
    kernels: dict[str, dict[str, int]]
    duration: float
    load: float
    stages: dict[str, StageSeconds]
    real_time_factor: float
    peak_memory: int
    file_size: int
    text_rows: int | None
    repeats: int
    tokens: int
    decoding: Decoding | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def measure(
    path: Path,
    audio: str | Path | FloatArray,
    *,
    threads: int | None = None,
    device: str = "auto",
    precision: str = "exact",
    cache: str = "f16",
    low_memory: bool = False,
    kernels: str = "auto",
    repeats: int = 5,
    with_floor: bool = True,
    report: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Load a model, transcribe a recording several times, and measure the products' floor.

    Args:
        path: the GGUF file.
        audio: a file, or mono samples at the model's rate.
        threads: CPU threads; by default one for each available core.
        device: as in :func:`granite_gguf.load`.
        precision: as in :func:`granite_gguf.load`.
        cache: as in :func:`granite_gguf.load`.
        low_memory: as in :func:`granite_gguf.load`.
        kernels: as in :func:`granite_gguf.load`; the floor is that of the best ones there are.
        repeats: runs that are timed.
        with_floor: whether to measure the floor, which takes some seconds to a minute.
        report: called with how many kinds of products are done and how many there are.

    Raises:
        AudioError: the audio cannot be read, or is under one frame long.
        ModelFileError: the model cannot be read.
    """
    started = time.perf_counter()
    with load(
        path,
        threads=threads,
        device=device,
        precision=precision,
        cache=cache,
        low_memory=low_memory,
        kernels=kernels,
    ) as model:
        loaded = time.perf_counter() - started
        # Also of a text that one would rather be without it is told how it was written.
        transcribe = partial(model.transcribe, audio, editor="always", min_confidence=0)
        passes = len(transcribe().segments)
        if with_floor and passes > 1:
            raise InputError(
                f"the recording needs {passes} passes, and the floor is that of one: time a "
                "shorter one, or do without the floor"
            )
        runs = [transcribe() for _ in range(repeats)]
        memory = peak_resident()
        floors: dict[str, Floor] = {}
        # What our kernels on a GPU multiply is not counted.
        counted = passes == 1 and not names_gpu(model.device.name)
        products, text_rows = count_products(model, audio) if counted else (None, None)
        if with_floor and products is not None:
            runtime = Runtime(model.device.name, model.threads)
            try:
                floors = measure_floor(runtime, products, report=report)
            finally:
                runtime.close()
            if runs[0].timings.keys() - _WITHOUT_PRODUCTS <= floors.keys():
                floors["whole"] = _whole(list(floors.values()))
        seconds = {stage: [run.timings[stage] for run in runs] for stage in runs[0].timings}
        seconds["whole"] = [sum(run.timings.values()) for run in runs]
        return Measurement(
            model=str(path),
            device=model.device.description,
            threads=model.threads,
            precision=str(precision),
            kernels=model.kernels,
            duration=runs[0].duration,
            load=loaded,
            stages={name: _stage(spent, floors.get(name)) for name, spent in seconds.items()},
            real_time_factor=runs[0].duration / median(seconds["whole"]),
            peak_memory=memory,
            file_size=path.stat().st_size,
            text_rows=text_rows,
            repeats=repeats,
            tokens=len(runs[0].token_ids),
            decoding=runs[0].decoding,
        )


def _stage(spent: list[float], floor: Floor | None) -> StageSeconds:
    if floor is None or not floor.seconds:  # not measured, or nothing is multiplied
        return StageSeconds(min(spent), median(spent))
    ratio = min(spent) / floor.seconds
    return StageSeconds(min(spent), median(spent), floor.seconds, ratio, floor.peak)


def _whole(stages: list[Floor]) -> Floor:
    peaks = [stage.peak for stage in stages if stage.peak is not None]
    peak = sum(peaks) if len(peaks) == len(stages) else None
    flops = sum(stage.flops for stage in stages)
    return Floor(flops, sum(stage.seconds for stage in stages), peak, {})


def count_products(
    model: Model, audio: str | Path | FloatArray
) -> tuple[dict[str, Counter[ProductShape]], int | None]:
    """The matrix products of each stage, and how many rows of text are edited."""
    counted: dict[str, Counter[ProductShape]] = {}
    running = model.stages.in_turn(model.load_audio(audio))
    with ExitStack() as watching:
        while True:
            try:
                stage = next(running)
            except StopIteration as over:
                if counted:
                    return counted, over.value
                raise InputError(
                    "the audio is shorter than one frame of 20 ms: there is nothing to time"
                ) from None
            watching.close()
            counted[stage] = watching.enter_context(model.observe_products())
