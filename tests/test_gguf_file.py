"""Hyper-parameters, the tensor table, and files in the form that others publish."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import granite_gguf
from granite_gguf import ModelFileError, UnsupportedModelError
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert_gguf
from granite_gguf.nar.spec import NAR
from granite_gguf.sound.features import mel_filters
from granite_gguf.spec.hparams import FrontEnd
from granite_gguf.storage.dialects.own import Own, hparams_metadata
from tests.gguf_editing import rewrite
from tests.gguf_reading import decoded
from tests.gguf_reading import fields as metadata
from tests.parity import assert_same_rows
from tests.signals import synthetic_audio

GGML = gguf.GGMLQuantizationType
U32, STRING, F32 = (
    gguf.GGUFValueType.UINT32,
    gguf.GGUFValueType.STRING,
    gguf.GGUFValueType.FLOAT32,
)

# Written out from the format's description: all a published file has.
PUBLISHED_KEYS = [
    *("granite_nle.sample_rate", "granite_nle.n_mels"),
    *(
        f"granite_nle.enc.{name}"
        for name in (
            *("n_layers", "d_model", "n_heads", "head_dim", "input_dim", "conv_kernel", "ff_dim"),
            *("context_size", "max_pos_emb", "ctc_vocab", "bpe_vocab", "bpe_pooling_window"),
            "self_conditioning_layer",
        )
    ),
    *(
        f"granite_nle.proj.{name}"
        for name in (
            *("encoder_layer_indices", "num_encoder_layers", "encoder_dim", "hidden_size"),
            *("llm_dim", "n_layers", "n_heads", "mlp_ratio", "block_size", "downsample_rate"),
            *("layernorm_eps", "attn_bias", "mlp_bias"),
        )
    ),
    *(
        f"granite_nle.llm.{name}"
        for name in (
            *("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "ff_dim", "vocab_size"),
            *("rope_theta", "rms_norm_eps", "embedding_multiplier", "attention_multiplier"),
            *("residual_multiplier", "logits_scaling"),
            *("eos_token_id", "bos_token_id", "pad_token_id"),
        )
    ),
    "granite_nle.scale_projected_embeddings",
]
PUBLISHED_EXTRAS = [
    *("granite_nle.llm.tie_word_embeddings", "granite_nle.ctc.vocab_size", "granite_nle.ctc.vocab"),
    *("tokenizer.ggml.tokens", "tokenizer.ggml.merges"),
]


@pytest.fixture(scope="module")
def published(f32_files: dict[str, Path], workspace: Path) -> Path:
    """The first release's weights in a file with the published keys only."""
    wanted = {*PUBLISHED_KEYS, *PUBLISHED_EXTRAS}
    return rewrite(f32_files["nle"], workspace / "published.gguf", keep=lambda key: key in wanted)


def test_we_write_every_published_key(f32_files: dict[str, Path]) -> None:
    keys = gguf.GGUFReader(f32_files["nle"]).fields
    assert {*PUBLISHED_KEYS, *PUBLISHED_EXTRAS} <= keys.keys()
    assert keys["granite_nle.proj.encoder_layer_indices"].contents() == "1,2,3,-1"
    assert keys["granite_nle.enc.self_conditioning_layer"].types == [U32]
    assert keys["granite_nle.llm.attention_multiplier"].types == [F32]


def test_published_form_runs_as_ours(published: Path, f32_files: dict[str, Path]) -> None:
    ours = open_model_file(f32_files["nle"])
    assert open_model_file(published).hparams == ours.hparams
    audio = synthetic_audio(64_000, seed=5)
    with granite_gguf.load(published) as a, granite_gguf.load(f32_files["nle"]) as b:
        assert a.transcribe(audio).text == b.transcribe(audio).text != ""


def test_pointwise_convolutions_as_matrices(f32_files: dict[str, Path], tmp_path: Path) -> None:
    flat = rewrite(
        f32_files["nle"],
        tmp_path / "flat.gguf",
        edit=lambda name, array: (
            array[:, :, 0] if "conv_up.weight" in name or "conv_down.weight" in name else array
        ),
    )
    assert open_model_file(flat).info("enc.blk.0.conv_up.weight").shape == (64, 256)
    audio = synthetic_audio(32_000, seed=5)
    with granite_gguf.load(flat) as a, granite_gguf.load(f32_files["nle"]) as b:
        assert a.transcribe(audio).text == b.transcribe(audio).text


def test_published_form_converts_to_ours(
    published: Path, f32_files: dict[str, Path], tmp_path: Path
) -> None:
    """What the file leaves out is said; what only the checkpoint knows is not made up."""
    made = convert_gguf(published, tmp_path / "m.gguf").path
    expected, found = metadata(f32_files["nle"]), metadata(made)
    own = {key for key in expected if key.startswith(("granite_nle.", "tokenizer."))}
    assert own - found.keys() == {"tokenizer.huggingface.json", "tokenizer.ggml.token_type"}
    for key in own & found.keys():
        assert found[key] == expected[key], key
    tensors = decoded(f32_files["nle"])
    assert {name: values.tobytes() for name, values in decoded(made).items()} == {
        name: values.tobytes() for name, values in tensors.items()
    }


