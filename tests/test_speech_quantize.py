"""Quantizing the autoregressive model: the policies of the other one, and a head of its own."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from granite_gguf import load
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert
from granite_gguf.quantize import Scope, collect_importance, make_plan, quantize, read_importance
from tests.signals import synthetic_audio
from tests.support.make_speech_checkpoint import make_speech_checkpoint

GGML = gguf.GGMLQuantizationType
LANGUAGE = re.compile(r"^(blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))|token_embd|output)\.")
SPARED = re.compile(r"norm|bias|conv_bn|conv_dw|rel_pos|^proj\.query|mel_filters|\.ln\.")
SENSITIVE = {"enc.input.weight", "enc.ctc_out.weight", "enc.ctc_mid.weight"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose rows are as divisible as the real ones', in F32; the base has a draft head."""
    root = tmp_path_factory.mktemp("speech-quantize")
    for layout in ("base", "plus"):
        make_speech_checkpoint(
            root / layout, layout=layout, size="small", draft_head=layout == "base"
        )
    return {
        layout: convert(root / layout, root / f"{layout}.gguf", outtype="f32").path
        for layout in ("base", "plus")
    }


def planned(path: Path, name: str, scope: Scope = Scope.EDITOR) -> dict[str, GGML]:
    """The type of each tensor."""
    plan = make_plan(open_model_file(path), name, scope)
    return {tensor.spec.name: tensor.choice.type for tensor in plan.tensors}


@pytest.mark.parametrize("layout", ["base", "plus"])
@pytest.mark.parametrize("scope", [Scope.EDITOR, Scope.ENC_F16, Scope.ENC_BF16, Scope.ENC_Q8])
def test_published_policies(layout: str, scope: Scope, files: dict[str, Path]) -> None:
    """Every matrix of the language model Q4_K; of encoder and projector as the scope says."""
    inner = {"EDITOR": GGML.F32, "ENC_Q8": GGML.Q8_0}.get(scope.name)
    inner = inner if inner is not None else GGML[scope.name.removeprefix("ENC_")]
    kinds = planned(files[layout], "q4_k", scope)
    assert ("output.weight" in kinds) is (layout == "base")
    for name, kind in kinds.items():
        if SPARED.search(name):
            assert kind is GGML.F32, name
        elif LANGUAGE.match(name):
            assert kind is GGML.Q4_K, name
        elif scope is Scope.ENC_Q8 and name == "enc.ctc_mid.weight":  # rows of 348
            assert kind is GGML.F16
        else:
            assert kind is inner, name


def test_everything(files: dict[str, Path]) -> None:
    """What the NAR model spares is spared; a language model's head as its embedding is."""
    for layout, heads in (("base", {"token_embd.weight", "output.weight"}), ("plus", None)):
        for name, kind in planned(files[layout], "q4_k", Scope.ALL).items():
            if name in SENSITIVE:
                assert kind is GGML.F16, name
            elif SPARED.search(name):
                assert kind is GGML.F32, name
            elif re.search(r"^proj\.|conv_(up|down)|bpe_out", name):
                assert kind is GGML.Q8_0, name
            else:
                higher = name in (heads or {"token_embd.weight"})
                assert kind is (GGML.Q6_K if higher else GGML.Q4_K), name


@pytest.mark.parametrize("name", ["q4_k_s", "q4_k_m", "q5_k_m"])
def test_mixtures(name: str, files: dict[str, Path]) -> None:
    base = GGML[name[:4].upper()]
    kinds = planned(files["base"], name)
    assert kinds["output.weight"] is kinds["token_embd.weight"] is GGML.Q6_K
    higher = GGML.Q6_K if name.endswith("_m") else base
    # four layers, of which a mixture gives the last two the higher type
    for part in ("attn_v", "ffn_down"):
        found = [kinds[f"blk.{n}.{part}.weight"] for n in range(4)]
        assert found == [base, base, higher, higher]
    assert kinds["blk.3.ffn_up.weight"] is kinds["blk.3.attn_output.weight"] is base


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*the text is cut after")
def test_importance_of_every_matrix(files: dict[str, Path], tmp_path: Path) -> None:
    """All that are multiplied are observed; the embedding of a model with a head is looked up."""
    with load(files["base"]) as model:
        collect_importance(model, [synthetic_audio(16_000, seed=3)], tmp_path / "i.gguf")
    columns = read_importance(tmp_path / "i.gguf").columns
    specs = open_model_file(files["base"]).specs.values()
    matrices = {spec.name: spec.width for spec in specs if spec.role.is_matrix}
    assert matrices.keys() - columns.keys() == {"token_embd.weight"}
    assert {name: len(columns[name]) for name in columns} == {
        name: matrices[name] for name in columns
    }
    quantize(files["base"], tmp_path / "a.gguf", "q4_k", imatrix=tmp_path / "i.gguf")
    quantize(files["base"], tmp_path / "b.gguf", "q4_k")
    one, other, exact = (
        open_model_file(path) for path in (tmp_path / "a.gguf", tmp_path / "b.gguf", files["base"])
    )
    name = "blk.1.ffn_down.weight"
    errors = [
        float((columns[name] * (file.read(name) - exact.read(name)) ** 2).sum())
        for file in (one, other)
    ]
    assert errors[0] < errors[1]  # where it matters, it is closer
    np.testing.assert_array_equal(one.read("token_embd.weight"), other.read("token_embd.weight"))


def test_a_quantized_file_runs(files: dict[str, Path], tmp_path: Path) -> None:
    quantize(files["plus"], tmp_path / "q.gguf", "q8_0", scope=Scope.ALL)
    audio = synthetic_audio(24_000, seed=3)
    found = []
    for path in (files["plus"], tmp_path / "q.gguf"):
        with load(path) as model:
            rows = model.run_projector(model.run_encoder(model.compute_mel(audio)).captured)
            prompt = model.prompt(rows, ("text before ", " and behind"))
            found.append(model.logits(prompt, np.array([65, 66])))
    norms = [np.linalg.norm(logits, axis=1) for logits in found]
    cosines = (found[0] * found[1]).sum(axis=1) / (norms[0] * norms[1])
    assert 0.99 < cosines.min() < 1  # 8 bits, and random weights
