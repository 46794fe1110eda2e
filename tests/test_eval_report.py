"""What `granite-gguf eval` tells of several models and sets, counted by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from granite_gguf import InputError, OutputError
from granite_gguf.cli import app
from granite_gguf.evaluation.figures import Evaluation, Row, length_group, over_sets
from granite_gguf.evaluation.manifest import Item
from granite_gguf.evaluation.page import write_page
from granite_gguf.evaluation.report import report_values
from granite_gguf.evaluation.results import Result
from granite_gguf.evaluation.scoring import Edits, Score, Scorer
from granite_gguf.evaluation.systems import aligned, rescored, results_files, unique_names
from granite_gguf.evaluation.tables import as_markdown, as_text
from tests.commands import run

pytest.importorskip("kaldialign")
pytest.importorskip("whisper_normalizer")

LINES = {
    # name: text, seconds, language, speaker, of model a, of model b
    "one.wav": ("The white paper is good.", 4.0, "en", "anna"),
    "two.wav": ("two birds", 12.0, "en", "bert"),
    "drei.wav": ("Drei Vögel", 12.5, "de", "bert"),
}
FOUND = {
    # "whitepaper": two errors by whisper, none by the leaderboard; "cat": an insertion.
    "a": ("the whitepaper is good", "two cat birds", "drei vogel"),
    "b": ("The white paper is good.", "two birds", "drei vögel"),
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Results of a model on a set, as another system might have written them."""

    def write(model: str, dataset: str = "set", **more: object) -> Path:
        path = tmp_path / model / f"{dataset}.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = []
        for (name, (text, seconds, language, speaker)), found in zip(
            LINES.items(), FOUND[model], strict=True
        ):
            fields = {
                "audio_filepath": name, "duration": seconds, "time": 0.5, "text": text,
                "pred_text": found, "language": language, "speaker": speaker,
            }  # fmt: skip
            lines.append(json.dumps(fields | more))
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def evaluation(path: Path, scoring: str = "whisper") -> Evaluation:
    ((one,),) = rescored([path], Scorer(scoring), "en").values()
    return one


def test_totals_by_rule(write: Write) -> None:
    whisper = evaluation(write("a")).total()
    # Nine words; the compound is a deletion and a substitution, "vogel" a substitution.
    assert (whisper["words"], whisper["word_errors"], whisper["wer"]) == (9, 4, 4 / 9)
    counts = [whisper[key] for key in ("insertions", "deletions", "substitutions")]
    assert counts == [1, 1, 2]
    assert (whisper["duration"], whisper["seconds"], whisper["rtfx"]) == (28.5, 1.5, 19.0)
    merged = evaluation(write("a"), "leaderboard").total()
    assert (merged["words"], merged["word_errors"]) == (9, 2)
    plain = evaluation(write("a"), "plain").total()
    # Besides, "The", "good." and "Drei" and "Vögel" differ in case or by the full stop.
    assert (plain["words"], plain["word_errors"]) == (9, 7)
    assert evaluation(write("a", time=None)).total()["rtfx"] is None
    assert evaluation(write("b")).total()["exact"] == 2


def test_groups(write: Write) -> None:
    one = evaluation(write("a"))
    assert {name: group.total()["words"] for name, group in one.groups("length").items()} == {
        "under 5 s": 5, "10 to 20 s": 4,
    }  # fmt: skip
    assert {name: group.total()["wer"] for name, group in one.groups("language").items()} == {
        "en": 3 / 7, "de": 1 / 2,
    }  # fmt: skip
    assert {name: len(group.rows) for name, group in one.groups("speaker").items()} == {
        "anna": 1, "bert": 2,
    }  # fmt: skip
    assert list(one.groups("file")) == list(LINES)
    assert list(evaluation(write("a", speaker=None)).groups("speaker")) == ["unknown"]
    assert length_group(None) is None


