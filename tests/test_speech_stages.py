"""The stages of the autoregressive model against what transformers' own classes computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from granite_gguf.arrays import AnyArray, Rows
from granite_gguf.converters import convert
from granite_gguf.ctc import collapse
from granite_gguf.errors import InputError
from granite_gguf.ggml import F16, F32
from granite_gguf.graph.layers import FEW_QUERIES
from granite_gguf.quantize import quantize
from granite_gguf.speech import language
from granite_gguf.speech.drafts import MOST_GUESSED
from granite_gguf.speech.greedy import ALIKE, End, Step
from granite_gguf.speech.stages import SpeechStages
from tests.kernels import NAMES
from tests.parity import assert_same_rows
from tests.signals import synthetic_audio
from tests.speech import (
    AROUND,
    AUDIO_SEED,
    EXPECTED,
    FORCED,
    FRAMES,
    LAYOUTS,
    ROWS,
    SAID,
    SAMPLES,
    cases,
    features,
    some,
    stages_of,
)

SCALE = 8.0  # what transformers' class leaves out
CLOSE = {F32: 1e-5, F16: 2e-3}  # of logits that reach 1: float32 in another order, and its cache


@pytest.fixture(scope="module")
def models(speech_files: dict[str, Path]) -> Iterator[dict[str, SpeechStages]]:
    with ExitStack() as stack:
        yield {layout: stack.enter_context(stages_of(speech_files[layout])) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def base(models: dict[str, SpeechStages]) -> SpeechStages:
    return models["base"]


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, AnyArray]]:
    found = {}
    for layout in LAYOUTS:
        with np.load(EXPECTED / f"{layout}.npz") as file:
            found[layout] = dict(file)
    return found


def prompt(model: SpeechStages, layout: str, n_samples: int) -> npt.NDArray[np.float32]:
    mel = model.compute_mel(synthetic_audio(n_samples, AUDIO_SEED))
    return model.prompt(model.run_projector(model.run_encoder(mel).captured), AROUND[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_expected_is_what_transformers_computes(
    layout: str, speech_checkpoints: dict[str, Path], expected: dict[str, dict[str, AnyArray]]
) -> None:
    pytest.importorskip("transformers.models.granite_speech_plus")
    for name, array in cases(speech_checkpoints[layout], layout):
        np.testing.assert_allclose(array, expected[layout][name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("n_samples", SAMPLES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_stage(
    models: dict[str, SpeechStages],
    expected: dict[str, dict[str, AnyArray]],
    layout: str,
    n_samples: int,
) -> None:
    check_stages(models[layout], expected, layout, n_samples)


@pytest.mark.parametrize("kernels", NAMES)
def test_every_kernel(
    speech_files: dict[str, Path], expected: dict[str, dict[str, AnyArray]], kernels: str
) -> None:
    with stages_of(speech_files["plus"], kernels) as model:
        check_stages(model, expected, "plus", 16_000)


def check_stages(
    model: SpeechStages,
    expected: dict[str, dict[str, AnyArray]],
    layout: str,
    n_samples: int,
) -> None:
    wanted = {
        name.partition("_")[2]: array
        for name, array in expected[layout].items()
        if name.startswith(f"{n_samples}_")
    }
    mel = model.compute_mel(synthetic_audio(n_samples, AUDIO_SEED))
    np.testing.assert_array_equal(mel, features(n_samples))
    encoded = model.run_encoder(mel).captured
    assert_same_rows("encoder", some(encoded, FRAMES), wanted["encoder"])
    audio = model.run_projector(encoded)
    assert len(audio) == wanted["rows"]
    assert_same_rows("projector", some(audio, ROWS), wanted["projector"])
    rows = model.prompt(audio, AROUND[layout])
    assert len(rows) == wanted["prompt"]
    logits = model.logits(rows, np.array(FORCED))
    np.testing.assert_allclose(some(logits, ROWS), wanted["logits"] / SCALE, atol=CLOSE[F32])
    (said,) = model.generate([rows], [SAID])
    assert said.tokens == tuple(wanted["said"]) and said.end is End.BUDGET


def test_a_cache_of_f16(
    speech_files: dict[str, Path], expected: dict[str, dict[str, AnyArray]]
) -> None:
    with stages_of(speech_files["base"], cache=F16) as model:
        rows = prompt(model, "base", 16_000)
        logits = some(model.logits(rows, np.array(FORCED)), ROWS)
        (said,) = model.generate([rows], [SAID])
    wanted = expected["base"]["16000_logits"] / SCALE
    np.testing.assert_allclose(logits, wanted, atol=CLOSE[F16])
    assert np.abs(logits - wanted).max() > CLOSE[F32]
    assert said.tokens == tuple(expected["base"]["16000_said"])


def test_recordings_together_get_what_each_gets_alone(
    base: SpeechStages, expected: dict[str, dict[str, AnyArray]]
) -> None:
    mels = Rows.of([features(n) for n in SAMPLES])
    audio = base.run_projector(base.run_encoder(mels).captured)
    prompts = [base.prompt(part, AROUND["base"]) for part in audio]
    guesses = [None, np.array([289, 155, 472]), np.array([1, 2]), None]
    said = base.generate(prompts, [SAID, 9, SAID, SAID], guesses)
    for n, (text, most) in enumerate(zip(said, [SAID, 9, SAID, SAID], strict=True)):
        assert text.tokens == tuple(expected["base"][f"{SAMPLES[n]}_said"][:most])


def test_nobody_waits_for_a_text(
    base: SpeechStages, expected: dict[str, dict[str, AnyArray]]
) -> None:
    """It is given up between tokens; the others go on."""
    rows = prompt(base, "base", 16_000)
    asked: list[int] = []

    def unwanted(n: int) -> bool:
        asked.append(n)
        return n == 1 and asked.count(1) > 3

    wanted, given_up = base.generate([rows, rows], [SAID, SAID], unwanted=unwanted)
    assert wanted.tokens == tuple(expected["base"]["16000_said"])
    assert given_up.end is End.UNWANTED and asked.count(1) == 4 and asked.count(0) == SAID


def test_the_draft_head_is_read_as_in_the_nar_model(base: SpeechStages) -> None:
    """By hand: frames weigh by how little blank they are, in windows of four."""
    encoded = base.run_encoder(features(16_000))
    weight, bias = (base.file.read(f"enc.bpe_out.{part}") for part in ("weight", "bias"))
    final, speech = encoded.final, 1.0 - encoded.blank
    pooled = np.array(
        [
            (final[a : a + 4] * speech[a : a + 4, None]).sum(0) / (speech[a : a + 4].sum() + 1e-8)
            for a in range(0, len(final), 4)
        ]
    )
    labels = (pooled @ weight.T + bias).argmax(1)
    tokens = base.read_hypothesis(base.run_hypothesis_head(encoded.final, encoded.blank).ids)
    assert tokens.tolist() == (collapse(labels, 0) - 1).tolist() != []
    together = base.run_hypothesis_head(
        Rows.of([encoded.final, encoded.final[:9]]), Rows.of([encoded.blank, encoded.blank[:9]])
    )
    assert base.read_hypothesis(together.ids)[0].tolist() == tokens.tolist()


def test_a_file_without_a_draft_head(speech_files: dict[str, Path]) -> None:
    with stages_of(speech_files["plus"]) as model:
        encoded = model.run_encoder(features(320))
        with pytest.raises(InputError, match="has no BPE head"):
            model.run_hypothesis_head(encoded.final, encoded.blank)


def test_bad_input(base: SpeechStages) -> None:
    with pytest.raises(InputError, match="below the vocabulary size 601"):
        base.embed(np.array([3, 601]))
    with pytest.raises(InputError, match=r"captured has the shape \(2, 65\)"):
        base.run_projector(np.zeros((2, 65), np.float32))
    with pytest.raises(InputError, match=r"audio has the shape \(0, 64\)"):
        base.prompt(np.zeros((0, 64), np.float32), ("a", "b"))


def test_a_closed_model(speech_files: dict[str, Path]) -> None:
    with stages_of(speech_files["base"]) as model:
        rows = prompt(model, "base", 320)
        model.close()
        with pytest.raises(InputError, match="is closed"):
            model.generate([rows], [1])


def no_mask(positions: AnyArray, keys: int) -> AnyArray:
    seen = np.arange(keys) <= positions.max()  # of the whole prompt, as a bidirectional model does
    return np.where(seen, 0.0, -np.inf).astype(np.float16)[None].repeat(len(positions), 0)


MISTAKES: dict[str, Callable[[SpeechStages, pytest.MonkeyPatch], Any]] = {
    "no causal mask": lambda _, patch: patch.setattr(language, "causal_mask", no_mask),
    "audio rows divided, as the NAR model's": lambda model, patch: patch.setattr(
        SpeechStages,
        "run_projector",
        lambda self, x, run=SpeechStages.run_projector: run(self, x) / np.float32(12),
    ),
    "positions from one": lambda _, patch: patch.setattr(
        language, "_inputs", _later(language._inputs)
    ),
}


def _later(make_inputs: Callable[..., dict[str, AnyArray]]) -> Callable[..., dict[str, AnyArray]]:
    def inputs(recordings: Any, starts: Any, rows: Any) -> dict[str, AnyArray]:
        return make_inputs(recordings, [start + (start > 0) for start in starts], rows)

    return inputs


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_show(
    base: SpeechStages,
    expected: dict[str, dict[str, AnyArray]],
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[SpeechStages, pytest.MonkeyPatch], Any],
) -> None:
    mistake(base, monkeypatch)
    logits = some(base.logits(prompt(base, "base", 16_000), np.array(FORCED)), ROWS)
    assert np.abs(logits - expected["base"]["16000_logits"] / SCALE).max() > 10 * CLOSE[F32]


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_rows_are_the_same_alone_and_in_company(
    speech_checkpoints: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """With our kernels, to the last bit: so drafts and batches change no token."""
    outtype = "f16" if kind == "q8_0" else kind
    path = convert(speech_checkpoints["base"], tmp_path / "base.gguf", outtype=outtype).path
    if kind == "q8_0":
        path = quantize(path, tmp_path / "smaller.gguf", kind).path
    tokens = list(np.random.default_rng(0).integers(0, 600, 33))
    with stages_of(path, cache=F16) as model:
        rows, text = prompt(model, "base", 16_000), model._language
        if text._clear != ALIKE:
            pytest.skip("none of our kernels multiply here")
        assert len(tokens) == MOST_GUESSED + 1 <= FEW_QUERIES
        ((first,),) = text._begin([rows], [64], [()])
        alone = [text._step({0: Step(n, (t,))})[0][0] for n, t in enumerate(tokens)]
        for guessed in (1, 32):  # in the prompt's pass
            found = text._begin([rows[:-5], rows], [64, 64], [tokens[:7], tokens[:guessed]])[1]
            np.testing.assert_array_equal(found, [first, *alone[:guessed]])
        for together in (2, 33):
            text.begin([rows, rows[:-5]], [64, 64])
            found = []
            for n in range(0, len(tokens), together):
                step = Step(n, tuple(tokens[n : n + together]))
                found += [*text._step({0: step, 1: Step(0, (7,))})[0]]
            np.testing.assert_array_equal(found, alone)
