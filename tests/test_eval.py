"""`granite-gguf eval`: manifests, scores worked out by hand, resumed runs and failures."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest
import soundfile

from granite_gguf import AudioError, InputError, MissingExtraError, Model, OutputError, Transcript
from granite_gguf.cli import app
from granite_gguf.evaluation.manifest import Item, read_items
from granite_gguf.evaluation.results import Result, ResultsFile, read_results, read_transcripts
from granite_gguf.evaluation.run import Dataset, score_each
from granite_gguf.evaluation.scoring import Scorer
from tests.commands import assert_refused, run, shown_in
from tests.signals import synthetic_audio

LAYOUT = "granite_speech_nar"
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "evaluation.md"


@pytest.fixture
def needs_extra() -> None:
    pytest.importorskip("kaldialign")
    pytest.importorskip("whisper_normalizer")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings with texts beside them, in a folder of its own."""
    folder = tmp_path / "set"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(("a.wav", "more/b.wav")):
        path = folder / name
        soundfile.write(path, synthetic_audio(24_000, seed), 16_000, subtype="FLOAT")
        path.with_suffix(".txt").write_text("one two three\n")
    return folder


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


# Manifests


def test_three_forms_of_a_manifest(folder: Path) -> None:
    from_folder = read_items(folder)
    assert [(item.name, item.text) for item in from_folder] == [
        ("a.wav", "one two three"),
        ("more/b.wav", "one two three"),
    ]
    rows = [{"audio": "a.wav", "text": "x", "language": "de"}, {"audio_filepath": "more/b.wav"}]
    from_json = read_items(write(folder / "set.jsonl", *rows))
    assert [(item.text, item.language) for item in from_json] == [("x", "de"), (None, None)]
    table = read_items(write(folder / "set.tsv", "audio\ttext", "a.wav\tx y", "more/b.wav\tz\tfr"))
    assert [(item.text, item.language) for item in table] == [("x y", None), ("z", "fr")]
    spoken = read_items(write(folder / "said.tsv", "a.wav\tx\ten\tanna", "more/b.wav\tz"))
    assert [item.speaker for item in spoken] == ["anna", None]
    assert [item.path for item in from_folder] == [item.path for item in from_json]
    absolute = read_items(write(folder / "abs.tsv", f"{folder / 'a.wav'}\tx"))
    assert absolute[0].path == folder / "a.wav"


