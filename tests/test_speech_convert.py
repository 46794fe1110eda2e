"""Converting checkpoints of the autoregressive model, against transformers' own reading of them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from granite_gguf.architectures import open_model_file
from granite_gguf.arrays import FloatArray
from granite_gguf.converters import convert
from granite_gguf.converters.configs import read_config
from granite_gguf.errors import CheckpointError
from tests.gguf_reading import decoded, fields
from tests.support.checkpoint.safetensors_file import write_file
from tests.support.checkpoint.speech import SPEECH_SIZES, adapter_tensors
from tests.support.make_speech_checkpoint import ADAPTER, DRAFT_HEAD, make_speech_checkpoint

LAYOUTS = ("base", "plus", "lora")
SIZE = SPEECH_SIZES["tiny"]

# The format's names by transformers' names in memory.
RENAMED = (
    (r"lm_head", "output"),
    (r"model\.language_model\.embed_tokens", "token_embd"),
    (r"model\.language_model\.norm", "output_norm"),
    (r"model\.language_model\.layers\.(\d+)\.", r"blk.\1."),
    (r"input_layernorm", "attn_norm"),
    (r"self_attn\.([qkv])_proj", r"attn_\1"),
    (r"self_attn\.o_proj", "attn_output"),
    (r"post_attention_layernorm", "ffn_norm"),
    (r"mlp\.(gate|up|down)_proj", r"ffn_\1"),
    (r"model\.encoder\.input_linear", "enc.input"),
    (r"model\.encoder\.out_mid", "enc.ctc_mid"),
    (r"model\.encoder\.out\b", "enc.ctc_out"),
    (r"model\.encoder\.layers\.(\d+)\.", r"enc.blk.\1."),
    (r"(ff\d)\.pre_norm", r"\1_norm"),
    (r"(ff\d)\.(up|down)_proj", r"\1_\2"),
    (r"attn\.pre_norm", "attn_norm"),
    (r"attn\.to_(q|kv|out)", r"attn_\1"),
    (r"attn\.rel_pos_emb", "attn_rel_pos"),
    (r"conv\.norm", "conv_norm"),
    (r"conv\.(up|down)_conv", r"conv_\1"),
    (r"conv\.depth_conv\.conv", "conv_dw"),
    (r"conv\.batch_norm", "conv_bn"),
    (r"model\.projector\.(query|linear)", r"proj.\1"),
    (r"model\.projector\.qformer\.layernorm", "proj.ln"),
    (r"model\.projector\.qformer\.encoder\.layer\.(\d+)\.", r"proj.blk.\1."),
    (r"crossattention\.attention\.", "ca_"),
    (r"crossattention\.output\.dense", "ca_out"),
    (r"crossattention\.output\.LayerNorm", "ca_norm"),
    (r"attention\.attention\.", "sa_"),
    (r"attention\.output\.dense", "sa_out"),
    (r"attention\.output\.LayerNorm", "sa_norm"),
    (r"intermediate_query\.dense", "ffn_up"),
    (r"output_query\.dense", "ffn_down"),
    (r"output_query\.LayerNorm", "ffn_norm"),
)


def checkpoint(directory: Path, layout: str, **options: Any) -> Path:
    make_speech_checkpoint(directory, layout=layout, draft_head=layout == "base", **options)
    return directory


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("speech")
    return {layout: checkpoint(root / layout, layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def files(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("speech-gguf")
    return {
        layout: convert(directory, root / f"{layout}.gguf", outtype="f32").path
        for layout, directory in checkpoints.items()
    }


def edited(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with other values in config.json; a dictionary is merged, None out."""
    shutil.copytree(source, target)
    path = target / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        section = config.setdefault(key, {}) if isinstance(value, dict) else config
        for name, new in value.items() if isinstance(value, dict) else [(key, value)]:
            section[name] = new
            if new is None:
                del section[name]
    path.write_text(json.dumps(config))
    return target


