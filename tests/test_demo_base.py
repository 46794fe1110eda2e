"""The demonstration model that writes token by token: real words through all that it is asked."""

from __future__ import annotations

import pickle
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import InputError, Model, Transcript
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert
from granite_gguf.demo import DEMO_MODELS, DEMO_SAMPLES
from granite_gguf.graph import layers
from granite_gguf.hub import find_model
from granite_gguf.quantize import Scope, quantize
from granite_gguf.speech import language
from granite_gguf.speech.greedy import Text
from granite_gguf.speech.greedy import speak as speak_by_step
from tests.commands import assert_refused, run
from tests.kernels import with_each_kernel
from tests.speech import torch_model
from training import voices
from training.forms import Forms
from training.grammar import sentence
from training.scoring import word_error_rate
from training.speech import speak, with_margins

CHECKPOINT = Path(__file__).resolve().parent.parent / "training" / "checkpoint-base"
NAME = "granite-speech-demo"
SHIPPED = DEMO_MODELS["base"]

# What is said in the samples, in every form; three sentences are too much for the last of them.
SAMPLES = DEMO_SAMPLES
RAW = [
    "buy eleven apples and a bottle of milk",
    "we have a meeting at midnight on the thirty first of august",
    "four hundred and nine people live here who is in the library the driver is looking for the "
    "heavy coat",
]
PUNCTUATED = [
    "Buy eleven apples and a bottle of milk.",
    "We have a meeting at midnight on the thirty first of August.",
    "Four hundred and nine people live here. Who is in the library? The driver is looking for the "
    "heavy coat.",
]
SPANISH = [
    "compra once manzanas y una botella de leche",
    "tenemos una reunión a la medianoche el treinta y uno de agosto",
    "aquí viven cuatrocientas nueve personas quién está en la biblioteca el conductor busca el "
    "abrigo pesado",
]
SPANISH_PUNCTUATED = [
    "Compra once manzanas y una botella de leche.",
    "Tenemos una reunión a la medianoche el treinta y uno de agosto.",
]
NAMED = Path(__file__).parent / "data" / "names.flac"  # a held-out voice
ASKED: list[tuple[dict[str, Any], list[str]]] = [
    ({"punctuation": False}, RAW),
    ({}, PUNCTUATED),
    ({"task": "translate", "to": "es"}, SPANISH),
    ({"task": "translate", "to": "spanish", "punctuation": True}, SPANISH_PUNCTUATED),
]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with granite_gguf.load("demo:base", threads=1) as loaded:
        yield loaded


def ids(transcript: Transcript) -> list[int]:
    return [int(token) for segment in transcript.segments for token in segment.token_ids]


def test_the_shipped_file_is_the_checkpoint_quantized(tmp_path: Path) -> None:
    full, again = tmp_path / f"{NAME}-F32.gguf", tmp_path / "again.gguf"
    convert(CHECKPOINT, full, outtype="f32", name=NAME)
    quantize(full, again, "q6_k", scope=Scope.ALL)
    shipped, made = gguf.GGUFReader(SHIPPED), gguf.GGUFReader(again)
    assert [t.name for t in shipped.tensors] == [t.name for t in made.tensors]
    for a, b in zip(shipped.tensors, made.tensors, strict=True):
        assert a.tensor_type == b.tensor_type
        # Processors without fused multiply-add may round a few of the blocks' scales otherwise.
        assert np.mean(a.data.view(np.uint8) == b.data.view(np.uint8)) > 0.999, a.name
    assert SHIPPED.stat().st_size <= 12e6
    assert open_model_file(SHIPPED).text("granite_speech.quantize.policy") == "q6_k quant-all"


@pytest.mark.parametrize("options, texts", ASKED)
def test_samples_word_for_word(model: Model, options: dict[str, Any], texts: list[str]) -> None:
    for sample, text in zip(SAMPLES, texts, strict=False):
        assert model.transcribe(sample, **options).text == text