def test_a_manifest_stays_in_its_folder(folder: Path, tmp_path: Path) -> None:
    for name in ("../a.wav", "more/../../a.wav"):
        with pytest.raises(InputError, match=r"line 1: .* leads out of"):
            read_items(write(folder / "set.tsv", f"{name}\tx"))
    (tmp_path / "secret.wav").touch()
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    with pytest.raises(InputError, match="leads out of"):
        read_items(write(folder / "set.tsv", "link.wav\tx"))
    with pytest.raises(InputError, match="leads out of"):
        read_items(folder)


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("m.jsonl", "{", "line 1: is not JSON"),
        ("m.jsonl", "[]", "line 1: is list, expected an object"),
        ("m.jsonl", '{"text": "x"}', "field 'audio' is None"),
        ("m.jsonl", '{"audio": "a.wav", "text": 3}', "field 'text' is 3, expected a string"),
        ("m.tsv", "a.wav\tx\ten\ts1\tmore", "has 5 columns, expected audio, text, language, s"),
        ("m.tsv", "a.wav\tx\n./a.wav\ty", "twice"),
        ("m.tsv", "", "names no recordings"),
    ],
)
def test_bad_manifests(name: str, line: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_items(write(tmp_path / name, line))
    with pytest.raises(InputError, match="cannot be read"):
        read_items(tmp_path / "absent.jsonl")


# Results

RESULT = Result("t", duration=1.0, seconds=0.5)
ROUNDING = {"precision": "exact", "cache": "f16"}


def test_results_are_taken_up_again(tmp_path: Path) -> None:
    audio, model, path = (tmp_path / name for name in ("a.wav", "m.gguf", "r.jsonl"))
    audio.write_text("1")
    model.write_text("model")
    item = Item("a.wav", audio, "t", "en")
    first = ResultsFile(path, model, "set", ROUNDING)
    assert first.find(item) is None
    first.add(item, RESULT)
    with path.open("a") as file:
        file.write('{"audio": "cut off')
    again = ResultsFile(path, model, "set", ROUNDING)
    assert again.find(item) == RESULT
    again.add(item, RESULT)
    assert len(path.read_text().splitlines()) == 1  # there is nothing new in it
    again.add(Item("a.wav", audio, "corrected", "en"), RESULT)
    assert len(path.read_text().splitlines()) == 2
    again.finish()
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["corrected"]
    again.add(item, Result("", error="no"))
    assert ResultsFile(path, model, "set", ROUNDING).find(item) is None  # a failure is tried again
    again.add(item, RESULT)
    audio.write_text("changed")
    assert ResultsFile(path, model, "set", ROUNDING).find(item) is None
    with pytest.raises(OutputError, match="was made with cache 'f16', not 'f32'; choose another"):
        ResultsFile(path, model, "set", {**ROUNDING, "cache": "f32"})
    model.write_text("another model")
    with pytest.raises(OutputError, match=r"is a result of m.gguf .*choose another file"):
        ResultsFile(path, model, "set", ROUNDING)
    with pytest.raises(OutputError, match="line 1 is no result"):
        ResultsFile(write(tmp_path / "notes.txt", "{}"), model, "set", ROUNDING)
    assert (tmp_path / "notes.txt").read_text() == "{}\n"


def test_results_are_a_manifest_of_the_leaderboard(tmp_path: Path) -> None:
    """With its five fields, and read again as they were kept."""
    audio, path = tmp_path / "a.wav", tmp_path / "r.jsonl"
    item = Item("a.wav", audio, "expected", "de", "anna")
    ResultsFile(path, tmp_path / "m.gguf", "set", ROUNDING).add(item, RESULT)
    (line,) = map(json.loads, path.read_text().splitlines())
    fields = {"audio_filepath": str(audio), "duration": 1.0, "time": 0.5}
    assert fields.items() | {("text", "expected"), ("pred_text", "t")} <= line.items()
    recorded = read_results(path)
    assert (recorded.model, recorded.dataset) == ("m.gguf", "set")
    ((read, result),) = recorded.results
    assert result == RESULT
    assert (read.path, read.text, read.language, read.speaker) == (audio, "expected", "de", "anna")


def theirs(name: str, text: str, said: str | None, **more: object) -> dict[str, object]:
    return {"audio_filepath": name, "text": text, "pred_text": said, **more}


def test_results_of_other_systems(tmp_path: Path) -> None:
    lines = (
        theirs("sample_0", "a", None),
        theirs("sample_1", "b", "x"),
        theirs("sample_1", "b", "b"),
    )
    named = read_results(write(tmp_path / "MODEL_ibm-granite_DATASET_ls_test.jsonl", *lines))
    assert (named.model, named.dataset) == ("ibm-granite", "ls_test")
    assert [result.text for _, result in named.results] == ["", "b"]  # the last line holds
    (tmp_path / "whisper").mkdir()
    folder = read_results(write(tmp_path / "whisper" / "ls.jsonl", *lines))
    assert (folder.model, folder.dataset) == ("whisper", "ls")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"audio_filepath": "a", "text": "x"}, "line 2: has no field 'pred_text'"),
        ({"audio_filepath": "a", "pred_text": "x"}, "line 2: has no field 'text'"),
        (theirs("a", "x", "x", time="1 s"), "line 2: field 'time' is '1 s', expected seconds"),
        (theirs("a", "x", "x", duration=-1), "field 'duration' is -1, expected seconds"),
        (theirs("a", "x", "x", model="m"), r"has results of a on r, m on r, expected of one model"),
    ],
)
def test_bad_results(line: object, says: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=says):
        read_results(write(tmp_path / "a" / "r.jsonl", theirs("b", "x", "x"), line))


def test_transcripts_of_another_file(tmp_path: Path) -> None:
    items = [Item("a.wav", tmp_path / "a.wav", None), Item("b.wav", tmp_path / "b.wav", None)]
    plain = write(tmp_path / "t.txt", f"{tmp_path / 'a.wav'}\tone", "elsewhere/b.wav\ttwo")
    assert list(read_transcripts(plain, items).values()) == ["one", "two"]
    retried = write(tmp_path / "r.jsonl", theirs("x/a.wav", "t", ""), theirs("x/a.wav", "t", "one"),
                    theirs("x/b.wav", "t", "two"))  # fmt: skip
    assert list(read_transcripts(retried, items).values()) == ["one", "two"]
    twice = write(tmp_path / "t.tsv", "x/a.wav\tone", "y/a.wav\ttwo", "b.wav\tb")
    with pytest.raises(InputError, match=r"several texts for a.wav"):
        read_transcripts(twice, items)
    with pytest.raises(InputError, match=r"no text for b.wav"):
        read_transcripts(write(tmp_path / "u.tsv", "a.wav\tone"), items)


