"""Names that are listened for in the encoder's posteriors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import granite_gguf
from granite_gguf import InputError, Model
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.nar.decoding import edited_tokens, keep_tokens
from granite_gguf.nar.hotwords import REPLACING
from granite_gguf.passes import Hotword
from granite_gguf.stages.characters import labels_of
from granite_gguf.words.spotting import Spot, Trie
from granite_gguf.words.terms import hotwords
from tests.commands import run
from tests.signals import synthetic_audio

DATA = Path(__file__).parent / "data"
BARCELONA = DATA / "send-a-message-to-barcelona.flac"
AMANDA = DATA / "remind-me-to-call-amanda-at-noon.flac"
NAMES = ["Kowalski", "Nvidia", "Oslo", "Barcelona", "Zurich", "Amanda", "Vivaldi", "Budapest"]
BLANK, EDGE, A, B = range(4)
TERMS = ([A], [B], [A, B], [A, A])


@pytest.fixture(scope="module")
def demo() -> Iterator[Model]:
    with granite_gguf.load(threads=1) as model:
        yield model


def random_posteriors(seed: int, frames: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(frames, 4)) * 3
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def cheapest(posteriors: np.ndarray, term: list[int]) -> tuple[float, int, int]:
    """The least cost of a term and where it is, of all paths that there are."""
    relative = posteriors.astype(np.float64) - posteriors.max(axis=1, keepdims=True)
    best = (np.inf, 0, 0)
    for start in range(len(posteriors)):
        for end in range(start + 1, len(posteriors) + 1):
            for path in product(range(4), repeat=end - start):
                runs = [(n, k) for n, k in enumerate(path) if n == 0 or path[n - 1] != k]
                said = [k for _, k in runs if k != BLANK]
                if said != [EDGE, *term, EDGE] or path[0] != EDGE or path[-1] != EDGE:
                    continue
                cost = -sum(relative[start + n, k] for n, k in enumerate(path))
                if cost < best[0] - 1e-9:
                    edges = [n for n, k in runs if k == EDGE]
                    letters = [n for n, k in enumerate(path) if k not in (BLANK, EDGE)]
                    assert edges[0] < letters[0] <= letters[-1] < edges[1]
                    best = (cost, start + letters[0], start + letters[-1] + 1)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_costs_are_those_of_the_best_of_all_paths(seed: int) -> None:
    posteriors = random_posteriors(seed, 5)
    for term in TERMS:
        cost, first, end = cheapest(posteriors, term)
        alone = Trie([term], EDGE)
        if not np.isfinite(cost):
            assert alone.spot(posteriors, BLANK, np.array([1e3])) == []
            continue
        (spot,) = alone.spot(posteriors, BLANK, np.array([cost + 1e-3]))
        assert spot.cost == pytest.approx(cost, rel=1e-4)
        assert (spot.first, spot.end) == (first, end)
        assert alone.spot(posteriors, BLANK, np.array([cost - 1e-3])) == []


def test_terms_of_one_trie_are_found_as_alone() -> None:
    trie = Trie(TERMS, EDGE)
    for seed in range(10):
        posteriors = random_posteriors(seed, 8)
        for number, term in enumerate(TERMS):
            most = np.full(len(TERMS), -1.0)
            most[number] = 12.0
            found = trie.spot(posteriors, BLANK, most)
            alone = Trie([term], EDGE).spot(posteriors, BLANK, most[number : number + 1])
            assert [(s.first, s.end, s.cost) for s in found] == [
                (s.first, s.end, s.cost) for s in alone
            ]


def test_what_is_best_within_its_cost_is_taken_and_again_where_it_is_said_again() -> None:
    said = [EDGE, A, B, EDGE, BLANK, A, A, B, EDGE]
    posteriors = np.full((len(said), 4), -5.0, np.float32)
    posteriors[np.arange(len(said)), said] = 0.0
    found = Trie(TERMS, EDGE).spot(posteriors, BLANK, np.array([6.0, 6.0, 6.0, 6.0]))
    assert found == [Spot(2, 1, 3, 0.0), Spot(2, 5, 8, 0.0)]


def test_terms_stay_and_nothing_comes_beside_them(models: dict[str, Model]) -> None:
    editor = models["granite_speech_nar"].hparams.editor
    slot = editor.eos_token_id
    tokens = np.array([5, 6, 7, 8])
    sure = np.array([0.0, 0.5, 0.25, 0.0], np.float32)
    #              5     6     7     8
    ids = np.array([1, 5, 2, 9, 3, 9, 4, 10, slot])
    best = np.full(9, 0.75, np.float32)
    kept, probabilities = keep_tokens(editor, ids, best, tokens, sure)
    assert kept.tolist() == [1, 5, slot, 6, slot, 7, slot, 10, slot]
    assert edited_tokens(editor, kept).tolist() == [1, 5, 6, 7, 10]
    assert probabilities[[1, 3, 5, 7]].tolist() == [0.75, 0.5, 0.25, 0.75]
    assert ids[3] == 9 and best[3] == 0.75  # what was given is not changed


def test_the_more_terms_the_less_each_may_cost(demo: Model) -> None:
    known = labels_of(demo.file)

    def most(count: int, weight: float = 1.0) -> float:
        names = ["walter", *map("".join, product("abcdefghij", repeat=3))][:count]
        return float(
            hotwords(known, tuple(Hotword(name, weight) for name in names), REPLACING).most[0]
        )

    assert most(1) == most(10) == pytest.approx(4 * 6 - 6)
    assert most(100) == pytest.approx((4 - 0.45 * np.log(10)) * 6 - 6)
    assert most(1000) == pytest.approx((4 - 0.45 * np.log(100)) * 6 - 6)
    assert most(1, 1.5) == pytest.approx(1.5 * most(1))
    short = hotwords(known, (Hotword("a"),), REPLACING)
    assert short.most.tolist() == [0.0]


def test_terms_are_spelt_in_what_the_head_writes(demo: Model) -> None:
    known = labels_of(demo.file)
    for one, other in (("New  York", "new york"), ("Łódź-É!", "odzé")):
        ways = [
            hotwords(known, (Hotword(text),), REPLACING).trie._labels.tolist()
            for text in (one, other)
        ]
        assert ways[0] == ways[1]
    with pytest.raises(InputError, match=r"hotword '東京' has no character"):
        hotwords(known, (Hotword("東京"),), REPLACING)


@pytest.mark.parametrize(
    ("path", "name", "heard"),
    [(BARCELONA, "Barcelona", "send a message to"), (AMANDA, "Amanda", "remind me to call")],
)
def test_names_that_the_model_does_not_know(demo: Model, path: Path, name: str, heard: str) -> None:
    plain = demo.transcribe(path)
    assert name.lower() not in plain.text.lower()
    for editor in ("always", "never"):
        found = demo.transcribe(path, hotwords=NAMES, editor=editor, word_times=True)
        assert found.text.startswith(f"{heard} {name}")
        assert name in found.hypothesis and "hotwords" in found.timings
        (word,) = [word for word in found.words if word.text == name]
        assert 0 < word.probability < 1 and 0.5 < word.start < word.end < found.duration
    assert demo.transcribe(path, hotwords=[f"{name} :0"]).text == plain.text
    assert demo.transcribe(path, keywords=NAMES).text == demo.transcribe(path, hotwords=NAMES).text


def test_where_no_term_is_said_nothing_changes(demo: Model) -> None:
    others = [name for name in NAMES if name != "Amanda"]  # which is much like "and a" to it
    for path in DEMO_SAMPLES:
        plain = demo.transcribe(path, word_times=True).segments[0].to_dict()
        found = demo.transcribe(path, word_times=True, hotwords=others).segments[0].to_dict()
        assert found == plain


def test_together_as_alone(demo: Model) -> None:
    given = [AMANDA, DEMO_SAMPLES[0], BARCELONA]
    alone = [demo.transcribe(path, hotwords=NAMES).text for path in given]
    assert [found.text for found in demo.transcribe_many(given, hotwords=NAMES)] == alone


def test_a_lower_cased_hypothesis_keeps_the_terms_capitals(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the layout that names its characters and reads the hypothesis anew."""
    model, samples = models["nle"], synthetic_audio(48_000, seed=3)
    plain = model.transcribe(samples, min_confidence=0)
    monkeypatch.setattr("granite_gguf.nar.transcribe.spotted", lambda *_: [Spot(0, 0, 40, 1.0)])
    found = model.transcribe(samples, min_confidence=0, hotwords=["Eta"])
    assert found.hypothesis.startswith("Eta ") and "Eta" in found.text
    rest = found.hypothesis.removeprefix("Eta ")
    assert rest and rest in plain.hypothesis


def test_refusals(demo: Model, models: dict[str, Model]) -> None:
    with pytest.raises(InputError, match="does not tell the characters"):
        models["native"].transcribe(synthetic_audio(16_000, seed=1), hotwords=["Oslo"])
    for wrong, says in (
        ([" "], "is empty"),
        (["Oslo", " :2"], "is empty"),
        (["12"], "no character"),
    ):
        with pytest.raises(InputError, match=says):
            demo.transcribe(DEMO_SAMPLES[0], hotwords=wrong)
    with pytest.raises(InputError, match="give one of them"):
        demo.transcribe(DEMO_SAMPLES[0], hotwords=["a"], keywords=["b"])


def test_the_command(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Amanda :1.2\n\nOslo\n", encoding="utf-8")
    found = run("transcribe", AMANDA, BARCELONA, "--json", "--hotwords", "Barcelona",
                "--hotwords-file", names)  # fmt: skip
    first, second = [json.loads(line) for line in found.stdout.splitlines()]
    assert "Amanda" in first["text"] and "Barcelona" in second["text"]
