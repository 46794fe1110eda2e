"""Files of the other published dialect, written here by gguf-py from the dialect's description."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import granite_gguf
from granite_gguf import ModelFileError, UnsupportedModelError
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert, convert_gguf
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.errors import CheckpointError, InputError
from granite_gguf.quantize import parse_override, quantize
from granite_gguf.sound.features import log_mel
from tests.commands import run
from tests.fuzzing.fuzz_targets import try_file
from tests.gguf_editing import rewrite
from tests.signals import synthetic_audio
from tests.support.dialect_file import (
    GGML,
    MIXTURES,
    Kind,
    add_metadata,
    dialect_metadata,
    dialect_tensors,
    mel_filterbank,
    write_dialect_file,
)
from tests.support.gguf_mutator import mutate, put_together, take_apart

TRAINED = Path(__file__).resolve().parent.parent / "training" / "checkpoint"
SAMPLE = DEMO_SAMPLES[0]
TEXT = SAMPLE.with_suffix(".txt").read_text(encoding="utf-8").strip()
FILTERBANK = "frontend.mel_filterbank"

# What the mixtures mean for our own names. The first that is found in a name decides.
_SMALL = ["norm=f32", r"\.bias$=f32", "conv_bn=f32", "mel_filters=f32"]
_QUANTIZED = [
    *(*_SMALL, r"proj\.(query|window_positions)=f32", "conv_dw=f32", "conv_up|conv_down=f16"),
    *("ctc_mid=f16", "attn_rel_pos=q8_0", r"enc\.input=q8_0"),
]
OURS = {
    "f16": [*_SMALL, ".=f16"],
    "bf16": [*_SMALL, "conv_(up|dw|down)=f16", ".=bf16"],
    "q8_0": [*_QUANTIZED, ".=q8_0"],
    "q4_k_m": [*_QUANTIZED, r"llm.*attn_o=q8_0", "token_embd=q6_k", ".=q4_k"],
}


def raw(path: Path) -> dict[str, tuple[gguf.GGMLQuantizationType, bytes]]:
    """Types and contents by name, as gguf-py reads them."""
    return {t.name: (t.tensor_type, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The trained checkpoint in each mixture: their file, and ours with the same tensors.

    Theirs gets our filterbank, which is computed in float32, so that the outputs can be equal.
    """
    folder = tmp_path_factory.mktemp("dialect")
    full, checkpoint = folder / "full.gguf", folder / "checkpoint"
    shutil.copytree(TRAINED, checkpoint)
    # Their dialect has no key for the longest pass.
    path = checkpoint / "preprocessor_config.json"
    front_end = json.loads(path.read_text(encoding="utf-8")) | {"max_pass_seconds": 30.0}
    path.write_text(json.dumps(front_end), encoding="utf-8")
    convert(checkpoint, full, outtype="f32")
    metadata, tensors = dialect_metadata(TRAINED), dialect_tensors(TRAINED)
    tensors[FILTERBANK] = our_filters(full)
    made = {}
    for name, overrides in OURS.items():
        theirs = folder / f"mini-{name.upper()}.gguf"
        write_dialect_file(theirs, metadata, tensors, MIXTURES[name])
        ours = folder / f"ours-{name}.gguf"
        quantize(full, ours, "f32", overrides=[parse_override(o) for o in overrides])
        made[name] = (theirs, ours)
    return made


@pytest.fixture(scope="module")
def tiny(checkpoints: dict[str, Path], f32_files: dict[str, Path]) -> dict[str, Any]:
    """Metadata and tensors of the tiny model by layout, with our filterbank."""
    made = {}
    for layout in ("nle", "granite_speech_nar"):
        tensors = dialect_tensors(checkpoints[layout])
        tensors[FILTERBANK] = our_filters(f32_files[layout])
        made[layout] = (dialect_metadata(checkpoints[layout]), tensors)
    return made


