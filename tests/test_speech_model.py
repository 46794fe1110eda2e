"""The autoregressive model from file to output: the Python API and the command line."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

import granite_gguf
from granite_gguf import AudioWarning, InputError, Model, Segment, Transcript, Word
from granite_gguf.architectures import architecture_of, open_model_file
from granite_gguf.bench import measure
from granite_gguf.bench.measure import count_products
from granite_gguf.cli import app
from granite_gguf.demo import DEMO_MODEL
from granite_gguf.errors import InputTypeError
from granite_gguf.formats import FORMATS, Shape
from granite_gguf.ggml import F16, F32
from granite_gguf.speech.spec import Prompt
from granite_gguf.speech.tags import speakers
from granite_gguf.transcript import Turn
from tests.gguf_editing import rewrite
from tests.signals import SAMPLE_RATE, synthetic_audio
from tests.speech import PUNCTUATED, stages_of

MOST = 16
runner = CliRunner()


@pytest.fixture(scope="module")
def model(speech_files: dict[str, Path]) -> Iterator[Model]:
    with granite_gguf.load(speech_files["base"], device="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def plus(speech_files: dict[str, Path]) -> Iterator[Model]:
    with granite_gguf.load(speech_files["plus"], device="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture
def samples() -> npt.NDArray[np.float32]:
    return synthetic_audio(SAMPLE_RATE, seed=1)


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")
def test_a_transcript(
    model: Model, speech_files: dict[str, Path], samples: npt.NDArray[np.float32]
) -> None:
    transcript = model.transcribe(samples, max_tokens=MOST)
    with stages_of(speech_files["base"]) as stages:
        audio = stages.run_projector(stages.run_encoder(stages.compute_mel(samples)).captured)
        prompt = stages.prompt(audio, ("USER: ", f"{PUNCTUATED}\n ASSISTANT:"))
        (said,) = stages.generate([prompt], [MOST])
    assert transcript.token_ids == said.tokens
    assert transcript.text == model.tokenizer.decode(said.tokens).strip() != ""
    assert transcript.duration == 1.0 and transcript.hypothesis
    plain = model.transcribe(samples, max_tokens=MOST, draft="off")
    assert plain.token_ids == transcript.token_ids
    assert plain.decoding is not None and plain.decoding.guessed == 0
    many = list(model.transcribe_many([samples, samples[:9000], samples], max_tokens=MOST))
    assert [t.token_ids for t in many if isinstance(t, Transcript)] == [
        transcript.token_ids,
        model.transcribe(samples[:9000], max_tokens=MOST).token_ids,
        transcript.token_ids,
    ]


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")
def test_what_is_wanted_is_asked_for(model: Model, samples: npt.NDArray[np.float32]) -> None:
    asked = [
        {},
        {"punctuation": False},
        {"keywords": ["Grnit"]},
        {"task": "translate"},
        {"task": "translate", "to": "de"},
        {"prompt": "what is said?"},
    ]
    ids = {model.transcribe(samples, max_tokens=MOST, **options).token_ids for options in asked}  # type: ignore[arg-type]
    assert len(ids) == len(asked)
    values = model.transcribe(samples, max_tokens=1, task="translate", to="de").to_dict()
    assert (values["task"], values["language"]) == ("translate", "German")
    values = model.transcribe(samples, max_tokens=1).to_dict()
    assert values["task"] == "transcribe" and "language" not in values


def test_options_that_cannot_be(
    model: Model, plus: Model, models: dict[str, Model], samples: npt.NDArray[np.float32]
) -> None:
    for loaded, options, problem in (
        (model, {"to": "de"}, "'de' without the task 'translate'"),
        (model, {"task": "sing"}, "task is 'sing', expected 'transcribe' or 'translate'"),
        (model, {"draft": "on"}, "draft is 'on', expected 'auto' or 'off'"),
        (model, {"task": "translate", "to": "Klingon"}, "'Klingon'; expected one of"),
        (model, {"speakers": True}, "-plus can do that"),
        (model, {"max_tokens": 0}, "expected 1 or more"),
        (model, {"chunk_seconds": 121}, "expected 5 to 120 s"),
        (model, {"language": "zh"}, "'zh', expected one of en, fr, de, es, pt, ja, or none"),
        (plus, {"language": "ja"}, "'ja', expected one of en, fr, de, es, pt, or none"),
        (models["nle"], {"language": "ja"}, "'ja', expected one of en, fr, de, es, pt, or none"),
        (plus, {"task": "translate"}, "does not translate; granite-speech-4.1-2b"),
        (plus, {"speakers": True, "word_times": True}, "does not tell the characters"),
        (models["nle"], {"task": "translate"}, "translates nothing; granite-speech-4.1-2b"),
        (models["nle"], {"speakers": True}, "tells no speakers; granite-speech-4.1-2b-plus"),
        (models["nle"], {"punctuation": False}, "not asked for punctuation"),
        (models["nle"], {"keywords": ["42"]}, "has no character"),
        (models["nle"], {"prompt": "a"}, "takes no prompt"),
        (models["nle"], {"max_tokens": 9}, "writes no tokens one by one"),
        (models["nle"], {"draft": "off"}, "always begins with a draft"),
    ):
        with pytest.raises(InputError, match=problem):
            loaded.transcribe(samples, **options)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="one string, expected several"):
        model.transcribe(samples, keywords="Grnit")


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")
def test_the_language_that_is_spoken_changes_nothing(
    model: Model, samples: npt.NDArray[np.float32]
) -> None:
    """As the cards name them: Japanese by the base models alone, and English alone by 3.2."""
    found = [
        model.transcribe(samples, max_tokens=4, language=code).token_ids
        for code in (None, "ja", "pt-BR")
    ]
    assert found[0] and found.count(found[0]) == 3
    for variant, heard in (
        ("3.3-2b", "en fr de es pt"),
        ("3.2-8b", "en"),
        ("", "en fr de es pt ja"),
    ):
        assert replace(model.hparams, prompt=Prompt(variant)).heard == tuple(heard.split())


def test_a_loop_is_a_warning_with_the_files_name(plus: Model, audio_file: Path) -> None:
    with pytest.warns(AudioWarning, match=f"{audio_file}: from 0.0 to 3.0 s the model repeats"):
        transcript = plus.transcribe(audio_file, vad="off")
    assert "repeats itself" in transcript.to_dict()["segments"][0]["remarks"][0]


def test_long_audio_is_cut(model: Model) -> None:
    samples = np.concatenate([synthetic_audio(20 * SAMPLE_RATE, seed=n) for n in (1, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        segments = list(model.transcribe_stream(samples, max_tokens=2))
    assert len(segments) == 2
    assert segments[0].end == segments[1].start <= 30 and segments[1].end == 40


def test_the_command_line(speech_files: dict[str, Path], audio_file: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Grnit\n\nZoë\n", encoding="utf-8")
    command = ["transcribe", "-m", str(speech_files["base"]), str(audio_file), "-t", "1"]
    few = ["--max-tokens", "4"]
    done = runner.invoke(app, [*command, *few, "--json", "--task", "translate", "--to", "ja"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert (values["task"], values["language"]) == ("translate", "Japanese")
    assert "is cut after 4 tokens" in done.stderr
    texts = {
        runner.invoke(app, [*command, *few, *more]).stdout
        for more in (
            [], ["--no-punctuation"], ["--prompt", "what?"], ["--keywords", "Grnit,Zoë"],
            ["--keywords", "Grnit", "--keywords-file", str(words)],
        )
    }  # fmt: skip
    assert len(texts) >= 4 and "" not in texts
    same = [
        runner.invoke(app, [*command, *few, *more]).stdout
        for more in (["--keywords", "Grnit,Zoë"], ["--keywords-file", str(words)])
    ]
    assert same[0] == same[1]
    verbose = runner.invoke(app, [*command, *few, "-v"])
    assert "4 tokens in" in verbose.stderr and "of the draft's" in verbose.stderr
    off = runner.invoke(app, [*command, *few, "-v", "--draft", "off"])
    assert "0 of the draft's 0 guesses" in off.stderr


@pytest.mark.parametrize(
    "options, problem",
    [
        (["--speakers"], "-plus can do that"),
        (["--to", "de"], "without the task"),
        (["--keywords", "a,,b"], "one of them is empty"),
        (["--keywords-file", "nowhere.txt"], "nowhere.txt: the hotwords cannot be read"),
        (["--max-tokens", "0"], "max-tokens"),
    ],
)
def test_wrong_usage(
    speech_files: dict[str, Path], audio_file: Path, options: list[str], problem: str
) -> None:
    command = ["transcribe", "-m", str(speech_files["base"]), str(audio_file), *options]
    done = runner.invoke(app, command)
    assert done.exit_code == 2 or isinstance(done.exception, InputError)
    assert problem in done.output + str(done.exception)


def test_speakers_in_every_format() -> None:
    text = "well [Speaker 1]: so ask [Speaker 2]: why <not>?"
    words = [
        Word(word, 0.5 * n, 0.5 * n + 0.5, 0.9, speaker=speaker)
        for n, (word, speaker) in enumerate(
            [("well", None), ("so", "Speaker 1"), ("ask", "Speaker 1"), ("why", "Speaker 2"),
             ("<not>?", "Speaker 2")]
        )
    ]  # fmt: skip
    turns = tuple(Turn(p.speaker, text[p.start : p.end].strip()) for p in speakers(text))
    made = Transcript.of([Segment(0, 0.0, 2.5, text, "", words=tuple(words), turns=turns)])

    def written(name: str) -> str:
        return FORMATS[name].render("x.wav", made, Shape())

    assert written("vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nwell\n\n"
        "00:00:00.500 --> 00:00:01.500\n<v Speaker 1>so ask\n\n"
        "00:00:01.500 --> 00:00:02.500\n<v Speaker 2>why &lt;not&gt;?\n\n"
    )
    assert "\n00:00:00,500 --> 00:00:01,500\nSpeaker 1: so ask\n" in written("srt")
    assert "1500\t2500\tSpeaker 2: why <not>?\n" in written("tsv")
    segment = json.loads(written("json"))["segments"][0]
    assert segment["turns"][1] == {"speaker": "Speaker 1", "text": "so ask"}
    assert segment["turns"][0]["speaker"] is None
    assert segment["words"][3]["speaker"] == "Speaker 2" and "speaker" not in segment["words"][0]


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")
def test_what_keys_and_values_are_kept_as(
    speech_files: dict[str, Path], samples: npt.NDArray[np.float32], audio_file: Path
) -> None:
    ids = []
    for cache, kind in (("f16", F16), ("f32", F32)):
        with granite_gguf.load(
            speech_files["base"], device="cpu", threads=1, cache=cache
        ) as loaded:
            assert loaded.stages.cache_type is kind
            with pickle.loads(pickle.dumps(loaded)) as again:
                assert again.stages.cache_type is kind
            mel = loaded.compute_mel(samples)
            audio = loaded.run_projector(loaded.run_encoder(mel).captured)
            ids.append(loaded.logits(loaded.prompt(audio, ("", "")), np.array([1, 2])))
    difference = np.abs(ids[0] - ids[1]).max()
    assert 0 < difference < 2e-3
    with pytest.raises(InputError, match="cache is 'q8', expected 'f16' or 'f32'"):
        granite_gguf.load(speech_files["base"], device="cpu", cache="q8")
    with pytest.raises(InputError, match=r"cache is 'f32', and this model \(NAR\) keeps none"):
        granite_gguf.load(device="cpu", cache="f32")
    more = ["--cache", "f32", "--precision", "fast", "--no-punctuation", "--max-tokens", "4"]
    result = runner.invoke(
        app,
        ["transcribe", "-m", str(speech_files["base"]), str(audio_file), *more, "-v", "-d", "cpu"],
    )
    assert result.exit_code == 0 and "tokens in" in result.stderr


@pytest.mark.parametrize("command", ["diff", "eval", "bench", "imatrix"])
def test_every_command_that_loads_is_told_what_they_are_kept_as(
    command: str, speech_files: dict[str, Path], audio_file: Path, tmp_path: Path
) -> None:
    if command == "eval":
        pytest.importorskip("kaldialign")
        pytest.importorskip("whisper_normalizer")
    (tmp_path / "set.jsonl").write_text(json.dumps({"audio": str(audio_file), "text": "a"}))
    given = {
        "diff": [str(DEMO_MODEL), str(speech_files["base"]), str(audio_file)],
        "eval": ["-m", str(DEMO_MODEL), str(tmp_path / "set.jsonl")],
        "bench": [str(DEMO_MODEL), str(audio_file)],
        "imatrix": [str(DEMO_MODEL), str(audio_file), "-o", str(tmp_path / "out.gguf")],
    }
    done = runner.invoke(app, [command, *given[command], "--cache", "f32"])
    assert isinstance(done.exception, InputError)
    assert "cache is 'f32', and this model (NAR) keeps none" in str(done.exception)


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")
def test_bench_tells_what_a_draft_was_worth(
    speech_files: dict[str, Path], audio_file: Path
) -> None:
    found = measure(speech_files["base"], audio_file, threads=1, repeats=1, with_floor=False)
    assert found.decoding is not None and found.tokens > 0
    assert found.decoding.guessed >= found.decoding.accepted
    assert found.decoding.steps + found.decoding.accepted >= found.tokens - 1
    assert found.to_dict()["decoding"]["steps"] == found.decoding.steps


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")
@pytest.mark.parametrize("layout", ["base", "plus"])  # with a BPE head, and without
def test_bench_knows_the_floor_of_every_token(
    layout: str, speech_files: dict[str, Path], audio_file: Path
) -> None:
    """A step multiplies with every matrix of the language model, as the prompt's pass does."""
    found = measure(speech_files[layout], audio_file, threads=1, repeats=1)
    assert found.decoding is not None
    language, whole = (found.stages[name] for name in ("language model", "whole"))
    assert language.floor is not None and whole.floor is not None
    assert 0 < language.floor < whole.floor and language.ratio is not None
    with granite_gguf.load(speech_files[layout], device="cpu", threads=1) as loaded:
        counted, _ = count_products(loaded, audio_file)
        text = counted["language model"]
        layers, seen = loaded.hparams.llm.n_layers, [s for s in text if s.weight]
        passes = found.decoding.steps + 1
        # Queries, keys, values, output, three of the feed-forward; and the head, once a pass.
        assert sum(text[shape] for shape in seen) == passes * (7 * layers + 1)
        with loaded.observe_inputs() as observed:
            loaded.transcribe(audio_file)
        rows = observed["blk.0.ffn_up.weight"][1]
        assert rows >= max(shape.columns for shape in seen) + found.decoding.steps


def test_inspect_says_what_is_assumed(
    speech_files: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    """The labels of a head as large as a released one, and what a model is asked in."""
    assert not list(architecture_of(models["nle"].file).assumed(models["nle"].file))
    path = tmp_path / "model.gguf"
    untold = ("granite_speech.variant", "granite_speech.prompt.default", "general.name")
    rewrite(speech_files["base"], path, drop=untold)
    told = runner.invoke(app, ["inspect", str(path), "--json"])
    (sentence,) = json.loads(told.stdout)["assumed"]
    assert sentence == "the variant is 4.1-2b, whose words it is asked in"
    assert sentence in runner.invoke(app, ["inspect", str(path)]).stdout
    file = open_model_file(speech_files["base"])
    large = replace(file, hparams=replace(
        file.hparams, encoder=replace(file.hparams.encoder, ctc_vocab=348)
    ))  # fmt: skip
    (sentence,) = architecture_of(large).assumed(large)
    assert "the 348 labels of the character head are those of granite-speech-4.1-2b-nar" in sentence
    assert not list(architecture_of(file).assumed(file))
