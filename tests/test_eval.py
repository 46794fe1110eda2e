"""`granite-gguf eval`: manifests, scores worked out by hand, resumed runs and failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from granite_gguf import InputError, Model, OutputError
from granite_gguf.evaluation.manifest import Item, read_items
from granite_gguf.evaluation.results import Result, ResultsFile, identity, read_transcripts
from granite_gguf.evaluation.scoring import Edits, Score, total
from tests.commands import assert_refused, run
from tests.signals import synthetic_audio

LAYOUT = "granite_speech_nar"


@pytest.fixture
def needs_extra() -> None:
    pytest.importorskip("jiwer")
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
        ("m.tsv", "a.wav\tx\ten\tmore", "has 4 columns"),
        ("m.tsv", "a.wav\tx\n./a.wav\ty", "twice"),
        ("m.tsv", "", "names no recordings"),
    ],
)
def test_bad_manifests(name: str, line: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_items(write(tmp_path / name, line))
    with pytest.raises(InputError, match="cannot be read"):
        read_items(tmp_path / "absent.jsonl")


# Scores


def test_rates_and_totals() -> None:
    assert Edits(1, 4).rate == 0.25 and Edits(0, 0).rate == 0 and Edits(2, 0).rate == float("inf")
    sum_ = total([Score(Edits(1, 2), Edits(3, 9), 0), Score(Edits(0, 8), Edits(0, 40), 1)])
    assert (sum_.words.rate, sum_.characters, sum_.exact) == (0.1, Edits(3, 49), 1)


def test_scores_after_normalisation(needs_extra: None) -> None:
    from granite_gguf.evaluation.scoring import Scorer

    scorer = Scorer()
    same = scorer.score("Mr. Smith, colour!", "mister smith color", "en")
    assert same == Score(Edits(0, 3), Edits(0, 18), 0)
    # cat→cut is one substitution, "down" one deletion.
    wrong = scorer.score("the cat sat down", "the cut sat", "en")
    assert wrong.words == Edits(2, 4) and wrong.characters == Edits(6, 16)
    # The English normaliser would spell out and join what the basic one leaves alone.
    assert scorer.score("Grüße, Welt", "grüße welt", "de").words == Edits(0, 2)
    assert scorer.score("a b", "", "en").words == Edits(2, 2)
    assert scorer.score("...", "x", "de").words == Edits(1, 0)
    assert scorer.score("", "", "en") == Score(Edits(0, 0), Edits(0, 0), 1)


# Results


def result_of(path: Path, model: Path, **changes: object) -> Result:
    values = {
        "audio": str(path),
        "audio_identity": identity(path),
        "model": model.name,
        "model_identity": identity(model),
        "text": "t",
        "duration": 1.0,
        "seconds": 0.5,
    }
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def test_results_are_taken_up_again(tmp_path: Path) -> None:
    audio, model, path = (tmp_path / name for name in ("a.wav", "m.gguf", "r.jsonl"))
    audio.write_text("1")
    model.write_text("model")
    item = Item("a.wav", audio, "t")
    first = ResultsFile(path, model)
    assert first.find(item) is None
    first.add(result_of(audio, model))
    with path.open("a") as file:
        file.write('{"audio": "cut off')
    again = ResultsFile(path, model)
    assert again.find(item) == result_of(audio, model)
    assert len(path.read_text().splitlines()) == 1
    again.add(result_of(audio, model, error="no"))
    assert ResultsFile(path, model).find(item) is None  # a failure is tried again
    again.add(result_of(audio, model))
    audio.write_text("changed")
    assert ResultsFile(path, model).find(item) is None
    model.write_text("another model")
    with pytest.raises(OutputError, match=r"is a result of m.gguf .*choose another file"):
        ResultsFile(path, model)
    with pytest.raises(OutputError, match="line 1 is no result"):
        ResultsFile(write(tmp_path / "notes.txt", "{}"), model)
    assert (tmp_path / "notes.txt").read_text() == "{}\n"


def test_transcripts_of_another_file(tmp_path: Path) -> None:
    items = [Item("a.wav", tmp_path / "a.wav", None), Item("b.wav", tmp_path / "b.wav", None)]
    plain = write(tmp_path / "t.txt", f"{tmp_path / 'a.wav'}\tone", "elsewhere/b.wav\ttwo")
    assert list(read_transcripts(plain, items).values()) == ["one", "two"]
    twice = write(tmp_path / "t.tsv", "x/a.wav\tone", "y/a.wav\ttwo", "b.wav\tb")
    with pytest.raises(InputError, match=r"several texts for a.wav"):
        read_transcripts(twice, items)
    with pytest.raises(InputError, match=r"no text for b.wav"):
        read_transcripts(write(tmp_path / "u.tsv", "a.wav\tone"), items)


# The command


def test_without_the_extra(f32_files: dict[str, Path], folder: Path) -> None:
    code = (
        "import sys; sys.modules['jiwer'] = None; sys.argv[0] = 'granite-gguf'\n"
        "from granite_gguf import cli; cli.main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, "eval", "-m", str(f32_files[LAYOUT]), str(folder)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert_refused(process, 2, "granite-gguf[eval]")


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
    report = json.loads(first.stdout)
    # The lost file's four words are errors, and all errors there are.
    assert report["total"]["word_errors"] == 4
    assert report["total"]["failed"] == ["absent.wav"]
    assert (report["total"]["files"], report["total"]["exact"]) == (3, 2)
    assert report["total"]["real_time_factor"] > 0
    assert [row["wer"] for row in report["files"]] == [0, 0, 1]
    assert len(results.read_text().splitlines()) == 3

    again = run("eval", "-m", model, manifest, "-o", results, "--threads", 1)
    assert_refused(again, 1, "2 of 3 results are taken from", "absent.wav: no such file")
    assert len(results.read_text().splitlines()) == 4  # the failed one was tried again
    assert "3 files, 1 failed, 2 equal byte for byte; 4 errors in" in again.stdout

    against = run("eval", "-m", model, folder, "--against", results, "--threads", 1)
    assert against.returncode == 0, against.stderr
    assert "2 files, 0 failed, 2 equal byte for byte; 0 errors in" in against.stdout

    assert_refused(run("eval", "-m", f32_files["nle"], folder, "-o", results), 2, "choose another")
    (folder / "a.txt").unlink()
    assert_refused(run("eval", "-m", model, folder), 2, "no text for a.wav", "--against")
