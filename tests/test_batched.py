"""The batched forward that benchmarks measure is the reference, many recordings at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.batched.floor import Clock, flops  # noqa: E402
from benchmarks.batched.model import FORMS, Batched, log_mels  # noqa: E402
from benchmarks.batched.passes import Ids, Runner  # noqa: E402
from granite_gguf.reference import Reference, log_mel  # noqa: E402
from tests.reference import tiny  # noqa: E402
from tests.signals import synthetic_audio  # noqa: E402

LAYOUT = "granite_speech_nar"
# Frames: less than an audio token, a whole block of 20, three of them and a part of a fourth, whose
# last window of the projector and of the hypothesis head is padded.
FRAMES = (3, 20, 67, 44)
Frames = tuple[int, ...]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def recordings(frames: Frames) -> list[np.ndarray]:
    return [synthetic_audio(320 * n + 17 * k, k + 1) for k, n in enumerate(frames)]


def features(audio: list[np.ndarray]) -> torch.Tensor:
    counts = torch.tensor([len(samples) for samples in audio])
    padded = torch.zeros(len(audio), int(counts.max()))
    for row, samples in zip(padded, audio, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    return log_mels(padded, counts, tiny.config(LAYOUT).front_end)


class Watched(Runner):
    """A runner that keeps what its heads read."""

    def __init__(self, head_rows: int = 7) -> None:
        super().__init__(Batched(tiny.model(LAYOUT), head_rows).eval())
        self.read, self.logits = self.watch(self.read), torch.empty(0)

    def watch(self, read: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
        def watching(rows: torch.Tensor) -> torch.Tensor:
            self.logits = rows @ self.model.embed_tokens.weight.T
            return read(rows)

        return watching

    def of(self, mel: torch.Tensor, frames: Frames, forced: list[list[int]] | None = None) -> Ids:
        return self.run(mel, frames, Clock(CPU), forced)


def test_features_are_the_front_ends() -> None:
    audio = recordings(FRAMES)
    found = features(audio)
    for row, samples in zip(found, audio, strict=True):
        expected = log_mel(torch.from_numpy(samples), tiny.config(LAYOUT).front_end)
        torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-4)
        assert not row[len(expected) :].any()


@pytest.mark.parametrize("frames", [FRAMES, (67,), (60, 60, 60)], ids=["mixed", "one", "equal"])
@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_reference(frames: Frames, form: str) -> None:
    audio, runner = recordings(frames), Watched()
    for block in runner.model.blocks:
        block.form = form
    found = runner.of(features(audio), frames)
    reference = Reference(tiny.model(LAYOUT), tiny.tokenizer())
    expected = [reference.run(samples) for samples in audio]
    assert found.hypotheses == [stages.hypothesis_ids.tolist() for stages in expected]
    assert found.texts == [stages.text_ids_with_slots.tolist() for stages in expected]
    assert found.edited == [stages.edited_ids.tolist() for stages in expected]
    assert len(set(map(tuple, found.hypotheses))) == len(frames)
    # The best ids say little of what the editor saw of the audio.
    logits = np.concatenate([stages.editing_logits for stages in expected])
    np.testing.assert_allclose(runner.logits.numpy(), logits, rtol=0, atol=1e-4)


def test_forced_tokens_take_the_slots() -> None:
    found = Watched().of(features(recordings((40, 40))), (40, 40), [[1, 2], [3]])
    assert found.texts == [[256, 1, 256, 2, 256, 256, 256, 256], [256, 3, *[256] * 6]]


def test_work_is_counted_as_pytorch_counts_it() -> None:
    runner, mel = Watched(), features(recordings((60, 60)))
    # Fused attention is not counted on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        found = runner.of(mel, (60, 60), [[5] * 9, [6] * 9])
    e, g = tiny.ENCODER, tiny.EDITOR
    # Keys of relative positions are rounded up, from 20 to 32; pooling counts as a product; and
    # this test reads the logits once more.
    more = 2 * e.n_layers * 120 * (32 - 20) * e.n_heads * e.head_dim
    more += 2 * 120 * e.d_model + 2 * 38 * g.d_model * g.vocab_size
    work = flops(runner.config, (60, 60), [len(text) for text in found.texts])
    assert counter.get_total_flops() - more == sum(work.values())
