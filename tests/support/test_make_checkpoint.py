"""The made-up checkpoints: keys, shapes and side files as the real repositories have them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from tests.support.checkpoint.layouts import stored_tensors
from tests.support.checkpoint.safetensors_file import (
    bf16_bits,
    file_order,
    header,
    split,
    write_file,
)
from tests.support.make_checkpoint import LAYOUTS, SIZES, CheckpointError, main, make_checkpoint

SCRIPT = Path(__file__).resolve().parent / "make_checkpoint.py"

Arrays = dict[str, npt.NDArray[Any]]

# The tiny model, by hand: encoder 4 x 64, 40 characters; projector 2 x 64; editor 3 x 64; 600 ids.
VOCABULARY, EOS = 600, 565


def linear(key: str, rows: int, width: int, *tail: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{key}.weight", (rows, width, *tail)
    yield f"{key}.bias", (rows,)


def norm(key: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{key}.weight", (width,)
    yield f"{key}.bias", (width,)


def encoder_shapes(at: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from linear(f"{at}.input_linear", 64, 160)
    for n in range(4):
        block = f"{at}.layers.{n}"
        for ff in ("ff1", "ff2"):
            yield from norm(f"{block}.{ff}.pre_norm", 64)
            yield from linear(f"{block}.{ff}.up_proj", 256, 64)
            yield from linear(f"{block}.{ff}.down_proj", 64, 256)
        yield from norm(f"{block}.attn.pre_norm", 64)
        yield f"{block}.attn.to_q.weight", (64, 64)
        yield f"{block}.attn.to_kv.weight", (128, 64)
        yield from linear(f"{block}.attn.to_out", 64, 64)
        yield f"{block}.attn.rel_pos_emb.weight", (1025, 32)
        yield from norm(f"{block}.conv.norm", 64)
        yield from linear(f"{block}.conv.up_conv", 256, 64, 1)
        yield f"{block}.conv.depth_conv.conv.weight", (128, 1, 15)
        for statistic in ("weight", "bias", "running_mean", "running_var"):
            yield f"{block}.conv.batch_norm.{statistic}", (128,)
        yield f"{block}.conv.batch_norm.num_batches_tracked", ()
        yield from linear(f"{block}.conv.down_conv", 64, 128, 1)
        yield from norm(f"{block}.post_norm", 64)
    yield from linear(f"{at}.out", 40, 64)
    yield from linear(f"{at}.out_mid", 64, 40)


def editor_shapes(at: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{at}.embed_tokens.weight", (600, 64)
    for n in range(3):
        layer = f"{at}.layers.{n}"
        yield f"{layer}.input_layernorm.weight", (64,)
        yield f"{layer}.self_attn.q_proj.weight", (64, 64)
        yield f"{layer}.self_attn.k_proj.weight", (32, 64)
        yield f"{layer}.self_attn.v_proj.weight", (32, 64)
        yield f"{layer}.self_attn.o_proj.weight", (64, 64)
        yield f"{layer}.post_attention_layernorm.weight", (64,)
        yield f"{layer}.mlp.gate_proj.weight", (128, 64)
        yield f"{layer}.mlp.up_proj.weight", (128, 64)
        yield f"{layer}.mlp.down_proj.weight", (64, 128)
    yield f"{at}.norm.weight", (64,)


def qformer_layer_shapes(layer: str, attention: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for role in "qkvo":
        yield from linear(f"{layer}.{attention}.{role}_proj", 64, 64)
    yield from linear(f"{layer}.mlp.fc1", 128, 64)
    yield from linear(f"{layer}.mlp.fc2", 64, 128)


def hub_shapes(editor: str, bpe_rows: int) -> dict[str, tuple[int, ...]]:
    def projector() -> Iterator[tuple[str, tuple[int, ...]]]:
        for k in range(4):
            yield from norm(f"projector.layer_norms.{k}", 64)
        yield from linear("projector.layer_projector", 64, 256)
        yield "projector.query", (1, 3, 64)
        yield "projector.window_positions", (1, 15, 64)
        for n in range(2):
            layer = f"projector.qformer.layers.{n}"
            yield from norm(f"{layer}.attn_norm", 64)
            yield from qformer_layer_shapes(layer, "cross_attention")
            yield from norm(f"{layer}.mlp_norm", 64)
        yield from norm("projector.out_norm", 64)
        yield from linear("projector.out_linear", 64, 64)

    return {
        **dict(encoder_shapes("encoder")),
        **dict(linear("encoder.out_bpe", bpe_rows, 64)),
        **dict(projector()),
        **dict(editor_shapes(editor)),
    }


def native_shapes() -> dict[str, tuple[int, ...]]:
    def projector() -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from linear("model.projector.proj", 64, 256)
        yield "model.projector.qformer.queries", (1, 3, 64)
        yield "model.projector.qformer.pos_emb", (1, 15, 64)
        for n in range(2):
            yield from qformer_layer_shapes(f"model.projector.qformer.layers.{n}", "cross_attn")
        yield from linear("model.projector.qformer.linear", 64, 64)

    return {
        **dict(encoder_shapes("model.encoder")),
        **dict(linear("model.out_bpe", 600, 64)),
        **dict(projector()),
        **dict(editor_shapes("model.language_model")),
    }


SHAPES = {
    "nle": hub_shapes("llm.model", 601),
    "granite_speech_nar": hub_shapes("language_model.model", 600),
    "native": native_shapes(),
}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_bits(path: Path) -> Arrays:
    """The tensors of a file, bfloat16 as its bit patterns."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    entries = json.loads(content[8 : 8 + length])
    assert entries.pop("__metadata__") == {"format": "pt"}
    types = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "I64": np.int64}
    arrays: Arrays = {}
    for key, entry in entries.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        values = np.frombuffer(content[start:end], types[entry["dtype"]])
        arrays[key] = values.reshape(entry["shape"])
    return arrays


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same tiny model in every layout, in float32 and without projector norms."""
    directories = {}
    for layout in LAYOUTS:
        directories[layout] = tmp_path_factory.mktemp(layout)
        make_checkpoint(
            directories[layout], layout=layout, dtype="f32", identity_projector_norms=True
        )
    return directories


@pytest.fixture(scope="module")
def weights(made: dict[str, Path]) -> dict[str, Arrays]:
    return {layout: load_file(made[layout] / "model.safetensors") for layout in LAYOUTS}


# ------------------------------------------------------------------------------------ tensors


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_and_shapes(layout: str, weights: dict[str, Arrays]) -> None:
    assert {key: array.shape for key, array in weights[layout].items()} == SHAPES[layout]


@pytest.mark.parametrize(
    ("layout", "floats"), [("nle", 930), ("granite_speech_nar", 930), ("native", 912)]
)
def test_full_size_has_the_tensors_of_the_real_file(layout: str, floats: int) -> None:
    tensors = list(stored_tensors(layout, SIZES["full"], 0, "BF16", identity_projector_norms=False))
    types = [tensor.dtype for tensor in tensors]
    assert (types.count("BF16"), types.count("I64"), len(types)) == (floats, 16, floats + 16)
    if layout == "granite_speech_nar":
        data = sum(tensor.nbytes for tensor in tensors)
        assert len(header(file_order(tensors))) + data == 4_509_382_504


@pytest.mark.parametrize("layout", ["granite_speech_nar", "native"])
def test_layouts_share_their_weights(layout: str, weights: dict[str, Arrays]) -> None:
    renames = {
        "granite_speech_nar": [("llm.model.", "language_model.model.")],
        "native": [
            ("llm.model.", "model.language_model."),
            ("encoder.", "model.encoder."),
            ("projector.layer_projector.", "model.projector.proj."),
            ("projector.query", "model.projector.qformer.queries"),
            ("projector.window_positions", "model.projector.qformer.pos_emb"),
            ("projector.out_linear.", "model.projector.qformer.linear."),
            ("projector.qformer.", "model.projector.qformer."),
        ],
    }
    compared = 0
    for key, array in weights["nle"].items():
        if "out_bpe" in key:
            continue
        renamed = next(
            (new + key[len(old) :] for old, new in renames[layout] if key.startswith(old)), key
        )
        if layout == "native":
            renamed = renamed.replace("cross_attention", "cross_attn")
        if renamed in weights[layout]:
            np.testing.assert_array_equal(array, weights[layout][renamed])
            compared += 1
        else:
            assert "_norm" in key
            neutral = 1.0 if key.endswith("weight") else 0.0
            np.testing.assert_array_equal(array, neutral)
    assert compared == len(weights[layout]) - 2


@pytest.mark.parametrize(
    ("layout", "head"), [("granite_speech_nar", "encoder.out_bpe"), ("native", "model.out_bpe")]
)
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_bpe_heads_differ_in_the_blank_only(
    layout: str, head: str, part: str, weights: dict[str, Arrays]
) -> None:
    shifted = weights["nle"][f"encoder.out_bpe.{part}"]
    direct = weights[layout][f"{head}.{part}"]
    np.testing.assert_array_equal(direct[EOS], shifted[0])
    others = np.arange(VOCABULARY) != EOS
    np.testing.assert_array_equal(direct[others], shifted[1:][others])


def test_end_of_text_never_wins_beside_a_blank_of_its_own(weights: dict[str, Arrays]) -> None:
    assert weights["nle"]["encoder.out_bpe.bias"][EOS + 1] == -30.0


def test_projector_norms_are_random_by_default(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, layout="nle", dtype="f32")
    arrays = load_file(tmp_path / "model.safetensors")
    for key in ("layer_norms.3", "out_norm", "qformer.layers.1.mlp_norm"):
        assert arrays[f"projector.{key}.weight"].std() > 0.05
        assert arrays[f"projector.{key}.bias"].std() > 0.02


def test_values_are_finite_and_repeatable(tmp_path: Path, weights: dict[str, Arrays]) -> None:
    again = {"dtype": "f32", "layout": "nle", "identity_projector_norms": True}
    make_checkpoint(tmp_path / "0", seed=0, **again)  # type: ignore[arg-type]
    make_checkpoint(tmp_path / "1", seed=1, **again)  # type: ignore[arg-type]
    same = load_file(tmp_path / "0" / "model.safetensors")
    other = load_file(tmp_path / "1" / "model.safetensors")
    for key, array in weights["nle"].items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(same[key], array)
        if key.endswith("proj.weight"):
            assert np.mean(other[key] == array) < 0.01
    assert all((same[key] > 0).all() for key in same if key.endswith("running_var"))


def test_types(tmp_path: Path, weights: dict[str, Arrays]) -> None:
    make_checkpoint(tmp_path / "f16", layout="nle", dtype="f16", identity_projector_norms=True)
    make_checkpoint(tmp_path / "bf16", layout="nle", identity_projector_norms=True)
    half = read_bits(tmp_path / "f16" / "model.safetensors")
    brain = read_bits(tmp_path / "bf16" / "model.safetensors")
    for key, array in weights["nle"].items():
        if array.dtype == np.int64:
            assert array.shape == ()
            assert half[key] == brain[key] == array > 0
            continue
        assert half[key].dtype == np.float16
        np.testing.assert_array_equal(half[key], array.astype(np.float16))
        widened = (brain[key].astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_allclose(widened, array, rtol=2.0**-8)
    with safe_open(tmp_path / "bf16" / "model.safetensors", framework="numpy") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16", "I64"}  # noqa: SIM118


def test_bf16_rounds_to_nearest_even() -> None:
    step = 2.0**-7  # between neighbours at 1
    values = np.array([1, 1 + step / 2, 1 + step, 1 + 1.5 * step, 1 + 0.51 * step, -0.0, -2])
    expected = [0x3F80, 0x3F80, 0x3F81, 0x3F82, 0x3F81, 0x8000, 0xC000]
    assert bf16_bits(values.astype(np.float32)).tolist() == expected


# ------------------------------------------------------------------------------------- shards


@pytest.mark.parametrize("shards", [2, 3, 217])
def test_shards_agree_with_their_index(shards: int, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "whole", layout="granite_speech_nar")
    make_checkpoint(tmp_path / "parts", layout="granite_speech_nar", shards=shards)
    whole = read_bits(tmp_path / "whole" / "model.safetensors")
    index = read_json(tmp_path / "parts" / "model.safetensors.index.json")
    files = {path.name: read_bits(path) for path in (tmp_path / "parts").glob("*.safetensors")}
    names = {f"model-{n:05d}-of-{shards:05d}.safetensors" for n in range(1, shards + 1)}
    assert files.keys() == names
    assert index["weight_map"] == {key: name for name, part in files.items() for key in part}
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in whole.values())
    assert index["weight_map"].keys() == whole.keys()
    for key, name in index["weight_map"].items():
        np.testing.assert_array_equal(files[name][key], whole[key])


def test_full_size_shards_are_even() -> None:
    tensors = list(stored_tensors("nle", SIZES["full"], 0, "BF16", identity_projector_norms=False))
    sizes = [sum(tensor.nbytes for tensor in part) for part in split(file_order(tensors), 3)]
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) < 500_000_000  # the embedding alone is 411 MB


def test_a_tensor_of_another_size_is_a_bug_that_shows(tmp_path: Path) -> None:
    tensor = next(
        iter(stored_tensors("nle", SIZES["tiny"], 0, "F32", identity_projector_norms=False))
    )
    wrong = type(tensor)(tensor.key, tensor.dtype, (*tensor.shape, 2), tensor.parts)
    with pytest.raises(AssertionError, match=tensor.key):
        write_file(tmp_path / "wrong.safetensors", [wrong])


# --------------------------------------------------------------------------------- side files


def test_side_files(made: dict[str, Path]) -> None:
    common = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    hub = common | {"preprocessor_config.json", "special_tokens_map.json"}
    expected = {
        "nle": hub | {"vocab.json", "merges.txt"},
        "granite_speech_nar": hub,
        "native": common | {"processor_config.json"},
    }
    for layout, directory in made.items():
        assert {path.name for path in directory.iterdir()} == expected[layout]


def test_configs_tell_the_layouts_apart(made: dict[str, Path]) -> None:
    nle, hub, native = (read_json(made[layout] / "config.json") for layout in LAYOUTS)
    assert [c["model_type"] for c in (nle, hub, native)] == ["nle", *["granite_speech_nar"] * 2]
    assert nle["encoder_config"]["bpe_output_dim"] == VOCABULARY + 1
    assert hub["encoder_config"]["bpe_output_dim"] == VOCABULARY
    assert native["encoder_config"]["vocabulary_size"] == VOCABULARY
    assert "blank_token_id" not in nle
    assert hub["blank_token_id"] == native["blank_token_id"] == EOS
    assert hub["encoder_config"]["blank_token_id"] == EOS
    assert nle["encoder_layer_indices"] == hub["encoder_layer_indices"] == [1, 2, 3, -1]
    assert native["encoder_config"]["cat_hidden_layers"] == [1, 2, 3]
    assert nle["llm_config"]["rope_theta"] == 10000
    for config in (hub, native):
        assert config["text_config"]["rope_parameters"]["rope_theta"] == 10000
        assert "rope_theta" not in config["text_config"]
    assert hub["min_edit_sequence_length"] == 8
    assert not {"encoder_layer_indices", "scale_projected_embeddings"} & native.keys()
    assert nle["torch_dtype"] == hub["dtype"] == native["dtype"] == "float32"


@pytest.mark.parametrize(("layout", "section"), [("nle", "llm_config"), ("native", "text_config")])
def test_multipliers_are_integers_where_the_real_ones_are(
    layout: str, section: str, made: dict[str, Path]
) -> None:
    editor = read_json(made[layout] / "config.json")[section]
    assert editor["attention_multiplier"] == 1 / 16
    assert editor["residual_multiplier"] == 0.22
    for field, value in (("embedding_multiplier", 12), ("logits_scaling", 8)):
        assert editor[field] == value
        assert isinstance(editor[field], int)


def test_front_ends_agree(made: dict[str, Path]) -> None:
    nle, hub = (
        read_json(made[layout] / "preprocessor_config.json")
        for layout in ("nle", "granite_speech_nar")
    )
    native = read_json(made["native"] / "processor_config.json")["feature_extractor"]
    assert nle["n_mels"] == hub["n_mels"] == native["feature_size"] == 80
    for field, value in (("n_fft", 512), ("win_length", 400), ("hop_length", 160)):
        assert nle[field] == hub[field] == native[field] == value


@pytest.mark.parametrize(("size", "characters"), [("tiny", 40), ("small", 348)])
def test_characters_leave_the_blank_free(size: str, characters: int, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, layout="nle", size=size)
    config = read_json(tmp_path / "config.json")
    mapped = config["ctc_tokenizer_config"]["char2idx"]
    assert config["encoder_config"]["output_dim"] == characters
    assert len(set(mapped.values())) == len(mapped) < characters - 1
    assert min(mapped.values()) > 0
    assert max(mapped.values()) < characters
    assert {" ", "e", "é", "ü", "ñ"} <= mapped.keys()


# ---------------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokenizer_round_trip(layout: str, made: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_file(str(made[layout] / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == VOCABULARY
    for text in ("ask not what 12345", "Ça va? L'été à Köln, señor", " two  spaces\n", "日本"):
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
        assert len(ids) <= len(text.encode())


def test_merges_apply(made: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_file(str(made["nle"] / "tokenizer.json"))
    assert tokenizer.encode("to li").tokens == ["to", "Ġli"]
    assert tokenizer.encode("é").tokens == ["Ã©"]


def test_added_tokens(made: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_file(str(made["nle"] / "tokenizer.json"))
    named = {"<|pad|>": EOS - 1, "<|end_of_text|>": EOS, "<|unk|>": EOS + 12}
    assert {content: tokenizer.token_to_id(content) for content in named} == named
    ids = tokenizer.encode("a<think>b<|end_of_text|>").ids
    assert len(ids) == 4
    assert tokenizer.decode(ids) == "a<think>b"
    for layout in LAYOUTS:
        config = read_json(made[layout] / "tokenizer_config.json")
        assert config["eos_token"] == config["bos_token"] == "<|end_of_text|>"
        assert config["added_tokens_decoder"][str(EOS)]["special"] is True


def test_full_vocabulary_is_laid_out_like_granite(tmp_path: Path) -> None:
    from tests.support.checkpoint.tokenizer import write_tokenizer

    write_tokenizer(tmp_path, SIZES["full"].vocabulary, slow_files=False)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 100352
    assert tokenizer.get_vocab_size(with_added_tokens=False) == 100256
    contents = {100256: "<|pad|>", 100257: "<|end_of_text|>", 100269: "<|unk|>"}
    assert {i: tokenizer.id_to_token(i) for i in contents} == contents


def test_slow_files_say_the_same(made: dict[str, Path]) -> None:
    model = read_json(made["nle"] / "tokenizer.json")["model"]
    assert read_json(made["nle"] / "vocab.json") == model["vocab"]
    version, *lines = (made["nle"] / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert version == "#version: 0.2"
    assert [line.split(" ") for line in lines] == model["merges"]


# --------------------------------------------------------------------------------- what it says


def test_it_does_not_write_over_anything(tmp_path: Path) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        make_checkpoint(tmp_path, layout="nle")
    assert list(tmp_path.iterdir()) == [kept]
    with pytest.raises(CheckpointError, match=r"notes\.txt is a file"):
        make_checkpoint(kept, layout="nle")


def test_force_replaces_a_checkpoint_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model-of-mine.safetensors").write_text("mine too")
    make_checkpoint(tmp_path, layout="nle", shards=2, force=True)
    make_checkpoint(tmp_path, layout="native", force=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model-of-mine.safetensors",
        "model.safetensors",
        "notes.txt",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layout": "hub"}, "layout is 'hub': expected one of nle, granite_speech_nar, native"),
        ({"size": "huge"}, "size is 'huge': expected one of tiny, small, full"),
        ({"dtype": "q4"}, "dtype is 'q4': expected one of bf16, f16, f32"),
        ({"seed": -1}, "seed is -1: expected 0 or more"),
        ({"shards": 0}, "shards is 0: expected 1 to 217, one per tensor"),
        ({"shards": 218}, "shards is 218: expected 1 to 217, one per tensor"),
    ],
)
def test_wrong_requests(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        make_checkpoint(tmp_path / "new", **{"layout": "nle", **wrong})
    assert str(raised.value) == message
    assert not (tmp_path / "new").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--layout", "native", "--dtype", "f16", "--shards", "2", str(tmp_path / "new")]
    assert main(arguments) == 0
    assert "199 tensors" in capsys.readouterr().out
    assert main(arguments) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ")
    assert "--force" in complaint
    assert main([*arguments, "--force"]) == 0


def test_as_a_script_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--layout", "nle", "new"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (first.returncode, first.stderr) == (0, "")
    assert (tmp_path / "new" / "model.safetensors").stat().st_size < 3_000_000
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "Traceback" not in again.stderr
