"""Passes in kernels of our own on a GPU: their order here, with numpy in the kernels' place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import granite_gguf
from granite_gguf import DeviceError, InputError, MissingExtraError, Model
from granite_gguf.cuda import gpu
from granite_gguf.cuda.gpu import Gpu, find_gpu, names_gpu
from granite_gguf.demo import DEMO_MODEL
from granite_gguf.nar.cuda import CudaStages
from granite_gguf.nar.cuda_weights import CudaWeights
from granite_gguf.passes import Options, Wish
from tests.support.plain_device import PlainDevice
from tests.test_padded import compare, compare_in_float32, model, model_file, segments, speech

__all__ = ["model", "model_file", "speech"]


def on_gpu(model: Model) -> CudaStages:
    device = PlainDevice()
    placed = CudaWeights(model.file, device, 1)
    stages = model.stages
    return CudaStages(
        stages.file, stages.tokenizer, stages._weights, stages._runtime, device, placed
    )


@pytest.mark.parametrize("layout", ["nle", "granite_speech_nar"])
def test_float32_says_it_as_surely(f32_files: dict[str, Path], layout: str) -> None:
    compare_in_float32(f32_files[layout], on_gpu, within=5e-3)


@pytest.mark.parametrize(
    "options", [Options(word_times=True), Options(wish=Wish(keywords=("Barcelona",)))]
)
def test_says_the_same(model: Model, speech: list[np.ndarray], options: Options) -> None:
    expected = segments(model.stages, speech, options)
    compare(segments(on_gpu(model), speech, options), expected, within=5e-2)


def test_names() -> None:
    assert names_gpu("cuda") and names_gpu("CUDA:3")
    assert not names_gpu("CUDA0") and not names_gpu("cpu") and not names_gpu("cuda:")


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda _name: None)
    assert find_gpu("auto") is None and find_gpu("CUDA0") is None
    with pytest.raises(MissingExtraError, match=r"pip install 'granite-gguf\[cuda\]'"):
        granite_gguf.load(device="cuda")


def test_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_installed", lambda: True)
    monkeypatch.setattr(gpu, "_count", lambda: 1)
    found = find_gpu("auto")
    assert found is not None and found.number == 0
    with pytest.raises(DeviceError, match="'cuda:1' is not here; CuPy finds 1 NVIDIA GPU:"):
        find_gpu("cuda:1")


def test_what_our_kernels_cannot_do_is_told() -> None:
    with pytest.raises(InputError, match=r"none for its architecture.*CUDA0"):
        granite_gguf.load("demo:base", device="cuda")
    with pytest.raises(InputError, match="kernels are 'ggml', and it has its own"):
        granite_gguf.load(DEMO_MODEL, device="cuda:0", kernels="ggml")


def test_heads_that_no_kernel_takes(f32_files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"its heads are .* wide, expected multiples of 32"):
        granite_gguf.load(f32_files["nle"], device="cuda")


def test_a_child_does_not_use_the_parents() -> None:
    opened = Gpu(0)
    opened.check()
    opened.after_fork()
    opened.info = granite_gguf.ggml.DeviceInfo("cuda:0", "", "gpu", 0, 0)
    with pytest.raises(DeviceError, match="cuda:0 was opened by the parent"):
        opened.check()


def test_a_build_of_ggml_whose_binding_names_what_it_has_not(tmp_path: Path) -> None:
    """As ggml-python's for CUDA does; nothing but that name is let through."""
    package = tmp_path / "ggml"
    package.mkdir()
    source = "import ctypes\nfound = ctypes.CDLL(None).{}\n"
    for name, expected in (
        ("ggml_backend_cuda_allreduce_tensor", "this build of ggml has no"),
        ("ggml_something_else", "AttributeError"),
    ):
        lines = [f"    {line}" for line in source.format(name).splitlines()]
        text = "\n".join(
            ["try:", *lines, "except AttributeError:", f"    raise AttributeError('{name}')"]
        )
        (package / "__init__.py").write_text(text)
        binding = Path(granite_gguf.__file__).parent / "ggml" / "binding.py"
        code = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
            f"exec(open({str(binding)!r}).read())\nggml.found()"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert ended.returncode and expected in ended.stderr.splitlines()[-1]
