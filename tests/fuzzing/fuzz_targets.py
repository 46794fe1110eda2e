"""What is done with a damaged file, by its kind: models, reference files, importance matrices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import granite_gguf
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert
from granite_gguf.errors import GraniteError
from granite_gguf.parity.diff import diff_model, record
from granite_gguf.quantize import collect_importance, quantize
from granite_gguf.recorded.file import architecture, read_reference, write_reference
from tests.support.dialect_file import (
    ARCHITECTURE,
    dialect_metadata,
    dialect_tensors,
    write_dialect_file,
)
from tests.support.make_checkpoint import make_checkpoint

SAMPLES = 4000  # a quarter of a second
MESSAGE_LIMIT = 4000

Attempt = Callable[[Path], str]
"""Tries a file: ``refused``, ``not run`` or ``ran``; only the package's errors are caught."""


def signal_samples() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(SAMPLES)).astype(np.float32)


def sound_model(directory: Path, layout: str, dialect: str = "granite_nle") -> Path:
    """The tiny model."""
    path, source = directory / f"{layout}.gguf", directory / layout
    make_checkpoint(source, layout=layout, size="tiny", seed=0, dtype="f32")
    if dialect == ARCHITECTURE:
        return write_dialect_file(path, dialect_metadata(source), dialect_tensors(source))
    convert(source, path, outtype="f32")
    return path


def _sound_reference(model: Path) -> Path:
    path = model.with_suffix(".reference")
    with granite_gguf.load(model, threads=1, device="cpu") as loaded:
        recorded = record(loaded, signal_samples())
    write_reference(path, recorded, backend="ggml", model_dir="tiny", about={"dtype": "f32"})
    return path


def _sound_importance(model: Path) -> Path:
    path = model.with_suffix(".imatrix")
    with granite_gguf.load(model, threads=1, device="cpu") as loaded:
        collect_importance(loaded, [signal_samples()], path, datasets=["noise", "more noise"])
    return path


def check_message(error: GraniteError) -> None:
    """Refuse messages that repeat a damaged file, or whose control characters reach a terminal."""
    text = str(error)
    if len(text) > MESSAGE_LIMIT or not text.isprintable():
        raise AssertionError(f"a message of {len(text)} characters: {text[:80]!a}") from error


def _model_attempt(_stack: ExitStack, _model: Path) -> Attempt:
    return lambda path: try_file(path, signal_samples())


def try_file(path: Path, samples: np.ndarray) -> str:
    """Load a model and transcribe."""
    stage = "refused"
    try:
        with granite_gguf.load(path, threads=1, device="cpu") as model:
            stage = "not run"
            model.transcribe(samples)
    except GraniteError as error:
        check_message(error)
        return stage
    return "ran"


def _reference_attempt(stack: ExitStack, model: Path) -> Attempt:
    """Read a reference and judge a model by it, as ``diff`` does."""
    loaded = stack.enter_context(granite_gguf.load(model, threads=1, device="cpu"))
    samples = signal_samples()

    def attempt(path: Path) -> str:
        stage = "refused"
        try:
            architecture(path)
            recorded = read_reference(path)
            stage = "not run"
            for result in diff_model(loaded, recorded, samples):
                str(result)
        except GraniteError as error:
            check_message(error)
            return stage
        return "ran"

    return attempt


def _importance_attempt(_stack: ExitStack, model: Path) -> Attempt:
    """Quantize with an importance matrix."""
    file = open_model_file(model)

    def attempt(path: Path) -> str:
        output = path.with_suffix(".quantized")
        output.unlink(missing_ok=True)
        try:
            quantize(file.path, output, quant="q4_0", imatrix=path, threads=1)
            open_model_file(output)
        except GraniteError as error:
            check_message(error)
            return "refused"
        return "ran"

    return attempt


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        sound: writes an undamaged one beside a model.
        attempt: makes what tries a damaged one; the stack closes what that holds.
    """

    sound: Callable[[Path], Path]
    attempt: Callable[[ExitStack, Path], Attempt]


TARGETS = {
    "model": Target(lambda model: model, _model_attempt),
    "reference": Target(_sound_reference, _reference_attempt),
    "imatrix": Target(_sound_importance, _importance_attempt),
}
