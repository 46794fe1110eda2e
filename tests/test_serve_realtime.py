"""Live speech through a service, with OpenAI's own client and without."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import soundfile
import soxr

from granite_gguf.demo import DEMO_SAMPLES

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
client = pytest.importorskip("websockets.sync.client")

from granite_gguf.serve.realtime import RATE  # noqa: E402
from granite_gguf.serve.settings import Settings  # noqa: E402
from tests.kernels import texts_of_samples  # noqa: E402
from tests.serving import WAIT, metric, serving, until  # noqa: E402

TEXTS = texts_of_samples()
_OF = "conversation.item.input_audio_transcription"


def spoken(number: int) -> bytes:
    samples, rate = soundfile.read(DEMO_SAMPLES[number], dtype="int16")
    return bytes(soxr.resample(samples, rate, RATE).astype("<i2").tobytes())


def appended(data: bytes) -> dict[str, str]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Settings(queue=1)) as address:
        yield address


class Connection:
    """A socket of events as dicts."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def send(self, **event: Any) -> None:
        self._socket.send(json.dumps(event))

    def receive(self) -> dict[str, Any]:
        return dict(json.loads(self._socket.recv(timeout=WAIT)))

    def until(self, kind: str) -> dict[str, Any]:
        """The next event of a kind."""
        while (event := self.receive())["type"] != kind:
            assert event["type"] != "error", event
        return event


@pytest.fixture
def connection(address: str) -> Iterator[Connection]:
    url = address.replace("http", "ws") + "/v1/realtime?intent=transcription"
    with client.connect(url, compression=None) as socket:
        connection = Connection(socket)
        assert connection.receive()["type"] == "session.created"
        yield connection
    until(lambda: metric(address, "granite_recordings_at_work") == 0)


def test_interim_texts_and_pauses(connection: Connection) -> None:
    first = spoken(1)
    connection.send(**appended(first[:48_001]))
    interim = connection.until(f"{_OF}.interim")
    assert interim["transcript"].split()[:3] == TEXTS[1].split()[:3]
    connection.send(**appended(first[48_001:]))
    connection.send(**appended(bytes(2 * RATE)))
    completed = connection.until(f"{_OF}.completed")
    assert completed["transcript"] == TEXTS[1]
    assert completed["item_id"] == interim["item_id"]
    connection.send(**appended(spoken(0)))
    after = connection.until(f"{_OF}.interim")
    assert after["item_id"] != interim["item_id"] and after["start"] >= completed["end"] - 1e-3
    connection.send(type="input_audio_buffer.commit")
    delta = connection.until(f"{_OF}.delta")["delta"]
    # The miniature is not as sure behind a pause.
    assert len(set(delta.split()) & set(TEXTS[0].split())) >= 4
    assert connection.until(f"{_OF}.completed")["transcript"] == delta


@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")  # of how it calls websockets
def test_openai_client(address: str) -> None:
    """Turns are what is committed; a second one follows the first."""
    with (
        openai.OpenAI(base_url=f"{address}/v1", api_key="none") as api,
        api.realtime.connect(extra_query={"intent": "transcription"}) as session,
    ):
        session.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": RATE},
                        "transcription": {"model": "whisper-1", "language": "en"},
                        "turn_detection": None,
                    }
                },
            }
        )
        for number in (0, 2):
            session.input_audio_buffer.append(audio=appended(spoken(number))["audio"])
            session.input_audio_buffer.commit()
        completed = []
        for event in session:
            assert event.type != "error", event
            if event.type == "session.updated":
                found = event.session.audio.input.transcription
                assert (found.model, found.language) == ("demo", "en")
            if event.type == f"{_OF}.completed":
                completed.append(event.transcript)
            if len(completed) == 2:
                break
        assert completed == [TEXTS[0], TEXTS[2]]


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"type": "response.create"}, "is not known"),
        ({"kind": "none"}, "expected a JSON object with a type"),
        ({"type": "input_audio_buffer.append", "audio": "?"}, "not base64"),
        ({"type": "input_audio_buffer.append", "audio": 3}, "not base64"),
        ({"type": "input_audio_buffer.commit"}, "nothing to commit"),
        ({"type": "session.update", "session": 3}, "session is 3, expected an object"),
        ({"type": "session.update", "session": {"tools": []}}, "session has 'tools', expected"),
        ({"type": ["session.update"]}, "is not known"),
        (
            {"type": "session.update", "session": {"input_audio_format": "g711_ulaw"}},
            "expected PCM of 16 bits",
        ),
        (
            {"type": "session.update", "session": {"input_audio_transcription": {"model": "x"}}},
            "there is no model 'x'",
        ),
        (
            {
                "type": "transcription_session.update",
                "session": {"turn_detection": {"type": "server_vad", "threshold": 0.5}},
            },
            "without numbers",
        ),
    ],
)
def test_errors_leave_it_open(connection: Connection, event: dict[str, Any], says: str) -> None:
    connection.send(**event)
    told = connection.receive()
    assert told["type"] == "error" and says in told["error"]["message"]
    connection.send(type="input_audio_buffer.clear")
    assert connection.receive()["type"] == "input_audio_buffer.cleared"


def test_no_room_and_no_key(address: str, connection: Connection) -> None:
    connection.send(**appended(spoken(0)))
    connection.until(f"{_OF}.interim")
    url = address.replace("http", "ws") + "/v1/realtime"
    with client.connect(url, compression=None) as socket:
        second = Connection(socket)
        second.receive()
        second.send(**appended(spoken(0)))
        assert second.receive()["error"]["code"] == "queue_full"
    with pytest.raises(Exception, match="403"), client.connect(url, origin="http://evil.example"):
        pass
    with serving(Settings(key="sesame")) as guarded:
        url = guarded.replace("http", "ws") + "/v1/realtime"
        with pytest.raises(Exception, match="403"), client.connect(url):
            pass
        names = ["realtime", "openai-insecure-api-key.sesame"]
        with client.connect(url, subprotocols=names) as socket:
            assert socket.subprotocol == "realtime"
            assert Connection(socket).receive()["type"] == "session.created"