@pytest.fixture
def write(tiny: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny model, with changed metadata and tensors; None leaves one out."""

    def change(
        metadata: dict[str, Any] | None = None,
        tensors: dict[str, Any] | None = None,
        layout: str = "granite_speech_nar",
        **options: Any,
    ) -> Path:
        changed = [
            {k: v for k, v in {**old, **(new or {})}.items() if v is not None}
            for old, new in zip(tiny[layout], (metadata, tensors), strict=True)
        ]
        return write_dialect_file(tmp_path / "theirs.gguf", *changed, **options)

    return change


def our_filters(path: Path) -> np.ndarray:
    """``(n_mels, n_fft // 2 + 1)``."""
    found = {t.name: t.data for t in gguf.GGUFReader(path).tensors}["audio.mel_filters"]
    return np.ascontiguousarray(np.array(found).T)


def stages(model: granite_gguf.Model, audio: np.ndarray) -> Iterator[np.ndarray]:
    """Every output from the features to the logits, none of them rounded to text."""
    mel = model.compute_mel(audio)
    encoded = model.run_encoder(mel, frozenset({"encoder_logits"}))
    yield from (mel, encoded.captured, encoded.final, encoded.blank)
    yield encoded.taps["encoder_logits"]
    head = model.run_hypothesis_head(encoded.final, encoded.blank, frozenset({"bpe_logits"}))
    yield head.taps["bpe_logits"]
    tokens = model.run_hypothesis(encoded.final, encoded.blank)
    yield tokens
    audio_tokens = model.run_projector(encoded.captured)
    yield audio_tokens
    ids = np.resize([model.hparams.editor.eos_token_id, 65, 66], 9)
    yield model.run_editor(audio_tokens, ids, frozenset({"editing_logits"})).taps["editing_logits"]


def assert_same_model(a: Path, b: Path, audio: np.ndarray) -> str:
    """Bit for bit, and the text of both."""
    with granite_gguf.load(a, device="cpu") as one, granite_gguf.load(b, device="cpu") as other:
        assert one.hparams == other.hparams
        for n, (x, y) in enumerate(zip(stages(one, audio), stages(other, audio), strict=True)):
            np.testing.assert_array_equal(x, y, err_msg=f"stage {n}")
        first, second = (m.transcribe(audio, word_times=True) for m in (one, other))
    assert first.text == second.text and first.words == second.words
    return first.text


# The same model


@pytest.mark.parametrize("mixture", OURS)
def test_a_file_runs_as_our_own(pairs: dict[str, tuple[Path, Path]], mixture: str) -> None:
    with granite_gguf.load(pairs[mixture][0]) as model:
        audio = model.load_audio(SAMPLE)
    assert assert_same_model(*pairs[mixture], audio) == TEXT


@pytest.mark.parametrize("mixture", OURS)
def test_a_converted_file_is_our_own(
    pairs: dict[str, tuple[Path, Path]], tmp_path: Path, mixture: str
) -> None:
    theirs, ours = pairs[mixture]
    result = convert_gguf(theirs, tmp_path / "m.gguf", revision="99a4df9")
    assert raw(result.path) == raw(ours)
    h = open_model_file(result.path).hparams
    assert h == result.hparams == open_model_file(theirs).hparams == open_model_file(ours).hparams
    fields = {k: f.contents() for k, f in gguf.GGUFReader(result.path).fields.items()}
    expected = {k: f.contents() for k, f in gguf.GGUFReader(ours).fields.items()}
    assert not any(key.startswith("stt.") for key in fields)
    # Only our converter keeps tokenizer.json, and tells the unknown token from control tokens.
    own = {"granite_nle.quantize.policy", "tokenizer.huggingface.json", "tokenizer.ggml.token_type"}
    for key in expected.keys() - own:
        if key.startswith(("granite_nle.", "tokenizer.")):
            assert fields[key] == expected[key], key
    assert fields["granite_nle.source.architecture"] == "granite_speech_nar"
    assert fields["granite_nle.source.file"] == theirs.name
    assert fields["granite_nle.source.revision"] == "99a4df9"
    assert fields["granite_nle.source.layout"] == "granite_speech_nar"
    assert fields["general.name"] == "Granite Speech Mini Nar"


def test_the_first_release(
    write: Callable[..., Path], f32_files: dict[str, Path], tmp_path: Path
) -> None:
    """Blank 0, or no key at all: ids shifted by one, text tokenised again, logits not scaled."""
    audio = synthetic_audio(48_000, seed=3)
    theirs = write(layout="nle")
    assert assert_same_model(theirs, f32_files["nle"], audio)
    h = open_model_file(theirs).hparams
    assert (h.hypothesis.blank_id, h.hypothesis.id_shift, h.hypothesis.retokenize) == (0, 1, True)
    assert not h.editor.apply_logits_scaling
    older = write({"stt.granite_nar.encoder.bpe_blank_id": None}, layout="nle")
    assert open_model_file(older).hparams == h
    converted = convert_gguf(older, tmp_path / "m.gguf")
    assert converted.layout.value == "nle"
    assert raw(converted.path) == raw(f32_files["nle"])
    ours = {k: f.contents() for k, f in gguf.GGUFReader(f32_files["nle"]).fields.items()}
    fields = {k: f.contents() for k, f in gguf.GGUFReader(converted.path).fields.items()}
    assert fields["granite_nle.ctc.vocab"] == ours["granite_nle.ctc.vocab"]


def test_the_later_release(write: Callable[..., Path], f32_files: dict[str, Path]) -> None:
    h = open_model_file(write()).hparams
    assert h == open_model_file(f32_files["granite_speech_nar"]).hparams
    eos = h.editor.eos_token_id
    assert (h.hypothesis.blank_id, h.hypothesis.id_shift, h.hypothesis.retokenize) == (
        (eos, 0, False)
    )
    assert h.editor.apply_logits_scaling and h.editor.min_edit_length == 8
    assert not h.encoder.capture_before_feedback and not h.front_end.pad_last_frame


def test_the_files_own_filterbank_is_used(write: Callable[..., Path]) -> None:
    bank = mel_filterbank(16_000, 512, 80)
    bank[7] *= 2
    audio = synthetic_audio(8000, seed=5)
    with granite_gguf.load(write(tensors={FILTERBANK: bank})) as model:
        mel = model.compute_mel(audio)
        np.testing.assert_array_equal(mel, log_mel(model.hparams.front_end, bank.T, audio))
    with granite_gguf.load(write()) as model:
        raised = mel.reshape(-1, 80) - model.compute_mel(audio).reshape(-1, 80)
    assert np.median(raised[:, 7]) == pytest.approx(np.log10(2) / 4, abs=1e-5)
    assert abs(np.median(raised[:, 8])) < 1e-5


def test_no_tensor_is_copied_but_the_filterbank(pairs: dict[str, tuple[Path, Path]]) -> None:
    file = open_model_file(pairs["q4_k_m"][0])
    assert list(file.replaced) == ["audio.mel_filters"]
    for name in file.specs.keys() - file.replaced.keys():
        assert np.shares_memory(file.raw(name), file.container.data)


def test_optional_keys_and_unit_dimensions(
    write: Callable[..., Path], tiny: dict[str, Any], f32_files: dict[str, Path]
) -> None:
    """Keys that came later mean what they say in every file; alignment is the file's own."""
    later = (
        *("stt.frontend.pad_mode", "stt.frontend.mel_norm", "stt.granite_nar.ctc_chars"),
        *("stt.granite_nar.projector.attn_bias", "stt.granite_nar.projector.mlp_bias"),
        *("stt.granite_nar.text.tie_word_embeddings", "stt.variant"),
        "stt.granite_nar.scale_projected_embeddings",
    )
    _, tensors = tiny["granite_speech_nar"]
    flat = {k: v.reshape(v.shape[:2]) for k, v in tensors.items() if "conv_pointwise" in k}
    flat |= {k: v.reshape(1, *v.shape) for k, v in tensors.items() if k.startswith("frontend.")}
    theirs = write(dict.fromkeys(later), flat, alignment=256)
    audio = synthetic_audio(16_000, seed=3)
    assert assert_same_model(theirs, f32_files["granite_speech_nar"], audio)
    converted = convert_gguf(theirs).path
    assert converted.name == "theirs-granite_nle.gguf"
    assert assert_same_model(theirs, converted, audio)
    assert gguf.GGUFReader(converted).alignment == 32


@pytest.mark.parametrize(
    ("key", "parts", "field"),
    [
        ("attn_bias", [f"cross_attn_{part}" for part in "qkvo"], "attn_bias"),
        ("mlp_bias", ["ffn_fc1", "ffn_fc2"], "mlp_bias"),
    ],
)
def test_tensors_tell_of_biases(
    write: Callable[..., Path], key: str, parts: list[str], field: str
) -> None:
    """Where no key does; and a key that says otherwise is a contradiction."""
    key = f"stt.granite_nar.projector.{key}"
    biases = [f"prj.blocks.{n}.{part}.bias" for n in range(2) for part in parts]
    without = dict.fromkeys(biases)
    assert getattr(open_model_file(write({key: None})).hparams.projector, field) is True
    path = write({key: None}, without)
    assert getattr(open_model_file(path).hparams.projector, field) is False
    with granite_gguf.load(path) as model:
        assert model.transcribe(synthetic_audio(16_000, seed=3)).duration == 1.0
    with pytest.raises(ModelFileError, match=rf"missing: prj\.blocks\.0\.{parts[0]}\.bias"):
        open_model_file(write({key: (True, Kind.BOOL)}, without))


# Conversion to other types


@pytest.mark.parametrize("outtype", ["f16", "bf16", "f32"])
def test_float_files_convert_to_other_types(
    pairs: dict[str, tuple[Path, Path]], tmp_path: Path, outtype: str
) -> None:
    """The checkpoint is in bfloat16: the F32 file that comes of a BF16 one holds it exactly."""
    convert_gguf(pairs["bf16"][0], tmp_path / "a.gguf", outtype=outtype)
    convert(TRAINED, tmp_path / "b.gguf", outtype=outtype)
    a, b = raw(tmp_path / "a.gguf"), raw(tmp_path / "b.gguf")
    assert a.keys() == b.keys()
    # The dialect's BF16 files hold convolutions in F16, to which bfloat16 is rounded.
    through_half = {name for name in a if "conv_up" in name or "conv_d" in name}
    for name in a:
        assert a[name][0] == b[name][0], name
        assert name in through_half or a[name] == b[name], name
    kind = gguf.GGUFReader(tmp_path / "a.gguf").fields["general.file_type"].contents()
    assert kind == gguf.GGUFReader(tmp_path / "b.gguf").fields["general.file_type"].contents()


def test_what_is_not_converted(
    pairs: dict[str, tuple[Path, Path]], write: Callable[..., Path], tmp_path: Path
) -> None:
    theirs, ours = pairs["q8_0"]
    output = tmp_path / "m.gguf"
    with pytest.raises(ModelFileError, match=r"are quantized, such as enc\.input_linear\.weight"):
        convert_gguf(theirs, output, outtype="f16")
    with pytest.raises(UnsupportedModelError, match="is a granite_nle file already"):
        convert_gguf(ours, output)
    with pytest.raises(InputError, match="is the source itself"):
        convert_gguf(theirs, theirs, force=True)
    with pytest.raises(UnsupportedModelError, match="'llama', expected 'granite_nle' or"):
        convert_gguf(rewrite(ours_f32(tmp_path), tmp_path / "x", architecture="llama"), output)
    big = np.full(40, 1e6, np.float32)[None].repeat(64, 0)
    with pytest.raises(CheckpointError, match="more than float16"):
        spoilt = {"dec.token_embd.weight": np.full((600, 64), 1e6, np.float32)}
        convert_gguf(write(tensors={**spoilt, "enc.ctc_bypass.weight": big}), output, outtype="f16")
    assert not output.exists()


def ours_f32(folder: Path) -> Path:
    convert(TRAINED, folder / "f32.gguf", outtype="f32")
    return folder / "f32.gguf"


# Refusals, in the file's own names


@pytest.mark.parametrize(
    ("key", "value", "kind", "says"),
    [
        ("stt.frontend.type", "raw", Kind.STRING, "'raw', expected 'mel'"),
        ("stt.frontend.window", "hann", Kind.STRING, "'hann', expected 'hann_periodic'"),
        (
            "stt.frontend.normalize",
            "per_feature",
            Kind.STRING,
            "'per_feature', expected 'per_utterance'",
        ),
        ("stt.frontend.normalize", 1, Kind.UINT32, "1, expected 'per_utterance'"),
        ("stt.frontend.pad_mode", "constant", Kind.STRING, "'constant', expected 'reflect'"),
        ("stt.frontend.mel_norm", "slaney", Kind.STRING, "'slaney', expected 'htk'"),
        ("stt.granite_nar.text.hidden_act", "gelu", Kind.STRING, "'gelu', expected 'silu'"),
        ("stt.granite_nar.text.tie_word_embeddings", False, Kind.BOOL, "False, expected True"),
        ("stt.granite_nar.text.tie_word_embeddings", 1, Kind.UINT32, "1, expected True"),
        ("stt.granite_nar.projector.attn_bias", 1, Kind.UINT32, "1, expected true or false"),
        ("stt.granite_nar.text.rms_norm_eps", float("nan"), Kind.FLOAT32, "nan, expected a finite"),
        ("stt.granite_nar.text.rope_theta", 10000, Kind.UINT32, "10000, expected a finite float32"),
        ("stt.granite_nar.encoder.hidden", "64", Kind.STRING, "'64', expected a non-negative"),
        ("stt.granite_nar.encoder.hidden", -64, Kind.INT32, "-64, expected a non-negative"),
        (
            "stt.granite_nar.encoder.layer_indices",
            "1,2",
            Kind.STRING,
            "'1,2', expected an array of",
        ),
        ("tokenizer.ggml.pre", "default", Kind.STRING, "'default', expected 'granite'"),
        ("tokenizer.ggml.model", "llama", Kind.STRING, "'llama', expected 'gpt2'"),
    ],
)
def test_values_that_are_not_supported(
    write: Callable[..., Path], key: str, value: Any, kind: Any, says: str
) -> None:
    path = write({key: (value, kind)})
    with pytest.raises(ModelFileError, match=rf"theirs\.gguf: {key} is {says}"):
        open_model_file(path)


def test_every_missing_key_is_named(write: Callable[..., Path], tiny: dict[str, Any]) -> None:
    metadata, _ = tiny["granite_speech_nar"]
    optional = {
        *("stt.frontend.pad_mode", "stt.frontend.mel_norm", "stt.granite_nar.ctc_chars"),
        *("stt.granite_nar.projector.attn_bias", "stt.granite_nar.projector.mlp_bias"),
        *("stt.granite_nar.text.tie_word_embeddings", "stt.granite_nar.encoder.bpe_blank_id"),
        *("stt.granite_nar.scale_projected_embeddings", "stt.variant"),
    }
    keys = {k for k in metadata if k.startswith("stt.")} - optional
    assert len(keys) == 52
    for key in keys - {"stt.capability.translation"}:
        with pytest.raises(ModelFileError, match=rf"has no {key}, which"):
            open_model_file(write({key: None}))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("encoder.n_layers", 5, r"tensors are missing: enc\.blocks\.4\.norm_ff1\.weight"),
        ("encoder.n_layers", 2**31, "the encoder's n_layers is 2147483648"),
        ("text.n_layers", 2, r"not part of the format: dec\.blocks\.2\."),
        ("text.intermediate", 64, r"dec\.blocks\.0\.ffn\.gate\.weight \[64, 128\] instead"),
        ("encoder.bpe_output_dim", 599, r"enc\.ctc_bpe\.weight \[64, 600\] instead of \[64, 599\]"),
        ("encoder.self_cond_layer", 0, "no self-conditioning layer 0"),
        ("encoder.max_pos_emb", 500, r"attn_rel_pos_emb\.weight \[32, 1025\] instead"),
        ("encoder.conv_expansion", 0, "conv_dim is 0"),
        ("projector.num_encoder_layers", 3, "the projector reads 3 layers"),
    ],
)
def test_metadata_that_contradicts(
    write: Callable[..., Path], key: str, value: int, says: str
) -> None:
    with pytest.raises(ModelFileError, match=says):
        open_model_file(write({f"stt.granite_nar.{key}": (value, Kind.UINT32)}))


