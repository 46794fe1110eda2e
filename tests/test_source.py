"""What a recording may be given as: all forms of the same one are the same samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from granite_gguf import AudioError, InputError, InputTypeError, Model
from granite_gguf.sound.source import Source
from tests.signals import synthetic_audio

# Values that int16 and float16 hold exactly.
STEPS = (np.arange(-32768, 32768, 64, np.int32) // 64 * 64).astype(np.int16)
EXACT = STEPS.astype(np.float32) / 32768


class Tensor:
    """As much of a torch tensor as numpy looks at."""

    def __init__(self, values: np.ndarray, problem: str = "") -> None:
        self.values, self.problem = values, problem

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.problem:
            raise TypeError(self.problem)
        return self.values


@pytest.mark.parametrize(
    "given",
    [
        EXACT,
        EXACT.astype(np.float16),
        EXACT.astype(np.float64),
        STEPS,
        STEPS.astype(np.int32) * 65536,
        EXACT.tolist(),
        tuple(EXACT.tolist()),
        EXACT[None],
        EXACT[:, None],
        np.stack([EXACT, EXACT], axis=1),
        [EXACT.tolist()],
        Tensor(EXACT),
        Tensor(EXACT[None]),
        {"array": EXACT, "sampling_rate": 16000, "path": None},
        {"array": EXACT.tolist(), "sampling_rate": 16000, "path": "gone.wav"},
        {"array": STEPS},
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'dtype', '')}",
)
def test_the_same_samples(given: Any) -> None:
    np.testing.assert_array_equal(Source.of(given).load(16000), EXACT)


def test_the_same_file(audio_file: Path) -> None:
    content = audio_file.read_bytes()
    expected = soundfile.read(audio_file, dtype="float32")[0]
    for given in (
        audio_file,
        str(audio_file),
        content,
        bytearray(content),
        memoryview(content),
        io.BytesIO(content),
        {"path": str(audio_file)},
        {"bytes": content, "path": "gone.wav"},
        {"bytes": None, "path": str(audio_file)},
    ):
        np.testing.assert_array_equal(Source.of(given).load(16000), expected)
    with audio_file.open("rb") as file:
        np.testing.assert_array_equal(Source.of(file).load(16000), expected)


def test_a_torch_tensor() -> None:
    torch = pytest.importorskip("torch")
    for given in (torch.tensor(EXACT), torch.tensor(EXACT)[None], torch.tensor(STEPS)):
        np.testing.assert_array_equal(Source.of(given).load(16000), EXACT)
    for given in (
        torch.tensor(EXACT, requires_grad=True),
        torch.tensor(EXACT, dtype=torch.bfloat16),
        torch.zeros(3, device="meta"),
    ):
        with pytest.raises(InputError, match=r"Tensor'> cannot be read by numpy: \w"):
            Source.of(given)


def test_a_dict_has_its_own_rate(models: dict[str, Model]) -> None:
    samples = synthetic_audio(8000, seed=1)
    given = {"array": samples, "sampling_rate": 8000}
    model = models["nle"]
    assert model.transcribe(given).duration == 1.0
    (event,) = model.transcribe_many([given], sample_rate=16000)
    assert not isinstance(event, Exception) and event.duration == 1.0
    np.testing.assert_array_equal(
        model.load_audio(given), model.load_audio(samples, sample_rate=8000)
    )
    with pytest.raises(InputError, match="sample_rate is 16000, and the dict's sampling_rate 8000"):
        model.transcribe(given, sample_rate=16000)


@pytest.mark.parametrize("given", [None, 3, 0.5, object(), {1, 2}, range(3), iter([0.5])])
def test_anything_else_names_what_is_taken(models: dict[str, Model], given: Any) -> None:
    """Once, with nothing behind it, and as the TypeError and the ValueError that it is."""
    for call in (
        lambda: models["nle"].transcribe(given),
        lambda: list(models["nle"].transcribe_many([given])),
        lambda: models["nle"].load_audio(given),
    ):
        with pytest.raises(
            InputTypeError, match=r"audio is .*, expected a file's path.*'path'$"
        ) as e:
            call()
        assert isinstance(e.value, (TypeError, ValueError))
        assert e.value.__cause__ is e.value.__context__ is None


@pytest.mark.parametrize(
    "given, kind, said",
    [
        (io.StringIO("text"), InputTypeError, r"opened for text: open it for bytes"),
        ({}, InputError, r"the dict has \[\], expected 'array' and 'sampling_rate'"),
        ({"audio": EXACT}, InputError, r"the dict has \['audio'\]"),
        ([[0.5, 0.5], [0.5]], InputError, r"'list'> cannot be read by numpy"),
        (Tensor(EXACT, "it is on cuda:0"), InputError, r"cannot be read by numpy: it is on cuda:0"),
        (b"", AudioError, r"it is empty"),
        (b"no audio", AudioError, r"cannot be read as audio"),
    ],
)
def test_what_cannot_be_read(given: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        Source.of(given).load(16000)


@pytest.mark.parametrize(
    "samples, said",
    [
        (STEPS.astype(np.int64), "samples are int64, expected floats in .* or int16 or int32"),
        (STEPS.astype(np.int8), "samples are int8, expected"),
        (STEPS.astype(np.uint8), "samples are uint8, expected"),
        ([0, 1, -1], "samples are int64, expected"),
        (EXACT > 0, "samples are bool, expected"),
        (["a", "b"], "samples are <U1, expected"),
        (np.float32(0.5), r"samples have the shape \(\), expected \(n,\)"),
        (np.zeros((2, 5000), np.float32), r"transpose samples that are \(channels, n\)"),
        (STEPS.astype(np.float32), "samples reach 32768, expected floats in .* give them as int16"),
        (STEPS.astype(np.float64) / 1000, "samples reach 32.768"),
    ],
)
def test_samples_that_mean_something_else(
    models: dict[str, Model], samples: Any, said: str
) -> None:
    with pytest.raises(AudioError, match=said):
        models["nle"].transcribe(samples)


def test_samples_somewhat_too_loud_are_taken() -> None:
    assert Source.of(EXACT * 4).load(16000).max() > 3.9
