"""The second demonstration model's training: the forms of a sentence, and what a batch computes."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tokenizers")

import torch
from safetensors.torch import load_file

from granite_gguf.passes import Wish
from granite_gguf.reference import load_model, load_tokenizer
from granite_gguf.reference.speech.model import checkpoint_key
from granite_gguf.speech.asking import around_audio, instruction
from tests.test_asking import BASE
from tests.test_training import example, losses_of
from training import base, grammar, spanish
from training.causal import NOWHERE, LanguageStage
from training.corruption import UNKNOWN
from training.forms import SPELLINGS, Forms, Task
from training.trees import Tree, sentences

CHECKPOINT = Path(__file__).resolve().parent.parent / "training" / "checkpoint-base"

# Forms of sentences


@pytest.mark.parametrize(
    "raw, punctuated, translated",
    [
        (
            "good morning oscar how are you today",
            "Good morning, Oscar. How are you today?",
            "Buenos días, Oscar. ¿Cómo estás hoy?",
        ),
        (
            "i need two eggs and some fruit",
            "I need two eggs and some fruit.",
            "Necesito dos huevos y algo de fruta.",
        ),
        (
            "last may anna found a red key at the park open the door",
            "Last May, Anna found a red key at the park. Open the door.",
            "El pasado mayo, Anna encontró una llave roja en el parque. Abre la puerta.",
        ),
        (
            "the meeting on tuesday begins at quarter to one and ends at noon",
            "The meeting on Tuesday begins at quarter to one and ends at noon.",
            "La reunión del martes comienza a la una menos cuarto y termina al mediodía.",
        ),
        (
            "can you open the blue door please",
            "Can you open the blue door, please?",
            "¿Puedes abrir la puerta azul, por favor?",
        ),
        (
            "how many cows are in the museum",
            "How many cows are in the museum?",
            "¿Cuántas vacas hay en el museo?",
        ),
        ("the letters are i a", "The letters are I A.", "Las letras son I A."),
        (
            "they have a small sheep and six dogs",
            "They have a small sheep and six dogs.",
            "Tienen una oveja pequeña y seis perros.",
        ),
    ],
)
def test_all_forms_of_a_sentence(raw: str, punctuated: str, translated: str) -> None:
    forms = Forms.of(raw)
    assert forms.punctuated == punctuated
    assert forms.spanish == translated
    assert forms.spanish_raw == re.sub("[¿?.,]", "", translated).lower()


@pytest.mark.parametrize(
    "number, told",
    [
        ("page twenty two", "página veintidós"),
        ("page thirty one", "página treinta y uno"),
        ("page one hundred", "página cien"),
        ("page one hundred and five", "página ciento cinco"),
        ("page five hundred and one", "página quinientos uno"),
        ("page one thousand", "página mil"),
        ("page twenty one thousand nine hundred", "página veintiún mil novecientos"),
        ("page forty one thousand and six", "página cuarenta y un mil seis"),
        ("she is one years old", "ella tiene un años"),
        ("she is twenty one years old", "ella tiene veintiún años"),
        ("seven hundred and one people live here", "aquí viven setecientas una personas"),
    ],
)
def test_spanish_numbers(number: str, told: str) -> None:
    assert Forms.of(number).spanish_raw == told


def test_every_sentence_is_found_again_and_told_without_a_word_of_english() -> None:
    rng = random.Random(1)
    shared = {"radio", "hospital", "hotel", "doctor", "me"}
    english = set(grammar.vocabulary()) - shared - set(SPELLINGS)
    english = {word for word in english if len(word) > 1} - {"madrid", "boston", "chicago"}
    for n in range(700):
        raw = (grammar.paragraph(rng, 2) if n % 8 == 0 else grammar.sentence(rng)).text
        forms = Forms.of(raw)
        assert re.sub("[?.,]", "", forms.punctuated).lower() == raw
        assert not set(forms.spanish_raw.split()) & english, (raw, forms.spanish_raw)


def test_every_alternative_of_the_grammar_has_words_in_spanish() -> None:
    known = set(spanish.SPANISH.templates)
    same = {"letter", "name", "digits", "letters", "sentence"}  # told as they are
    for name, alternatives in grammar.GRAMMAR.items():
        for words in alternatives:
            alternative = " ".join(word.partition("~")[0] for word in words)
            alone = re.fullmatch(r"<\w+>", alternative)  # nothing of its own
            assert alone or name in same or known & {alternative, f"{name}/{alternative}"}, (
                name, alternative,
            )  # fmt: skip


def test_a_tree_is_what_the_grammar_did() -> None:
    (tree,) = sentences("turn the lamp on")
    lamp, switch = Tree("device", "lamp", ()), Tree("switch", "on", ())
    command = Tree("command", "turn the <device> <switch>", (lamp, switch))
    assert tree == Tree("sentence", "<command>", (command,))
    with pytest.raises(ValueError, match="does not make 'turn the moon on'"):
        sentences("turn the moon on")


def test_forms_of_a_pass_are_those_of_its_parts() -> None:
    parts = ["good morning oscar how are you today", "what time is it in rome", "go back"]
    joined, whole = Forms.joined([Forms.of(part) for part in parts]), Forms.of(" ".join(parts))
    assert joined == whole and list(joined.fixed()) == list(whole.fixed())
    assert joined.spelled == ["oscar"]


def test_keywords_decide_how_a_name_is_spelled() -> None:
    forms = Forms.of("anna and oscar went to the park")
    rng = random.Random(0)
    texts = {forms.with_keywords(rng) for _ in range(200)}
    assert all(re.fullmatch("(Anna|Ana|anna|ana)", task.text.split()[0]) for task in texts)
    for task in texts:
        keywords = task.instruction.partition("Keywords: ")[2].split(", ")
        assert 1 <= len(keywords) <= 3
        for place, ways in ((0, {"anna", "ana"}), (2, {"oscar", "oskar"})):
            asked = [word for word in keywords if word.lower() in ways]
            assert task.text.split()[place] == (asked[0] if asked else sorted(ways)[place == 0])
    assert len({task.text for task in texts}) > 10


# Prompts


def test_instructions_are_those_of_the_package() -> None:
    forms = Forms.of("oscar is in the garden")
    tasks = (*forms.fixed(), forms.with_keywords(random.Random(2)))
    keywords = tuple(tasks[-1].instruction.partition("Keywords: ")[2].split(", "))
    wishes = (
        Wish(punctuation=False),
        Wish(),
        Wish(translate_to="es"),
        Wish(translate_to="es", punctuation=True),
        Wish(keywords=keywords),
    )
    assert [task.instruction for task in tasks] == [instruction(BASE, wish) for wish in wishes]


@pytest.fixture(scope="module")
def stage() -> LanguageStage:
    model, _ = base.untrained(CHECKPOINT, 0)
    return LanguageStage(
        model, load_tokenizer(CHECKPOINT), torch.device("cpu"), mixed=False, directory=CHECKPOINT
    )


def test_prompts_are_those_of_the_package(stage: LanguageStage) -> None:
    words = instruction(BASE, Wish(translate_to="es"))
    before, behind = around_audio(BASE, words)
    ids = stage.prompts.asked(words, 2).tolist()
    encode = stage.tokenizer.encode
    audio = stage.language.audio_token
    assert ids == [*encode(before).ids, audio, audio, *encode(behind).ids]
    assert encode(f"{before}<|audio|><|audio|>{behind}").ids == ids


# Model and training


def test_the_encoder_is_the_first_ones(stage: LanguageStage) -> None:
    features = torch.randn(1, 40, 160, generator=torch.Generator().manual_seed(0))
    first = load_model(base.FIRST).encoder
    with torch.no_grad():
        expected, heard = first.eval().hear(features), stage.model.encoder.eval().hear(features)
    torch.testing.assert_close(heard.final, expected.final, atol=1e-5, rtol=1e-5)
    letters = " etaoinshrdlcumwfgypbvkjxqz"
    places = torch.tensor([0, *map(ord, letters)])
    said = expected.char_logits[..., : len(places)]
    torch.testing.assert_close(heard.char_logits[..., places], said, atol=1e-4, rtol=1e-4)
    assert set(heard.char_logits.argmax(-1).flatten().tolist()) <= set(places.tolist())


def test_another_runs_encoder_and_a_checkpoints_weights_are_taken(tmp_path: Path) -> None:
    from training.train import base_stage

    run, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    first = load_model(base.FIRST)
    with torch.no_grad():
        first.encoder.input_linear.bias += 1
    torch.save({"model": first.state_dict()}, other / "encoder.pt")
    shutil.copytree(CHECKPOINT, run / "model")
    cpu = torch.device("cpu")
    stage, _ = base_stage(run, 0, cpu, mixed=False, start=CHECKPOINT, encoder=other)
    plain, _ = base_stage(run, 0, cpu, mixed=False)
    expected = load_file(CHECKPOINT / "model.safetensors")
    plainly = plain.model.state_dict()
    for name, tensor in stage.model.state_dict().items():
        stored = expected[checkpoint_key(name)].reshape(tensor.shape)
        if name == "encoder.input_linear.bias":
            torch.testing.assert_close(tensor, plainly[name] + 1)
        elif not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, stored.to(tensor.dtype), atol=0, rtol=0)
    assert not torch.equal(
        plainly["language.norm.weight"], expected["language_model.model.norm.weight"].float()
    )


def test_texts_that_share_their_audio_are_written_as_if_alone(stage: LanguageStage) -> None:
    asked = [
        [Task("transcribe", "open the door"), Task("translate the speech", "abre la puerta")],
        [Task("transcribe the speech to text", "go back")],
    ]
    language = stage.model.language
    audio = torch.randn(2, 6, 256, generator=torch.Generator().manual_seed(0)) / 12
    packed = stage.prompts.packed(asked, 6)
    assert (packed.parts == NOWHERE).any()
    assert language.head is not None
    with torch.no_grad():
        logits = language.head(stage.states(packed, audio)) / stage.language.logits_scaling
        for n, tasks in enumerate(asked):
            for part, task in enumerate(tasks, 1):
                prompt = stage.prompts.asked(task.instruction, 6)
                text = torch.tensor(stage.tokenizer.encode(f" {task.text}").ids)
                rows = language.rows(torch.cat([prompt, text]), audio[n])
                told = (packed.parts[n] == part) & (packed.labels[n] != UNKNOWN)
                alone = language(rows, len(text) + 1)
                torch.testing.assert_close(logits[n, told], alone, atol=1e-4, rtol=1e-4)
                assert packed.labels[n, told].tolist() == [*text.tolist(), stage.language.eos]


def test_a_few_steps_lower_the_loss_and_leave_the_encoder(stage: LanguageStage) -> None:
    encoder = {name: t.clone() for name, t in stage.model.encoder.state_dict().items()}
    losses = losses_of(stage, [example(30, "open the door")])
    assert losses[-1] < 0.95 * losses[0]
    for name, tensor in stage.model.encoder.state_dict().items():
        assert torch.equal(tensor, encoder[name]), name


# Model card


def test_card_names_every_spanish_word_and_spelling() -> None:
    card = (base.FIRST.parent.parent / "granite_gguf" / "data" / "MODEL_CARD-base.md").read_text(
        encoding="utf-8"
    )
    words = set(card.partition("## Every Spanish word that it knows")[2].split())
    rng = random.Random(4)
    for _ in range(1000):
        assert set(Forms.of(grammar.sentence(rng).text).spanish_raw.split()) <= words
    for word, other in SPELLINGS.items():
        assert re.search(rf"\b{word}\s+or\s+{other}\b", card, re.IGNORECASE)