def test_no_layer_is_captured(write: Callable[..., Path]) -> None:
    """gguf-py writes no empty array."""
    path = write({"stt.granite_nar.projector.num_encoder_layers": (0, Kind.UINT32)})
    sound = take_apart(path)
    next(pair for pair in sound.pairs if pair.key.endswith(b"layer_indices")).value = []
    path.write_bytes(put_together(sound))
    with pytest.raises(ModelFileError, match=r"prj\.layer_norms\.0\.weight"):
        open_model_file(path)


def hann(length: int, period: int) -> np.ndarray:
    return np.sin(np.pi * np.arange(length) / period) ** 2


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("frontend.window", None, r"missing: frontend\.window"),
        ("frontend.window", hann(512, 512), r"frontend\.window \[512\] instead of \[400\]"),
        ("frontend.window", hann(400, 399), r"frontend\.window differs by up to 0\.00\d+ from"),
        ("frontend.window", np.ones(400), r"frontend\.window differs by up to 1 from"),
        ("frontend.window", np.full(400, np.nan), r"frontend\.window differs by up to nan"),
        (FILTERBANK, None, rf"missing: {FILTERBANK}"),
        (FILTERBANK, np.zeros((257, 80)), r"\[80, 257\] instead of \[257, 80\]"),
        ("enc.blocks.1.conv_bn.running_var", None, r"missing: enc\.blocks\.1\.conv_bn\.runn"),
        ("prj.layer_norms.2.bias", None, r"missing: prj\.layer_norms\.2\.bias"),
        ("dec.blocks.0.attn.k.weight", None, r"missing: dec\.blocks\.0\.attn\.k\.weight"),
        ("dec.lm_head.weight", np.zeros((2, 2)), r"not part of the format: dec\.lm_head\.weight"),
        ("enc.input.weight", np.zeros((2, 2)), r"not part of the format: enc\.input\.weight"),
        ("prj.query", np.zeros((3, 65)), r"prj\.query \[65, 3\] instead of \[64, 3\]"),
    ],
)
def test_tensors_that_do_not_fit(
    write: Callable[..., Path], name: str, values: Any, says: str
) -> None:
    with pytest.raises(ModelFileError, match=says):
        open_model_file(write(tensors={name: values}))