def test_the_mean_over_sets_is_plain(write: Write) -> None:
    """4/9 and 3/7, the latter without the recording that is to be ignored."""
    first, second = evaluation(write("a")), write("a", "more")
    lines = second.read_text().splitlines()
    ignored = json.loads(lines[2]) | {"text": "Ignore time segment in scoring"}
    second.write_text("\n".join([*lines[:2], json.dumps(ignored)]) + "\n")
    mean = over_sets([first, first])
    assert mean["wer"] == 4 / 9 and mean["words"] == 18 and mean["rtfx"] == 19
    leaderboard = [evaluation(path, "leaderboard") for path in (write("a"), second)]
    whole = over_sets(leaderboard)
    assert [one.left_out for one in leaderboard] == [0, 1] and whole["left_out"] == 1
    assert whole["wer"] == pytest.approx((2 / 9 + 1 / 7) / 2)
    assert whole["rtfx"] == pytest.approx((28.5 + 16) / 2.5)


def test_a_report_compares_on_the_same_recordings(write: Write) -> None:
    systems = rescored([write("a"), write("b")], Scorer("whisper"), "en")
    assert list(systems) == ["a", "b"]
    report = report_values(aligned(systems), by=["language"], compared=True)
    (found,) = report["comparisons"]
    assert (found["model"], found["against"]) == ("b", "a")
    assert found["difference"] == pytest.approx(-4 / 9)
    # Two speakers, of whom both have fewer errors by b: so has every draw.
    drawn = found["bootstrap"]
    assert drawn["better"] == 1 and drawn["p"] < 0.001 and drawn["high"] < 0
    text = as_text(report)
    assert "b against a: WER -44.44 points (95 % interval" in text
    assert "\n 44.44 %" in text and "    language de" in text and "19.0x" in text
    assert "scoring: whisper (compounds as written, granite-gguf " in text
    assert report["models"][0]["sets"][0]["total"]["wer_interval"] == (pytest.approx(0.4), 0.5)
    assert json.loads(json.dumps(report))["scoring"]["scoring"] == "whisper"


def test_what_cannot_be_set_side_by_side(write: Write, tmp_path: Path) -> None:
    scorer = Scorer("whisper")
    with pytest.raises(InputError, match="a has results on set, and b on other: expected the same"):
        aligned(rescored([write("a"), write("b", "other")], scorer, "en"))
    shuffled = write("b")
    lines = shuffled.read_text().splitlines()
    shuffled.write_text("\n".join(reversed(lines)) + "\n")
    both = aligned(rescored([write("a"), shuffled], scorer, "en"))
    assert [row.item.name for row in both["b"][0].rows] == list(LINES)
    shuffled.write_text(lines[0] + "\n")
    with pytest.raises(InputError, match="of other recordings or against other texts"):
        aligned(rescored([write("a"), shuffled], scorer, "en"))
    with pytest.raises(InputError, match="has results of a on set, as another file has"):
        rescored([write("a"), write("a")], scorer, "en")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no results, which end in"):
        rescored([tmp_path / "empty"], scorer, "en")


def test_names_of_models_and_results(tmp_path: Path) -> None:
    one, other, third = (tmp_path / name for name in ("x/m.gguf", "y/m.gguf", "n.gguf"))
    assert unique_names([one, third]) == ["m.gguf", "n.gguf"]
    assert unique_names([one, other]) == [str(one), str(other)]
    file = tmp_path / "r.jsonl"
    assert results_files(file, ["m.gguf"], ["s"]) == {("m.gguf", "s"): file}
    several = results_files(tmp_path / "out", ["m.gguf"], ["s", "t"])
    assert several["m.gguf", "t"] == tmp_path / "out" / "MODEL_m_DATASET_t.jsonl"
    file.touch()
    with pytest.raises(OutputError, match="is a file, expected a folder for 2 results"):
        results_files(file, ["m.gguf", "n.gguf"], ["s"])
    with pytest.raises(InputError, match="names of their own: there is s 2 times"):
        results_files(None, ["m.gguf"], ["s", "s"])
    with pytest.raises(InputError, match=r"-m names a model m.gguf 2 times"):
        results_files(None, ["m.gguf"] * 2, ["s"])


