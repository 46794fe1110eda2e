"""Rows in, rows out: what is found, what is made of it, and what is done; without Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.errors import InputError, OutputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")

from granite_gguf.bulk.inputs import find_rows, read_contents  # noqa: E402
from granite_gguf.bulk.outputs import Output  # noqa: E402
from granite_gguf.ray import RESULTS, Transcriber  # noqa: E402
from tests.kernels import texts_of_samples  # noqa: E402

TEXTS = texts_of_samples()
NAMES = [str(path) for path in DEMO_SAMPLES]
CONTENTS = [path.read_bytes() for path in DEMO_SAMPLES]


@pytest.fixture(scope="module")
def transcriber() -> Iterator[Transcriber]:
    made = Transcriber(threads=1, word_times=True)
    yield made
    made.model.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two samples, one in a subfolder, and a hidden file; the current folder."""
    (tmp_path / "sub").mkdir()
    shutil.copy(DEMO_SAMPLES[0], tmp_path / "a.flac")
    shutil.copy(DEMO_SAMPLES[1], tmp_path / "sub" / "b.flac")
    shutil.copy(DEMO_SAMPLES[1], tmp_path / ".c.flac")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(rows: Any) -> list[str]:
    return list(rows["path"].to_pylist())


@pytest.mark.slow
def test_each_row_has_the_text_of_one_process_or_the_reason(transcriber: Transcriber) -> None:
    broken = [b"", b"no sound"]
    rows = transcriber(
        {"path": np.array([*NAMES, "/nowhere.wav", "x", "y"], object), "id": np.arange(6)}
    )
    again = transcriber(
        pa.table({"path": [*"abcde", None], "bytes": [*CONTENTS, *broken, None]})
    ).to_pylist()
    assert rows.schema.names == ["path", "id", *RESULTS.names]
    assert rows["id"].to_pylist() == list(range(6))
    with granite_gguf.load(threads=1) as model:
        expected = [model.transcribe(path, word_times=True) for path in DEMO_SAMPLES]
    assert [t.text for t in expected] == TEXTS
    for found in (rows.to_pylist(), again):
        for row, transcript in zip(found[:3], expected, strict=True):
            assert row["text"] == transcript.text and row["error"] is None
            assert row["duration"] == transcript.duration and row["seconds"] > 0
            assert [w["word"] for w in row["words"]] == transcript.text.split()
            assert row["segments"] == [
                {
                    "start": 0.0,
                    "end": round(transcript.duration, 3),
                    "channel": None,
                    "text": transcript.text,
                    "confidence": round(transcript.segments[0].confidence or 0.0, 4),
                    "no_speech_prob": round(transcript.segments[0].no_speech_prob or 0.0, 4),
                    "turns": None,
                    "remarks": None,
                }
            ]
        assert all(row["text"] is None and row["words"] is None for row in found[3:])
    assert [row["error"] for row in rows.to_pylist()[3:]] == ["AudioError: no such file"] * 3
    errors = [row["error"] for row in again[3:]]
    assert errors[0] == "AudioError: cannot be read as audio: it is empty"
    assert errors[1].startswith("AudioError: cannot be read as audio: neither libsndfile")
    assert errors[2] == "InputError: the row has None, expected a path or the bytes of a file"


def test_channels_are_told_in_segments(tmp_path: Path) -> None:
    samples, rate = soundfile.read(DEMO_SAMPLES[0])
    soundfile.write(tmp_path / "call.wav", np.stack([0 * samples, samples], axis=1), rate)
    made = Transcriber(threads=1, channels="each")
    (row,) = made({"path": [str(tmp_path / "call.wav")]}).to_pylist()
    made.model.close()
    assert [(s["channel"], s["text"]) for s in row["segments"]] == [(1, ""), (2, TEXTS[0])]


def test_the_same_stretch_of_each_is_taken() -> None:
    made = Transcriber(threads=1, clip=(1, 2.25))
    rows = made({"path": [NAMES[2], NAMES[0]], "bytes": [None, CONTENTS[0]]}).to_pylist()
    made.model.close()
    for row, text in zip(rows, (TEXTS[2], TEXTS[0]), strict=True):
        assert [(s["start"], s["end"]) for s in row["segments"]] == [(1.0, 2.25)]
        assert row["duration"] == 1.25 and 0 < len(row["text"].split()) < len(text.split())