def published_small(name: str, array: Any) -> gguf.GGMLQuantizationType | None:
    """Types like those of the published small files, with rows of any multiple of 32."""
    if "attn_rel_pos" in name or name == "enc.input.weight":
        return GGML.Q4_0
    if array.ndim < 2 or "conv" in name or "audio" in name or array.shape[-1] % 32:
        return None
    return GGML.Q8_0


def test_quantized_files_run_as_their_decoded_weights(published: Path, tmp_path: Path) -> None:
    def decoded(name: str, array: Any) -> Any:
        kind = published_small(name, array)
        if kind is None:
            return array
        return gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)

    quantized = rewrite(published, tmp_path / "q.gguf", retype=published_small)
    plain = rewrite(published, tmp_path / "f32.gguf", edit=decoded)
    audio = synthetic_audio(48_000, seed=5)
    with granite_gguf.load(quantized) as a, granite_gguf.load(plain) as b:
        mel = a.compute_mel(audio)
        # ggml rounds the activations to 8 bits as well, which the decoded weights' file does not.
        assert_same_rows("final", a.run_encoder(mel).final, b.run_encoder(mel).final, 0.99, 0.1)
        captured = b.run_encoder(mel).captured
        tokens = b.run_projector(captured)
        assert_same_rows("projector", a.run_projector(captured), tokens, 0.999, 0.1)
        text_ids, taps = np.arange(9), frozenset({"editing_logits"})
        logits = [m.run_editor(tokens, text_ids, taps).taps["editing_logits"] for m in (a, b)]
        assert_same_rows("editor", *logits, 0.999, 0.1)


def test_hparams_survive_the_metadata(models: dict[str, granite_gguf.Model]) -> None:
    for model in models.values():
        stored = replace(
            model.file.container, metadata=hparams_metadata(NAR, model.hparams), tensors={}
        )
        restored = Own(NAR).read_hparams(stored)
        for stage in fields(restored):
            mine, theirs = getattr(restored, stage.name), getattr(model.hparams, stage.name)
            for field in fields(mine):
                value = getattr(theirs, field.name)
                expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
                assert getattr(mine, field.name) == expected


@pytest.mark.parametrize("key", PUBLISHED_KEYS)
def test_each_missing_key_is_named(published: Path, tmp_path: Path, key: str) -> None:
    broken = rewrite(published, tmp_path / "broken.gguf", drop=[key])
    with pytest.raises(ModelFileError, match=key):
        open_model_file(broken)


@pytest.mark.parametrize(
    ("key", "value", "kind", "says"),
    [
        ("granite_nle.enc.n_layers", 5, U32, r"enc\.blk\.4\.\S+, .* more"),
        ("granite_nle.enc.n_layers", 2**31, U32, "n_layers is 2147483648"),
        ("granite_nle.enc.n_layers", 3, U32, "not part of the format"),
        ("granite_nle.enc.d_model", 128, U32, "another shape|projector reads"),
        ("granite_nle.llm.ff_dim", 64, U32, r"llm\.blk\.0\.ffn_gate\.weight \[64, 128\]"),
        ("granite_nle.llm.n_kv_heads", 3, U32, "3 key heads"),
        ("granite_nle.llm.n_kv_heads", 0, U32, "n_kv_heads is 0"),
        ("granite_nle.llm.rms_norm_eps", float("nan"), F32, "finite"),
        ("granite_nle.llm.eos_token_id", 600, U32, "vocabulary"),
        ("granite_nle.proj.encoder_layer_indices", "1,x", STRING, "layer numbers"),
        ("granite_nle.proj.encoder_layer_indices", "1,2,3,9", STRING, "captured layers"),
        ("granite_nle.enc.self_conditioning_layer", 0, U32, "self-conditioning"),
        ("granite_nle.enc.context_size", 513, U32, "positions"),
        ("granite_nle.enc.head_dim", "32", STRING, "expected UINT32"),
        ("granite_nle.proj.downsample_rate", 0, U32, "downsample_rate is 0"),
    ],
)
def test_contradictions_are_named(
    published: Path, tmp_path: Path, key: str, value: Any, kind: Any, says: str
) -> None:
    broken = rewrite(published, tmp_path / "broken.gguf", replace={key: (value, kind)})
    with pytest.raises(ModelFileError, match=says):
        open_model_file(broken)


# Sizes that published files do not state


def narrower(name: str, array: Any) -> Any:
    """The convolution's first 96 channels of 128; the pointwise one before it has gates behind."""
    if ".conv_up." in name:
        return np.concatenate([array[:96], array[128:224]])
    if ".conv_dw." in name or ".conv_bn." in name:
        return array[:96]
    return np.ascontiguousarray(array[:, :96]) if ".conv_down.weight" in name else array


