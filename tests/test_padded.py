"""Passes filled up to the longest recording, as a GPU computes them; here the CPU does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import granite_gguf
from granite_gguf import Model, Segment, Transcript
from granite_gguf.arrays import Samples
from granite_gguf.converters import convert
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.ggml import Runtime
from granite_gguf.nar import padded
from granite_gguf.nar.padded import PaddedStages
from granite_gguf.nar.stages import Stages
from granite_gguf.nar.transcribe import one_pass
from granite_gguf.passes import Editor, Options, Piece, Wish
from granite_gguf.sound.reading import read_audio
from tests.signals import SAMPLE_RATE, synthetic_audio
from training.scoring import word_error_rate

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model_file(workspace: Path) -> Path:
    """The demonstration model in float32: quantized ones round activations, each kernel its way."""
    found = workspace / "padded-demo-F32.gguf"
    if not found.exists():
        convert(ROOT / "training" / "checkpoint", found, outtype="f32")
    return found


@pytest.fixture(scope="module")
def model(model_file: Path) -> Iterator[Model]:
    with granite_gguf.load(model_file, device="cpu", kernels="ggml") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def speech() -> list[Samples]:
    """Sentences, one of them twice, and a noise of a few frames."""
    said = [read_audio(sample, SAMPLE_RATE) for sample in DEMO_SAMPLES]
    pause = np.zeros(SAMPLE_RATE // 3, np.float32)
    return [*said, np.concatenate([said[0], pause, said[0]]), synthetic_audio(700, seed=1)]


def as_padded(stages: Stages) -> PaddedStages:
    return PaddedStages(stages.file, stages.tokenizer, stages._weights, stages._runtime)


def segments(stages: Stages, clips: Sequence[Samples], options: Options) -> list[Segment]:
    found = one_pass(stages, [Piece(0, clip) for clip in clips], options)
    assert None not in found
    return [segment for segment in found if segment is not None]


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(word_times=True),
        Options(editor=Editor.AUTO),
        Options(editor=Editor.NEVER),
        Options(wish=Wish(keywords=("Barcelona", "noon"))),
    ],
    ids=["plain", "words", "auto", "never", "hotwords"],
)
def test_says_the_same(
    model: Model, speech: list[Samples], options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padded, "_LOGIT_ROWS", 48)  # several parts
    expected = segments(model.stages, speech, options)
    assert sum(bool(segment.text) for segment in expected) >= len(DEMO_SAMPLES)
    compare(segments(as_padded(model.stages), speech, options), expected, within=5e-2)


@pytest.mark.parametrize("layout", ["nle", "granite_speech_nar"])
def test_float32_says_it_as_surely(f32_files: dict[str, Path], layout: str) -> None:
    """What is quantized is rounded by the row, and rows differ in their last bits."""
    compare_in_float32(f32_files[layout], lambda model: as_padded(model.stages), within=1e-4)


def compare_in_float32(path: Path, other: Callable[[Model], Stages], within: float) -> None:
    clips = [synthetic_audio(int(s * SAMPLE_RATE), seed=k) for k, s in enumerate((5.1, 0.3, 2, 4))]
    options = Options(word_times=True, min_confidence=0)
    with granite_gguf.load(path, device="cpu", kernels="ggml") as model:
        expected = segments(model.stages, clips, options)
        assert all(segment.token_ids for segment in expected)
        compare(segments(other(model), clips, options), expected, within)


def compare(found: list[Segment], expected: list[Segment], within: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.text, one.hypothesis, one.token_ids) == (
            other.text,
            other.hypothesis,
            other.token_ids,
        )
        assert one.confidence == pytest.approx(other.confidence, abs=within)
        assert one.no_speech_prob == pytest.approx(other.no_speech_prob, abs=within)
        for word, as_expected in zip(one.words or (), other.words or (), strict=True):
            assert word.text == as_expected.text
            assert word.start == pytest.approx(as_expected.start, abs=within)
            assert word.end == pytest.approx(as_expected.end, abs=within)
            assert word.probability == pytest.approx(as_expected.probability, abs=within)


def test_equal_lengths_need_no_mask(model: Model, speech: list[Samples]) -> None:
    clips = [speech[0], speech[0][::-1].copy(), speech[0]]
    found = segments(as_padded(model.stages), clips, Options())
    assert found[0].text == found[2].text == segments(model.stages, clips[:1], Options())[0].text


@pytest.fixture
def apart(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """A model as on a GPU, with weights of its own memory and two passes beside each other."""
    monkeypatch.setattr(Runtime, "apart", True)
    with granite_gguf.load(model_file, device="cpu", threads=2) as loaded:
        yield loaded


def test_recordings_of_like_length_share_passes(
    apart: Model, model: Model, speech: list[Samples]
) -> None:
    assert {"llm.blk.0.attn_qkv.weight", "llm.blk.0.ffn_gate_up.weight"} <= apart._weights.keys()
    clips = [clip for clip in speech[:4] for _ in range(6)]
    expected = [model.transcribe(clip).text for clip in speech[:4] for _ in range(6)]
    found = list(apart.transcribe_many(clips))
    assert [one.text for one in found if isinstance(one, Transcript)] == expected
    assert max(apart.passes) >= 6 and sum(apart.passes.values()) <= 12


def test_pieces_of_a_recording_share_passes(
    apart: Model, model: Model, speech: list[Samples]
) -> None:
    pause = np.zeros(SAMPLE_RATE * 3 // 2, np.float32)
    long = np.concatenate([part for clip in speech[:4] * 2 for part in (clip, pause)])
    expected = model.transcribe(long, chunk_seconds=6)
    found = apart.transcribe(long, chunk_seconds=6)
    times = [(segment.index, segment.start, segment.end) for segment in expected.segments]
    assert [(segment.index, segment.start, segment.end) for segment in found.segments] == times
    assert len(times) >= 8
    # Kernels round differently, which may change a word that the model is not sure of.
    pairs = zip(found.segments, expected.segments, strict=True)
    assert sum(one.text != other.text for one, other in pairs) <= 1
    assert max(apart.passes) > 1


def test_fast_is_half_precision_where_it_computes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "apart", True)
    with granite_gguf.load(DEMO_MODEL, device="cpu", precision="fast") as loaded:
        assert {kind for stage in loaded.kernels.values() for kind in stage} == {"F16"}
        texts = (sample.with_suffix(".txt").read_text(encoding="utf-8") for sample in DEMO_SAMPLES)
        pairs = [(s, loaded.transcribe(a).text) for s, a in zip(texts, DEMO_SAMPLES, strict=True)]
        assert sum(said.split() != found.split() for said, found in pairs) <= 1
        assert word_error_rate(pairs) < 0.04  # one word of 40
