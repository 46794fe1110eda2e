"""The converter: what it writes, what survives of each layout, what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import granite_gguf
from granite_gguf import CheckpointError, OutputError
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import Layout, convert
from granite_gguf.converters.dtypes import convert_values
from granite_gguf.ggml import BF16, F16, F32
from tests.parity import assert_same_rows
from tests.signals import synthetic_audio
from tests.support.make_checkpoint import make_checkpoint

GGML = gguf.GGMLQuantizationType


def types(path: Path) -> dict[str, gguf.GGMLQuantizationType]:
    return {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(path).tensors}


@pytest.fixture
def checkpoint(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(checkpoints["nle"], tmp_path / "checkpoint"))


def edit_json(path: Path, change: Any) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


# Policies


def test_f16_is_the_published_policy(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    convert(checkpoints["nle"], tmp_path / "m.gguf")
    for name, kind in types(tmp_path / "m.gguf").items():
        half = name.startswith("llm.") and "norm" not in name
        assert kind == (GGML.F16 if half else GGML.F32), name


def test_bf16_rounds_every_matrix(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    convert(checkpoints["nle"], tmp_path / "m.gguf", outtype="bf16")
    kinds = types(tmp_path / "m.gguf")
    assert kinds["enc.blk.0.conv_up.weight"] == kinds["proj.blk.1.mlp_fc2.weight"] == GGML.BF16
    assert kinds["llm.token_embd.weight"] == kinds["enc.ctc_mid.weight"] == GGML.BF16
    for name, kind in kinds.items():
        small = name.endswith(("bias", "query", "positions", "filters", "_mean", "_var"))
        small |= any(part in name for part in ("norm", "rel_pos", "conv_dw", "conv_bn"))
        assert kind == (GGML.F32 if small else GGML.BF16), name


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_values_arrive(tmp_path: Path, dtype: str) -> None:
    """Every number of a checkpoint, read by the safetensors library, stands in the F32 file."""
    source = tmp_path / "checkpoint"
    make_checkpoint(source, layout="granite_speech_nar", size="tiny", seed=4, dtype=dtype)
    convert(source, tmp_path / "m.gguf", outtype="f32")
    stored = _read_safetensors(source / "model.safetensors")
    tensors = {t.name: np.array(t.data) for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    pairs = {
        "enc.blk.3.attn_kv.weight": "encoder.layers.3.attn.to_kv.weight",
        "enc.blk.0.conv_dw.weight": "encoder.layers.0.conv.depth_conv.conv.weight",
        "enc.blk.1.conv_up.weight": "encoder.layers.1.conv.up_conv.weight",
        "enc.blk.2.conv_bn.running_var": "encoder.layers.2.conv.batch_norm.running_var",
        "enc.bpe_out.bias": "encoder.out_bpe.bias",
        "proj.query": "projector.query",
        "proj.layer_norm.2.bias": "projector.layer_norms.2.bias",
        "proj.blk.1.attn_o.weight": "projector.qformer.layers.1.cross_attention.o_proj.weight",
        "llm.token_embd.weight": "language_model.model.embed_tokens.weight",
        "llm.blk.2.ffn_down.weight": "language_model.model.layers.2.mlp.down_proj.weight",
        "llm.norm.weight": "language_model.model.norm.weight",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(tensors[ours].reshape(-1), stored[theirs].reshape(-1), ours)
    assert len(tensors) - 1 == sum("num_batches" not in key for key in stored)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors in float32; bfloat16, which numpy lacks, through its bits."""
    header_length = int.from_bytes(path.read_bytes()[:8], "little")
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + header_length])
    header.pop("__metadata__", None)
    found = {}
    for key, entry in header.items():
        start, end = (8 + header_length + offset for offset in entry["data_offsets"])
        raw = data[start:end]
        if entry["dtype"] == "BF16":
            found[key] = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            dtype = {"F16": "<f2", "F32": "<f4", "I64": "<i8"}[entry["dtype"]]
            found[key] = np.frombuffer(raw, dtype).astype(np.float32)
    return found


