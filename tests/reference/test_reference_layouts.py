"""One random model in the three layouts: what must agree between them, and what must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402

from granite_gguf.reference import (  # noqa: E402
    GraniteSpeechNar,
    Reference,
    Stages,
    load_model,
    read_config,
    to_checkpoint,
)
from tests.signals import synthetic_audio  # noqa: E402
from tests.support.checkpoint.configs import write_configs  # noqa: E402
from tests.support.make_checkpoint import SIZES, make_checkpoint  # noqa: E402

BLANK = 565  # of the tiny vocabulary


def load(directory: Path, layout: str, **options: bool) -> Reference:
    make_checkpoint(directory, layout=layout, size="tiny", seed=1, dtype="f32", **options)
    return Reference.from_checkpoint(directory)


@pytest.fixture
def audio() -> np.ndarray:
    return synthetic_audio(320 * 210 + 40, seed=1)


def assert_same(a: Stages, b: Stages, *names: str) -> None:
    ours, theirs = a.arrays(), b.arrays()
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, err_msg=name)


def test_first_release_and_hub_differ_in_ids_only(tmp_path: Path, audio: np.ndarray) -> None:
    first = load(tmp_path / "a", "nle").run(audio)
    hub = load(tmp_path / "b", "granite_speech_nar").run(audio)
    same = ("mel_spectrogram", "encoder_output", "encoder_logits", "blank_prob", "pooled")
    assert_same(first, hub, *same, "projector_output", "audio_embs_for_llm")
    blank_first = hub.bpe_logits[:, [BLANK, *range(600)]]
    blank_first[:, 1 + BLANK] = first.bpe_logits[:, 1 + BLANK]
    np.testing.assert_allclose(first.bpe_logits, blank_first, atol=1e-4)
    recognised = hub.hypothesis_text
    assert recognised
    assert first.hypothesis_text == (recognised.strip().lower() or " ")


def test_native_layout_and_hub_share_encoder_and_projector(
    tmp_path: Path, audio: np.ndarray
) -> None:
    native = load(tmp_path / "a", "native")
    hub = load(tmp_path / "b", "granite_speech_nar", identity_projector_norms=True)
    mel = hub.mel(audio)
    here, there = native.encode(mel), hub.encode(mel)
    torch.testing.assert_close(here.bpe_logits, there.bpe_logits, atol=1e-4, rtol=1e-5)
    fed_back = [
        not torch.allclose(a, b) for a, b in zip(here.captured, there.captured, strict=True)
    ]
    assert fed_back == [False, True, False, False]
    states = there.output[0].numpy()
    np.testing.assert_allclose(native.project(states), hub.project(states), atol=1e-5)
    assert len(native.mel(audio)) == len(mel) + 1


@pytest.mark.parametrize("layout", ["nle", "granite_speech_nar", "native"])
def test_every_stored_name_is_ours(layout: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, layout=layout, size="tiny", seed=0, dtype="bf16", shards=2)
    names: set[str] = set()
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    assert names == set(to_checkpoint(load_model(tmp_path)))


def test_full_size_has_the_tensors_of_the_published_file(tmp_path: Path) -> None:
    write_configs(tmp_path, "granite_speech_nar", SIZES["full"], "BF16")
    with torch.device("meta"):
        tensors = GraniteSpeechNar(read_config(tmp_path)).state_dict().values()
    floats = [tensor.numel() for tensor in tensors if tensor.is_floating_point()]
    assert (len(floats), len(tensors) - len(floats)) == (930, 16)
    header = 4_509_382_504 - 2 * sum(floats) - 8 * 16
    assert 80 * 946 < header < 160 * 946  # some hundred bytes of JSON a tensor