def silenced(name: str, array: Any) -> Any:
    """All channels, of which the last 32 are not heard."""
    if ".conv_down.weight" in name:
        array = array.copy()
        array[:, 96:] = 0
    return array


def test_the_convolutions_width_is_taken_from_its_tensors(published: Path, tmp_path: Path) -> None:
    path = rewrite(published, tmp_path / "narrow.gguf", edit=narrower)
    assert open_model_file(path).hparams.encoder.conv_dim == 96
    wide = rewrite(published, tmp_path / "wide.gguf", edit=silenced)
    audio = synthetic_audio(32_000, seed=5)
    with granite_gguf.load(path) as a, granite_gguf.load(wide) as b:
        mel = a.compute_mel(audio)
        assert_same_rows("final", a.run_encoder(mel).final, b.run_encoder(mel).final, 0.99999, 1e-3)
        assert a.transcribe(audio).text == b.transcribe(audio).text != ""


def test_the_front_ends_sizes_are_taken_from_tensors(published: Path, tmp_path: Path) -> None:
    front_end = FrontEnd(n_fft=1024, frame_stack=3)

    def edit(name: str, array: Any) -> Any:
        if name == "audio.mel_filters":
            return mel_filters(front_end)
        return np.tile(array[:, :80], (1, 3)) if name == "enc.input.weight" else array

    path = rewrite(
        published,
        tmp_path / "finer.gguf",
        edit=edit,
        replace={"granite_nle.enc.input_dim": (240, U32)},
    )
    assert open_model_file(path).hparams.front_end == front_end
    audio = synthetic_audio(32_000, seed=5)
    with granite_gguf.load(path) as model:
        assert model.compute_mel(audio).shape == (32_000 // 480, 240)
        assert model.transcribe(audio).duration == 2.0


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            lambda name, array: array[:96] if name == "enc.blk.0.conv_bn.weight" else array,
            r"enc\.blk\.0\.conv_up\.weight \[1, 64, 256\] instead of \[1, 64, 192\]",
        ),
        (
            lambda name, array: narrower(name, array) if ".blk.1." in name else array,
            r"enc\.blk\.1\.conv_up\.weight \[1, 64, 192\] instead of \[1, 64, 256\]",
        ),
        (
            lambda name, array: array[:150] if name == "audio.mel_filters" else array,
            "the window of 400 exceeds n_fft 298",
        ),
    ],
)
def test_tensors_that_contradict_each_other(
    published: Path, tmp_path: Path, edit: Any, says: str
) -> None:
    broken = rewrite(published, tmp_path / "broken.gguf", edit=edit)
    with pytest.raises(ModelFileError, match=says):
        open_model_file(broken)


def test_a_stated_size_counts(f32_files: dict[str, Path], tmp_path: Path) -> None:
    broken = rewrite(f32_files["nle"], tmp_path / "broken.gguf", edit=narrower)
    with pytest.raises(
        ModelFileError, match=r"conv_up\.weight \[1, 64, 192\] instead of \[1, 64, 256"
    ):
        open_model_file(broken)


def test_missing_unknown_and_unusable_tensors(published: Path, tmp_path: Path) -> None:
    cases = {
        "tensors are missing: llm.norm.weight": {
            "rename": lambda name: None if name == "llm.norm.weight" else name
        },
        "not part of the format: llm.norm.scale": {
            "rename": lambda name: name.replace("llm.norm.weight", "llm.norm.scale")
        },
        "types that cannot be run: llm.norm.weight I32": {
            "edit": lambda name, array: (
                array.astype(np.int32) if name == "llm.norm.weight" else array
            )
        },
    }
    for says, change in cases.items():
        broken = rewrite(published, tmp_path / "broken.gguf", **change)  # type: ignore[arg-type]
        with pytest.raises(ModelFileError, match=says):
            open_model_file(broken)


def test_another_architecture(published: Path, tmp_path: Path) -> None:
    other = rewrite(published, tmp_path / "other.gguf", architecture="llama")
    with pytest.raises(UnsupportedModelError, match="'llama', expected 'granite_nle'"):
        open_model_file(other)


def test_an_unusable_tokenizer(published: Path, tmp_path: Path) -> None:
    without = rewrite(published, tmp_path / "without.gguf", drop=["tokenizer.ggml.tokens"])
    with pytest.raises(ModelFileError, match="has no tokenizer"):
        granite_gguf.load(without)


def test_contradiction_reads_every_stage(models: dict[str, granite_gguf.Model]) -> None:
    h = models["nle"].hparams
    assert NAR.problem(h) is None
    assert NAR.problem(replace(h, encoder=replace(h.encoder, conv_kernel=14)))
    assert NAR.problem(replace(h, projector=replace(h.projector, n_heads=0)))
    assert NAR.problem(replace(h, hypothesis=replace(h.hypothesis, blank_id=5)))
