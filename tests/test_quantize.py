"""Quantization: types by policy, values by gguf-py's decoders, metadata, refusals."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

import granite_gguf
from granite_gguf import InputError, ModelFileError, OutputError
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert
from granite_gguf.ggml.quants import encode_rows
from granite_gguf.quantize import (
    QUANT_TYPES,
    Scope,
    collect_importance,
    make_plan,
    parse_override,
    quantize,
    read_importance,
)
from granite_gguf.quantize.policies import higher_layer
from granite_gguf.quantize.types import fitting_type
from tests.commands import assert_refused, run
from tests.parity import assert_same_rows
from tests.signals import synthetic_audio, uniform
from tests.support.make_checkpoint import make_checkpoint

GGML = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are as divisible as the real one's, in F32."""
    folder = tmp_path_factory.mktemp("small")
    make_checkpoint(folder / "c", layout="nle", size="small", seed=0, dtype="bf16")
    convert(folder / "c", folder / "small-F32.gguf", outtype="f32")
    return folder / "small-F32.gguf"


def types(path: Path) -> dict[str, gguf.GGMLQuantizationType]:
    return {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(path).tensors}


def decoded(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(-1)
        for tensor in gguf.GGUFReader(path).tensors
    }


def noise(rows: int, width: int) -> np.ndarray:
    """Roughly normal numbers: the sum of four uniform ones."""
    return (uniform(4 * rows * width, 7).reshape(4, rows, width).sum(0) - 2).astype(np.float32)


# Encoding

# Root of the mean squared error over that of the values: by the spacing of each type's levels;
# measured on these numbers and rounded up.
ERRORS = {
    "f32": 0.0, "f16": 3e-4, "bf16": 2.5e-3, "q8_0": 0.006, "q6_k": 0.02, "q5_k": 0.04,
    "q5_1": 0.04, "q5_0": 0.05, "q4_k": 0.08, "q4_1": 0.09, "q4_0": 0.1, "iq4_nl": 0.1,
    "iq4_xs": 0.1, "q3_k": 0.17, "q2_k": 0.32,
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_encoding_is_read_back_by_gguf_py(name: str) -> None:
    kind = GGML[name.upper()]
    values = noise(8, 512)
    encoded = encode_rows(kind, values)
    restored = gguf.quants.dequantize(encoded, kind).reshape(values.shape)
    error = np.sqrt(((restored - values) ** 2).mean() / (values**2).mean())
    assert error <= ERRORS[name]
    assert error >= ERRORS[name] / 3
    # Encoding piece by piece, as the threads do, gives the same bytes.
    np.testing.assert_array_equal(encode_rows(kind, values[3:5]), encoded[3:5])


def test_importance_moves_the_error_where_it_matters_least() -> None:
    values = noise(64, 256)
    importance = np.ones(256, np.float32)
    importance[::8] = 1000.0
    plain = gguf.quants.dequantize(encode_rows(GGML.Q4_K, values), GGML.Q4_K)
    weighted = gguf.quants.dequantize(encode_rows(GGML.Q4_K, values, importance), GGML.Q4_K)
    errors = [((x - values) ** 2)[:, ::8].mean() for x in (plain, weighted)]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    ("kind", "width", "expected"),
    [
        ("Q4_K", 512, "Q4_K"),
        ("Q4_K", 160, "Q5_0"),
        ("Q5_K", 160, "Q5_1"),
        ("Q6_K", 160, "Q8_0"),
        ("IQ4_XS", 160, "IQ4_NL"),
        ("Q2_K", 348, "F16"),
        ("Q8_0", 348, "F16"),
        ("F32", 7, "F32"),
    ],
)
def test_fallbacks(kind: str, width: int, expected: str) -> None:
    assert fitting_type(GGML[kind], width) is GGML[expected]


# Policies


