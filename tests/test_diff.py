"""`diff` locates a deliberate fault at its own stage, and says what it cannot compare."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import ComparisonError, InputError, Model, ModelFileError
from granite_gguf.converters import convert
from granite_gguf.parity import Recorded, diff_model, read_reference, record, write_reference
from granite_gguf.parity.comparison import judge
from granite_gguf.recorded.stages import agreement
from tests.commands import assert_refused, run
from tests.gguf_editing import Array, rewrite
from tests.signals import synthetic_audio

U32, F32, STRING = (
    gguf.GGUFValueType.UINT32,
    gguf.GGUFValueType.FLOAT32,
    gguf.GGUFValueType.STRING,
)
LAYOUT = "granite_speech_nar"
PUBLISHED = {
    *("raw_audio", "mel_spectrogram", "encoder_output", "encoder_logits", "projector_output"),
    *("audio_embs_for_llm", "text_ids_with_slots", "editing_logits"),
}

LAYERS = [f"encoder_layer_{k}" for k in (1, 2, 3, 4)]
ENCODER = {*LAYERS, "encoder_output", "encoder_logits"}
PROJECTOR = {"projector_output"}
EDITOR = {"editing_logits", "editing_logits_top1"}
ALL = {
    *ENCODER,
    *PROJECTOR,
    *EDITOR,
    *("mel_spectrogram", "bpe_logits", "hypothesis", "audio_embs_for_llm", "transcribe"),
}


@pytest.fixture(scope="module")
def samples() -> Array:
    return synthetic_audio(48_000, seed=3)


@pytest.fixture(scope="module")
def recordings(models: dict[str, Model], samples: Array) -> dict[str, Recorded]:
    return {layout: record(model, samples) for layout, model in models.items()}


@pytest.fixture(scope="module")
def reference_file(
    recordings: dict[str, Recorded], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("reference") / "ref.gguf"
    about = {"dtype": "f32"}
    write_reference(path, recordings[LAYOUT], backend="test", model_dir="tiny", about=about)
    return path


@contextmanager
def edited(source: Path, target: Path, **changes: Any) -> Iterator[Model]:
    with granite_gguf.load(rewrite(source, target, **changes), device="cpu", threads=1) as model:
        yield model


def failing(model: Model, recorded: Recorded, samples: Array) -> set[str]:
    return {stage.name for stage in diff_model(model, recorded, samples) if not stage.passed}


def flip(tensor: str) -> dict[str, Any]:
    """Turns the sign of a tensor's largest number."""

    def edit(name: str, array: Array) -> Array:
        if name == tensor:
            array = array.copy()
            array.reshape(-1)[np.abs(array).argmax()] *= -1
        return array

    return {"edit": edit}


def swap_keys_and_values(block: int) -> dict[str, Any]:
    def edit(name: str, array: Array) -> Array:
        if name == f"enc.blk.{block}.attn_kv.weight":
            keys, values = np.split(array, 2)
            array = np.concatenate([values, keys])
        return array

    return {"edit": edit}


def key(name: str, value: Any, kind: gguf.GGUFValueType) -> dict[str, Any]:
    return {"replace": {f"granite_nle.{name}": (value, kind)}}


FAULTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "mel filter": (flip("audio.mel_filters"), {"mel_spectrogram"}),
    "encoder input weight": (flip("enc.input.weight"), ENCODER),
    "encoder block 3 weight": (flip("enc.blk.2.ff1_up.weight"), ENCODER - set(LAYERS[:2])),
    "encoder last norm": (flip("enc.blk.3.post_norm.weight"), ENCODER - set(LAYERS[:3])),
    "keys and values of block 2": (swap_keys_and_values(1), ENCODER - {LAYERS[0]}),
    "self-conditioning a layer early": (key("enc.self_conditioning_layer", 1, U32), ENCODER),
    "self-conditioning a layer late": (
        key("enc.self_conditioning_layer", 3, U32),
        ENCODER - {LAYERS[0]},
    ),
    "captured layers in another order": (
        key("proj.encoder_layer_indices", "2,1,3,-1", STRING),
        {"encoder_output"},
    ),
    "hypothesis head weight": (flip("enc.bpe_out.weight"), {"bpe_logits"}),
    "projector weight": (flip("proj.layer_proj.weight"), PROJECTOR),
    "projector norm's epsilon": (key("proj.layernorm_eps", 1e-2, F32), PROJECTOR),
    "projector query": (flip("proj.query"), PROJECTOR),
    "audio tokens not divided": (
        {"replace": {"granite_nle.scale_projected_embeddings": (False, gguf.GGUFValueType.BOOL)}},
        {"audio_embs_for_llm"},
    ),
    "editor weight": (flip("llm.blk.1.ffn_down.weight"), {"editing_logits"}),
    "editor norm's epsilon": (key("llm.rms_norm_eps", 1e-1, F32), {"editing_logits"}),
    "editor attention scale": (key("llm.attention_multiplier", 0.25, F32), {"editing_logits"}),
    "editor rotary base": (key("llm.rope_theta", 100.0, F32), {"editing_logits"}),
    "slots": (key("min_edit_length", 200, U32), {"hypothesis"}),
}


