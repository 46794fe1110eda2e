"""`diff` of the autoregressive model: against PyTorch's files, and a fault at its own stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from granite_gguf import ComparisonError
from granite_gguf.arrays import AnyArray, FloatArray
from granite_gguf.cli import app
from granite_gguf.converters import convert
from granite_gguf.ggml import F16, F32, GGMLType
from granite_gguf.parity import Recorded, diff_model, read_reference, record, write_reference
from granite_gguf.sound import features
from granite_gguf.speech import language, parity, qformer
from granite_gguf.speech.language import Language
from granite_gguf.speech.spec import FrontEnd
from granite_gguf.speech.stages import SpeechStages
from tests.commands import assert_refused, run
from tests.gguf_editing import rewrite
from tests.signals import synthetic_audio
from tests.speech import AUDIO_SEED, LAYOUTS, stages_of
from tests.speech_references import SAMPLES, reference_path, torch_reference
from tests.test_speech_convert import edited
from tests.test_speech_stages import no_mask

LAYERS = [f"encoder_layer_{k}" for k in range(5)]
ENCODER = {*LAYERS, "encoder_output", "encoder_logits"}
STEPS = {"step_logits"}
LANGUAGE = {"prefill_logits", *STEPS}
# Best ids may survive a fault or not, and what runs end to end may show any.
TOLERATED = {"step_logits_top1", "generated_ids", "transcribe"}
ALL = {*ENCODER, *LANGUAGE, *TOLERATED, "mel_spectrogram", "projector_output"}

FLOAT, STRING = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING
BOOL = gguf.GGUFValueType.BOOL


@pytest.fixture(scope="module")
def samples() -> FloatArray:
    return synthetic_audio(SAMPLES, AUDIO_SEED)


@pytest.fixture(scope="module")
def references() -> dict[str, Recorded]:
    """Of PyTorch, as they are committed."""
    return {layout: read_reference(reference_path(layout)) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def models(speech_files: dict[str, Path]) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        yield {layout: stack.enter_context(stages_of(speech_files[layout])) for layout in LAYOUTS}


def failing(model: Any, recorded: Recorded, samples: FloatArray) -> set[str]:
    return {stage.name for stage in diff_model(model, recorded, samples) if not stage.passed}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_committed_files_are_what_pytorch_computes(
    layout: str, speech_checkpoints: dict[str, Path], references: dict[str, Recorded]
) -> None:
    pytest.importorskip("torch")
    computed, expected = torch_reference(speech_checkpoints[layout]), references[layout]
    assert computed.arrays.keys() == expected.arrays.keys()
    for name, array in computed.arrays.items():
        np.testing.assert_allclose(array, expected.arrays[name], atol=2e-5, err_msg=name)
    for name, ids in computed.ids.items():
        assert ids.tolist() == expected.ids[name].tolist(), name
    assert computed.texts == expected.texts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_stage_is_pytorchs(
    layout: str, models: dict[str, Any], references: dict[str, Recorded], samples: FloatArray
) -> None:
    results = diff_model(models[layout], references[layout], samples)
    assert {stage.name for stage in results} == ALL
    assert all(stage.passed and not stage.notes for stage in results), results
    limits = {stage.name: stage.threshold for stage in results}
    assert limits["step_logits"] == limits["encoder_output"] == 0.999999
    assert limits["generated_ids"] == 1.0


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16"])
def test_the_rounding_of_a_type_is_no_fault(
    outtype: str,
    speech_checkpoints: dict[str, Path],
    references: dict[str, Recorded],
    samples: FloatArray,
    tmp_path: Path,
) -> None:
    """Nor that of a cache in F16. What a tiny random model says turns on near ties."""
    path = convert(speech_checkpoints["lora"], tmp_path / "rounded.gguf", outtype=outtype).path
    with stages_of(path, cache=F16) as model:
        assert failing(model, references["lora"], samples) <= TOLERATED


# Faults in files


def key(name: str, value: Any, kind: gguf.GGUFValueType) -> dict[str, Any]:
    return {"replace": {f"granite_speech.{name}": (value, kind)}}


def flip(tensor: str) -> dict[str, Any]:
    """Turns the sign of a tensor's largest number."""

    def edit(name: str, array: AnyArray) -> AnyArray:
        if name == tensor:
            array = array.copy()
            array.reshape(-1)[np.abs(array).argmax()] *= -1
        return array

    return {"edit": edit}