def test_bf16_loses_nothing_of_bf16(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    make_checkpoint(source, layout="nle", size="tiny", seed=4, dtype="bf16")
    convert(source, tmp_path / "a.gguf", outtype="bf16")
    convert(source, tmp_path / "b.gguf", outtype="f32")
    a, b = open_model_file(tmp_path / "a.gguf"), open_model_file(tmp_path / "b.gguf")
    for name in a.specs:
        np.testing.assert_array_equal(a.read(name), b.read(name), name)


def test_rounding_to_nearest_even() -> None:
    # bfloat16 keeps 8 bits: 1 + 2^-8 lies half-way between 1 and 1 + 2^-7, 1 + 3 * 2^-8 between
    # 1 + 2^-7 and 1 + 2^-6.
    wide = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20]], np.float32)
    bits = convert_values("x", wide, F32, BF16).view(np.uint16)
    assert bits.tolist() == [[0x3F80, 0x3F82, 0xBF81]]
    assert convert_values("x", bits, BF16, F32).tolist() == [[1.0, 1 + 2**-6, -1 - 2**-7]]


def test_numbers_that_do_not_fit() -> None:
    big = np.array([[70000.0]], np.float32)
    with pytest.raises(CheckpointError, match=r"weights .*more than float16.*bf16"):
        convert_values("weights", big, F32, F16)
    assert convert_values("weights", big, F32, BF16).shape == (1, 2)
    with pytest.raises(CheckpointError, match="not finite"):
        convert_values("weights", np.array([[np.nan]], np.float32), F32, F32)


# Layouts


def test_layouts_are_recognised(f32_files: dict[str, Path]) -> None:
    h = {layout: open_model_file(path).hparams for layout, path in f32_files.items()}
    nle, hub, native = h["nle"], h["granite_speech_nar"], h["native"]
    assert (nle.hypothesis.blank_id, nle.hypothesis.id_shift, nle.hypothesis.retokenize) == (
        (0, 1, True)
    )
    for later in (hub, native):
        assert later.hypothesis.blank_id == later.editor.eos_token_id
        assert (later.hypothesis.id_shift, later.hypothesis.retokenize) == (0, False)
        assert later.editor.apply_logits_scaling
    assert [x.editor.min_edit_length for x in (nle, hub, native)] == [8, 8, 0]
    assert [x.encoder.capture_before_feedback for x in (nle, hub, native)] == [False, False, True]
    assert [x.front_end.pad_last_frame for x in (nle, hub, native)] == [False, False, True]
    assert not nle.editor.apply_logits_scaling
    layouts = [
        open_model_file(path).text("granite_nle.source.layout") for path in f32_files.values()
    ]
    assert layouts == [layout.value for layout in (Layout.NLE, Layout.HUB, Layout.NATIVE)]


