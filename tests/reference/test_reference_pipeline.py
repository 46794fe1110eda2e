"""Whole runs: shapes, edges, the layouts' differences, and gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from granite_gguf.reference import GraniteSpeechNar, Layout, Reference  # noqa: E402
from tests.reference import tiny  # noqa: E402
from tests.reference.tiny import LAYOUTS, VOCAB  # noqa: E402
from tests.signals import synthetic_audio  # noqa: E402


def reference(layout: Layout) -> Reference:
    return Reference(tiny.model(layout), tiny.tokenizer())


def only_blanks(layout: Layout) -> Reference:
    """A model whose BPE head recognises nothing."""
    made = reference(layout)
    with torch.no_grad():
        made.model.encoder.out_bpe.bias[made.config.semantics.bpe_blank_id] = 1e4
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_frames", [1, 3, 5, 15, 20, 21, 43])
def test_shapes(layout: Layout, n_frames: int) -> None:
    n_samples = 320 * (n_frames - 1) + (300 if layout == "native" else 320 + 100)
    stages = reference(layout).run(synthetic_audio(n_samples, 1))
    windows, n = math.ceil(n_frames / 4), len(stages.text_ids_with_slots)
    assert {name: array.shape for name, array in stages.arrays().items()} == {
        "mel_spectrogram": (n_frames, 160),
        "encoder_layer_1": (n_frames, 16),
        "encoder_layer_2": (n_frames, 16),
        "encoder_layer_3": (n_frames, 16),
        "encoder_layer_4": (n_frames, 16),
        "encoder_output": (n_frames, 64),
        "encoder_final": (n_frames, 16),
        "encoder_logits": (n_frames, 12),
        "blank_prob": (n_frames,),
        "pooled": (windows, 16),
        "bpe_logits": (windows, VOCAB + (layout == "nle")),
        "bpe_ids": (windows,),
        "hypothesis_ids": stages.hypothesis_ids.shape,
        "text_ids_with_slots": (n,),
        "projector_output": (3 * math.ceil(n_frames / 15), 24),
        "audio_embs_for_llm": (n_frames // 5, 24),
        "editing_logits": (n, VOCAB),
        "edited_ids": (n,),
    }
    assert n == max(2 * len(stages.hypothesis_ids) + 1, 0 if layout == "native" else 8)
    for array in stages.arrays().values():
        assert array.dtype in (np.float32, np.int64)


@pytest.mark.parametrize(
    ("layout", "n_samples"),
    [(layout, n) for layout in LAYOUTS for n in (0, 1, 100, 256)]
    + [("nle", 319), ("granite_speech_nar", 319)],
)
def test_audio_without_a_frame_is_an_empty_text(layout: Layout, n_samples: int) -> None:
    made = reference(layout)
    empty, full = made.run(synthetic_audio(n_samples, 0)), made.run(synthetic_audio(960, 0))
    assert (empty.hypothesis_text, empty.text) == ("", "")
    for name, array in full.arrays().items():
        assert empty.arrays()[name].shape == (0, *array.shape[1:]), name
        assert empty.arrays()[name].dtype == array.dtype, name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stages_one_by_one_equal_the_run(layout: Layout) -> None:
    made = reference(layout)
    audio = synthetic_audio(320 * 33, 2)
    stages = made.run(audio)
    np.testing.assert_array_equal(made.mel(audio), stages.mel_spectrogram)
    encoded = made.encode(stages.mel_spectrogram)
    np.testing.assert_array_equal(encoded.output[0].numpy(), stages.encoder_output)
    np.testing.assert_array_equal(made.project(stages.encoder_output), stages.projector_output)
    logits = made.edit(stages.audio_embs_for_llm, stages.text_ids_with_slots.astype(np.float32))
    np.testing.assert_array_equal(logits, stages.editing_logits)
    assert made.hypothesis(stages.bpe_ids) == (
        stages.hypothesis_text,
        stages.hypothesis_ids.tolist(),
    )


def test_float32_is_close_to_float64(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path, "granite_speech_nar")
    audio = synthetic_audio(320 * 50, 3)
    single = Reference.from_checkpoint(tmp_path).run(audio).arrays()
    double = Reference.from_checkpoint(tmp_path, torch.float64).run(audio).arrays()
    assert double["editing_logits"].dtype == np.float64
    for name, array in double.items():
        np.testing.assert_allclose(single[name], array, atol=1e-3 * np.abs(array).max())


def test_half_precision_leaves_the_front_end_alone() -> None:
    audio = synthetic_audio(3200, 8)
    half = Reference(tiny.model("native").bfloat16(), tiny.tokenizer()).run(audio)
    np.testing.assert_array_equal(half.mel_spectrogram, reference("native").mel(audio))
    assert {array.dtype.name for array in half.arrays().values()} == {"float32", "int64"}


@pytest.mark.parametrize(
    ("layout", "text", "slots"), [("nle", " ", 8), ("granite_speech_nar", "", 8), ("native", "", 1)]
)
def test_nothing_recognised(layout: Layout, text: str, slots: int) -> None:
    made = only_blanks(layout)
    stages = made.run(synthetic_audio(3200, 0))
    assert stages.hypothesis_text == text
    space = made.tokenizer.encode(" ").ids
    assert stages.hypothesis_ids.tolist() == (space if layout == "nle" else [])
    expected = [tiny.EOS] * slots
    if layout == "nle":
        expected[1] = space[0]
    assert stages.text_ids_with_slots.tolist() == expected


def test_layouts_share_the_model_and_differ_in_frames_and_capture() -> None:
    """The same weights in two layouts: only what the native one does differently differs."""
    hub, native = tiny.model("granite_speech_nar"), GraniteSpeechNar(tiny.config("native"))
    native.load_state_dict(hub.state_dict(), strict=False)
    features = torch.randn(1, 22, 160, generator=torch.Generator().manual_seed(0))
    ours, theirs = hub.encoder(features), native.eval().encoder(features)
    torch.testing.assert_close(ours.final, theirs.final)
    torch.testing.assert_close(ours.bpe_logits, theirs.bpe_logits)
    same = [torch.equal(a, b) for a, b in zip(ours.captured, theirs.captured, strict=True)]
    assert same == [True, False, True, True]


def test_logits_are_reported_undivided() -> None:
    made = reference("granite_speech_nar")
    audio = synthetic_audio(3200, 4)
    before = made.run(audio)
    rules = replace(made.config.semantics, logits_divisor=1.0)
    made.model.config = replace(made.config, semantics=rules)
    after = Reference(made.model, made.tokenizer).run(audio)
    np.testing.assert_array_equal(before.editing_logits, after.editing_logits)


@pytest.mark.parametrize("audio", [np.zeros((2, 400), np.float32), np.zeros(400, np.int16)])
def test_audio_that_is_not_mono_float_is_refused(audio: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected mono float samples"):
        reference("nle").mel(audio)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_learns(layout: Layout) -> None:
    model = tiny.model(layout).train()
    features = torch.randn(2, 30, 160, generator=torch.Generator().manual_seed(5))
    encoded = model.encoder(features)
    audio = model.audio_tokens(model.projector(encoded.output), 30)
    logits = model.editor(audio, torch.tensor([[256, 65, 256]] * 2))
    targets, blank = torch.tensor([[3, 4], [5, 5]]), model.config.semantics.bpe_blank_id
    loss = torch.zeros(())
    for head, target in ((encoded.char_logits, targets), (encoded.bpe_logits, 40 + targets)):
        loss = loss + torch.nn.functional.ctc_loss(
            head.log_softmax(-1).transpose(0, 1),
            target,
            torch.full((2,), head.shape[1]),
            torch.full((2,), 2),
            blank=0 if head is encoded.char_logits else blank,
        )
    (loss + logits.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