def transformers_state(directory: Path, layout: str) -> dict[str, FloatArray]:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind = "Plus" if layout == "plus" else ""
    model = getattr(transformers, f"GraniteSpeech{kind}ForConditionalGeneration")
    loaded = model.from_pretrained(directory, dtype=torch.float32)
    state = loaded.state_dict()
    if loaded.config.text_config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {key: value.numpy() for key, value in state.items() if "num_batches" not in key}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_is_transformers_own(
    layout: str, checkpoints: dict[str, Path], files: dict[str, Path]
) -> None:
    expected = {}
    for key, value in transformers_state(checkpoints[layout], layout).items():
        name = key
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        expected[name] = value
    found = decoded(files[layout])
    beside = {"audio.mel_filters"}
    if layout == "base":
        beside |= {"enc.bpe_out.weight", "enc.bpe_out.bias"}
    assert found.keys() - beside == expected.keys()
    changed = {f"blk.{n}.attn_{x}.weight" for n in range(SIZE.language.layers) for x in "qv"}
    for name, value in expected.items():
        if layout != "lora" or name not in changed:
            np.testing.assert_array_equal(found[name].reshape(value.shape), value, err_msg=name)


def test_the_adapter_is_added(checkpoints: dict[str, Path], files: dict[str, Path]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    pytest.importorskip("torch")
    stored = safetensors.load_file(checkpoints["lora"] / "model.safetensors")
    adapter = safetensors.load_file(checkpoints["lora"] / ADAPTER)
    found = decoded(files["lora"])
    for n in range(SIZE.language.layers):
        for x in "qv":
            at = f"language_model.model.layers.{n}.self_attn.{x}_proj"
            a, b = (adapter[f"base_model.model.{at}.lora_{s}.weight"].double() for s in "AB")
            bare = stored[f"{at}.weight"].double()
            expected = (bare + (32 / 4) * (b @ a)).numpy()
            assert np.abs(expected - bare.numpy()).max() > 0.1
            value = found[f"blk.{n}.attn_{x}.weight"]
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
    keys = fields(files["lora"])
    assert keys["granite_speech.lora.merged"] is True
    assert (keys["granite_speech.lora.rank"], keys["granite_speech.lora.alpha"]) == (4, 32.0)


def test_the_draft_head_is_of_its_own_file(
    checkpoints: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    head = safetensors.load_file(checkpoints["base"] / DRAFT_HEAD)
    found = decoded(files["base"])
    for part in ("weight", "bias"):
        np.testing.assert_array_equal(found[f"enc.bpe_out.{part}"], head[part].float().numpy())
    without = edited(checkpoints["base"], tmp_path / "without")
    (without / DRAFT_HEAD).unlink()
    path = convert(without, tmp_path / "without.gguf").path
    assert not any(name.startswith("enc.bpe_out") for name in decoded(path))
    assert open_model_file(path).hparams.draft.bpe_vocab == 0
    assert fields(path)["granite_speech.variant"] == "4.0-1b"


def test_metadata(files: dict[str, Path], checkpoints: dict[str, Path]) -> None:
    base, plus, lora = (fields(files[layout]) for layout in LAYOUTS)
    for keys in (base, plus, lora):
        assert keys["general.architecture"] == "granite_speech"
        assert keys["granite_speech.audio_token_index"] == SIZE.audio_id
        assert keys["granite_speech.proj.layer_norm_eps"] == pytest.approx(1e-12)
        assert keys["granite_speech.window_size"] == 15
        assert keys["granite_speech.enc.ctc_vocab"] == SIZE.encoder.characters
        assert keys["granite_speech.enc.self_conditioning_layer"] == 2
        assert keys["granite_speech.llm.attention_multiplier"] == 1 / 16
        assert keys["tokenizer.ggml.tokens"][-1] == "<|audio|>"
        assert keys["tokenizer.ggml.eos_token_id"] == SIZE.vocabulary.eos_id
    assert "granite_speech.proj.cat_layers" not in base
    assert plus["granite_speech.proj.cat_layers"] == "3"
    assert base["granite_speech.proj.encoder_hidden_size"] == 64
    assert plus["granite_speech.proj.encoder_hidden_size"] == 128
    assert [k["granite_speech.llm.tie_word_embeddings"] for k in (base, plus, lora)] == [
        *(False, True, True)
    ]
    assert [k["granite_speech.llm.rope_theta"] for k in (base, plus, lora)] == [1e4, 1e4, 1e7]
    assert [k["granite_speech.variant"] for k in (base, plus, lora)] == [
        *("4.1-2b", "4.1-2b-plus", "3.3-2b")
    ]
    template = (checkpoints["base"] / "chat_template.jinja").read_text()
    assert base["tokenizer.chat_template"] == template != plus["tokenizer.chat_template"]
    assert base["granite_speech.prompt.system"] == ""
    assert "December 19, 2024" in plus["granite_speech.prompt.system"]
    assert "April 9, 2025" in lora["granite_speech.prompt.system"]
    assert base["granite_speech.prompt.default"].startswith("transcribe the speech with proper")
    assert [open_model_file(files[x]).hparams.family for x in LAYOUTS] == ["base", "plus", "3.x"]
    assert open_model_file(files["plus"]).hparams.encoder.captured_blocks == (3, 4)


def test_the_oldest_is_the_same_under_other_names(
    files: dict[str, Path], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """So that all which is proved of 3.3 against transformers, which cannot read it, holds."""
    oldest = checkpoint(tmp_path / "granite-speech", "oldest")
    made = convert(oldest, tmp_path / "oldest.gguf", outtype="f32")
    assert made.layout.value == "granite_speech_3.2"
    expected, found = decoded(files["lora"]), decoded(made.path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    h, later = (open_model_file(path).hparams for path in (made.path, files["lora"]))
    assert (h.prompt.variant, h.heard) == ("3.2-8b", ("en",))
    assert (h.encoder.max_pos_emb, h.projector.window_size, h.adapter.rank) == (512, 15, SIZE.rank)
    assert replace(h, prompt=later.prompt) == later


def test_what_the_code_of_the_oldest_takes_by_itself(tmp_path: Path) -> None:
    absent = dict.fromkeys(("window_size", "downsample_rate"))
    made = checkpoint(tmp_path / "whole", "oldest")
    without = edited(made, tmp_path / "short", projector_config=absent, has_lora_adapter=None)
    config = read_config(without).hparams
    assert (config.projector.window_size, config.projector.downsample_rate) == (15, 5)
    (without / ADAPTER).unlink()
    with pytest.raises(CheckpointError, match=r"no such file, but config\.json says"):
        read_config(without)
    bare = edited(made, tmp_path / "bare", has_lora_adapter=False)
    assert not read_config(bare).hparams.adapter.merged
    other = edited(made, tmp_path / "other", projector_config={"window_size": 14})
    with pytest.raises(CheckpointError, match="14"):
        convert(other, tmp_path / "other.gguf")
    unknown = edited(made, tmp_path / "unknown", audio_token_index=None)
    with pytest.raises(CheckpointError, match="the audio token 49155 lies beyond the vocabulary"):
        convert(unknown, tmp_path / "unknown.gguf")


def test_the_longest_pass_is_the_checkpoints(
    files: dict[str, Path], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    usual = [open_model_file(files[x]).hparams.front_end.max_pass_seconds for x in LAYOUTS]
    assert usual == [30, 300, 30]
    shorter = edited(checkpoints["base"], tmp_path / "shorter")
    path = shorter / "preprocessor_config.json"
    front_end = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(front_end | {"max_pass_seconds": 6.5}), encoding="utf-8")
    told = open_model_file(convert(shorter, tmp_path / "shorter.gguf").path).hparams.front_end
    assert told.max_pass_seconds == 6.5


@pytest.mark.parametrize("outtype", ["f16", "bf16"])
def test_output_types(outtype: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    path = convert(checkpoints["plus"], tmp_path / "plus.gguf", outtype=outtype).path
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert types["token_embd.weight"] == types["blk.0.attn_output.weight"] == outtype.upper()
    encoder = "F32" if outtype == "f16" else "BF16"
    assert types["enc.blk.0.ff1_up.weight"] == types["proj.blk.1.ca_key.weight"] == encoder
    assert {types[x] for x in ("proj.query", "proj.ln.weight", "output_norm.weight")} == {"F32"}


def test_theta_from_wherever_it_is(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    rope = {"rope_theta": 12345.0, "rope_type": "default"}
    text = {"rope_theta": None, "rope_parameters": rope}
    moved = edited(checkpoints["base"], tmp_path / "moved", text_config=text)
    path = convert(moved, tmp_path / "moved.gguf").path
    assert open_model_file(path).hparams.llm.rope_theta == 12345.0
    nowhere = edited(checkpoints["base"], tmp_path / "nowhere", text_config={"rope_theta": None})
    with pytest.raises(CheckpointError, match=r"has no text_config\.rope_theta"):
        convert(nowhere, tmp_path / "nowhere.gguf")
    both = edited(checkpoints["base"], tmp_path / "both", text_config={"rope_parameters": rope})
    with pytest.raises(CheckpointError, match="rope_theta is 10000"):
        convert(both, tmp_path / "both.gguf")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_both_prefixes_of_adapters(
    prefix: str, checkpoints: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    source = edited(checkpoints["lora"], tmp_path / "lora")
    renamed = [t for t in adapter_tensors(SIZE, 0, prefix) if prefix in t.key]
    write_file(source / ADAPTER, renamed)
    path = convert(source, tmp_path / "lora.gguf", outtype="f32").path
    expected = dict(decoded(files["lora"]))
    if prefix == "language_model.model.":
        for name, value in decoded(path).items():
            np.testing.assert_array_equal(value, expected[name])
    else:  # the noise goes by the name
        bare = decoded(path)["blk.0.attn_q.weight"] - expected["blk.0.attn_q.weight"]
        assert np.abs(bare).max() > 0.1


def test_an_adapter_that_finds_no_matrix(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    adapter = list(adapter_tensors(SIZE, 0))
    cases = {
        "no matrix of an adapter": adapter_tensors(SIZE, 0, "decoder."),
        "which is unknown": [
            type(t)(t.key.replace("layers.2.", "layers.7."), t.dtype, t.shape, t.parts)
            for t in adapter
        ],
        "has only lora_A": [t for t in adapter if "layers.1.self_attn.q_proj.lora_B" not in t.key],
        "holds no tensors": [],
    }
    for n, (message, found) in enumerate(cases.items()):
        source = edited(checkpoints["lora"], tmp_path / f"{n}")
        write_file(source / ADAPTER, found)
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / f"{n}.gguf")
        assert not (tmp_path / f"{n}.gguf").exists()
    source = edited(checkpoints["lora"], tmp_path / "missing")
    (source / ADAPTER).unlink()
    with pytest.raises(CheckpointError, match="has_lora_adapter"):
        convert(source, tmp_path / "missing.gguf")


def test_files_beside_the_model_are_not_globbed(
    checkpoints: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    """An adapter and another set of shards beside a sharded model whose index names neither."""
    source = checkpoint(tmp_path / "base", "base", shards=3)
    shutil.copy(checkpoints["lora"] / ADAPTER, source / ADAPTER)
    shutil.copy(
        source / "model-00001-of-00003.safetensors", source / "model-00001-of-00002.safetensors"
    )
    path = convert(source, tmp_path / "base.gguf", outtype="f32").path
    expected = decoded(files["base"])
    for name, value in decoded(path).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_what_the_projector_reads_must_be_what_the_encoder_gives(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    source = edited(
        checkpoints["plus"], tmp_path / "plus", encoder_config={"cat_hidden_layers": [1, 3]}
    )
    with pytest.raises(CheckpointError, match="reads 128 numbers a frame, the encoder gives 192"):
        convert(source, tmp_path / "plus.gguf")