def test_default_touches_the_editor_only(small: Path, tmp_path: Path) -> None:
    quantize(small, tmp_path / "q.gguf")
    before, after = decoded(small), decoded(tmp_path / "q.gguf")
    for name, kind in types(tmp_path / "q.gguf").items():
        if name.startswith("llm.") and "norm" not in name:
            assert kind is GGML.Q4_K
            assert np.abs(after[name] - before[name]).max() > 0
        else:
            assert kind is GGML.F32
            np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    ("scope", "kind"), [(Scope.ENC_F16, "F16"), (Scope.ENC_BF16, "BF16"), (Scope.ENC_Q8, "Q8_0")]
)
def test_encoder_scopes_reach_convolutions_and_projector(
    small: Path, tmp_path: Path, scope: Scope, kind: str
) -> None:
    quantize(small, tmp_path / "q.gguf", "q5_k", scope=scope)
    kinds = types(tmp_path / "q.gguf")
    for name in (
        "enc.blk.1.conv_up.weight", "enc.blk.1.conv_down.weight", "enc.blk.0.ff1_up.weight",
        "enc.bpe_out.weight", "proj.blk.0.attn_k.weight", "proj.layer_proj.weight",
    ):  # fmt: skip
        assert kinds[name] is GGML[kind], name
    assert kinds["llm.blk.0.attn_q.weight"] is GGML.Q5_K
    shapes = {t.name: t.shape.tolist() for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    assert shapes["enc.blk.1.conv_up.weight"] == [256, 1024]


def test_quant_all_spares_what_is_sensitive(small: Path, tmp_path: Path) -> None:
    quantize(small, tmp_path / "q.gguf", "q4_k", scope=Scope.ALL)
    spared = re.compile(r"norm|bias|conv_bn|conv_dw|rel_pos|query|window_positions|mel_filters")
    for name, kind in types(tmp_path / "q.gguf").items():
        if name in ("enc.input.weight", "enc.ctc_out.weight", "enc.ctc_mid.weight"):
            assert kind is GGML.F16, name
        elif spared.search(name):
            assert kind is GGML.F32, name
        elif re.search(r"^proj\.|conv_(up|down)|bpe_out", name):
            assert kind is GGML.Q8_0, name
        elif name == "llm.token_embd.weight":
            assert kind is GGML.Q6_K, name
        else:
            assert kind is GGML.Q4_K, name


def test_mixtures(small: Path, tmp_path: Path) -> None:
    quantize(small, tmp_path / "q.gguf", "Q4_K_M")
    kinds = types(tmp_path / "q.gguf")
    assert kinds["llm.token_embd.weight"] is GGML.Q6_K
    # four layers: none before 4 // 8 = 0, the last from 7 * 4 // 8 = 3, and layer 2 by the third
    higher = [kinds[f"llm.blk.{n}.attn_v.weight"] is GGML.Q6_K for n in range(4)]
    assert higher == [False, False, True, True]
    assert kinds["llm.blk.3.ffn_down.weight"] is GGML.Q6_K
    assert kinds["llm.blk.3.ffn_up.weight"] is GGML.Q4_K
    quantize(small, tmp_path / "s.gguf", "q4_k_s")
    kinds = types(tmp_path / "s.gguf")
    assert (kinds["llm.token_embd.weight"], kinds["llm.blk.3.attn_v.weight"]) == (
        (GGML.Q6_K, GGML.Q4_K)
    )


def test_forty_layers_of_a_mixture() -> None:
    # llama.cpp's rule, by hand: 0-4 and 35-39, and of the rest 7, 10, ... 34
    expected = {*range(5), *range(35, 40), *range(7, 35, 3)}
    assert {n for n in range(40) if higher_layer(n, 40)} == expected


def test_overrides_decide_first(small: Path, tmp_path: Path) -> None:
    overrides = [parse_override("attn_v=q8_0"), parse_override("enc\\.bpe_out\\.weight=Q6_K")]
    result = quantize(small, tmp_path / "q.gguf", overrides=overrides)
    kinds = types(tmp_path / "q.gguf")
    assert kinds["llm.blk.2.attn_v.weight"] is GGML.Q8_0
    assert kinds["enc.bpe_out.weight"] is GGML.Q6_K
    assert result.plan.policy == "q4_k editor attn_v=q8_0 enc\\.bpe_out\\.weight=q6_k"


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANT_TYPES)
def test_every_type_runs_as_its_decoded_weights(small: Path, tmp_path: Path, name: str) -> None:
    """A file of each type against a float32 file of the same numbers."""
    quantize(small, tmp_path / "q.gguf", name, scope=Scope.ALL)
    quantize(
        tmp_path / "q.gguf", tmp_path / "f.gguf", "f32", scope=Scope.ALL, allow_requantize=True
    )
    clip, taps = synthetic_audio(24_000, seed=2), frozenset({"editing_logits"})
    with (
        granite_gguf.load(tmp_path / "q.gguf", threads=1) as a,
        granite_gguf.load(tmp_path / "f.gguf", threads=1) as b,
    ):
        mel = a.compute_mel(clip)
        encoded = b.run_encoder(mel)
        tokens = b.run_projector(encoded.captured)
        # Activations are rounded to 8 bits beside a quantized matrix.
        assert_same_rows("encoder", a.run_encoder(mel).final, encoded.final, 0.98, 0.1)
        assert_same_rows("projector", a.run_projector(encoded.captured), tokens, 0.99, 0.1)
        logits = [m.run_editor(tokens, np.arange(20), taps).taps["editing_logits"] for m in (a, b)]
        assert_same_rows("editor", *logits, 0.98, 0.1)