def test_same_weights_same_stages(tmp_path: Path) -> None:
    """The three layouts of one model agree wherever they mean the same."""
    models = {}
    for layout in ("nle", "granite_speech_nar", "native"):
        make_checkpoint(
            tmp_path / layout, layout=layout, seed=2, dtype="f32", identity_projector_norms=True
        )
        convert(tmp_path / layout, tmp_path / f"{layout}.gguf", outtype="f32")
        models[layout] = granite_gguf.load(tmp_path / f"{layout}.gguf", device="cpu")
    audio = synthetic_audio(80_000, seed=9)
    mel = models["nle"].compute_mel(audio)
    # The native port keeps a trailing mel frame; before it, nothing differs.
    np.testing.assert_array_equal(models["native"].compute_mel(audio)[: len(mel)], mel)
    encoded = {layout: model.run_encoder(mel) for layout, model in models.items()}
    first, hub, native = (encoded[layout] for layout in models)
    np.testing.assert_array_equal(first.captured, hub.captured)
    np.testing.assert_array_equal(first.final, native.final)
    width = first.final.shape[1]
    differs = (first.captured != native.captured).any(axis=0).reshape(4, width).any(axis=1)
    assert differs.tolist() == [False, True, False, False]  # captured before the feedback
    heads = {
        layout: model.run_hypothesis_head(first.final, first.blank, frozenset({"bpe_logits"}))
        for layout, model in models.items()
    }
    tokens = {}
    for layout, model in models.items():
        h = model.hparams.hypothesis
        ids = heads[layout].ids
        tokens[layout] = np.where(ids == h.blank_id, -1, ids - h.id_shift).tolist()
    assert tokens["nle"] == tokens["granite_speech_nar"] == tokens["native"]
    assert_same_rows(
        "projector",
        models["native"].run_projector(first.captured),
        models["nle"].run_projector(first.captured),
    )
    text_ids = np.array([3, 4, 5])
    audio_tokens = models["nle"].run_projector(first.captured)
    logits = [
        model.run_editor(audio_tokens, text_ids, frozenset({"editing_logits"})).taps[
            "editing_logits"
        ]
        for model in models.values()
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


def test_shards_give_the_same_file(tmp_path: Path) -> None:
    for name, shards in (("one", 1), ("three", 3)):
        make_checkpoint(tmp_path / name, layout="nle", seed=1, shards=shards)
        convert(tmp_path / name, tmp_path / f"{name}.gguf", name="model")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "three.gguf").read_bytes()


# Metadata