FAULTS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "mel filter": ("base", flip("audio.mel_filters"), {"mel_spectrogram"}),
    "encoder input": ("base", flip("enc.input.weight"), ENCODER),
    "encoder block 3": ("plus", flip("enc.blk.2.ff1_up.weight"), ENCODER - set(LAYERS[:3])),
    "self-conditioning early": (
        "base",
        key("enc.self_conditioning_layer", 1, gguf.GGUFValueType.UINT32),
        ENCODER - {LAYERS[0]},
    ),
    "a capture early": ("plus", key("proj.cat_layers", "2", STRING), {"encoder_output"}),
    "a capture late": ("plus", key("proj.cat_layers", "4", STRING), {"encoder_output"}),
    "projector query": ("base", flip("proj.query"), {"projector_output"}),
    "layer norm epsilon": ("base", key("proj.layer_norm_eps", 1e-2, FLOAT), {"projector_output"}),
    "embedding multiplier": ("base", key("llm.embedding_multiplier", 1.0, FLOAT), LANGUAGE),
    "attention scale": ("base", key("llm.attention_multiplier", 0.25, FLOAT), LANGUAGE),
    "rotary base": ("base", key("llm.rope_theta", 100.0, FLOAT), LANGUAGE),
    "logits undivided": ("plus", key("llm.apply_logits_scaling", False, BOOL), LANGUAGE),
    "language model weight": ("lora", flip("blk.1.ffn_down.weight"), LANGUAGE),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_file(
    fault: str,
    speech_files: dict[str, Path],
    references: dict[str, Recorded],
    samples: FloatArray,
    tmp_path: Path,
) -> None:
    layout, changes, expected = FAULTS[fault]
    with stages_of(rewrite(speech_files[layout], tmp_path / "faulty.gguf", **changes)) as model:
        found = failing(model, references[layout], samples)
    assert expected <= found <= expected | TOLERATED


def test_an_adapter_left_out(
    speech_checkpoints: dict[str, Path],
    references: dict[str, Recorded],
    samples: FloatArray,
    tmp_path: Path,
) -> None:
    bare = edited(speech_checkpoints["lora"], tmp_path / "bare", has_lora_adapter=False)
    with stages_of(convert(bare, tmp_path / "bare.gguf", outtype="f32").path) as model:
        found = failing(model, references["lora"], samples)
    assert LANGUAGE <= found <= LANGUAGE | TOLERATED


def test_the_projectors_own_epsilon(
    speech_files: dict[str, Path], samples: FloatArray, tmp_path: Path
) -> None:
    """1e-5 in place of 1e-12 shows where there is little that it is added to."""

    def edit(name: str, array: AnyArray) -> AnyArray:
        return array * np.float32(1e-3) if name == "proj.query" else array

    quiet = rewrite(speech_files["base"], tmp_path / "quiet.gguf", edit=edit)
    with stages_of(quiet) as model:
        recorded = record(model, samples)
    changes = key("proj.layer_norm_eps", 1e-5, FLOAT)
    with stages_of(rewrite(quiet, tmp_path / "faulty.gguf", **changes)) as model:
        found = failing(model, recorded, samples)
    assert {"projector_output"} <= found <= {"projector_output", "transcribe"}


# Faults in the code


def _audio_rows_times(factor: float) -> Callable[[pytest.MonkeyPatch], None]:
    rows = SpeechStages.prompt_rows

    def fault(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            SpeechStages,
            "prompt_rows",
            lambda self, ids, audio: rows(self, ids, audio * np.float32(factor)),
        )

    return fault


def _queries_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = qformer.layer_norm
    monkeypatch.setattr(
        qformer,
        "layer_norm",
        lambda w, name, x, eps: x if name == "proj.ln" else norm(w, name, x, eps),
    )


def _norm_behind_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = qformer.linear

    def normed(w: Any, name: str, x: Any, *more: Any) -> Any:
        if name == "proj.linear":
            x = qformer.layer_norm(w, "proj.ln", x, 1e-12)
        return linear(w, name, x, *more)

    monkeypatch.setattr(qformer, "linear", normed)


def _positions_of_steps(by: int) -> Callable[[pytest.MonkeyPatch], None]:
    """What is said stands that much later than behind what was before it."""
    inputs = language._inputs

    def fault(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            language,
            "_inputs",
            lambda recordings, starts, rows: inputs(
                recordings, [start + by * (start > 0) for start in starts], rows
            ),
        )

    return fault