def test_a_fault_is_found_to_be_that_of_one_row(
    transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong within, the other rows of the batch keep their texts."""
    real = granite_gguf.Model.transcribe

    def faulty(self: granite_gguf.Model, source: Any, **options: Any) -> granite_gguf.Transcript:
        if source == NAMES[1]:
            raise ZeroDivisionError("of this row")
        return real(self, source, **options)

    def failing(*_: object, **__: object) -> Iterator[Any]:
        yield from ()
        raise ZeroDivisionError("of some row")

    monkeypatch.setattr(granite_gguf.Model, "transcribe", faulty)
    monkeypatch.setattr(
        granite_gguf.Model,
        "transcribe_many",
        lambda _self, sources, **_: (next(iter(sources)), failing())[1],
    )
    found = transcriber({"path": NAMES}).to_pylist()
    assert [row["text"] for row in found] == [TEXTS[0], None, TEXTS[2]]
    assert found[1]["error"] == "ZeroDivisionError: of this row"


def test_long_ones_go_first_and_rows_stay_where_they_are(
    transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []

    def named(_: object, sources: Iterator[Any], **__: object) -> Iterator[Any]:
        for source in sources:
            taken.append(source)
            yield granite_gguf.AudioError(source if isinstance(source, str) else "contents")

    monkeypatch.setattr(granite_gguf.Model, "transcribe_many", named)
    shortest, middle, longest = sorted(zip(map(len, TEXTS), NAMES, CONTENTS, strict=True))
    given = {
        "path": [shortest[1], "x", longest[1], "nowhere.wav"],
        "bytes": [None, middle[2], None, None],
    }
    errors = [row["error"] for row in transcriber(given).to_pylist()]
    assert taken == ["nowhere.wav", longest[1], middle[2], shortest[1]]
    told = (shortest[1], "contents", longest[1], "nowhere.wav")
    assert all(error.endswith(name) for error, name in zip(errors, told, strict=True))


def test_wrong_options_and_columns_are_no_failures_of_rows(transcriber: Transcriber) -> None:
    with pytest.raises(InputError, match=r"\['name'\], expected 'path' or 'bytes'"):
        transcriber({"name": NAMES})
    with pytest.raises(InputError, match="pieces of 1 s"):
        Transcriber(threads=1, chunk_seconds=1.0)


def test_addresses_are_fetched(transcriber: Transcriber) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/clips/a.flac", CONTENTS[0])
    found = transcriber({"path": ["memory://clips/a.flac", "memory://clips/b.flac"]}).to_pylist()
    assert found[0]["text"] == TEXTS[0]
    assert found[1]["error"] == "InputError: there is no such file or folder"
    assert paths(find_rows("memory://clips")) == ["memory:///clips/a.flac"]
    assert paths(find_rows("memory://clips/*.flac")) == ["memory:///clips/a.flac"]


def test_recordings_are_found(folder: Path) -> None:
    both = [str(folder / "a.flac"), str(folder / "sub" / "b.flac")]
    (folder / "list.txt").write_text("a.flac\n\nsub/b.flac\na.flac\n", encoding="utf-8")
    (folder / "sub" / "lines.jsonl").write_text(
        '{"audio_filepath": "b.flac", "text": "x"}\n{"path": "s3://bucket/c.flac"}\n',
        encoding="utf-8",
    )
    pq.write_table(pa.table({"path": ["b.flac"]}), folder / "sub" / "paths.parquet")
    assert paths(find_rows(".")) == paths(find_rows("list.txt")) == both
    assert paths(find_rows("**/*.flac")) == both
    assert paths(find_rows(f"file://{folder}")) == [f"file://{path}" for path in both]
    assert paths(find_rows("sub/lines.jsonl")) == [both[1], "s3://bucket/c.flac"]
    assert paths(find_rows("sub/paths.parquet")) == [both[1]]
    assert paths(find_rows("nowhere.wav")) == [str(folder / "nowhere.wav")]  # fails by itself


def test_contents_are_read_from_parquet(folder: Path) -> None:
    """Rows of several row groups, and only those that are asked for."""
    audio = [{"bytes": CONTENTS[n % 3], "path": f"{n}.flac"} for n in range(7)]
    pq.write_table(pa.table({"audio": audio}), folder / "clips.parquet", row_group_size=3)
    rows = find_rows("clips.parquet")
    assert paths(rows) == [f"{folder / 'clips.parquet'}#{n}" for n in range(7)]
    parts = list(read_contents(rows.slice(2, 3)))
    assert [paths(part) for part in parts] == [paths(rows)[2:3], paths(rows)[3:5]]
    assert [part["bytes"].to_pylist() for part in parts] == [[CONTENTS[2]], CONTENTS[0:2]]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere.txt", "nowhere.txt: there is no such file"),
        ("nowhere/*.wav", "the pattern has no recordings"),
        ("s9://bucket/a", "s9://bucket/a: cannot be used: .*Protocol not known"),
        ("bad.jsonl", r"bad.jsonl, line 2: is .*expected an object with a path"),
        ("text.parquet", r"has the columns text; expected contents"),
        ("parts.jsonl", "line 2: is a part of a recording, from its offset 2.5 on"),
        ("none.parquet", r"row 1 has no path as 'path'"),
        ("broken.parquet", "broken.parquet: cannot be used: .*Parquet"),
        ("empty.txt", "names no recordings"),
    ],
)
def test_what_names_nothing_is_an_error(folder: Path, name: str, why: str) -> None:
    (folder / "bad.jsonl").write_text('{"path": "a.flac"}\n{"text": "x"}\n', encoding="utf-8")
    parts = ({"path": "a.flac", "offset": offset} for offset in (0, 2.5))
    (folder / "parts.jsonl").write_text("\n".join(map(json.dumps, parts)), encoding="utf-8")
    pq.write_table(pa.table({"text": ["x"]}), folder / "text.parquet")
    pq.write_table(pa.table({"path": ["a.flac", None]}), folder / "none.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1 and no more")
    (folder / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match=why):
        find_rows(name)


def results(names: list[str], errors: list[str | None]) -> Any:
    nothing = {field.name: pa.nulls(len(names), field.type) for field in RESULTS}
    return pa.table({"path": names, **nothing, "error": pa.array(errors, pa.string())})


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize("place", ["folder", "memory://bulk"])
def test_what_is_done_is_known_and_there_once(tmp_path: Path, form: str, place: str) -> None:
    place = str(tmp_path / "out") if place == "folder" else f"{place}-{form}"
    out = Output.open(place, form, {"model": "m"})
    out.write(results(["a", "b"], [None, "AudioError: no such file"]))
    out.write(results(["a", "b"], [None, "AudioError: no such file"]))  # told of twice
    out.write(results(["b", "c"], [None, None]))  # by one that was given up for lost
    assert len(out.parts()) == 2
    assert sorted(out.settle().to_pylist()) == ["a", "b", "c"]
    assert sorted(Output.open(place, form, {"model": "m"}).settle().to_pylist()) == ["a", "b", "c"]
    failed = any(row["error"] for part in out.parts() for row in out._read(part).to_pylist())
    assert sorted(out.settle(retry=True).to_pylist()) == (["a", "c"] if failed else ["a", "b", "c"])
    says = r"was begun with other options: model was 'm' and is 'other', clip was None and is \["
    with pytest.raises(OutputError, match=says):
        Output.open(place, form, {"model": "other", "clip": (1.0, None)})


def test_an_output_is_no_other_folder(folder: Path) -> None:
    with pytest.raises(OutputError, match=r"has 'a.flac' in it and no results"):
        Output.open(str(folder), "parquet", {})
    with pytest.raises(OutputError, match="a commit"):
        Output.open("hf://datasets/a/b", "parquet", {})
    out = Output.open("new", "jsonl", {})
    out.write(results(["ü\n"], [None]))
    (folder / "new" / "_bulk.json").write_text("[]", encoding="utf-8")
    with pytest.raises(OutputError, match=r"_bulk\.json is damaged"):
        Output.open("new", "jsonl", {})
    (part,) = (folder / "new").glob("part-*.jsonl")
    assert json.loads(part.read_text(encoding="utf-8"))["path"] == "ü\n"
    part.write_text("{", encoding="utf-8")
    with pytest.raises(OutputError, match=f"{part.name}: cannot be used"):
        out.settle()