def test_general_metadata(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "granite-speech-4.1-2b-nar"
    shutil.copytree(checkpoints["nle"], source)
    (source / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage:\n- en\n- fr\npipeline_tag: "
        "automatic-speech-recognition\nbase_model:\n- ibm-granite/granite-4.0-1b-base\n---\nCard\n"
    )
    convert(source, tmp_path / "m.gguf", revision="7d20732d", outtype="bf16")
    metadata = {
        key: value.value
        for key, value in open_model_file(tmp_path / "m.gguf").container.metadata.items()
    }
    expected = {
        "general.architecture": "granite_nle",
        "general.name": "Granite Speech 4.1 2b Nar",
        "general.license": "apache-2.0",
        "general.languages": ["en", "fr"],
        "general.file_type": int(gguf.LlamaFileType.MOSTLY_BF16),
        "general.base_model.0.repo_url": "https://huggingface.co/ibm-granite/granite-4.0-1b-base",
        "granite_nle.source.layout": "nle",
        "granite_nle.source.revision": "7d20732d",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "dbrx",
    }
    assert {key: metadata.get(key) for key in expected} == expected
    assert metadata["tokenizer.huggingface.json"] == (source / "tokenizer.json").read_text()
    vocabulary = json.loads((source / "tokenizer.json").read_text())
    eos = next(t for t in vocabulary["added_tokens"] if t["content"] == "<|end_of_text|>")
    assert metadata["tokenizer.ggml.tokens"][eos["id"]] == "<|end_of_text|>"
    assert metadata["tokenizer.ggml.token_type"][eos["id"]] == 3
    assert metadata["tokenizer.ggml.eos_token_id"] == eos["id"]
    characters = metadata["granite_nle.ctc.vocab"].split("\n")
    assert len(characters) == metadata["granite_nle.ctc.vocab_size"] == 40 and characters[0] == ""


# Refusals


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(model_type="whisper"), "model_type is 'whisper'"),
        (lambda c: c.pop("encoder_config"), "has no encoder_config"),
        (lambda c: c["encoder_config"].pop("num_layers"), r"no encoder_config\.num_layers"),
        (lambda c: c["encoder_config"].update(num_layers="4"), r"num_layers is '4'"),
        (lambda c: c["encoder_config"].update(num_layers=5), r"encoder\.layers\.4\.\S+ is missing"),
        (lambda c: c["encoder_config"].update(num_layers=3), "captured layers|is unknown"),
        (lambda c: c["llm_config"].update(intermediate_size=64), r"gate_proj.* is \[128, 64\]"),
        (lambda c: c["llm_config"].update(hidden_act="gelu"), "hidden_act is 'gelu'"),
        (lambda c: c["llm_config"].update(tie_word_embeddings=False), "tie_word_embeddings"),
        (lambda c: c.update(encoder_layer_indices="4"), "encoder_layer_indices"),
        (lambda c: c["projector_config"].update(block_size=16), "windows of 16"),
        (lambda c: c["ctc_tokenizer_config"]["char2idx"].update(z=4000), "4000"),
    ],
)
def test_configurations_that_contradict(
    checkpoint: Path, tmp_path: Path, change: Any, says: str
) -> None:
    edit_json(checkpoint / "config.json", change)
    with pytest.raises(CheckpointError, match=says):
        convert(checkpoint, tmp_path / "m.gguf")
    assert not list(tmp_path.glob("*.gguf*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]
)
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe"])
def test_missing_and_damaged_files(
    checkpoint: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is None:
        (checkpoint / name).unlink()
    else:
        (checkpoint / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        convert(checkpoint, tmp_path / "m.gguf")


def test_tensors_missing_unknown_and_misshapen(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    without = {key: value for key, value in tensors.items() if key != "encoder.out.bias"}
    cases = {
        "encoder.out.bias is missing": without,
        "lm_head.weight is unknown": {**tensors, "lm_head.weight": np.zeros((2, 2), np.float32)},
        r"encoder.out.bias is \[2\]": {**tensors, "encoder.out.bias": np.zeros(2, np.float32)},
        "encoder.out.bias is I64": {**tensors, "encoder.out.bias": np.zeros(40, np.int64)},
        "encoder.out.bias|enc.ctc_out.bias": {
            **tensors, "encoder.out.bias": np.full(40, np.inf, np.float32)
        },
    }  # fmt: skip
    for says, changed in cases.items():
        save_file(changed, path)
        with pytest.raises(CheckpointError, match=says.replace("is I64", "is I64|I64, expected")):
            convert(checkpoint, tmp_path / "m.gguf")
        assert not list(tmp_path.glob("*.gguf*")) and not list(tmp_path.glob(".*"))


def test_truncated_weights(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no complete safetensors file"):
        convert(checkpoint, tmp_path / "m.gguf")


def test_an_index_cannot_point_outside(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../../etc/passwd"}})
    )
    with pytest.raises(CheckpointError, match="no file beside it"):
        convert(checkpoint, tmp_path / "m.gguf")


def test_existing_output(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("precious")
    with pytest.raises(OutputError, match="--force"):
        convert(checkpoints["nle"], path)
    assert path.read_text() == "precious"
    convert(checkpoints["nle"], path, force=True)
    assert path.read_bytes()[:4] == b"GGUF"
    with pytest.raises(OutputError, match="no directory"):
        convert(checkpoints["nle"], tmp_path / "nowhere" / "m.gguf")


def test_an_interrupted_run_leaves_the_old_file(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("precious")

    def interrupt(_name: str, written: int, total: int) -> None:
        if written > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoints["nle"], path, force=True, progress=interrupt)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    """A float32 checkpoint of 64 MB converts within a few dozen MB beyond the libraries."""
    make_checkpoint(tmp_path / "c", layout="nle", size="small", dtype="f32")
    size = (tmp_path / "c" / "model.safetensors").stat().st_size
    script = (
        "import resource, sys; from granite_gguf.converters import convert;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "convert(sys.argv[1], sys.argv[2], outtype='f32');"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "c"), str(tmp_path / "m.gguf")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    grown = int(run.stdout) * 1024
    assert grown < 120e6, f"{grown} bytes for a checkpoint of {size}"