def _zeros_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pad = np.pad
    monkeypatch.setattr(features.np, "pad", lambda x, width, mode: pad(x, width))


def _cut_before_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrontEnd, "cut_after_maximum", False)


CODE_FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], set[str]]] = {
    "frames of the other front end": (_cut_before_the_maximum, {"mel_spectrogram"}),
    "zeros at the ends": (_zeros_at_the_ends, {"mel_spectrogram"}),
    "a norm behind the queries' layers": (_norm_behind_the_layers, {"projector_output"}),
    "queries not normalised": (_queries_as_they_are, {"projector_output"}),
    "audio rows unscaled": (_audio_rows_times(1 / 12), LANGUAGE),
    "audio rows scaled twice": (_audio_rows_times(12), LANGUAGE),
    "no causal mask": (
        lambda monkeypatch: monkeypatch.setattr(language, "causal_mask", no_mask),
        LANGUAGE,
    ),
    "a position late": (_positions_of_steps(1), STEPS),
    "a position early": (_positions_of_steps(-1), STEPS),
}


@pytest.mark.parametrize("fault", CODE_FAULTS)
def test_a_fault_in_the_code(
    fault: str,
    models: dict[str, Any],
    references: dict[str, Recorded],
    samples: FloatArray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_in, expected = CODE_FAULTS[fault]
    put_in(monkeypatch)
    found = failing(models["base"], references["base"], samples)
    assert expected <= found <= expected | TOLERATED


def test_as_many_audio_rows_as_the_other_model_has(
    models: dict[str, Any],
    references: dict[str, Recorded],
    samples: FloatArray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T // 5 of them, which is another shape, and not what the prompt has room for."""
    run = SpeechStages.run_projector
    monkeypatch.setattr(
        SpeechStages, "run_projector", lambda self, states: run(self, states)[: len(states) // 5]
    )
    results = diff_model(models["base"], references["base"], samples)
    notes = {stage.name: stage.notes for stage in results if not stage.passed}
    assert notes == {
        "projector_output": ("the shape is 3 x 64, the reference's 6 x 64",),
        "transcribe": ("3 audio rows, the reference's prompt has 6",),
    }


def test_a_cache_of_another_recording(
    speech_files: dict[str, Path],
    references: dict[str, Recorded],
    samples: FloatArray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps behind a longer prompt of before, whose keys and values are still there."""
    with stages_of(speech_files["base"]) as model:
        longer = model.embed(np.arange(200))
        model.logits(longer, np.array([], np.int64))
        begin = Language._begin

        def stale(self: Language, prompts: Any, *asked: Any) -> list[FloatArray]:
            logits = begin(self, prompts, *asked)
            self._lengths = [len(longer)] * len(prompts)
            return logits

        monkeypatch.setattr(Language, "_begin", stale)
        found = failing(model, references["base"], samples)
    assert found >= STEPS and found <= STEPS | TOLERATED


# The command


@pytest.mark.slow
def test_command(speech_files: dict[str, Path], samples: FloatArray, tmp_path: Path) -> None:
    wav, reference = tmp_path / "speech.wav", reference_path("plus")
    soundfile.write(wav, samples, 16_000, subtype="FLOAT")
    result = run("diff", speech_files["plus"], reference, wav)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "all 14 stages pass"
    bad = rewrite(speech_files["plus"], tmp_path / "bad.gguf", **flip("proj.query"))
    result = run("diff", speech_files["plus"], bad, speech_files["plus"], wav, "--markdown")
    assert result.returncode == 1 and "the first is projector_output" in result.stdout
    assert_refused(
        run("diff", speech_files["base"], reference, wav), 2, "encoder_output is 128 wide"
    )


@pytest.mark.parametrize("cache, least", [("f32", 0.999999), ("f16", 0.9999)])
def test_the_command_judges_by_what_the_cache_is(
    cache: str, least: float, speech_files: dict[str, Path], samples: FloatArray, tmp_path: Path
) -> None:
    wav = tmp_path / "speech.wav"
    soundfile.write(wav, samples, 16_000, subtype="FLOAT")
    command = ["diff", str(speech_files["plus"]), str(reference_path("plus")), str(wav)]
    more = ["--stages", "step_logits,encoder_output", "--cache", cache, "--json"]
    done = CliRunner().invoke(app, [*command, *more])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["models"]
    limits = {stage["stage"]: stage["threshold"] for stage in found["stages"]}
    assert limits == {"encoder_output": 0.999999, "step_logits": least}


# What can be compared, and what cannot


@pytest.mark.parametrize("cache", [F32, F16], ids=["F32", "F16"])
def test_a_model_against_itself(
    cache: GGMLType, speech_files: dict[str, Path], samples: FloatArray, tmp_path: Path
) -> None:
    with stages_of(speech_files["plus"], cache=cache) as model:
        recorded = record(model, samples)
        assert recorded.precision.of("cache") is cache
        path = tmp_path / "ref.gguf"
        write_reference(path, recorded, backend="test", model_dir="tiny", about={})
        results = diff_model(model, read_reference(path), samples)
    assert {stage.name for stage in results} == ALL
    assert all(stage.passed and not stage.notes for stage in results)
    assert len(recorded.ids["generated_ids"]) == 1  # which it repeats


@pytest.mark.parametrize("count", [257, 320, 5000])
def test_short_audio(count: int, models: dict[str, Any]) -> None:
    samples = synthetic_audio(count, seed=1)
    assert not failing(models["base"], record(models["base"], samples), samples)


def test_layers_are_left_out_where_there_are_none(
    models: dict[str, Any], references: dict[str, Recorded], samples: FloatArray
) -> None:
    recorded = references["base"]
    optional = {*LAYERS, "encoder_logits"}
    arrays = {name: a for name, a in recorded.arrays.items() if name not in optional}
    results = diff_model(models["base"], replace(recorded, arrays=arrays), samples)
    assert {stage.name for stage in results} == ALL - optional
    only = diff_model(models["base"], recorded, samples, stages=["encoder_layers"])
    assert [stage.name for stage in only] == LAYERS


def test_a_file_that_says_nothing_of_its_own(
    models: dict[str, Any], samples: FloatArray, tmp_path: Path
) -> None:
    path = rewrite(
        reference_path("plus"),
        tmp_path / "published.gguf",
        keep=lambda name: name.startswith("crispasr.ref."),
        drop=["crispasr.ref.final_text"],
    )
    recorded = read_reference(path)
    assert recorded.architecture == "" and not recorded.about
    assert not failing(models["plus"], recorded, samples)


def test_ids_of_another_text(
    models: dict[str, Any], references: dict[str, Recorded], samples: FloatArray
) -> None:
    recorded = references["base"]
    said = recorded.ids["generated_ids"].copy()
    said[-1] += 1
    other = replace(recorded, ids={**recorded.ids, "generated_ids": said})
    (result,) = diff_model(models["base"], other, samples, stages=["generated_ids"])
    assert not result.passed and result.agreement == pytest.approx(7 / 8)
    assert result.notes == (f"id 7 is {said[-1] - 1}, the reference's {said[-1]}",)


def test_texts_are_cut_alike(models: dict[str, Any]) -> None:
    """At the end of the text, and behind the first round of a loop, as this package does it."""
    eos = models["base"].hparams.llm.eos_token_id
    for ids, kept in (([5, 6, eos, 7], [5, 6]), ([9, 1, 2] + [1, 2] * 20, [9, 1, 2]), ([3], [3])):
        recorded = Recorded("x", "granite_speech", {}, {"generated_ids": np.array(ids)})
        isolated = parity.IsolatedStages(models["base"], recorded, np.zeros(0), lambda _: "")
        assert isolated._expected == kept


def test_what_cannot_be_compared(
    models: dict[str, Any], references: dict[str, Recorded], samples: FloatArray
) -> None:
    base = references["base"]
    edits = replace(base, architecture="granite_nle", ids={})
    for stages in (None, ["encoder_output"]):
        with pytest.raises(ComparisonError, match=r"is of a model of granite_nle.* other stages"):
            diff_model(models["base"], edits, samples, stages=stages)
    with pytest.raises(ComparisonError, match="encoder_output is 128 wide, the model's 64"):
        diff_model(models["base"], references["plus"], samples)
    fewer = replace(
        base, arrays={**base.arrays, "projector_output": base.arrays["projector_output"][:3]}
    )
    with pytest.raises(ComparisonError, match="6 audio tokens, projector_output has 3 rows"):
        diff_model(models["base"], fewer, samples)
    lacking = replace(base, ids={})
    with pytest.raises(ComparisonError, match="has no prompt_ids, generated_ids, which"):
        diff_model(models["base"], lacking, samples)