def test_a_window_in_half_precision_is_the_same_window(write: Callable[..., Path]) -> None:
    open_model_file(write(mixture=lambda name: GGML.F16 if "window" in name else GGML.F32))


@pytest.mark.parametrize(
    "name", [FILTERBANK, "dec.output_norm.weight", "enc.blocks.0.norm_post.bias"]
)
def test_numbers_that_are_not_finite(
    write: Callable[..., Path], tiny: dict[str, Any], name: str
) -> None:
    values = tiny["granite_speech_nar"][1][name].copy()
    values.flat[3] = np.inf
    with pytest.raises(ModelFileError, match=rf"tensor {name} holds NaN or infinity"):
        granite_gguf.load(write(tensors={name: values}))


@pytest.mark.slow
def test_damaged_files_are_refused_or_run(write: Callable[..., Path], tmp_path: Path) -> None:
    sound = take_apart(write())
    path = tmp_path / "damaged.gguf"
    audio = synthetic_audio(4000, seed=1)
    seen = set()
    for seed in range(150):
        path.unlink(missing_ok=True)
        path.write_bytes(mutate(sound, seed)[0])
        seen.add(try_file(path, audio))
    assert seen <= {"refused", "not run", "ran"} and {"refused", "ran"} <= seen


# The real sizes