def test_many_are_at_work_and_their_seconds_add_up(
    needs_extra: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the time since the one before; what is known is not computed again."""
    taken = []

    class Stub:
        def transcribe_many(self, paths: Iterable[Path]) -> Iterator[Transcript | AudioError]:
            taken.extend(paths)
            yield Transcript("t", "", 1.0, {"audio": 0.75, "encoder": 2.0})
            yield AudioError("b.wav: no such file")

    clock = iter([10.0, 13.0, 13.5]).__next__
    monkeypatch.setattr("granite_gguf.evaluation.run.time.perf_counter", clock)
    items = [Item(f"{name}.wav", tmp_path / f"{name}.wav", "t", "en") for name in "akb"]
    results = ResultsFile(None, tmp_path / "m.gguf", "set", ROUNDING)
    results.add(items[1], RESULT)
    found = score_each(cast(Model, Stub()), Dataset("set", items, 0), results, Scorer("plain"))
    failed = Result("", 0.0, 0.5, "b.wav: no such file")
    assert [row.result for row in found] == [Result("t", 1.0, 3.0), RESULT, failed]
    assert taken == [items[0].path, items[2].path]


# The command


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaldialign", None)
    with pytest.raises(MissingExtraError, match=r"kaldialign .* 'granite-gguf\[eval\]'"):
        Scorer("plain")


@pytest.mark.slow
def test_command(
    needs_extra: None,
    f32_files: dict[str, Path],
    models: dict[str, Model],
    folder: Path,
    tmp_path: Path,
) -> None:
    model, results = f32_files[LAYOUT], tmp_path / "results.jsonl"
    texts = [models[LAYOUT].transcribe(path).text for path in sorted(folder.rglob("*.wav"))]
    assert all(texts)
    manifest = write(
        folder / "set.jsonl",
        {"audio": "a.wav", "text": texts[0], "language": "de"},
        {"audio": "more/b.wav", "text": texts[1], "language": "de"},
        {"audio": "absent.wav", "text": "four words of text"},
    )
    first = run("eval", "-m", model, manifest, "-o", results, "--json", "--threads", 1)
    assert_refused(first, 1, "absent.wav: no such file")
    (model_report,) = json.loads(first.stdout)["models"]
    (report,) = model_report["sets"]
    # The lost file's four words are errors, and all errors there are.
    assert report["total"]["deletions"] == report["total"]["word_errors"] == 4
    assert report["total"]["failed"] == ["absent.wav"]
    assert (report["total"]["files"], report["total"]["exact"]) == (3, 2)
    assert report["total"]["rtfx"] > 0
    assert [row["wer"] for row in report["files"]] == [0, 0, 1]
    assert len(results.read_text().splitlines()) == 3

    again = run("eval", "-m", model, manifest, "-o", results, "--threads", 1)
    assert_refused(again, 1, "2 of 3 results are taken from", "absent.wav: no such file")
    assert len(results.read_text().splitlines()) == 3  # the failed one was tried again
    counted = "3 files, 1 failed, 0 left out, 2 equal byte for byte; 4 errors in"
    assert counted in again.stdout
    rescored = run("eval", "--rescore", results)
    assert rescored.returncode == 1 and counted in rescored.stdout, rescored.stderr

    against = run("eval", "-m", model, folder, "--against", results, "--threads", 1)
    assert against.returncode == 0, against.stderr
    assert "2 files, 0 failed, 0 left out, 2 equal byte for byte; 0 errors in" in against.stdout

    assert_refused(run("eval", "-m", f32_files["nle"], folder, "-o", results), 2, "choose another")
    (folder / "a.txt").unlink()
    assert_refused(run("eval", "-m", model, folder), 2, "no text for a.wav", "--against")


@pytest.mark.slow
def test_the_commands_of_the_documentation(
    needs_extra: None,
    f32_files: dict[str, Path],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder.rename(tmp_path / "clips")
    write(tmp_path / "set.jsonl", {"audio": "clips/a.wav", "text": "x", "speaker": "anna"})
    for name in ("model.gguf", "smaller.gguf"):
        shutil.copy(f32_files[LAYOUT], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    shown = shown_in(DOCUMENT.read_text(encoding="utf-8"))
    assert len(shown) >= 6 and {arguments[0] for arguments in shown} == {"eval"}
    for arguments in shown:
        app(arguments, standalone_mode=False)
        assert "whisper-normalizer" in capsys.readouterr().out
    assert len(list(Path("results").iterdir())) == 4 and Path("report.html").stat().st_size
    assert set(re.findall(r"--[a-z]+", DOCUMENT.read_text())) <= set(
        re.findall(r"--[a-z]+", run("eval", "--help").stdout)
    )
