"""The demonstration model's training: what must hold before hours are spent on it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("tokenizers")

import torch

from training import grammar, miniature, voices
from training.augment import Strength, augmented, warped
from training.corruption import (
    UNKNOWN,
    ErrorRates,
    corrupted,
    edit_rows,
    editable,
    row_labels,
    rows_needed,
)
from training.dataset import Example, batches, stacked
from training.losses import ctc
from training.scoring import edit_distance, word_error_rate
from training.speech import in_room, speak, with_margins, with_noise
from training.stages import Stage
from training.tokens import encode_characters

ROOT = Path(__file__).resolve().parent.parent
CHARACTERS = miniature.SIZE.encoder.characters


def example(frames: int, text: str = "open the door", seed: int = 0) -> Example:
    rng = np.random.default_rng(seed)
    features = rng.uniform(-0.5, 1.5, (frames, 160)).astype(np.float16)
    return Example(
        features, text, "en-us+m1", encode_characters(text, CHARACTERS), [300, 301, 301, 302]
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("miniature")
    miniature.write_directory(path)
    return path


# Grammar


def test_every_rule_that_is_referred_to_exists_and_is_used() -> None:
    used = {
        word[1:-1]
        for alternatives in grammar.GRAMMAR.values()
        for alternative in alternatives
        for word in alternative
        if word.startswith("<")
    }
    assert used | {"sentence"} == set(grammar.GRAMMAR)


def test_sentences_cover_the_vocabulary_and_nothing_else() -> None:
    rng = random.Random(0)
    said = {word for _ in range(20_000) for word in grammar.sentence(rng).text.split()}
    assert said == set(grammar.vocabulary())
    assert len(said) >= 200


def test_vocabulary_is_lower_case_words_that_the_character_head_can_write() -> None:
    for word in grammar.vocabulary():
        assert word.isalpha() and word.islower() and word.isascii()
        assert 0 not in encode_characters(word, CHARACTERS)


def test_same_seed_same_sentences() -> None:
    first, second = random.Random(5), random.Random(5)
    assert [grammar.sentence(first) for _ in range(50)] == [
        grammar.sentence(second) for _ in range(50)
    ]
    assert grammar.sentence(random.Random(5)) != grammar.sentence(random.Random(6))


def test_pronunciation_marks_stay_out_of_the_text() -> None:
    spelled = grammar.sentence(random.Random(0), start="letter")
    assert len(spelled.text) == 1
    rng = random.Random(1)
    letters = {grammar.sentence(rng, "letter") for _ in range(500)}
    assert {s.spoken for s in letters if s.text == "a"} == {"[['eI]]"}


def test_made_words_are_none_of_the_grammars() -> None:
    known, rng = set(grammar.vocabulary()), random.Random(8)
    for _ in range(500):
        said = grammar.sentence(rng)
        other = grammar.with_made_word(said, rng)
        pairs = list(zip(said.text.split(), other.text.split(), strict=True))
        ((_, word),) = [(a, b) for a, b in pairs if a != b]
        assert word not in known and encode_characters(word, CHARACTERS)
        assert word in other.spoken.split()


def test_paragraph_joins_sentences() -> None:
    one = grammar.paragraph(random.Random(3), 2)
    assert one.spoken.count(".") == 1
    assert "." not in one.text


# Voices


def test_held_out_voices_are_disjoint_from_the_training() -> None:
    groups = (
        set(voices.TRAINING_VARIANTS),
        set(voices.DEVELOPMENT_VARIANTS),
        set(voices.HELD_OUT_VARIANTS),
    )
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert not set(voices.TRAINING_ACCENTS) & set(voices.HELD_OUT_ACCENTS)


def test_test_voices_are_held_out() -> None:
    rng = random.Random(0)
    drawn = [voices.test_voice(rng) for _ in range(300)]
    assert {voice.variant for voice in drawn} == set(voices.HELD_OUT_VARIANTS)
    unseen = sum(voice.accent in voices.HELD_OUT_ACCENTS for voice in drawn)
    assert 100 < unseen < 200


# Sound


def test_rooms_and_noise_keep_length_and_range() -> None:
    samples = np.sin(np.arange(8000) / 20).astype(np.float32)
    for heard in (
        in_room(samples, np.random.default_rng(0)),
        with_noise(samples, np.random.default_rng(0), 5.0),
    ):
        assert heard.shape == samples.shape and heard.dtype == np.float32
        assert np.abs(heard).max() <= 1.0
    assert len(with_margins(samples, np.random.default_rng(0))) > len(samples)


def test_noise_has_the_level_that_was_asked_for() -> None:
    samples = 0.1 * np.sin(np.arange(32000) / 20).astype(np.float32)
    noise = with_noise(samples, np.random.default_rng(0), 10.0) - samples
    assert 10 * np.log10(np.mean(samples**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.01)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_espeak_speaks() -> None:
    voice = voices.Voice("en-us", "m3", 170, 50, 100, 0)
    samples = speak(grammar.Sentence("open the door", "open the door"), voice)
    assert 0.5 < len(samples) / 16000 < 3
    assert 0.1 < np.abs(samples).max() <= 1.0


# Augmentation


@pytest.mark.parametrize("seed", range(3))
def test_augmentation_keeps_shape_and_range(seed: int) -> None:
    features = stacked([example(40), example(33, seed=1)])
    varied = augmented(features, torch.Generator().manual_seed(seed), Strength())
    assert varied.shape == features.shape
    assert torch.isfinite(varied).all()
    for before, after in zip(features, varied, strict=True):
        assert after.max() - after.min() <= 2.0 + 1e-4
        assert not torch.equal(before, after)


def test_augmentation_repeats_with_its_seed() -> None:
    features = stacked([example(40)])
    first, second = (
        augmented(features, torch.Generator().manual_seed(9), Strength()) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_no_augmentation_changes_nothing() -> None:
    none = Strength(0, 0, 0, noise_share=-1, time_mask=0, band_mask=0)
    features = stacked([example(40)])
    same = augmented(features, torch.Generator().manual_seed(0), none)
    torch.testing.assert_close(same, features, atol=1e-5, rtol=0)


def test_warp_moves_a_peak() -> None:
    power = torch.zeros(1, 1, 80)
    power[..., 40] = 1
    assert warped(power, torch.tensor([2.0]))[0, 0].argmax() == 20


# Batches


def test_batches_hold_every_example_once_and_little_padding() -> None:
    examples = [example(20 + n % 50, seed=n) for n in range(200)]
    found = batches(examples, 500, random.Random(0))
    assert sorted(id(e) for batch in found for e in batch) == sorted(map(id, examples))
    for batch in found:
        lengths = [e.frames for e in batch]
        assert max(lengths) * len(batch) <= 500
        assert max(lengths) - min(lengths) <= 16


def test_short_batches_may_come_first() -> None:
    examples = [example(20 + n % 50, seed=n) for n in range(200)]
    found = batches(examples, 500, random.Random(0), short_first=40)
    short = [max(e.frames for e in batch) <= 40 for batch in found]
    assert short == sorted(short, reverse=True)
    assert any(short) and not all(short)


def test_shorter_utterances_end_in_silence() -> None:
    short = example(10, seed=1)
    rows = stacked([example(20), short])
    assert rows.shape == (2, 20, 160)
    silence = rows[1, 10:]
    assert (silence == silence[0, 0]).all()
    assert silence[0, 0] == pytest.approx(float(short.features.max()) - 2.0)


# Hypotheses with errors


def test_rows_that_ctc_needs() -> None:
    assert rows_needed([]) == 0
    assert rows_needed([1, 2, 3]) == 3
    assert rows_needed([1, 1, 1]) == 5
    assert edit_rows([], 8) == 8
    assert edit_rows([1, 2, 3, 4], 8) == 9


def test_row_counts_agree_with_ctc_itself() -> None:
    logits = torch.zeros(1, 5, 4)
    for target in ([1, 1, 1], [1, 2, 3, 1, 2], [1, 1, 2, 2]):
        # An impossible target has an infinite loss, which is then counted as zero.
        assert (ctc(logits, [target], 0) > 0) == (rows_needed(target) <= 5)


def test_corruption_makes_the_errors_that_were_asked_for() -> None:
    tokens = list(range(100, 200))
    rng = random.Random(0)
    assert corrupted(tokens, ErrorRates(0, 0, 0), [1], rng) == tokens
    assert corrupted(tokens, ErrorRates(1, 0, 0), [1], rng) == []
    assert corrupted(tokens, ErrorRates(0, 0, 1), [1], rng) == [1] * 100
    assert corrupted(tokens, ErrorRates(0, 1, 0), [1], rng)[::2] == [1] * 100
    some = corrupted(tokens, ErrorRates(0.1, 0.1, 0.1), [1], rng)
    assert 60 < len(set(some) & set(tokens)) < 95


@pytest.mark.parametrize(
    ("hypothesis", "target", "labels"),
    [
        ([1, 2], [1, 2], [0, 1, 0, 2, 0]),
        ([1, 9], [1, 2], [0, 1, 0, 2, 0]),  # replaced
        ([1, 9, 2], [1, 2], [0, 1, 0, 0, 0, 2, 0]),  # deleted
        ([1, 3], [1, 2, 3], [0, 1, 2, 3, 0]),  # inserted before the next
        ([1], [1, 2], [0, 1, 2]),
        ([1, 4], [1, 2, 3, 4], [0, 1, UNKNOWN, 4, 0]),  # two in one slot
        ([5], [5, 5], [UNKNOWN, 5, 0]),  # collapsing would join it with its neighbour
        ([], [7], [7]),
    ],
)
def test_what_each_row_should_say(
    hypothesis: list[int], target: list[int], labels: list[int]
) -> None:
    assert row_labels(hypothesis, target, 0, 2 * len(hypothesis) + 1) == labels


def test_labels_collapse_to_the_target() -> None:
    from granite_gguf.reference.decoding import collapse

    rng, whole = random.Random(0), 0
    for _ in range(500):
        target = [rng.randint(1, 6) for _ in range(rng.randint(0, 12))]
        hypothesis = corrupted(target, ErrorRates(0.1, 0.1, 0.2), range(1, 7), rng)
        labels = row_labels(hypothesis, target, 0, edit_rows(hypothesis, 8))
        repeated = any(a == b for a, b in pairwise(target))
        if UNKNOWN not in labels and not repeated:
            assert collapse(labels, 0) == target
            whole += 1
    assert whole > 150


def test_the_editor_always_gets_room_for_its_target(directory: Path) -> None:
    from granite_gguf.reference import load_tokenizer
    from training.stages import EditorStage

    model, _ = miniature.untrained(directory, 0)
    stage = EditorStage(model, load_tokenizer(directory), torch.device("cpu"), mixed=False)
    target = [300, 301, 301, 302, 303, 304, 305, 306, 307, 308]
    logits = torch.randn(50, 6, 513, generator=torch.Generator().manual_seed(0))
    for step in range(20):
        hypotheses = stage.varied(logits, [target] * 50, step)
        assert all(editable(hypothesis, target, 8) for hypothesis in hypotheses)


def test_hypotheses_are_the_encoders_own_and_others(directory: Path) -> None:
    from granite_gguf.reference import load_tokenizer
    from training.stages import EditorStage

    model, _ = miniature.untrained(directory, 0)
    stage = EditorStage(model, load_tokenizer(directory), torch.device("cpu"), mixed=False)
    logits = torch.zeros(400, 20, 513)
    logits[:, torch.arange(20), 301 + torch.arange(20)] = 8.0  # sure, but not entirely
    own = stage.hypothesis(logits[0])
    varied = stage.varied(logits, [own] * 400, 3)
    same = sum(hypothesis == own for hypothesis in varied) / 400
    assert 0.4 < same < 0.9
    assert stage.varied(logits, [own] * 400, 3) == varied  # the step decides


# Model and training


def test_miniature_has_the_published_structure(directory: Path) -> None:
    model, config = miniature.untrained(directory, 0)
    assert config.semantics.layout == "granite_speech_nar"
    assert len(config.encoder.captured) == 4
    parameters = sum(p.numel() for p in model.parameters())
    assert 8e6 < parameters < 12e6
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert special["<|end_of_text|>"] == config.semantics.slot_id
    assert len(tokenizer["model"]["vocab"]) + len(special) == config.editor.vocab_size


def test_tokenizer_gives_sentences_back(directory: Path) -> None:
    from granite_gguf.reference import load_tokenizer

    tokenizer, rng = load_tokenizer(directory), random.Random(0)
    texts = [grammar.sentence(rng).text for _ in range(100)]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert [tokenizer.decode(tokens) for tokens in ids] == texts
    assert sum(map(len, ids)) < sum(map(len, texts)) / 2


def test_texts_of_several_lengths_are_edited_as_if_alone(directory: Path) -> None:
    editor = miniature.untrained(directory, 0)[0].editor
    audio = torch.randn(2, 6, 256, generator=torch.Generator().manual_seed(0)) / 12
    ids = torch.tensor([[497, 300, 497, 301, 497], [497, 302, 497, 497, 497]])
    together = editor(audio, ids, torch.tensor([5, 3]))
    torch.testing.assert_close(together[0], editor(audio[:1], ids[:1])[0])
    torch.testing.assert_close(together[1, :3], editor(audio[1:], ids[1:, :3])[0])


def losses_of(stage: Stage, batch: list[Example]) -> list[float]:
    """The losses of four steps with the same batch."""
    torch.set_num_threads(2)
    stage.begin()
    optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = stage.loss(batch, 0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    return losses


def test_unknown_words_teach_letters_alone(directory: Path) -> None:
    from granite_gguf.reference import load_tokenizer
    from training.train import STAGES

    model, _ = miniature.untrained(directory, 0)
    tokenizer = load_tokenizer(directory)
    stage = STAGES["encoder"](model, tokenizer, torch.device("cpu"), mixed=False)
    stage.begin()
    known = example(60)
    unknown = replace(known, tokens=[])
    both, neither = (stage.loss([one, unknown], 0).parts for one in (known, unknown))
    assert both["characters"] == pytest.approx(neither["characters"])
    assert both["tokens"] > 0 == neither["tokens"]
    stage.loss([unknown], 0).total.backward()
    assert model.encoder.out_bpe.weight.grad is None
    assert model.encoder.out.weight.grad is not None


def test_utterances_are_loaded_with_the_tokens_of_known_words(
    directory: Path, tmp_path: Path
) -> None:
    from granite_gguf.reference import load_tokenizer
    from training import dataset

    texts = ["open the door", "open the dorf"]
    np.save(tmp_path / "train-000.npy", np.zeros((120, 160), np.float16))
    line = {"voice": "en-us+m1", "frames": 60, "condition": "clean"}
    lines = [json.dumps({"text": text, **line}) for text in texts]
    (tmp_path / "train-000.jsonl").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = load_tokenizer(directory)
    found = dataset.load(tmp_path, "train", tokenizer, CHARACTERS, 4)
    assert [one.text for one in found] == texts
    assert [tokenizer.decode(one.tokens) for one in found] == [texts[0], ""]
    assert all(one.characters == encode_characters(one.text, CHARACTERS) for one in found)


@pytest.mark.parametrize("name", ["encoder", "editor"])
def test_a_few_steps_lower_the_loss(directory: Path, name: str) -> None:
    from granite_gguf.reference import load_tokenizer
    from training.train import STAGES

    model, _ = miniature.untrained(directory, 0)
    stage = STAGES[name](model, load_tokenizer(directory), torch.device("cpu"), mixed=False)
    losses = losses_of(stage, [example(60), example(58, seed=1)])
    assert losses[-1] < 0.9 * losses[0]


def test_passes_go_on_from_a_checkpoint_and_leave_its_encoder(
    directory: Path, tmp_path: Path
) -> None:
    from granite_gguf.reference import load_model
    from training.train import nar_stage

    shutil.copytree(directory, tmp_path / "model")
    cpu, start = torch.device("cpu"), ROOT / "training" / "checkpoint"
    stage, _ = nar_stage("passes", tmp_path, 3, cpu, mixed=False, start=start)
    expected, found = load_model(start).state_dict(), stage.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    trained = {id(parameter) for parameter in stage.parameters()}
    left = {n for n, p in stage.model.named_parameters() if id(p) not in trained}
    assert left == {n for n in found if n.startswith("encoder.")} - buffers(stage.model)


def buffers(model: torch.nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers()}


def test_learning_rate_warms_up_and_falls() -> None:
    from training.train import Plan

    plan = Plan(steps=100, peak=1.0, frames=1, warm_up=10)
    rates = [plan.rate(step, plan.done(step, 0)) for step in range(100)]
    assert rates[0] < 0.11 and 8 <= rates.index(max(rates)) <= 10
    assert 0.95 < max(rates) <= 1.0
    assert rates[-1] < 0.02
    assert plan.done(99, 1e9) < 1 == plan.done(100, 0)


def test_a_plan_of_minutes_goes_by_the_clock() -> None:
    from training.train import Plan

    plan = Plan(steps=1, peak=1.0, frames=1, warm_up=1, minutes=2)
    assert [plan.done(10**6, seconds) for seconds in (0, 60, 119, 130)] == [0, 0.5, 119 / 120, 1]
    assert plan.rate(5, 0.5) == pytest.approx(0.505)


def test_batches_go_on_where_they_stopped() -> None:
    from training.train import Data, Plan

    examples = [example(20 + n, seed=n) for n in range(40)]
    data = Data(lambda rng: rng.sample(examples, 30), lambda one: one, [])
    plan = Plan(steps=100, peak=1.0, frames=200)
    whole = data.batches(plan, 1, 0)
    expected = [next(whole) for _ in range(30)][20:]
    resumed = data.batches(plan, 1, 20)
    assert [next(resumed) for _ in range(10)] == expected


def test_batches_are_made_ahead_in_their_order() -> None:
    from training.train import ahead

    made: list[int] = []

    def items() -> Iterator[int]:
        for n in count():
            made.append(n)
            yield n

    for n, found in enumerate(ahead(items())):
        assert found == n
        if n == 20:
            break
    assert 21 <= len(made) <= 22


def test_an_error_of_a_batch_is_that_of_the_training() -> None:
    from training.train import ahead

    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more room")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="no more room"):
        next(found)


# Scores


def test_word_error_rate() -> None:
    assert edit_distance("abcd", "abcd") == 0
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], ["a", "b"]) == 2
    assert word_error_rate([("a b c d", "a x c"), ("e", "e")]) == pytest.approx(2 / 5)


# Model card


def test_card_names_every_word_and_voice() -> None:
    card = (ROOT / "granite_gguf" / "data" / "MODEL_CARD.md").read_text(encoding="utf-8")
    words = card.partition("## Every word that it knows")[2].split()
    assert set(grammar.vocabulary()) <= set(words)
    for name in (*voices.TRAINING_ACCENTS, *voices.HELD_OUT_ACCENTS, *voices.TRAINING_VARIANTS):
        assert f"`{name}`" in card
    for name in (*voices.DEVELOPMENT_VARIANTS, *voices.HELD_OUT_VARIANTS):
        assert f"`{name}`" in card