# Metadata, plan and names


def test_metadata_is_carried_over_and_completed(small: Path, tmp_path: Path) -> None:
    quantize(small, tmp_path / "q.gguf", "q4_k_m", scope=Scope.ENC_F16)
    before = {k: v.value for k, v in open_model_file(small).container.metadata.items()}
    after = {k: v.value for k, v in open_model_file(tmp_path / "q.gguf").container.metadata.items()}
    added = {
        "general.file_type": int(gguf.LlamaFileType.MOSTLY_Q4_K_M),
        "general.quantization_version": 2,
        "granite_nle.quantize.policy": "q4_k_m enc-f16",
    }
    assert after == {**before, **added}


@pytest.mark.slow
def test_the_plan_knows_the_size(small: Path, tmp_path: Path) -> None:
    for scope in Scope:
        plan = make_plan(open_model_file(small), "q4_k_m", scope)
        result = quantize(small, tmp_path / "q.gguf", "q4_k_m", scope=scope, force=True)
        written = sum(int(t.n_bytes) for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors)
        assert plan.byte_count == written < result.byte_count


def test_threads_write_the_same_file(small: Path, tmp_path: Path) -> None:
    for threads in (1, 2, 5):
        quantize(small, tmp_path / f"{threads}.gguf", scope=Scope.ALL, threads=threads)
    one = (tmp_path / "1.gguf").read_bytes()
    assert one == (tmp_path / "2.gguf").read_bytes() == (tmp_path / "5.gguf").read_bytes()


@pytest.mark.parametrize(
    ("name", "scope", "expected"),
    [
        ("granite-speech-4.1-2b-nar-F16.gguf", Scope.EDITOR, "granite-speech-4.1-2b-nar-Q4_K_M"),
        ("granite-speech-4.1-2b-nar-bf16.gguf", Scope.ALL, "granite-speech-4.1-2b-nar-Q4_K_M"),
        ("model.gguf", Scope.ENC_F16, "model-encF16-Q4_K_M"),
        ("model-encF16-Q4_K_S.gguf", Scope.ENC_BF16, "model-encBF16-Q4_K_M"),
    ],
)
def test_default_names_end_in_the_type(name: str, scope: Scope, expected: str) -> None:
    from granite_gguf.quantize.quantize import default_output

    path = default_output(Path("x") / name, QUANT_TYPES["q4_k_m"], scope)
    assert path == Path("x") / f"{expected}.gguf"


# Refusals


def test_requantizing_is_refused(small: Path, tmp_path: Path) -> None:
    quantize(small, tmp_path / "q8.gguf", "q8_0")
    with pytest.raises(ModelFileError, match=r"quantized already.*Q8_0.*--allow-requantize"):
        quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf")
    quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", allow_requantize=True)
    assert types(tmp_path / "q4.gguf")["llm.blk.0.attn_q.weight"] is GGML.Q4_K
    # Adding F16 encoder matrices to it leaves the quantized editor alone.
    quantize(tmp_path / "q8.gguf", tmp_path / "q8f16.gguf", "q8_0", scope=Scope.ENC_F16)