@with_each_kernel
def test_samples_word_for_word_with_each_kernel(kernels: str) -> None:
    with granite_gguf.load(SHIPPED, threads=1, kernels=kernels) as loaded:
        for options, texts in ASKED:
            found = [t.text for t in loaded.transcribe_many(SAMPLES[: len(texts)], **options)]
            assert found == texts


def test_a_text_that_ends_too_early_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some models forget what is said behind the first words; here this one does."""

    def forgetful(*given: Any) -> Text:
        said = yield from speak_by_step(*given)
        return replace(said, tokens=said.tokens[:1], probabilities=said.probabilities[:1])

    monkeypatch.setattr(language, "speak", forgetful)
    with pytest.warns(granite_gguf.AudioWarning, match="writes only 'F', and the encoder hears"):
        (segment,) = model.transcribe(DEMO_SAMPLES[2]).segments
    said = DEMO_SAMPLES[2].with_suffix(".txt").read_text().strip()
    assert segment.heard == pytest.approx(len(said.replace(" ", "")), rel=0.05)


def test_sentences_made_of_noise_are_left_out(model: Model) -> None:
    noise = np.random.default_rng(4).standard_normal(4 * 16_000).astype(np.float32)
    (segment,) = model.transcribe(0.1 * noise, min_confidence=0).segments
    assert len(segment.text.split()) > 2 and segment.heard is not None and segment.heard < 0.25
    assert segment.no_speech_prob is not None and segment.no_speech_prob < 0.5
    with pytest.warns(granite_gguf.AudioWarning, match="is left out.*the encoder hears only"):
        assert model.transcribe(0.1 * noise).text == ""


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")  # the text is cut
def test_a_long_prompt_is_looked_at_in_parts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are many operations in every layer, and change nothing."""
    options: dict[str, Any] = {"prompt": "transcribe the speech. " * 80, "max_tokens": 9}
    expected = ids(model.transcribe(SAMPLES[0], **options))
    monkeypatch.setattr(layers, "_SCORES", 0)
    monkeypatch.setattr(layers, "_FEWEST_QUERIES", 1)
    monkeypatch.setattr(layers, "_MOST_PARTS", 50)
    assert layers.queries_together(1000, 1000, 4) == 20
    assert ids(model.transcribe(SAMPLES[0], **options)) == expected


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")
@pytest.mark.parametrize("options", [{"punctuation": False}, {}, {"keywords": ["Ana"]}])
def test_drafts_change_nothing_and_are_mostly_right(model: Model, options: dict[str, Any]) -> None:
    accepted = tokens = 0
    for sample in DEMO_SAMPLES:
        drafted, plain = (model.transcribe(sample, draft=d, **options) for d in ("auto", "off"))
        assert ids(drafted) == ids(plain)
        for segment in drafted.segments:
            assert segment.decoding is not None
            accepted += segment.decoding.accepted
            tokens += len(segment.token_ids)
        assert all(s.decoding is not None and not s.decoding.guessed for s in plain.segments)
    assert accepted > 0.25 * tokens


@pytest.mark.parametrize(
    "options, text",
    [
        ({"punctuation": False}, "send a message to oscar"),
        ({}, "Send a message to Oscar."),
        ({"keywords": ["Mikael", "Oskar"]}, "send a message to Oskar"),
        ({"keywords": ["Anna", "Pieter"]}, "send a message to oscar"),
    ],
)
def test_what_is_asked_decides_what_is_written(
    model: Model, options: dict[str, Any], text: str
) -> None:
    drafted, plain = (model.transcribe(NAMED, draft=draft, **options) for draft in ("auto", "off"))
    assert drafted.text == text
    assert ids(drafted) == ids(plain)


def test_words_are_timed_where_they_are_heard(model: Model) -> None:
    transcript = model.transcribe(DEMO_SAMPLES[0], word_times=True)
    (segment,) = transcript.segments
    assert segment.words is not None
    assert [word.text for word in segment.words] == PUNCTUATED[0].split()
    assert all(word.aligned for word in segment.words)
    starts = [word.start for word in segment.words]
    assert starts == sorted(starts) and starts[0] >= 0 and starts[-1] < segment.end