# Best ids may survive a small fault or not, and what runs end to end may show any.
TOLERATED = {
    "hypothesis head weight": {"hypothesis"},
    **{name: {"editing_logits_top1"} for name in FAULTS if name.startswith("editor")},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_located(
    fault: str,
    f32_files: dict[str, Path],
    recordings: dict[str, Recorded],
    samples: Array,
    tmp_path: Path,
) -> None:
    changes, expected = FAULTS[fault]
    with edited(f32_files[LAYOUT], tmp_path / "faulty.gguf", **changes) as model:
        found = failing(model, recordings[LAYOUT], samples)
    assert expected <= found <= {*expected, *TOLERATED.get(fault, ()), "transcribe"}


def test_rotary_positions_in_the_other_style(
    models: dict[str, Model],
    recordings: dict[str, Recorded],
    samples: Array,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("granite_gguf.ggml.tensor.ROPE_NEOX", 0)
    found = failing(models[LAYOUT], recordings[LAYOUT], samples)
    assert {"editing_logits"} <= found <= EDITOR | {"transcribe"}


def test_a_wrong_blank(
    f32_files: dict[str, Path], recordings: dict[str, Recorded], samples: Array, tmp_path: Path
) -> None:
    """Taking a token that was said for the blank, or shifting ids, is the hypothesis' fault."""
    recorded = recordings[LAYOUT]
    said = int(recorded.ids["text_ids_with_slots"][1])
    changes = key("enc.bpe_blank_id", said, U32)
    with edited(f32_files[LAYOUT], tmp_path / "blank.gguf", **changes) as model:
        assert failing(model, recorded, samples) - {"transcribe"} == {"hypothesis"}
    changes = key("enc.bpe_id_shift", 2, U32)
    with edited(f32_files["nle"], tmp_path / "shift.gguf", **changes) as model:
        assert failing(model, recordings["nle"], samples) - {"transcribe"} == {"hypothesis"}


@pytest.mark.parametrize("layout", ["nle", LAYOUT, "native"])
def test_a_model_passes_against_itself(
    layout: str, models: dict[str, Model], recordings: dict[str, Recorded], samples: Array
) -> None:
    results = diff_model(models[layout], recordings[layout], samples)
    assert {stage.name for stage in results} == ALL
    assert all(stage.passed and not stage.notes for stage in results)


@pytest.mark.parametrize("outtype", ["f16", "bf16"])
def test_the_rounding_of_a_type_is_no_fault(
    outtype: str,
    checkpoints: dict[str, Path],
    recordings: dict[str, Recorded],
    samples: Array,
    tmp_path: Path,
) -> None:
    """A text of random weights turns on near ties; all else stays within the type's thresholds."""
    path = tmp_path / "rounded.gguf"
    convert(checkpoints[LAYOUT], path, outtype=outtype)
    with granite_gguf.load(path, device="cpu", threads=1) as model:
        assert failing(model, recordings[LAYOUT], samples) <= {"transcribe"}


def test_a_fault_shows_through_rounding(
    checkpoints: dict[str, Path], recordings: dict[str, Recorded], samples: Array, tmp_path: Path
) -> None:
    path = tmp_path / "rounded.gguf"
    convert(checkpoints[LAYOUT], path, outtype="f16")
    fault = flip("llm.blk.1.ffn_down.weight")
    with edited(path, tmp_path / "faulty.gguf", **fault) as model:
        assert failing(model, recordings[LAYOUT], samples) - {"transcribe"} <= EDITOR
        assert "editing_logits" in failing(model, recordings[LAYOUT], samples)


@pytest.mark.parametrize("count", [320, 1300, 5000])
def test_short_audio(models: dict[str, Model], count: int, tmp_path: Path) -> None:
    """One frame, no audio token, one window: what has no rows is not in the file."""
    samples = synthetic_audio(count, seed=1)
    recorded = record(models["nle"], samples)
    assert ("audio_embs_for_llm" in recorded.arrays) == (count == 5000)
    path = tmp_path / "short.gguf"
    write_reference(path, recorded, backend="test", model_dir="tiny", about={})
    assert all(stage.passed for stage in diff_model(models["nle"], read_reference(path), samples))


def test_the_file_is_what_was_recorded(
    recordings: dict[str, Recorded], reference_file: Path
) -> None:
    expected, actual = recordings[LAYOUT], read_reference(reference_file)
    assert actual.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(actual.arrays[name], array)
    assert actual.ids.keys() == expected.ids.keys() == {"text_ids_with_slots"}
    for name, ids in expected.ids.items():
        assert actual.ids[name].tolist() == ids.tolist()
    assert actual.texts == expected.texts and actual.architecture == "granite_nle"
    reader = gguf.GGUFReader(reference_file)
    assert reader.fields["general.architecture"].contents() == "crispasr.reference"
    assert reader.fields["crispasr.ref.generated_text"].contents() == expected.texts["final_text"]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors.keys() >= PUBLISHED
    assert tensors["encoder_output"].shape.tolist() == [256, 150]


@pytest.mark.parametrize("ids", [np.float32, np.int32])
def test_the_published_form_is_accepted(
    ids: type, models: dict[str, Model], reference_file: Path, samples: Array, tmp_path: Path
) -> None:
    path = rewrite(
        reference_file,
        tmp_path / "published.gguf",
        keep=lambda name: name.startswith("crispasr.ref."),
        rename=lambda name: name if name in PUBLISHED else None,
        edit=lambda name, a: a.astype(ids) if name == "text_ids_with_slots" else a,
        drop=["crispasr.ref.final_text"],
    )
    results = diff_model(models[LAYOUT], read_reference(path), samples)
    assert {stage.name for stage in results} == ALL - {*LAYERS, "bpe_logits"}
    assert all(stage.passed for stage in results)
    (hypothesis,) = (stage for stage in results if stage.name == "hypothesis")
    assert "blank_prob is this model's own" in hypothesis.notes[0]


def test_a_projector_output_of_whole_tokens(
    models: dict[str, Model], recordings: dict[str, Recorded], samples: Array
) -> None:
    recorded = recordings[LAYOUT]
    cut = {**recorded.arrays, "projector_output": recorded.arrays["projector_output"][:30]}
    (result,) = diff_model(
        models[LAYOUT], replace(recorded, arrays=cut), samples, stages=["projector_output"]
    )
    assert result.passed


def test_what_cannot_be_compared(
    models: dict[str, Model], recordings: dict[str, Recorded], samples: Array, tmp_path: Path
) -> None:
    model, recorded = models[LAYOUT], recordings[LAYOUT]
    with pytest.raises(ComparisonError, match="other audio: 48000 samples, not 47000"):
        diff_model(model, recorded, samples[:47_000])
    with pytest.raises(ComparisonError, match="other audio of the same length"):
        diff_model(model, recorded, synthetic_audio(48_000, seed=4))
    with pytest.raises(ComparisonError, match="bpe_logits is 601 wide, the model's 600"):
        diff_model(model, recordings["nle"], samples)
    arrays = {k: v for k, v in recorded.arrays.items() if k != "encoder_output"}
    lacking = replace(recorded, source="x.gguf", arrays=arrays)
    with pytest.raises(ComparisonError, match=r"x.gguf: has no encoder_output, .* --stages"):
        diff_model(model, lacking, samples)
    assert len(diff_model(model, lacking, samples, stages=["encoder_logits"])) == 1
    with pytest.raises(InputError, match="no stage 'nonsense'"):
        diff_model(model, recorded, samples, stages=["nonsense"])
    with pytest.raises(InputError, match="not judged"):
        diff_model(
            model, recorded, samples, stages=["hypothesis"], thresholds={"mel_spectrogram": 0.5}
        )
    with pytest.raises(InputError, match="expected -1 to 1"):
        diff_model(model, recorded, samples, thresholds={"hypothesis": 2.0})


def test_thresholds_replace_the_defaults(
    f32_files: dict[str, Path], recordings: dict[str, Recorded], samples: Array, tmp_path: Path
) -> None:
    fault = flip("enc.blk.2.ff1_up.weight")
    with edited(f32_files[LAYOUT], tmp_path / "faulty.gguf", **fault) as model:
        limits = {"encoder_layers": 0.5, "encoder_output": 0.5}
        stages = ["encoder_layers", "encoder_output"]
        found = diff_model(model, recordings[LAYOUT], samples, stages=stages, thresholds=limits)
    assert [stage.name for stage in found] == [*LAYERS, "encoder_output"]
    assert all(stage.passed and stage.threshold == 0.5 for stage in found)


def test_rows_without_a_direction_are_named() -> None:
    expected = np.random.default_rng(0).normal(size=(8, 4))
    same = judge(expected, expected, 0.999)
    assert same.passed and not same.notes
    both = expected.copy()
    both[2] = 0
    judged = judge(both, both, 0.999)
    assert judged.passed and "both sides" in judged.notes[0] and "row 2" in judged.notes[0]
    for value, says in ((0.0, "near zero, unlike"), (np.nan, "not finite in row 2")):
        actual = expected.copy()
        actual[2] = value
        judged = judge(actual, expected, -1.0)
        assert not judged.passed and says in judged.notes[0] and "row 2" in judged.notes[0]
        assert not judge(expected, actual, -1.0).passed
    longer = expected.copy()
    longer[5] *= 1.2
    assert "length differs by 20.00%" in judge(longer, expected, 0.999).notes[0]
    assert "7 x 4" in judge(expected[:7], expected, 0.0).notes[0]
    assert not judge(expected[:7], expected, -1.0).passed
    many = np.ones((200, 3))
    lost = many.copy()
    lost[150] = np.inf
    assert "not finite in row 150" in judge(lost, many, -1.0).notes[0]
    zeros = np.zeros((2, 4))
    assert judge(zeros, zeros, 1.0).passed


def test_agreement_of_texts() -> None:
    assert agreement("", "") == 1.0 and agreement("abc", "") == 0.0
    assert agreement("kitten", "sitting") == pytest.approx(1 - 3 / 7)


def test_damaged_reference_files(reference_file: Path, tmp_path: Path) -> None:
    bad = rewrite(
        reference_file,
        tmp_path / "half.gguf",
        edit=lambda name, a: a + 0.5 if name == "text_ids_with_slots" else a,
    )
    with pytest.raises(ModelFileError, match="no whole numbers"):
        read_reference(bad)
    bad = rewrite(
        reference_file,
        tmp_path / "f16.gguf",
        edit=lambda name, a: a.astype(np.float16) if name == "encoder_logits" else a,
    )
    with pytest.raises(ModelFileError, match="'encoder_logits' is F16, expected F32"):
        read_reference(bad)


# The command


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory, samples: Array) -> Path:
    path = tmp_path_factory.mktemp("audio") / "speech.wav"
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    return path


@pytest.mark.slow
def test_command(
    f32_files: dict[str, Path], reference_file: Path, wav: Path, tmp_path: Path
) -> None:
    good = f32_files[LAYOUT]
    result = run("diff", good, reference_file, wav, "--threads", 1)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("stage ") and lines[0].endswith("  max abs   verdict")
    assert lines[-1] == "all 14 stages pass"
    assert "encoder_output       150x256" in result.stdout
    bad = rewrite(good, tmp_path / "bad.gguf", **flip("proj.layer_proj.weight"))
    result = run("diff", good, bad, reference_file, wav, "--markdown", "--threads", 1)
    assert result.returncode == 1
    assert "| stage, lowest cosine | granite" not in result.stdout
    (head, *_) = result.stdout.splitlines()
    assert head == f"| stage, lowest cosine | {good.name} | bad.gguf |"
    assert " FAIL** |" in result.stdout and "the first is projector_output" in result.stdout
    result = run("diff", bad, good, wav, "--json", "--stages", "projector_output,editing_logits")
    assert result.returncode == 1
    (report,) = json.loads(result.stdout)["models"]
    assert [stage["passed"] for stage in report["stages"]] == [False, True]
    assert report["stages"][0]["cos_min"] < 0.999999
    limited = run(
        "diff", bad, good, wav, "--stages", "projector_output", "--threshold",
        "projector_output=0",
    )  # fmt: skip
    assert limited.returncode == 0


@pytest.mark.slow
def test_command_refuses(
    f32_files: dict[str, Path], reference_file: Path, wav: Path, tmp_path: Path
) -> None:
    model = f32_files[LAYOUT]
    assert_refused(run("diff", model, wav), 2, "at least three")
    assert_refused(run("diff", reference_file, model, wav), 2, "is a reference file")
    assert_refused(run("diff", model, wav, wav), 2, "is not a GGUF file")
    assert_refused(run("diff", model, reference_file, wav, "--json", "--markdown"), 2, "choose one")
    assert_refused(
        run("diff", model, reference_file, wav, "--threshold", "mel"), 2, "encoder_output=0.999"
    )
    assert_refused(run("diff", model, reference_file, wav, "--force"), 2, "--plot")
    assert_refused(run("diff", f32_files["nle"], reference_file, wav), 2, "bpe_logits is 600 wide")
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(100, np.float32), 16_000)
    assert_refused(run("diff", model, model, short), 2, "shorter than one frame")


@pytest.mark.slow
def test_plot(f32_files: dict[str, Path], reference_file: Path, wav: Path, tmp_path: Path) -> None:
    picture = tmp_path / "rows.png"
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        result = run("diff", f32_files[LAYOUT], reference_file, wav, "--plot", picture)
        assert_refused(result, 2, "granite-gguf[plot]")
        return
    result = run("diff", f32_files[LAYOUT], reference_file, wav, "--plot", picture)
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = run("diff", f32_files[LAYOUT], reference_file, wav, "--plot", picture)
    assert_refused(again, 2, "exists already")