def test_wrong_arguments(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'q9'.*q4_k_m"):
        quantize(small, tmp_path / "q.gguf", "q9")
    with pytest.raises(InputError, match="no tensor's name matches 'nothing'"):
        quantize(small, tmp_path / "q.gguf", overrides=[parse_override("nothing=q8_0")])
    for text in ("attn_v", "=q8_0", "(=q8_0", "attn_v=q4_k_m", "attn_v=x"):
        with pytest.raises(InputError):
            parse_override(text)
    with pytest.raises(InputError, match="source itself"):
        quantize(small, small, force=True)
    (tmp_path / "q.gguf").write_text("precious")
    with pytest.raises(OutputError, match="--force"):
        quantize(small, tmp_path / "q.gguf")
    assert (tmp_path / "q.gguf").read_text() == "precious"


# Importance matrices


@pytest.fixture(scope="module")
def importance(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    clips = [synthetic_audio(n, seed=n) for n in (20_000, 80_000)]
    with granite_gguf.load(small) as model:
        texts = [model.transcribe(clip).text for clip in clips]
        count = collect_importance(model, clips, path, datasets=["a", "b"])
        assert [model.transcribe(clip).text for clip in clips] == texts
    assert count == sum(
        spec.role.value in ("matrix", "pointwise", "embedding")
        for spec in open_model_file(small).specs.values()
    )
    return path


def test_importance_is_the_mean_square_of_the_inputs(small: Path, importance: Path) -> None:
    """The encoder's input matrix sees the features themselves."""
    with granite_gguf.load(small) as model:
        frames = np.concatenate(
            [model.compute_mel(synthetic_audio(n, seed=n)) for n in (20_000, 80_000)]
        )
    found = read_importance(importance)
    np.testing.assert_allclose(found.columns["enc.input.weight"], (frames**2).mean(0), rtol=1e-4)
    assert (found.datasets, found.chunks) == (("a", "b"), 2)
    fields = gguf.GGUFReader(importance).fields
    assert fields["general.type"].contents() == "imatrix"
    assert fields["imatrix.chunk_count"].contents() == 2


@pytest.mark.slow
def test_importance_is_used_and_recorded(small: Path, importance: Path, tmp_path: Path) -> None:
    quantize(small, tmp_path / "plain.gguf", scope=Scope.ALL)
    quantize(small, tmp_path / "weighted.gguf", scope=Scope.ALL, imatrix=importance)
    original = decoded(small)
    plain, weighted = decoded(tmp_path / "plain.gguf"), decoded(tmp_path / "weighted.gguf")
    better, kinds = [], types(tmp_path / "plain.gguf")
    for name, columns in read_importance(importance).columns.items():
        if kinds[name] is GGML.Q4_K:
            errors = [
                (((x[name] - original[name]).reshape(-1, len(columns)) ** 2) * columns).sum()
                for x in (plain, weighted)
            ]
            better.append(errors[1] < errors[0])
    assert len(better) > 50 and np.mean(better) > 0.95
    metadata = open_model_file(tmp_path / "weighted.gguf").container.metadata
    assert metadata["quantize.imatrix.file"].value == "imatrix.gguf"
    assert metadata["quantize.imatrix.dataset"].value == "a, b"
    assert metadata["quantize.imatrix.entries_count"].value == 83
    assert metadata["quantize.imatrix.chunks_count"].value == 2


def test_unusable_importance(small: Path, tmp_path: Path, importance: Path,
                             f32_files: dict[str, Path]) -> None:  # fmt: skip
    with pytest.raises(ModelFileError, match="no importance matrix"):
        quantize(small, tmp_path / "q.gguf", imatrix=small)
    with pytest.raises(ModelFileError, match=r"256 columns.*the model \(64"):
        quantize(f32_files["nle"], tmp_path / "q.gguf", imatrix=importance)
    assert not list(tmp_path.iterdir())


# The command line


@pytest.mark.slow
def test_command_line(small: Path, tmp_path: Path) -> None:
    source = tmp_path / "model-F32.gguf"
    source.write_bytes(small.read_bytes())
    shown = run("quantize", source, "q4_k", "--quant-all", "--dry-run")
    assert shown.returncode == 0 and "pointwise" in shown.stdout and "Q4_K" in shown.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model-F32.gguf"]
    done = run("quantize", source, "Q5_K_M", "--enc-f16")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model-encF16-Q5_K_M.gguf").exists()
    done = run("quantize", source, tmp_path / "named.gguf", "q8_0", "--tensor-type", "attn_q=f16")
    assert "q8_0 editor attn_q=f16" in done.stderr
    done = run("quantize", source, "--preset", "five-bit")
    assert "q5_k enc-bf16" in done.stderr and (tmp_path / "model-encBF16-Q5_K.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["q9"], "no type 'q9'"),
        (["out.gguf", "q8_0", "more"], "cannot read"),
        (["q8_0", "out.gguf"], "cannot read"),
        (["--enc-f16", "--quant-all"], "exclude one another"),
        (["q8_0", "--preset", "int8"], "leave the others out"),
        (["--tensor-type", "x"], "REGEX=TYPE"),
        (["--imatrix", "missing.gguf"], "no such file"),
    ],
)
def test_wrong_usage(small: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(small.read_bytes())
    result = run("quantize", source, *arguments)
    assert result.returncode == 2 and says in result.stderr and "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_model_by_its_name_goes_into_the_current_folder(tmp_path: Path) -> None:
    refused = run("quantize", "demo:base", cwd=tmp_path)
    assert_refused(refused, 2, "quantized already", "--allow-requantize")
    done = run("quantize", "demo:base", "--allow-requantize", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["granite-speech-demo-Q4_K.gguf"]
