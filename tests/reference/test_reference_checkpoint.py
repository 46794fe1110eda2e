"""Reading the three layouts: field names, tensor names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from granite_gguf.reference import (  # noqa: E402
    CheckpointError,
    Layout,
    load_model,
    load_tokenizer,
    read_config,
    to_checkpoint,
)
from tests.reference import tiny  # noqa: E402
from tests.reference.tiny import LAYOUTS, write_json  # noqa: E402

# Names as they are in the published files, typed in by hand.
NAMES: dict[Layout, list[str]] = {
    "nle": [
        "encoder.input_linear.weight",
        "encoder.layers.3.ff1.pre_norm.weight",
        "encoder.layers.0.ff2.up_proj.bias",
        "encoder.layers.0.attn.to_kv.weight",
        "encoder.layers.0.attn.rel_pos_emb.weight",
        "encoder.layers.0.conv.norm.bias",
        "encoder.layers.0.conv.up_conv.weight",
        "encoder.layers.0.conv.depth_conv.conv.weight",
        "encoder.layers.0.conv.batch_norm.running_var",
        "encoder.layers.0.conv.batch_norm.num_batches_tracked",
        "encoder.layers.0.conv.down_conv.bias",
        "encoder.layers.0.post_norm.weight",
        "encoder.out.weight",
        "encoder.out_mid.bias",
        "encoder.out_bpe.weight",
        "projector.layer_norms.3.weight",
        "projector.layer_projector.bias",
        "projector.query",
        "projector.window_positions",
        "projector.qformer.layers.1.attn_norm.weight",
        "projector.qformer.layers.1.cross_attention.q_proj.bias",
        "projector.qformer.layers.1.cross_attention.o_proj.weight",
        "projector.qformer.layers.1.mlp_norm.bias",
        "projector.qformer.layers.1.mlp.fc1.weight",
        "projector.qformer.layers.1.mlp.fc2.bias",
        "projector.out_norm.weight",
        "projector.out_linear.bias",
        "llm.model.embed_tokens.weight",
        "llm.model.layers.1.input_layernorm.weight",
        "llm.model.layers.1.self_attn.k_proj.weight",
        "llm.model.layers.1.post_attention_layernorm.weight",
        "llm.model.layers.1.mlp.gate_proj.weight",
        "llm.model.norm.weight",
    ],
    "granite_speech_nar": [
        "encoder.layers.0.conv.depth_conv.conv.weight",
        "encoder.out_bpe.bias",
        "projector.qformer.layers.0.cross_attention.v_proj.weight",
        "projector.layer_norms.0.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.mlp.down_proj.weight",
        "language_model.model.norm.weight",
    ],
    "native": [
        "model.encoder.input_linear.bias",
        "model.encoder.layers.0.conv.depth_conv.conv.weight",
        "model.encoder.out.weight",
        "model.encoder.out_mid.weight",
        "model.out_bpe.weight",
        "model.out_bpe.bias",
        "model.projector.proj.weight",
        "model.projector.qformer.queries",
        "model.projector.qformer.pos_emb",
        "model.projector.qformer.linear.bias",
        "model.projector.qformer.layers.0.cross_attn.q_proj.weight",
        "model.projector.qformer.layers.0.cross_attn.o_proj.bias",
        "model.projector.qformer.layers.0.mlp.fc1.weight",
        "model.projector.qformer.layers.0.mlp.fc2.weight",
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.self_attn.o_proj.weight",
        "model.language_model.norm.weight",
    ],
}


def edit_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_configuration_is_read(layout: Layout, tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path, layout)
    assert read_config(tmp_path) == tiny.config(layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_in_the_file(layout: Layout, tmp_path: Path) -> None:
    model = tiny.write_checkpoint(tmp_path, layout)
    names = set(to_checkpoint(model))
    assert len(names) == len(model.state_dict())
    assert set(NAMES[layout]) <= names
    prefixes = {name.split(".")[0] for name in names}
    llm = {"nle": "llm", "granite_speech_nar": "language_model"}.get(layout)
    assert prefixes == ({"encoder", "projector", llm} if llm else {"model"})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_come_back(layout: Layout, tmp_path: Path) -> None:
    written = tiny.write_checkpoint(tmp_path, layout).state_dict()
    model = load_model(tmp_path)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, written[name], rtol=0, atol=0)


def test_stored_types_become_the_asked_one(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path, "nle")
    path = tmp_path / "model.safetensors"
    half = {
        name: t.bfloat16() if t.is_floating_point() else t for name, t in load_file(path).items()
    }
    save_file(half, path)
    for dtype in (torch.float32, torch.float64):
        assert {parameter.dtype for parameter in load_model(tmp_path, dtype).parameters()} == {
            dtype
        }


def test_shards_equal_one_file(tmp_path: Path) -> None:
    whole = tiny.write_checkpoint(tmp_path, "granite_speech_nar").state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    weight_map = {name: f"model-{rank % 2}.safetensors" for rank, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        part = {name: tensor for name, tensor in tensors.items() if weight_map[name] == shard}
        save_file(part, tmp_path / shard)
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    for name, tensor in load_model(tmp_path).state_dict().items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=0)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors: no such file"):
        load_model(tmp_path)


def test_queries_may_have_a_batch_dimension_and_counters_may_be_absent(tmp_path: Path) -> None:
    written = tiny.write_checkpoint(tmp_path, "native").state_dict()
    path = tmp_path / "model.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if "num_batches_tracked" not in k}
    for name in ("queries", "pos_emb"):
        tensors[f"model.projector.qformer.{name}"].unsqueeze_(0)
    save_file(tensors, path)
    torch.testing.assert_close(load_model(tmp_path).projector.query, written["projector.query"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"encoder.out.bias": None}, r"missing encoder\.out\.bias"),
        ({"lm_head.weight": torch.zeros(2)}, r"unexpected lm_head\.weight"),
        ({"encoder.out.bias": torch.zeros(5)}, r"encoder\.out\.bias is \[5\], not \[12\]"),
        ({"encoder.out.weight": torch.zeros(16, 12)}, r"is \[16, 12\], not \[12, 16\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    tiny.write_checkpoint(tmp_path, "nle")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path) | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    with pytest.raises(CheckpointError, match=complaint):
        load_model(tmp_path)


def test_layouts_are_told_apart(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        tiny.write_checkpoint(tmp_path, layout)
        assert read_config(tmp_path).semantics.layout == layout
    edit_json(tmp_path / "config.json", model_type="granite_speech")
    with pytest.raises(CheckpointError, match="model_type 'granite_speech'"):
        read_config(tmp_path)


def test_first_release_shifts_and_retokenizes(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path, "nle")
    rules = read_config(tmp_path).semantics
    assert (rules.bpe_blank_id, rules.bpe_id_shift, rules.retokenize) == (0, 1, True)
    assert (rules.slot_id, rules.min_edit_length, rules.logits_divisor) == (tiny.EOS, 8, 1.0)


def test_incomplete_configuration_is_named(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path, "granite_speech_nar")
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    edit_json(path, projector_config={"hidden_size": 24})
    with pytest.raises(CheckpointError, match="projector_config: field 'encoder_dim' is missing"):
        read_config(tmp_path)
    write_json(path, whole | {"blank_token_id": 3})
    with pytest.raises(CheckpointError, match="blank_token_id is 3 but eos_token_id is 256"):
        read_config(tmp_path)
    write_json(path, whole | {"encoder_layer_indices": [1, 2, 3, 5]})
    with pytest.raises(CheckpointError, match="no encoder layer 5"):
        read_config(tmp_path)
    write_json(path, whole | {"encoder_layer_indices": [1, 2, -1]})
    with pytest.raises(CheckpointError, match="num_encoder_layers: 4, expected 3"):
        read_config(tmp_path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not JSON"):
        read_config(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_config(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path, "nle")
    for name, load in (("tokenizer.json", load_tokenizer), ("model.safetensors", load_model)):
        (tmp_path / name).write_bytes(b"?")
        if name == "model.safetensors":
            with pytest.raises(CheckpointError, match=name):
                load(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name}: no such file"):
            load(tmp_path)
