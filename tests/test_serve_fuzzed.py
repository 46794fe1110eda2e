"""Whatever a client sends: an answer, or an error in OpenAI's shape that blames the client."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")
client = pytest.importorskip("websockets.sync.client")

from granite_gguf.serve.form import Inference, Transcription, Translation, json_of  # noqa: E402
from granite_gguf.serve.settings import Settings  # noqa: E402
from tests.serving import ROUTE, WAIT, error_of, metric, serving, until  # noqa: E402

ROUTES = {ROUTE: Transcription, "/v1/audio/translations": Translation, "/inference": Inference}
TOLD = {400, 404, 413, 415}
NESTED = "[" * 20_000
WORDS = st.sampled_from([
    "", "0", "1", "-1", "5", "30.5", "1e308", "nan", "inf", "9" * 5000, "true", "no", "null", "[]",
    "en", "en-US", "auto", "word", "segment", "json", "srt", "verbose_json", "diarized_json", "off",
    "energy", "demo", "whisper-1", '{"type":"server_vad"}', '{"type":[]}', '{"\\ud800":1}', NESTED,
    '{"type":"auto","a":' + NESTED, "\x00", "\r\n",
])  # fmt: skip
VALUES = WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = [
    *{field.alias or name for kind in ROUTES.values() for name, field in kind.model_fields.items()},
    "hotwords[]", "hotwords[type]", "timestamp_granularities", "chunking_strategy[type]",
    "chunking_strategy[type][x]", "file[]", "model[x]", "temperature[]", "translating", "",
]  # fmt: skip
FORM = st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=8), VALUES), max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["pcm16", "server_vad", "demo", "en", "\ud800"]),
    lambda within: st.lists(within, max_size=3) | st.dictionaries(
        st.sampled_from([
            "type", "audio", "input", "format", "transcription", "turn_detection", "session",
            "noise_reduction", "model", "language", "prompt", "include", "rate",
            "input_audio_transcription",
        ]), within, max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip
KINDS = st.sampled_from([
    "session.update", "transcription_session.update", "input_audio_buffer.append",
    "input_audio_buffer.commit", "input_audio_buffer.clear", "response.create",
])  # fmt: skip
EVENTS = JSON | st.fixed_dictionaries(
    {"type": KINDS | JSON}, optional={"session": JSON, "audio": JSON, "event_id": JSON}
)
# The clients are shared, and nothing that is found needs to be made small.
OFTEN = settings(
    max_examples=80, deadline=None, phases=[Phase.explicit, Phase.generate],
    derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Settings(max_megabytes=1)) as address:
        yield address


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=WAIT) as client:
        yield client


def sound() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(1600, np.float32), 16_000, format="FLAC")
    return file.getvalue()


def encoded(items: list[tuple[str, str]]) -> bytes:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode(errors="replace")
        + value.encode() + b"\r\n" for name, value in items
    ]  # fmt: skip
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return b"".join([*parts, head, sound(), b"\r\n--x--\r\n"])


def assert_answered(response: httpx.Response) -> None:
    if response.status_code != 200:
        assert response.status_code in TOLD, response.text
        error_of(response)


def send(http: httpx.Client, route: str, body: bytes) -> httpx.Response:
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return http.post(route, content=body, headers=kind)


@OFTEN
@given(st.sampled_from(sorted(ROUTES)), FORM)
def test_fields(http: httpx.Client, route: str, items: list[tuple[str, str]]) -> None:
    assert_answered(send(http, route, encoded(items)))


@pytest.mark.parametrize("route", ROUTES)
def test_each_field_with_each_value(http: httpx.Client, route: str) -> None:
    told = [
        send(http, route, encoded(items))
        for name, field in ROUTES[route].model_fields.items()
        for value in ("", "1", "x" * 2000, NESTED, "9" * 5000, '{"type":"auto","\\ud800":1}')
        for items in (
            [(field.alias or name, value)],
            [(f"{name}[type]", value), (name, value)],
            [(name, value), (f"{name}[type]", value)],
        )
    ]
    for response in told:
        assert_answered(response)
    # The demonstration model translates nothing.
    assert {response.status_code for response in told} >= {400 if "translations" in route else 200}


# Of a file that never ends nobody is told but the form's parser, which leaves it to its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@OFTEN
@given(st.data())
def test_damaged_forms(http: httpx.Client, data: st.DataObject) -> None:
    body = bytearray(encoded([("language", "en"), ("response_format", "json")]))
    places = st.integers(0, 300)  # the heads of all parts
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1)):
        body[place] = byte
    assert_answered(send(http, ROUTE, bytes(body[: data.draw(st.integers(1, len(body)))])))


@OFTEN
@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_events(address: str, events: list[Any]) -> None:
    """A session outlives all of them, and answers what follows."""
    url = address.replace("http", "ws") + "/v1/realtime"
    with client.connect(url, compression=None) as socket:
        for event in events:
            socket.send(json.dumps(event))
        socket.send('{"type": "input_audio_buffer.clear", "event_id": "last"}')
        while (told := json.loads(socket.recv(WAIT)))["type"] != "input_audio_buffer.cleared":
            if told["type"] == "error":
                assert told["error"]["code"] != "internal_error", told


def test_nothing_is_left_of_them(http: httpx.Client, address: str) -> None:
    until(lambda: metric(address, "granite_recordings_at_work") == 0)
    assert send(http, ROUTE, encoded([])).status_code == 200


@pytest.mark.parametrize("text", ["{", NESTED, "9" * 5000, '"\\ud800"', '{"a": ["\\udfff"]}'])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        json_of(text)