@pytest.mark.parametrize("mixture", ["bf16", "q4_k_m"])
def test_the_published_shapes_are_accepted(tmp_path: Path, mixture: str) -> None:
    """Every tensor of the 2 B model as an empty place in a sparse file, from the description."""
    choose = MIXTURES[mixture]
    metadata = published_metadata()
    shapes = published_shapes()
    path = tmp_path / "full.gguf"
    writer = gguf.GGUFWriter(path, "granite_speech_nar")
    add_metadata(writer, metadata)
    for name, shape in shapes.items():
        kind = choose(name)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = int(np.prod(shape)) // block * size
        writer.add_tensor_info(name, shape[::-1], np.dtype(np.void), count, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    offset = -(-path.stat().st_size // 32) * 32
    with path.open("r+b") as file:
        for name, shape in shapes.items():
            kind = choose(name)
            block, size = gguf.GGML_QUANT_SIZES[kind]
            if name == "frontend.window":
                file.seek(offset)
                file.write(hann(400, 400).astype(np.float32).tobytes())
            offset += -(-(int(np.prod(shape)) // block * size) // 32) * 32
        file.truncate(offset)
    try:
        model = open_model_file(path)
        assert len(model.specs) == 931 and model.info("audio.mel_filters").shape == (80, 257)
        parameters = sum(int(np.prod(spec.shape)) for spec in model.specs.values())
        # The released checkpoint: all of it but the filterbank, in bfloat16 behind a header.
        assert 0 < 4_509_382_504 - 2 * (parameters - 80 * 257) < 200_000
        assert model.hparams.editor.n_layers == 40 and model.hparams.hypothesis.blank_id == 100257
        if mixture == "q4_k_m":
            assert model.info("enc.blk.0.attn_rel_pos.weight").type is GGML.Q8_0
    finally:
        path.unlink()


def published_metadata() -> dict[str, tuple[Any, gguf.GGUFValueType]]:
    numbers = {
        "encoder": "n_layers 16 hidden 1024 n_heads 8 head_dim 128 input_dim 160 output_dim 348 "
        "bpe_output_dim 100352 bpe_pool_window 4 bpe_blank_id 100257 self_cond_layer 8 "
        "max_pos_emb 512 context_size 200 feedforward_mult 4 conv_kernel_size 15 conv_expansion 2",
        "projector": "n_layers 2 hidden 2048 mlp_ratio 2 n_heads 32 encoder_dim 1024 "
        "num_encoder_layers 4 block_size 15 downsample_rate 5 llm_dim 2048",
        "text": "n_layers 40 hidden 2048 intermediate 4096 n_heads 16 n_kv_heads 4 head_dim 128 "
        "vocab_size 100352 max_position_embeddings 4096 bos_id 100257 eos_id 100257 pad_id 100256",
        "frontend": "sample_rate 16000 num_mels 80 n_fft 512 win_length 400 hop_length 160",
    }
    metadata: dict[str, tuple[Any, gguf.GGUFValueType]] = {}
    for section, text in numbers.items():
        root = "stt." if section == "frontend" else "stt.granite_nar."
        words = text.split()
        for key, value in zip(words[::2], words[1::2], strict=True):
            metadata[f"{root}{section}.{key}"] = (int(value), Kind.UINT32)
    for key, number in {
        "projector.layernorm_eps": 1e-6,
        "text.rms_norm_eps": 1e-5,
        "text.rope_theta": 1e4,
        "text.embedding_multiplier": 12.0,
        "text.logits_scaling": 8.0,
        "text.attention_multiplier": 1 / 128,
        "text.residual_multiplier": 0.22,
    }.items():
        metadata[f"stt.granite_nar.{key}"] = (number, Kind.FLOAT32)
    for key, word in {
        "stt.frontend.type": "mel",
        "stt.frontend.window": "hann_periodic",
        "stt.frontend.normalize": "per_utterance",
        "stt.frontend.pad_mode": "reflect",
        "stt.frontend.mel_norm": "htk",
        "stt.granite_nar.text.hidden_act": "silu",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "granite",
    }.items():
        metadata[key] = (word, Kind.STRING)
    for key in ("projector.attn_bias", "projector.mlp_bias", "scale_projected_embeddings"):
        metadata[f"stt.granite_nar.{key}"] = (True, Kind.BOOL)
    metadata["stt.granite_nar.encoder.layer_indices"] = ([4, 8, 12, -1], Kind.INT32)
    return metadata


def published_shapes() -> dict[str, tuple[int, ...]]:
    """In ggml's order, written out from the description."""
    shapes: dict[str, tuple[int, ...]] = {
        "frontend.mel_filterbank": (257, 80),
        "frontend.window": (400,),
    }

    def linear(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[-1:]

    linear("enc.input_linear", 160, 1024)
    linear("enc.ctc_proj", 1024, 348)
    linear("enc.ctc_bypass", 348, 1024)
    linear("enc.ctc_bpe", 1024, 100352)
    for n in range(16):
        block = f"enc.blocks.{n}."
        for norm in ("ff1", "attn", "conv", "ff2", "post"):
            linear(f"{block}norm_{norm}", 1024)
        for ff in ("ff1", "ff2"):
            linear(f"{block}{ff}_up", 1024, 4096)
            linear(f"{block}{ff}_down", 4096, 1024)
        linear(f"{block}attn_q", 1024, 1024, bias=False)
        linear(f"{block}attn_kv", 1024, 2048, bias=False)
        linear(f"{block}attn_out", 1024, 1024)
        linear(f"{block}attn_rel_pos_emb", 128, 1025, bias=False)
        linear(f"{block}conv_pointwise1", 1, 1024, 4096)
        linear(f"{block}conv_depthwise", 15, 1, 2048, bias=False)
        linear(f"{block}conv_pointwise2", 1, 2048, 1024)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{block}conv_bn.{part}"] = (2048,)
    for n in range(4):
        linear(f"prj.layer_norms.{n}", 1024)
    linear("prj.layer_projector", 4096, 2048)
    shapes |= {"prj.query": (2048, 3), "prj.window_positions": (2048, 15)}
    linear("prj.out_norm", 2048)
    linear("prj.out_linear", 2048, 2048)
    for n in range(2):
        block = f"prj.blocks.{n}."
        linear(f"{block}norm_attn", 2048)
        linear(f"{block}norm_ffn", 2048)
        for part in "qkvo":
            linear(f"{block}cross_attn_{part}", 2048, 2048)
        linear(f"{block}ffn_fc1", 2048, 4096)
        linear(f"{block}ffn_fc2", 4096, 2048)
    linear("dec.token_embd", 2048, 100352, bias=False)
    linear("dec.output_norm", 2048, bias=False)
    for n in range(40):
        block = f"dec.blocks.{n}."
        linear(f"{block}norm_attn", 2048, bias=False)
        linear(f"{block}norm_ffn", 2048, bias=False)
        for part, rows in {"q": 2048, "k": 512, "v": 512, "o": 2048}.items():
            linear(f"{block}attn.{part}", 2048, rows, bias=False)
        linear(f"{block}ffn.gate", 2048, 4096, bias=False)
        linear(f"{block}ffn.up", 2048, 4096, bias=False)
        linear(f"{block}ffn.down", 4096, 2048, bias=False)
    return shapes


# The command line


def test_inspect_names_the_dialect(pairs: dict[str, tuple[Path, Path]]) -> None:
    theirs, ours = pairs["q4_k_m"]
    shown = run("inspect", theirs)
    assert shown.returncode == 0 and "dialect granite_speech_nar" in shown.stdout
    assert "granite-speech-mini-nar" in shown.stdout
    fields = json.loads(run("inspect", theirs, "--json").stdout)
    assert fields["dialect"] == "granite_speech_nar"
    assert fields["metadata"]["stt.frontend.mel_norm"] == "htk"
    tensors = {t["name"]: t for t in fields["tensors"]}
    assert tensors[FILTERBANK]["shape"] == [257, 80] and "frontend.window" in tensors
    assert tensors["dec.token_embd.weight"]["type"] == "Q6_K"
    same = json.loads(run("inspect", ours, "--json").stdout)
    assert same["dialect"] == "granite_nle"
    assert fields["hparams"] == same["hparams"] and fields["sizes"] == same["sizes"]


@pytest.mark.slow
def test_convert_command(pairs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    theirs, ours = pairs["q4_k_m"]
    source = tmp_path / theirs.name
    source.symlink_to(theirs)
    done = run("convert", source)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    output = tmp_path / "mini-granite_nle-Q4_K_M.gguf"
    assert f"{output.name}: 8.8 MB" in done.stderr and "of its source" in done.stderr
    assert raw(output) == raw(ours)
    for arguments, code, says in (
        ((source,), 2, "exists already"),
        ((source, "-o", source, "--force"), 2, "is the source itself"),
        ((source, tmp_path / "a.gguf", "-o", tmp_path / "b.gguf"), 2, "give one"),
        ((source, tmp_path / "a.gguf", "--outtype", "f16"), 2, "are quantized"),
        ((output, tmp_path / "a.gguf"), 2, "is a granite_nle file already"),
        ((TRAINED,), 2, "name the file to write"),
    ):
        refused = run("convert", *arguments)
        assert refused.returncode == code and says in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr and refused.stdout == ""
    assert {p.name for p in tmp_path.iterdir()} == {source.name, output.name}
    assert run("convert", TRAINED, tmp_path / "c.gguf", "--outtype", "f32").returncode == 0


@pytest.mark.slow
def test_evaluation_takes_such_a_file(pairs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    pytest.importorskip("kaldialign")
    listed = tmp_path / "manifest.jsonl"
    listed.write_text(json.dumps({"audio": str(SAMPLE), "text": TEXT}) + "\n")
    evaluated = run("eval", "-m", pairs["f16"][0], listed, "-o", tmp_path / "results.jsonl")
    assert evaluated.returncode == 0 and "0.00" in evaluated.stdout, evaluated.stderr


@pytest.mark.slow
def test_every_command_takes_such_a_file(
    pairs: dict[str, tuple[Path, Path]], write: Callable[..., Path], tmp_path: Path
) -> None:
    theirs, ours = pairs["f16"]
    tiny_file = write()
    assert run("transcribe", "-m", theirs, SAMPLE).stdout == f"{TEXT}\n"
    for models in ((theirs, ours), (ours, theirs)):
        compared = run("diff", *models, SAMPLE, "--json")
        assert compared.returncode == 0, compared.stderr
        (model,) = json.loads(compared.stdout)["models"]
        assert model["passed"] and all(s["max_abs"] in (0, None) for s in model["stages"])
    assert run("bench", tiny_file, SAMPLE, "--repeats", "1").returncode == 0
    for name, path in (("a", theirs), ("b", ours)):
        observed = run("imatrix", path, SAMPLE, "-o", tmp_path / f"{name}.imatrix")
        assert observed.returncode == 0, observed.stderr
        quantize(path, tmp_path / f"{name}.gguf", "q4_k_m", imatrix=tmp_path / f"{name}.imatrix")
    assert raw(tmp_path / "a.gguf") == raw(tmp_path / "b.gguf")
    assert open_model_file(tmp_path / "a.gguf").dialect == "granite_nle"