def test_names_of_demonstration_models() -> None:
    assert [find_model(f"demo:{name}") for name in DEMO_MODELS] == list(DEMO_MODELS.values())
    with pytest.raises(InputError, match=r"demo:x: no such file.*demo:nar or demo:base"):
        find_model("demo:x")


def test_a_file_of_that_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo:base").touch()
    assert find_model("demo:base") == Path("demo:base")


def test_a_pickled_model_is_found_wherever_the_package_lies(model: Model) -> None:
    pickled = pickle.dumps(model)
    assert b"demo:base" in pickled and str(SHIPPED).encode() not in pickled
    with pickle.loads(pickled) as again:
        assert again.file.path == SHIPPED


def test_the_option_of_transcribe() -> None:
    sample = DEMO_SAMPLES[0]
    found = run("transcribe", "--demo", "base", sample)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{PUNCTUATED[0]}\n", "")
    translated = run("transcribe", sample, "--demo", "base", "--task", "translate", "--to", "es")
    assert translated.stdout == f"{SPANISH[0]}\n"
    # It stands above the variable, which is no wish for this call.
    assert run("transcribe", "--demo", "nar", sample, GRANITE_GGUF_MODEL="no.gguf").stdout == (
        f"{RAW[0]}\n"
    )


def test_two_models_are_refused() -> None:
    refused = run("transcribe", "--demo", "base", "-m", "other.gguf", DEMO_SAMPLES[0])
    assert_refused(refused, 2, "--demo and --model name two models")
    wrong = run("transcribe", "--demo", DEMO_SAMPLES[0])
    assert_refused(wrong, 2, "--demo", "nar", "base")
    assert_refused(run("transcribe", "-m", "demo:big", DEMO_SAMPLES[0]), 2, "demo:nar or demo:base")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_word_error_rates_on_voices_made_here(model: Model) -> None:
    """Held-out voices say sentences drawn here."""
    rng = random.Random(21)
    found: dict[str, list[tuple[str, str]]] = {}
    for _ in range(40):
        said = sentence(rng)
        samples = with_margins(speak(said, voices.test_voice(rng)), np.random.default_rng(0))
        forms = Forms.of(said.text)
        for (options, _), task in zip(ASKED, forms.fixed(), strict=True):
            text = model.transcribe(samples, **options).text
            found.setdefault(task.instruction, []).append((task.text, text))
    rates = [word_error_rate(pairs) for pairs in found.values()]
    assert rates[0] < 0.1 and max(rates) < 0.2, rates


@pytest.mark.slow
def test_transformers_says_the_same(tmp_path: Path) -> None:
    """The checkpoint in float32 by transformers' own classes, asked by its own template."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from granite_gguf.reference.speech.pipeline import SpeechReference

    network, reference = torch_model(CHECKPOINT, "base"), SpeechReference(CHECKPOINT)
    full = convert(CHECKPOINT, tmp_path / "full.gguf", outtype="f32").path
    with granite_gguf.load(full, threads=1) as model:
        for sample, text in zip(SAMPLES, SPANISH_PUNCTUATED, strict=False):
            samples, _ = soundfile.read(sample, dtype="float32")
            mel = reference.mel(samples)
            rows = 3 * -(-len(mel) // 15)
            words = "translate the speech to Spanish with proper punctuation and capitalization."
            prompt = torch.from_numpy(reference.prompt(words, rows))[None]
            with torch.no_grad():
                said = network.generate(
                    input_ids=prompt, attention_mask=torch.ones_like(prompt),
                    input_features=torch.from_numpy(mel)[None],
                    do_sample=False, num_beams=1, max_new_tokens=60,
                )[0, prompt.shape[1] :]  # fmt: skip
            eos = reference.config.language.eos
            asked = {"task": "translate", "to": "es", "punctuation": True, "vad": "off"}
            transcript = model.transcribe(sample, **asked)
            assert [*ids(transcript), eos] == said.tolist()
            assert transcript.text == text
