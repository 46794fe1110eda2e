"""The autoregressive model in PyTorch, stage by stage against transformers' own classes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from granite_gguf.reference.config import CheckpointError  # noqa: E402
from granite_gguf.reference.frontend import log_mel, mel_power  # noqa: E402
from granite_gguf.reference.speech.layouts import read_config  # noqa: E402
from granite_gguf.reference.speech.pipeline import (  # noqa: E402
    SpeechReference,
    SpeechStages,
)
from granite_gguf.reference.speech.prompt import INSTRUCTION, prompt_text  # noqa: E402
from tests.signals import synthetic_audio  # noqa: E402
from tests.support.make_speech_checkpoint import make_speech_checkpoint  # noqa: E402

LAYOUTS = ("base", "plus", "lora")
SAMPLES = 40_000  # 125 frames: nine windows, the last of five frames
TOKENS = 12
CLOSE = 2e-5  # float32 in another order, of numbers around 1

SYSTEM = (
    "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\n"
    "Today's Date: {}.\nYou are Granite, developed by IBM. You are a helpful AI assistant"
    "<|end_of_text|>\n<|start_of_role|>user<|end_of_role|><|audio|>{}say it"
    "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
)
PROMPTS = {
    "base": "USER: <|audio|>say it\n ASSISTANT:",
    "plus": SYSTEM.format("December 19, 2024", " "),
    "lora": SYSTEM.format("April 9, 2025", ""),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("speech")
    for layout in LAYOUTS:
        make_speech_checkpoint(
            root / layout, layout=layout, dtype="f32", draft_head=layout == "base"
        )
    return {layout: root / layout for layout in LAYOUTS}


@pytest.fixture(scope="module")
def references(checkpoints: dict[str, Path]) -> dict[str, SpeechReference]:
    return {layout: SpeechReference(path) for layout, path in checkpoints.items()}


@pytest.fixture(scope="module")
def runs(references: dict[str, SpeechReference]) -> dict[str, SpeechStages]:
    samples = synthetic_audio(SAMPLES, seed=3)
    return {layout: ref.run(samples, most=TOKENS) for layout, ref in references.items()}


def witness(directory: Path, layout: str) -> Any:
    """Transformers' model; it reads no adapter without peft, so that it is folded in here."""
    transformers = pytest.importorskip("transformers")
    kind = "Plus" if layout == "plus" else ""
    made = getattr(transformers, f"GraniteSpeech{kind}ForConditionalGeneration")
    model = made.from_pretrained(directory, dtype=torch.float32).eval()
    if layout == "lora":
        adapter = load_file(directory / "adapter_model.safetensors")
        for key, a in adapter.items():
            at, found, _ = key.removeprefix("base_model.model.language_model.model.").partition(
                ".lora_A."
            )
            if found:
                b = adapter[key.replace("lora_A", "lora_B")]
                weight = model.model.language_model.get_parameter(f"{at}.weight")
                weight.data += 32 / 4 * (b @ a)
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_stage_is_transformers_own(
    layout: str, checkpoints: dict[str, Path], runs: dict[str, SpeechStages]
) -> None:
    model, stages = witness(checkpoints[layout], layout), runs[layout]
    mel = torch.from_numpy(stages.mel_spectrogram)[None]
    prompt = torch.from_numpy(stages.prompt_ids)[None]
    with torch.no_grad():
        encoder = model.model.encoder
        layers: list[Any] = []
        handles = [
            layer.register_forward_hook(lambda _module, _given, out: layers.append(out.clone()))
            for layer in encoder.layers
        ]
        output = encoder(mel).last_hidden_state
        for handle in handles:
            handle.remove()
        middle = len(layers) // 2 - 1  # what the next layer reads has the feedback in it
        layers[middle] = layers[middle] + encoder.out_mid(
            encoder.out(layers[middle]).softmax(dim=-1)
        )
        projected = model.model.projector(torch.from_numpy(stages.encoder_output)[None])
        asked = {"input_ids": prompt, "input_features": mel}
        generated = model.generate(
            **asked, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=False
        )
        whole = torch.cat([prompt, torch.from_numpy(stages.generated_ids)[None]], dim=1)
        logits = model(input_ids=whole, input_features=mel).logits[0, prompt.shape[1] - 1 : -1]
        final = output[..., -layers[-1].shape[-1] :]
        expected = {
            "encoder_output": output[0],
            "encoder_logits": encoder.out(final)[0],
            "projector_output": projected[0],
            "prefill_logits": logits[:1] / 8,
            "step_logits": logits / 8,
        }
        embedded = encoder.input_linear(mel)
    for name, array in expected.items():
        np.testing.assert_allclose(getattr(stages, name), array, atol=CLOSE, err_msg=name)
    for k, state in enumerate([embedded, *layers]):
        np.testing.assert_allclose(stages.encoder_layers[k], state[0], atol=CLOSE)
    assert stages.generated_ids.tolist() == generated[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes(layout: str, runs: dict[str, SpeechStages]) -> None:
    stages = runs[layout]
    width = 128 if layout == "plus" else 64
    assert stages.mel_spectrogram.shape == (125, 160)
    assert stages.encoder_output.shape == (125, width)
    assert stages.projector_output.shape[0] == 27
    assert (stages.prompt_ids == stages.prompt_ids.max()).sum() == 27
    assert len(stages.step_logits) == len(stages.generated_ids) == TOKENS
    np.testing.assert_array_equal(stages.prefill_logits, stages.step_logits[:1])
    # Chosen with remembered keys and values, told here without.
    assert stages.step_logits.argmax(axis=-1).tolist() == stages.generated_ids.tolist()


@pytest.mark.parametrize(("count", "frames"), [(256, 0), (257, 1), (5600, 18), (176_000, 550)])
def test_frames(count: int, frames: int, references: dict[str, SpeechReference]) -> None:
    assert references["base"].mel(synthetic_audio(count, seed=1)).shape == (frames, 160)


def test_a_mel_frame_that_is_cut_off_counts_for_the_maximum(
    references: dict[str, SpeechReference],
) -> None:
    """As transformers' feature extractor does it, given the power of every mel frame."""
    samples = 0.01 * synthetic_audio(32_000, seed=2)  # 201 mel frames
    samples[-80:] = 0.9 * np.sin(np.arange(80))
    front_end = references["base"].config.front_end
    power = mel_power(torch.from_numpy(samples), front_end)
    logs = power.clip(min=1e-10).log10()
    expected = torch.maximum(logs, logs.amax() - 8.0).div(4).add(1)[:-1].reshape(-1, 160)
    found = references["base"].mel(samples)
    np.testing.assert_array_equal(found, expected)
    cut = log_mel(torch.from_numpy(samples), replace(front_end, cut_after_maximum=False))
    assert np.abs(found - cut.numpy()).max() > 0.05


def test_the_feature_extractor(references: dict[str, SpeechReference]) -> None:
    pytest.importorskip("torchaudio", exc_type=(ImportError, OSError))  # type: ignore[arg-type]
    transformers = pytest.importorskip("transformers")
    extract = transformers.GraniteSpeechFeatureExtractor()
    for count in (5600, 40_000):
        samples = synthetic_audio(count, seed=2)
        expected = extract(torch.from_numpy(samples)[None])["input_features"][0]
        np.testing.assert_allclose(references["base"].mel(samples), expected, atol=2e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompts(
    layout: str, checkpoints: dict[str, Path], references: dict[str, SpeechReference]
) -> None:
    config = references[layout].config
    assert prompt_text(checkpoints[layout], config.layout, "say it") == PROMPTS[layout]
    ids = references[layout].prompt("say it", 3)
    before, after = PROMPTS[layout].split("<|audio|>")
    encode = references[layout].tokenizer.encode
    expected = [
        *encode(before, add_special_tokens=False).ids,
        *[config.language.audio_token] * 3,
        *encode(after, add_special_tokens=False).ids,
    ]
    assert ids.tolist() == expected


def test_the_text_ends_where_the_model_ends_it(
    references: dict[str, SpeechReference], runs: dict[str, SpeechStages]
) -> None:
    reference, stages = references["base"], runs["base"]
    eos = int(stages.generated_ids[5])
    assert eos not in stages.generated_ids[:5]
    language = reference.model.language
    config = language.config
    language.config = replace(config, eos=eos)
    try:
        said, logits = reference.write(stages.prompt_ids, stages.projector_output, TOKENS)
    finally:
        language.config = config
    assert said.tolist() == stages.generated_ids[:6].tolist() and len(logits) == 6


def test_short_audio(references: dict[str, SpeechReference]) -> None:
    stages = references["plus"].run(synthetic_audio(256, seed=1))
    assert stages.text == "" and stages.encoder_output.shape == (0, 128)
    one = references["plus"].run(synthetic_audio(257, seed=1), most=1)
    assert one.encoder_output.shape == (1, 128) and len(one.projector_output) == 3


def test_one_stage_is_in_memory_at_once(
    references: dict[str, SpeechReference], runs: dict[str, SpeechStages]
) -> None:
    assert runs
    for reference in references.values():
        assert {p.device.type for p in reference.model.parameters()} == {"meta"}


def test_half_precision(checkpoints: dict[str, Path], runs: dict[str, SpeechStages]) -> None:
    stages = SpeechReference(checkpoints["base"], torch.bfloat16).run(
        synthetic_audio(SAMPLES, seed=3), most=2
    )
    assert stages.step_logits.dtype == np.float32
    worst = np.abs(stages.encoder_output - runs["base"].encoder_output).max()
    assert CLOSE < worst < 1.0


# What is refused


def changed(source: Path, target: Path, **fields: Any) -> Path:
    """A copy of a checkpoint with other values at the root of config.json."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | fields))
    return target


def test_checkpoints_that_cannot_be_used(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model_type is 'other'"):
        read_config(changed(checkpoints["base"], tmp_path / "other", model_type="other"))
    wide = changed(checkpoints["plus"], tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    config["encoder_config"]["cat_hidden_layers"] = [1, 3]
    (wide / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="reads of a frame: 128, expected 192"):
        read_config(wide)
    tied = changed(checkpoints["base"], tmp_path / "tied")
    config = json.loads((tied / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = True
    (tied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"unexpected language_model\.lm_head\.weight"):
        SpeechReference(tied)
    silent = changed(checkpoints["base"], tmp_path / "silent")
    (silent / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="no chat template"):
        prompt_text(silent, "base", INSTRUCTION)


def test_adapters_that_cannot_be_used(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    name = "adapter_model.safetensors"
    adapter = load_file(checkpoints["lora"] / name)
    some = next(key for key in adapter if "lora_A" in key)
    cases: dict[str, dict[str, Any]] = {
        "changes no matrix": {**adapter, "decoder.layers.0.lora_A.weight": adapter[some].clone()},
        "no whole changes of language_model": {k: v for k, v in adapter.items() if k != some},
        "no whole changes of any matrix": {},
    }
    for n, (message, tensors) in enumerate(cases.items()):
        source = changed(checkpoints["lora"], tmp_path / f"{n}")
        save_file(tensors, source / name)
        with pytest.raises(CheckpointError, match=message):
            SpeechReference(source)
    source = changed(checkpoints["lora"], tmp_path / "missing")
    (source / name).unlink()
    with pytest.raises(CheckpointError, match="has_lora_adapter"):
        SpeechReference(source)