def test_markdown_of_clips_and_models(write: Write) -> None:
    systems = aligned(rescored([write("a"), write("b")], Scorer("leaderboard"), "en"))
    table = as_markdown(systems, Scorer("plain")).splitlines()
    assert table[:6] == [
        "| set | a: byte-exact | WER | normalised WER | b: byte-exact | WER | normalised WER |",
        "|---|---|---:|---:|---|---:|---:|",
        "| one.wav | no | 80.00 % | 0.00 % | yes | 0.00 % | 0.00 % |",
        "| two.wav | no | 50.00 % | 50.00 % | yes | 0.00 % | 0.00 % |",
        "| drei.wav | no | 100.00 % | 50.00 % | no | 100.00 % | 0.00 % |",
        "| all 3 | 0 of 3 | 77.78 % | 22.22 % | 2 of 3 | 22.22 % | 0.00 % |",
    ]
    assert "leaderboard (as of 2026-08, compounds merged" in table[-1]


class Page(HTMLParser):
    """What a page holds, by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.sources: list[str | None] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "a":
            self.sources.append(dict(attributes)["href"])
        assert tag != "b", "a transcript became markup"

    def handle_endtag(self, tag: str) -> None:
        while self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def test_page(write: Write, tmp_path: Path) -> None:
    hostile = "</dd><b>{{summary}} & \x1b\udcff"
    path = write("a", error=hostile)
    scorer = Scorer("leaderboard")
    systems = rescored([path, write("b")], scorer, "en")
    page = tmp_path / "a" / "page.html"
    write_page(page, systems, report_values(aligned(systems), compared=True), scorer)
    text = page.read_text(encoding="utf-8")
    read = Page(text)
    assert read.sources == [*(f"./{name}" for name in LINES),
                            *((tmp_path / "b" / name).as_uri() for name in LINES)]  # fmt: skip
    # The first of each is in the legend.
    assert read.texts["del"][1:] == ["vögel"] and read.texts["ins"][1:] == ["cat", "vogel"]
    assert "</dd><b>{{summary}} & \\x1b\\udcff" in read.texts["p"]
    assert text.count("<tr data-errors=") == 6 and "b against a: WER -22.22 points" in text
    assert "http" not in text, "the page stands by itself"


def test_rescore_command(write: Write, tmp_path: Path) -> None:
    """Without a model; a folder of results, and options that do not belong to it."""
    a, b = write("a"), write("b")
    found = run("eval", "--rescore", a.parent, b, "--scoring", "leaderboard", "--compare",
                "--html", tmp_path / "page.html", "--by", "length,speaker")  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "b against a" in found.stdout and "speaker bert" in found.stdout
    assert "Drei Vögel" in (tmp_path / "page.html").read_text(encoding="utf-8")
    table = run("eval", "--rescore", a, b, "--markdown")
    assert table.returncode == 0 and "| all 3 |" in table.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rescore", "-m", "x.gguf"], "--rescore runs no model, and -m does not belong"),
        (["--rescore", "-o", "x"], "and -o does not belong to it"),
        (["--rescore", "--compare"], "--compare needs two models or more"),
        (["--rescore", "--by", "colour"], "--by is 'colour', expected of file, language, length"),
        (["--rescore", "--json", "--markdown"], "choose one"),
        (["--rescore", "--html", "nowhere/page.html"], "there is no directory nowhere"),
    ],
)
def test_wrong_usage(options: list[str], says: str, write: Write) -> None:
    with pytest.raises((InputError, OutputError), match=re.escape(says)):
        app(["eval", str(write("a")), *options], standalone_mode=False)


def test_the_seed_reaches_the_draws() -> None:
    nothing = Edits(0, 0, 0, 0)
    rows = [
        Row(Item(str(n), Path(str(n)), ""), Result(""), Score(Edits(n % 7, 0, 0, n), nothing, 0))
        for n in range(1, 40)
    ]
    systems = {"a": [Evaluation(rows, "a", "set")]}
    found = [report_values(systems, seed=seed)["models"][0]["mean"] for seed in (0, 0, 1)]
    first, again, other = (figures["wer_interval"] for figures in found)
    assert first == again != other and other == systems["a"][0].interval(seed=1)


def test_too_few_to_compare(write: Write) -> None:
    paths = [write(model, speaker="anna") for model in "ab"]
    systems = aligned(rescored(paths, Scorer("whisper"), "en"))
    report = report_values(systems, compared=True)
    assert report["models"][0]["mean"]["wer_interval"] is None
    assert report["comparisons"][0]["bootstrap"] is None
    assert "b against a: WER -44.44 points (too few recordings, or speakers" in as_text(report)
